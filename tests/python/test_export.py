"""Exported programs: of every operator in the table and of those beside it, static and with sizes that vary, decomposed,
saved and loaded; compiled ahead of time, and run from Python and from a C++ program."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from exported import MODELS, OfCases, name_of_model
from operators import CASES, CLOSE, OPERATORS, name_of, random_logits

import softmax_ext

pytestmark = pytest.mark.filterwarnings(
    "ignore:The given buffer is not writable", "ignore:`isinstance.treespec, LeafSpec.` is", "ignore:`torch.jit"
)
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "from_cpp"

operators = pytest.mark.parametrize("operator", OPERATORS, ids=name_of)
models = pytest.mark.parametrize("model", MODELS, ids=name_of_model)


def forms(program):
    """The program, taken apart into primitives, and from a file."""
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return {"as it is": program, "decomposed": program.run_decompositions(), "loaded": torch.export.load(file)}


def targets_of(program):
    return {str(node.target) for node in program.graph.nodes if "softmax_ext" in str(node.target)}


@operators
def test_every_case_of_an_operator_exports(operator):
    model = OfCases(case for case in CASES if case.operator is operator)
    inputs = model.inputs()
    programs = forms(torch.export.export(model, inputs))
    assert any(operator.name in target for target in targets_of(programs["as it is"]))
    public = f"softmax_ext.{operator.name}."
    assert not any(target.startswith(public) for target in targets_of(programs["decomposed"]))
    other = model.inputs()
    expected = model.reference(*other)
    for program in programs.values():
        torch.testing.assert_close(program.module()(*other), expected, **CLOSE)


@models
def test_a_number_of_rows_that_varies_is_one_program(model):
    rows = torch.export.Dim("rows", min=2, max=100)
    inputs = model.inputs(4)
    shapes = tuple({0: rows} for _ in inputs)
    programs = forms(torch.export.export(model, inputs, dynamic_shapes=(shapes,)))
    assert all(program.range_constraints for program in programs.values())
    for count in (9, 2):
        other = model.inputs(count)
        for program in programs.values():
            torch.testing.assert_close(program.module()(*other), model(*other), **CLOSE)


class OfSelected(torch.nn.Module):
    """A model of the rows that a mask keeps: their number is known from the data alone."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, mask, inputs):
        return self.model(*(tensor[mask] for tensor in inputs))


@models
def test_a_number_of_rows_from_the_data_is_one_program(model):
    selected = OfSelected(model)
    program = torch.export.export(selected, (torch.tensor([True, False, True, True]), model.inputs(4)))
    for mask in ([True, True, False, True], [False, True, False, True]):
        other = torch.tensor(mask), model.inputs(4)
        for form in forms(program).values():
            torch.testing.assert_close(form.module()(*other), selected(*other), **CLOSE)


class WithTemperature(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.temperature = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x):
        return softmax_ext.log_softmax(x * 2, -1, temperature=self.temperature)


def test_an_exported_program_trains():
    model, x = WithTemperature(), random_logits((4, 5))
    trained = torch.export.export(model, (x,)).module()
    (trained(x) ** 3).sum().backward()
    expected = torch.log_softmax(x * 2 / model.temperature, -1)
    (gradient,) = torch.autograd.grad((expected**3).sum(), model.temperature)
    torch.testing.assert_close(dict(trained.named_parameters())["temperature"].grad, gradient, **CLOSE)


# Compiled ahead of time


class All(torch.nn.Module):
    """All operators in one program: each compilation takes seconds."""

    def __init__(self):
        super().__init__()
        self.models = torch.nn.ModuleList(MODELS)

    def inputs(self, rows):
        return tuple(tensor for model in self.models for tensor in model.inputs(rows))

    def forward(self, *tensors):
        results, remaining = [], list(tensors)
        for model in self.models:
            results += model(*(remaining.pop(0) for _ in range(model.arity)))
        return results


def program(folder, target):
    """A C++ program of the example, built as its README says, in folders with a space in their names.

    Each test builds its own: they may be in two processes.
    """
    if not (Path(softmax_ext.cmake_prefix_path) / "share/cmake/softmax_ext/softmax_extConfig.cmake").exists():
        pytest.skip("needs the installed package, with its CMake config")
    if shutil.which("cmake") is None:
        pytest.skip("needs cmake")
    package = folder.with_name("the package")
    package.symlink_to(softmax_ext.cmake_prefix_path)
    options = {
        "CMAKE_BUILD_TYPE": "Debug",
        "CMAKE_PREFIX_PATH": package,
        "TORCH_DIR": Path(torch.__file__).parent,
    }
    run("cmake", "-S", EXAMPLE, "-B", folder, *(f"-D{name}={value}" for name, value in options.items()))
    run("cmake", "--build", folder, "--target", target)
    return folder / target


def run(*command):
    completed = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


def test_a_package_runs_from_python_and_from_a_cpp_program(tmp_path):
    model = All()
    rows = torch.export.Dim("rows", min=2, max=100)
    inputs = model.inputs(4)
    exported = torch.export.export(model, inputs, dynamic_shapes=(tuple({0: rows} for _ in inputs),))
    torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "model.pt2"))

    package = torch._inductor.aoti_load_package(str(tmp_path / "model.pt2"))
    for count in (4, 9):
        inputs = model.inputs(count)
        expected = model(*inputs)
        torch.testing.assert_close(list(package(*inputs)), expected, **CLOSE)

    torch.save(list(inputs), tmp_path / "inputs.pt")
    run_package = program(tmp_path / "a build", "run_package")
    printed = run(run_package, tmp_path / "model.pt2", tmp_path / "inputs.pt", tmp_path / "outputs.pt")
    assert printed == f"{len(inputs)} inputs, {len(expected)} outputs\n"
    torch.testing.assert_close(list(torch.load(tmp_path / "outputs.pt")), expected, **CLOSE)


def test_a_scripted_module_is_trained_by_a_cpp_program(tmp_path):
    from_cpp = program(tmp_path / "a build", "from_cpp")
    run(sys.executable, EXAMPLE / "make_module.py", tmp_path / "classifier.pt")
    printed = run(from_cpp, tmp_path / "classifier.pt")  # fails unless the loss is halved
    before, after = (float(part.split()[0].rstrip(",")) for part in printed.split("training ")[1].split("after "))
    assert after < before / 2
    assert "0.0900  0.2447  0.6652" in printed
