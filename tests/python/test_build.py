"""What a build finds on the machine, and what it asks of the package index: tools/find_tools.py, tools/build_backend.py."""

import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
PYTHON = f"lib/python{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def find_tools(monkeypatch, tmp_path):
    """On a machine with nothing: neither torch, nor nvcc, nor tools."""
    monkeypatch.syspath_prepend(str(TOOLS))
    import build_backend  # noqa: F401  (while setuptools can be found)
    import find_tools

    for name in ("TORCH_DIR", "CUDACXX", "CUDA_HOME", "VIRTUAL_ENV", "CONDA_PREFIX", "SOFTMAX_EXT_CUDA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(find_tools, "USUAL_TOOLKIT", str(tmp_path / "toolkit"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "of the build")])
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "environment"))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path / "python"))
    monkeypatch.setattr(find_tools.sysconfig, "get_path", lambda name: str(tmp_path / "environment" / name))
    monkeypatch.setattr(find_tools.site, "getusersitepackages", lambda: str(tmp_path / "of the user"))
    return find_tools


def program(path, shown=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{shown}\n")
    path.chmod(0o755)
    return path


def torch_in(folder, cuda="cuda: Optional[str] = '13.0'"):
    torch = folder / "torch"
    (torch / "share/cmake/Torch").mkdir(parents=True)
    (torch / "share/cmake/Torch/TorchConfigVersion.cmake").write_text('set(PACKAGE_VERSION "2.11.0")\n')
    (torch / "version.py").write_text(f"{cuda}\nhip = None\n")
    return torch


def toolkit_in(folder, without=None):
    for name in ("bin/nvcc", "nvvm/bin/cicc", "include/crt/host_config.h", "include/cccl/cub/cub.cuh"):
        if name != without:
            program(folder / "nvidia/cu13" / name)
    return folder / "nvidia/cu13"


def inherits(tmp_path):
    configuration = tmp_path / "environment/pyvenv.cfg"
    configuration.parent.mkdir(exist_ok=True)
    configuration.write_text("home = /usr/bin\ninclude-system-site-packages = true\n")


# torch


@pytest.mark.parametrize("place", ["of the build", "environment/purelib", "environment/platlib"])
def test_torch_is_found_where_the_package_will_be(find_tools, tmp_path, place):
    assert find_tools.find_torch() is None
    torch = torch_in(tmp_path / place)
    assert find_tools.find_torch() == torch
    assert find_tools.torch_minor(torch) == "2.11"


@pytest.mark.parametrize("place", ["of the user", f"python/{PYTHON}/site-packages", "python/lib/python3/dist-packages"])
def test_torch_of_the_system_is_found_from_an_environment_that_inherits_it(find_tools, tmp_path, place):
    torch = torch_in(tmp_path / place)
    assert find_tools.find_torch() is None
    inherits(tmp_path)
    assert find_tools.find_torch() == torch


def test_torch_of_the_user_is_found_without_an_environment(find_tools, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    torch = torch_in(tmp_path / "of the user")
    assert find_tools.find_torch() == torch


@pytest.mark.parametrize("name", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_torch_of_the_active_environment_is_found_where_the_build_has_another(find_tools, monkeypatch, tmp_path, name):
    torch = torch_in(tmp_path / "active" / PYTHON / "site-packages")
    monkeypatch.setenv(name, str(tmp_path / "active"))
    assert find_tools.find_torch() == torch
    nearer = torch_in(tmp_path / "environment/purelib")
    assert find_tools.find_torch() == nearer


def test_torch_dir_goes_before_all_and_is_not_replaced(find_tools, monkeypatch, tmp_path):
    found = torch_in(tmp_path / "environment/purelib")
    named = torch_in(tmp_path / "elsewhere")
    monkeypatch.setenv("TORCH_DIR", "")
    assert find_tools.find_torch() == found
    monkeypatch.setenv("TORCH_DIR", str(named))
    assert find_tools.find_torch() == named
    monkeypatch.setenv("TORCH_DIR", str(tmp_path / "nowhere"))
    assert find_tools.find_torch() is None


# nvcc


@pytest.mark.parametrize(
    ("asked", "wanted"), [(None, []), ("auto", []), ("0", []), ("1", "==13.0.*"), ("ON", "==13.0.*")]
)
def test_nvcc_comes_from_the_package_index_only_where_the_kernels_are_asked_for(
    find_tools, monkeypatch, tmp_path, asked, wanted
):
    torch_in(tmp_path / "environment/purelib")
    if asked is not None:
        monkeypatch.setenv("SOFTMAX_EXT_CUDA", asked)
    assert find_tools.toolkit_requirements() == (wanted and [f"cuda-toolkit[cccl,crt,cudart,nvcc,nvvm]{wanted}"])


def test_the_nvcc_of_the_machine_is_that_of_the_first_place_that_has_one(find_tools, monkeypatch, tmp_path):
    monkeypatch.setenv("SOFTMAX_EXT_CUDA", "1")
    torch_in(tmp_path / "environment/purelib")
    assert find_tools.toolkit_requirements()
    for place in ("toolkit/bin/nvcc", "bin/nvcc", "home/bin/nvcc", "nvcc-13"):
        nvcc = program(tmp_path / place)
        if place == "home/bin/nvcc":
            monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
        if place == "nvcc-13":
            monkeypatch.setenv("CUDACXX", str(nvcc))
        assert find_tools.find_nvcc() == str(nvcc)
        assert find_tools.toolkit_requirements() == []
    monkeypatch.setenv("CUDACXX", str(tmp_path / "nvcc-14"))
    assert find_tools.find_nvcc() is None
    assert find_tools.toolkit_requirements() == []  # CMake says that there is none


def test_a_cuda_home_without_nvcc_hides_no_other(find_tools, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "empty"))
    nvcc = program(tmp_path / "bin/nvcc")
    assert find_tools.find_nvcc() == str(nvcc)


def test_a_toolkit_of_packages_is_one_if_nothing_is_missing(find_tools, monkeypatch, tmp_path):
    monkeypatch.setenv("SOFTMAX_EXT_CUDA", "1")
    folder = tmp_path / "environment/purelib"
    torch_in(folder)
    toolkit = toolkit_in(folder, without="nvvm/bin/cicc")
    assert find_tools.find_toolkit_packages("13.0") is None
    assert find_tools.toolkit_requirements()
    toolkit_in(folder)
    assert find_tools.find_toolkit_packages("13.0") == toolkit
    assert find_tools.find_toolkit_packages("12.9") is None
    assert find_tools.toolkit_requirements() == []


@pytest.mark.parametrize(("line", "cuda"), [("cuda: Optional[str] = None", None), ("cuda = '12.8'", "12.8")])
def test_a_torch_whose_toolkit_the_index_does_not_have_asks_for_no_nvcc(find_tools, monkeypatch, tmp_path, line, cuda):
    monkeypatch.setenv("SOFTMAX_EXT_CUDA", "1")
    assert find_tools.torch_cuda(torch_in(tmp_path / "environment/purelib", line)) == cuda
    assert find_tools.toolkit_requirements() == []


# CMake and Ninja


@pytest.mark.parametrize(
    ("shown", "usable"),
    [
        ("echo cmake version 3.25.1", True),
        ("echo cmake version 4.1.0", True),
        ("echo cmake version 3.22.6", False),
        ("echo no such module >&2; exit 1", False),
        ("echo of no version", False),
    ],
)
def test_a_tool_that_does_not_run_or_is_too_old_is_asked_for(find_tools, monkeypatch, tmp_path, shown, usable):
    import build_backend

    assert build_backend._missing_tools() == ["cmake>=3.25", "ninja"]
    program(tmp_path / "bin/ninja", "echo 1.11.1")
    program(tmp_path / "bin/cmake", shown)
    assert build_backend._missing_tools() == ([] if usable else ["cmake>=3.25"])


def test_a_build_asks_for_nvcc_with_the_other_tools(find_tools, monkeypatch, tmp_path):
    import build_backend

    torch_in(tmp_path / "environment/purelib")
    monkeypatch.setenv("SOFTMAX_EXT_CUDA", "1")
    assert build_backend._missing_tools() == ["cmake>=3.25", "ninja", *find_tools.toolkit_requirements()]
    assert len(find_tools.toolkit_requirements()) == 1
