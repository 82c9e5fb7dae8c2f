"""The layout of the Kernel Hub, loaded by its own library: ``make test-kernel-hub``."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from kernels._rust import Backend, Build, Metadata

LAYOUT = Path(os.environ["SOFTMAX_EXT_KERNEL_HUB"]).resolve()
MINOR = "torch" + "".join(torch.__version__.split(".")[:2])
VARIANTS = sorted(path for path in (LAYOUT / "build").iterdir() if path.name.split("-")[0] == MINOR)


def run(code):
    """In an interpreter that finds no softmax_ext of its own."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SOFTMAX_EXT_LIBRARY")}
    shown = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        cwd=LAYOUT,
    )
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def backend_of(variant):
    return "cpu" if variant.name.split("-")[2] == "cpu" else "cuda"


def test_there_is_a_variant():
    assert VARIANTS


def test_the_build_file_is_one():
    assert [str(backend) for backend in Build.open(LAYOUT).general.backends] == ["cpu", "cuda"]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda path: path.name)
def test_the_metadata_of_each_variant_is_read(variant):
    metadata = Metadata.read_from_file(variant / "metadata.json")
    assert metadata.name.python_name == "softmax_ext"
    assert metadata.version >= 1
    assert metadata.license
    assert metadata.backend.backend_type == (Backend.CPU if backend_of(variant) == "cpu" else Backend.CUDA)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda path: path.name)
def test_get_local_kernel_loads_it_with_all_its_operators_and_derivatives(variant):
    backend = backend_of(variant)
    output = run(
        f"""
        import sys
        sys.modules["softmax_ext"] = None
        from pathlib import Path
        import torch
        from kernels import get_local_kernel, get_loaded_kernels
        package = get_local_kernel(Path({str(LAYOUT)!r}), backend={backend!r})
        assert get_local_kernel(Path({str(LAYOUT)!r}), backend={backend!r}) is package
        assert {str(variant)!r} in package.info()["library"]
        assert bool(package.info()["cuda"]) == ({backend!r} == "cuda")
        x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
        target = torch.tensor([0, 4, 2])
        assert torch.autograd.gradcheck(lambda x: package.softmax(x, 1, temperature=0.7), x)
        assert torch.autograd.gradcheck(lambda x: package.cross_entropy(x, target, label_smoothing=0.1), x)
        torch.testing.assert_close(torch.vmap(lambda x: package.entropy(x, 0))(x), package.entropy(x, 1))
        torch.testing.assert_close(package.nn.CrossEntropyLoss()(x, target), torch.nn.CrossEntropyLoss()(x, target))
        assert package.sample(x.detach(), temperature=0.0)[0].squeeze(1).equal(x.argmax(1))
        compiled = torch.compile(lambda x: package.log_softmax(x, 1), backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), torch.log_softmax(x, 1))
        print(package.__name__, package.__version__, len(get_loaded_kernels()))
        """
    )
    name, _, loaded = output.split()
    assert name.startswith("softmax_ext_")
    assert loaded == "1"
