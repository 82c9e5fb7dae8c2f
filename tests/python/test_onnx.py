"""ONNX: what torch.onnx.export writes with our translations runs in onnxruntime, which has no operator of ours, and gives
what ours give."""

import contextlib
import subprocess
import sys

import onnx
import onnxruntime
import pytest
import torch
from exported import MODELS, OfCases, OfRows, logits
from operators import CASES, CLOSE, OPERATORS, name_of, random_logits

import softmax_ext
from softmax_ext.onnx import translation_table

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

MODELS = [model for model in MODELS if model.name != "sample"]


def exported(model, inputs, **options):
    """The bytes of the program: of operators of the standard alone."""
    program = torch.onnx.export(
        model, inputs, dynamo=True, verbose=False, custom_translation_table=translation_table(), **options
    )
    assert {node.domain for node in program.model_proto.graph.node} <= {""}
    assert not program.model_proto.functions
    onnx.checker.check_model(program.model_proto, full_check=True)
    return program.model_proto.SerializeToString()


def run(program, tensors):
    session = onnxruntime.InferenceSession(program, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    feeds = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
    return [torch.tensor(result) for result in session.run(None, feeds)]


@pytest.mark.parametrize("operator", OPERATORS, ids=name_of)
def test_every_case_of_an_operator_runs_in_onnxruntime(operator):
    model = OfCases(case for case in CASES if case.operator is operator)
    program = exported(model, model.inputs())
    inputs = model.inputs()
    actual = run(program, [tensor for case in inputs[0] for tensor in case])
    # torch writes the number that entropy's base divides by as a float32.
    tolerance = {"rtol": torch.finfo(torch.float32).eps, "atol": 0} if operator.name == "entropy" else CLOSE
    torch.testing.assert_close(actual, model(*inputs), **tolerance)


class InDtype(torch.nn.Module):
    """Models of logits in a dtype that onnxruntime may not take from NumPy, as parts of one program."""

    def __init__(self, models, dtype):
        super().__init__()
        self.models, self.dtype = torch.nn.ModuleList(models), dtype

    def inputs(self, rows):
        return tuple(_of_dtype(tensor, torch.float32) for model in self.models for tensor in model.inputs(rows))

    def forward(self, *tensors):
        results, remaining = [], list(tensors)
        for model in self.models:
            x, *others = (remaining.pop(0) for _ in range(model.arity))
            results += [result.float() for result in model(x.to(self.dtype), *others)]
        return results


def _of_dtype(tensor, dtype):
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_number_of_rows_that_varies_runs_in_onnxruntime(dtype):
    model = InDtype([model for model in MODELS if "linear" not in model.name or dtype == torch.float32], dtype)
    rows = torch.export.Dim("rows", min=2, max=100)
    inputs = model.inputs(4)
    program = exported(model, inputs, dynamic_shapes=(tuple({0: rows} for _ in inputs),))
    for count in (9, 2):
        inputs = model.inputs(count)
        # One rounding of the result, and float32's within.
        epsilon = torch.finfo(dtype).eps + 16 * torch.finfo(torch.float32).eps
        torch.testing.assert_close(run(program, inputs), model(*inputs), rtol=2 * epsilon, atol=2 * epsilon)


INFINITY = torch.inf
SPECIAL = torch.tensor(
    [
        [1.0, -INFINITY, 2.0, 0.5],
        [-INFINITY, -INFINITY, -INFINITY, -INFINITY],
        [INFINITY, 1.0, 2.0, 3.0],
        [torch.nan, 1.0, 2.0, 3.0],
        [3e38, -3e38, 3e38, 0.0],
        [2.0, 2.0, 1.0, -INFINITY],
    ]
)


@pytest.mark.parametrize("temperature", [None, 0.0, INFINITY, 0.7, "tensor"])
def test_special_values_are_ours(temperature):
    value = torch.tensor([[0.5], [1.0], [0.7], [1.0], [2.0], [0.0]]) if temperature == "tensor" else temperature

    def functions(x):
        results = [
            softmax_ext.softmax(x, 1, temperature=value),
            softmax_ext.log_softmax(x, 1, temperature=value),
        ]
        return [*results, softmax_ext.logsumexp(x, 1, temperature=value)] if temperature in (None, 0.7) else results

    model = OfRows("special values", lambda x: tuple(functions(x)), logits)
    actual = run(exported(model, (SPECIAL,)), [SPECIAL])
    epsilon = 8 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(actual, functions(SPECIAL), rtol=epsilon, atol=epsilon, equal_nan=True)


def test_a_temperature_that_is_none_gives_nan_rows():
    temperature = torch.tensor([[-1.0], [torch.nan], [1.0]])
    model = OfRows("bad", lambda x: softmax_ext.softmax(x, 1, temperature=temperature), logits)
    x = torch.randn(3, 4)
    (actual,) = run(exported(model, (x,)), [x])
    assert actual.isnan().all(1).tolist() == [True, True, False]


def test_losses_of_masked_classes_and_ignored_rows_are_ours():
    x = torch.tensor([[1.0, -INFINITY, 2.0], [torch.nan, 0.0, 1.0], [0.5, 1.0, -INFINITY], [-INFINITY] * 3])
    target, probabilities = torch.tensor([0, -100, 2, 1]), torch.tensor([[0.5, 0.0, 0.5]]).expand(4, 3).contiguous()
    weight = torch.tensor([1.0, 0.0, 2.0])

    def losses(x):
        return (
            softmax_ext.cross_entropy(x, target, reduction="none"),
            softmax_ext.cross_entropy(x, target, weight, reduction="none", label_smoothing=0.1),
            softmax_ext.cross_entropy(x, probabilities, reduction="none"),
            softmax_ext.cross_entropy(x[1:2], target[1:2]),
            softmax_ext.cross_entropy(x[1:2], target[1:2], empty="zero"),
        )

    actual = run(exported(OfRows("losses", losses, logits), (x,)), [x])
    torch.testing.assert_close(actual, list(losses(x)), equal_nan=True)


def test_greedy_sampling_is_an_argmax():
    def greedy(x):
        return *softmax_ext.sample(x, temperature=0.0, num_samples=2), *softmax_ext.sample(x, temperature=0.0, seed=3)

    model = OfRows("greedy", greedy, logits)
    x = torch.tensor([[1.0, 3.0, 3.0, 2.0], [5.0, 0.0, 1.0, 1.0]])
    torch.testing.assert_close(run(exported(model, (x,)), [x]), list(model(x)))


@contextlib.contextmanager
def raises_in_export(message):
    """torch wraps what a translation raises."""
    with pytest.raises(torch.onnx.OnnxExporterError) as caught:
        yield
    error, reasons = caught.value, []
    while error is not None:
        reasons.append(str(error))
        error = error.__cause__
    assert any(message in reason for reason in reasons)


@pytest.mark.parametrize(
    ("options", "given"),
    [({"temperature": 0.7, "seed": 3}, "0.7"), ({"temperature": torch.tensor(0.0)}, "that of a tensor"), ({}, "1")],
    ids=str,
)
def test_sampling_is_refused_by_name(options, given):
    model = OfRows("sample", lambda x: softmax_ext.sample(x, **options), logits)
    with raises_in_export(f"softmax_ext.onnx: expected sample at the temperature 0, got {given}. It draws by Philox"):
        exported(model, (torch.randn(2, 4),))


def test_gradients_of_the_linear_loss_are_refused():
    translation = translation_table()[torch.ops.softmax_ext._linear_cross_entropy.default]
    with pytest.raises(NotImplementedError, match="expected linear_cross_entropy without gradients"):
        translation(None, None, None, None, 1, [False, True, False], 1, -100)


def test_every_primitive_of_a_forward_pass_is_translated():
    """But for what writes to its arguments, is a derivative, is not traced, or is a part of what processes share."""
    of_forward = set()
    for name in torch._C._dispatch_get_all_op_names():
        namespace, _, operator = name.partition("::_")
        if namespace != "softmax_ext" or not operator:
            continue
        schema = str(getattr(torch.ops.softmax_ext, f"_{operator.partition('.')[0]}").default._schema)
        if "!" not in schema and "_backward" not in operator and "Tensor" in schema:
            of_forward.add(f"_{operator}")
    others = {"_cross_entropy_with_gradient", "_class_indices", "_temperature_statistics", "_cross_entropy_shard"}
    translated = {overload.name() for overload in translation_table()} - {"aten::randint.generator"}
    assert {f"softmax_ext::{name}" for name in of_forward - others} == translated


def test_what_is_missing_is_said():
    code = "import sys; sys.modules['onnxscript'] = None; import softmax_ext.onnx"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError: softmax_ext.onnx needs onnxscript" in completed.stderr
    assert "pip install 'softmax_ext[onnx]'" in completed.stderr


def test_a_model_that_is_accelerated_exports_as_ours():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Softmax(1))
    x = random_logits((2, 4)).float()
    with softmax_ext.accelerate() as record:
        program = exported(model, (x,))
    assert record.taken["softmax"] >= 1
    torch.testing.assert_close(run(program, [x]), [model(x)])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_random_integers_of_a_model_keep_their_dtype(dtype):
    """The table has a translation for what draws the seed of sample, which a model may call too."""

    class Draws(torch.nn.Module):
        def forward(self, x):
            return torch.randint(5, (300,), generator=None, dtype=dtype) + x

    (drawn,) = run(exported(Draws(), (torch.zeros(300, dtype=dtype),)), [torch.zeros(300, dtype=dtype)])
    assert drawn.dtype == dtype
    assert set(drawn.tolist()) == set(range(5))
