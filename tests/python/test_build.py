"""What a build asks of the package index: tools/find_tools.py and tools/build_backend.py."""

import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def find_tools(monkeypatch, tmp_path):
    """On a machine with a torch for CUDA 13.0, and without nvcc."""
    monkeypatch.syspath_prepend(str(TOOLS))
    import build_backend  # noqa: F401  (while setuptools can be found)
    import find_tools

    torch = tmp_path / "packages" / "torch"
    (torch / "share/cmake/Torch").mkdir(parents=True)
    (torch / find_tools.TORCH_VERSION_FILE).write_text('set(PACKAGE_VERSION "2.11.0")\n')
    (torch / "version.py").write_text("cuda: Optional[str] = '13.0'\nhip = None\n")
    monkeypatch.setenv("TORCH_DIR", str(torch))
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    for name in ("CUDACXX", "CUDA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(find_tools, "USUAL_TOOLKIT", str(tmp_path / "toolkit"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "packages")])
    monkeypatch.setattr(find_tools.sysconfig, "get_path", lambda name: str(tmp_path / "packages"))
    monkeypatch.setattr(find_tools.site, "ENABLE_USER_SITE", False)
    return find_tools


def program(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("asked", "wanted"), [(None, []), ("auto", []), ("0", []), ("1", "==13.0.*"), ("ON", "==13.0.*")]
)
def test_nvcc_comes_from_the_package_index_only_where_the_kernels_are_asked_for(find_tools, monkeypatch, asked, wanted):
    monkeypatch.delenv("SOFTMAX_EXT_CUDA", raising=False)
    if asked is not None:
        monkeypatch.setenv("SOFTMAX_EXT_CUDA", asked)
    assert find_tools.toolkit_requirements() == (wanted and [f"cuda-toolkit[cccl,crt,cudart,nvcc,nvvm]{wanted}"])


@pytest.mark.parametrize("place", ["CUDACXX", "CUDA_HOME", "PATH", "the usual", "packages"])
def test_no_nvcc_is_asked_for_where_there_is_one(find_tools, monkeypatch, tmp_path, place):
    monkeypatch.setenv("SOFTMAX_EXT_CUDA", "1")
    if place == "CUDACXX":
        monkeypatch.setenv("CUDACXX", str(program(tmp_path / "nvcc-13")))
    elif place == "CUDA_HOME":
        program(tmp_path / "home/bin/nvcc")
        monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    elif place == "PATH":
        monkeypatch.setenv("PATH", str(program(tmp_path / "bin/nvcc").parent))
    elif place == "the usual":
        program(tmp_path / "toolkit/bin/nvcc")
    else:
        assert find_tools.find_toolkit_packages("13.0") is None
        nvcc = program(tmp_path / "packages/nvidia/cu13/bin/nvcc")
        assert find_tools.find_toolkit_packages("13.0") == nvcc.parents[1]
        assert find_tools.find_toolkit_packages("12.9") is None
    assert find_tools.toolkit_requirements() == []


@pytest.mark.parametrize(("line", "cuda"), [("cuda: Optional[str] = None", None), ("cuda = '12.8'", "12.8")])
def test_a_torch_whose_toolkit_the_index_does_not_have_asks_for_no_nvcc(find_tools, monkeypatch, tmp_path, line, cuda):
    monkeypatch.setenv("SOFTMAX_EXT_CUDA", "1")
    (tmp_path / "packages/torch/version.py").write_text(line + "\n")
    assert find_tools.torch_cuda(find_tools.find_torch()) == cuda
    assert find_tools.toolkit_requirements() == []


def test_a_build_asks_for_it_with_the_other_tools(find_tools, monkeypatch):
    import build_backend

    monkeypatch.setenv("SOFTMAX_EXT_CUDA", "1")
    assert build_backend._missing_tools() == ["cmake>=3.25", "ninja", *find_tools.toolkit_requirements()]
    assert len(find_tools.toolkit_requirements()) == 1
