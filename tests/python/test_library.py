"""Loading: what is wrong with an installation is said, and said with what to do."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

import softmax_ext

LIBRARY = Path(softmax_ext.library_path)


def run(code, **environment):
    """Runs ``code`` in a fresh interpreter; returns its output, both streams."""
    completed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return completed.stdout + completed.stderr


def copy_of_library(folder, torch_version):
    copy = folder / LIBRARY.name
    copy.write_bytes(LIBRARY.read_bytes())
    (folder / "torch_version.txt").write_text(torch_version)
    return str(copy)


def test_a_missing_library_says_where_it_was_expected_and_how_to_build_it(tmp_path):
    missing = str(tmp_path / "libsoftmax_ext.so")
    output = run("import softmax_ext", SOFTMAX_EXT_LIBRARY=missing)
    assert f"ImportError: softmax_ext: expected its library at {missing}, found none. Run 'pip install .'" in output


def test_a_library_built_for_another_torch_names_both_versions(tmp_path):
    other = copy_of_library(tmp_path, "1.13")
    output = run("import softmax_ext", SOFTMAX_EXT_LIBRARY=other)
    assert f"was built for torch 1.13, but this is torch {torch.__version__}" in output
    assert "pip install torch==1.13.*" in output


def test_a_second_copy_of_the_same_version_is_not_loaded(tmp_path):
    minor = ".".join(torch.__version__.split(".")[:2])
    other = copy_of_library(tmp_path, minor)
    output = run(
        f"""
        import torch
        torch.ops.load_library({other!r})
        import softmax_ext
        print(softmax_ext.softmax(torch.zeros(2), 0).tolist())
        print(sorted({{line.split()[-1] for line in open("/proc/self/maps") if "libsoftmax_ext.so" in line}}))
        print(softmax_ext.info()["library"])
        """
    )
    assert output == f"[0.5, 0.5]\n[{other!r}]\n{other}\n"


def test_a_second_copy_that_comes_later_is_not_used_and_says_so(tmp_path):
    other = copy_of_library(tmp_path, "")
    output = run(
        f"""
        import torch, softmax_ext
        torch.ops.load_library({other!r})
        print(softmax_ext.softmax(torch.zeros(2, requires_grad=True), 0).tolist())
        """
    )
    assert "softmax_ext: its operators are registered already; this second copy of the library" in output
    assert "[0.5, 0.5]" in output.splitlines()


def test_a_library_without_its_torch_version_says_which_file_is_missing(tmp_path):
    copy = copy_of_library(tmp_path, "")
    (tmp_path / "torch_version.txt").unlink()
    output = run("import softmax_ext", SOFTMAX_EXT_LIBRARY=copy)
    assert f"was built for in {tmp_path / 'torch_version.txt'}, found no such file" in output


def test_operators_that_are_not_ours_under_our_name_are_reported():
    output = run(
        """
        import torch
        library = torch.library.Library("softmax_ext", "DEF")
        library.define("_softmax(Tensor self) -> Tensor")
        library.impl("_softmax", lambda self: self, "CPU")
        import softmax_ext
        """
    )
    assert "ImportError" in output
    assert "operators named softmax_ext:: are registered already" in output


def test_importing_twice_and_loading_again_is_harmless():
    output = run(
        """
        import torch, softmax_ext
        torch.ops.load_library(softmax_ext.library_path)
        import importlib
        importlib.reload(softmax_ext)
        print(softmax_ext.logsumexp(torch.zeros(4), 0).exp().item())
        """
    )
    assert float(output) == 4.0


UNDER_ANOTHER_NAME = """
    import importlib.util, sys
    import torch

    def load(name):
        spec = importlib.util.spec_from_file_location(name, {package!r} + "/__init__.py")
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
"""


@pytest.mark.parametrize("first", [None, "import softmax_ext", "load('other_copy')"])
def test_the_package_can_be_loaded_under_another_name(first):
    """As the Kernel Hub loads it, beside an installed one or another copy too."""
    program = (
        UNDER_ANOTHER_NAME.format(package=str(Path(softmax_ext.__file__).parent))
        + f"""
    {first or ""}
    package = load("of_the_hub")
    x = torch.zeros(2, 4)
    print(torch.vmap(lambda row: package.softmax(row, 0))(x).tolist(), package.nn.Softmax(1)(x).tolist())
    print({first == "import softmax_ext"} or "softmax_ext" not in sys.modules)
    """
    )
    output = run(program)
    assert output == f"{[[0.25] * 4] * 2} {[[0.25] * 4] * 2}\nTrue\n"


def test_a_copy_that_no_installer_knows_has_its_version_in_a_file(tmp_path):
    package = tmp_path / "copy"
    package.mkdir()
    for source in Path(softmax_ext.__file__).parent.glob("*.py"):
        (package / source.name).write_bytes(source.read_bytes())
    (package / "version.txt").write_text("7.8.9\n")
    output = run(
        UNDER_ANOTHER_NAME.format(package=str(package))
        + """
    print(load("of_the_hub").__version__)
    """,
        SOFTMAX_EXT_LIBRARY=softmax_ext.library_path,
    )
    assert output == "7.8.9\n"


def test_the_process_has_one_openmp_runtime():
    mapped = run(
        """
        import torch, softmax_ext
        softmax_ext.softmax(torch.randn(64, 5000), 1)
        print({line.split()[-1] for line in open("/proc/self/maps") if "gomp" in line or "iomp" in line})
        """
    )
    assert len(eval(mapped)) == 1


def test_the_library_has_no_python_in_it():
    dynamic = subprocess.run(["readelf", "-d", LIBRARY], capture_output=True, text=True, check=True).stdout
    needed = [line for line in dynamic.splitlines() if "(NEEDED)" in line]
    assert any("libtorch_cpu.so" in line for line in needed)
    assert not any("python" in line for line in needed)


def test_the_version_is_that_of_the_package():
    output = run(
        """
        import ctypes, torch, softmax_ext
        library = ctypes.CDLL(softmax_ext.library_path)
        library.softmax_ext_version.restype = ctypes.c_char_p
        print(library.softmax_ext_version().decode() == softmax_ext.__version__)
        """
    )
    assert output == "True\n"
