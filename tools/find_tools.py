"""What a build needs and may already be on the machine: torch, nvcc, CMake. Found without importing torch.

python tools/find_tools.py 'cmake>=3.25'     exit status 0 where the machine has it
"""

import os
import re
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

TORCH_VERSION_FILE = "share/cmake/Torch/TorchConfigVersion.cmake"
USUAL_TOOLKIT = "/usr/local/cuda"
#: Of CUDA's Python packages, in nvidia/cu<major>: what nvcc needs of the others.
TOOLKIT_FILES = ("bin/nvcc", "nvvm/bin/cicc", "include/crt/host_config.h", "include/cccl/cub/cub.cuh")


def is_usable(requirement: str) -> bool:
    """Whether the tool of a requirement such as "cmake>=3.25" runs here, and is new enough.

    A tool that pip installed into an environment is found in pip's build isolation and does not run there.
    """
    name, _, least = requirement.partition(">=")
    name = name.partition("==")[0]
    try:
        shown = subprocess.run([name, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return False
    version = re.search(r"\d+(\.\d+)+", shown)
    return not least or (version is not None and _numbers(version[0]) >= _numbers(least))


def missing_tools() -> list[str]:
    """What CMakeLists.txt is built with and this machine has not."""
    return [requirement for requirement in ("cmake>=3.25", "ninja") if not is_usable(requirement)]


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def package_folders() -> list[Path]:
    """Where packages lie: those of the build, of the environment that it builds for, and of what that one inherits.

    pip's build isolation hides an environment's packages, but its folders are still those of ``sysconfig``. uv and
    ``python -m build`` have another environment altogether, in which VIRTUAL_ENV or CONDA_PREFIX may name the user's.
    """
    folders = [*sys.path, sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    prefixes = [os.environ.get(name) for name in ("VIRTUAL_ENV", "CONDA_PREFIX")]
    configuration = Path(sys.prefix, "pyvenv.cfg")
    if sys.prefix == sys.base_prefix or "include-system-site-packages = true" in _text(configuration):
        folders.append(site.getusersitepackages())
        prefixes.append(sys.base_prefix)
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for prefix in filter(None, prefixes):
        folders += [f"{prefix}/lib/{python}/site-packages", f"{prefix}/lib/python3/dist-packages"]
    return [Path(folder) for folder in dict.fromkeys(folders) if folder]


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def find_torch() -> Path | None:
    """torch's folder: the torch that the package will run with, so that none is downloaded for the build."""
    if named := os.environ.get("TORCH_DIR"):
        candidates = [Path(named)]
    else:
        candidates = [folder / "torch" for folder in package_folders()]
    return next((torch for torch in candidates if (torch / TORCH_VERSION_FILE).exists()), None)


def torch_minor(torch: Path) -> str:
    return re.search(r'PACKAGE_VERSION "(\d+\.\d+)', (torch / TORCH_VERSION_FILE).read_text())[1]


def torch_cuda(torch: Path) -> str | None:
    """The version of CUDA that torch was built for, as "13.0"."""
    found = re.search(r"^cuda\b.*= '([\d.]+)'", _text(torch / "version.py"), re.MULTILINE)
    return found and found[1]


def find_toolkit_packages(cuda: str) -> Path | None:
    """The folder of a CUDA toolkit that came from the package index, where it can compile."""
    folders = (folder / "nvidia" / f"cu{cuda.partition('.')[0]}" for folder in package_folders())
    return next((folder for folder in folders if all((folder / file).exists() for file in TOOLKIT_FILES)), None)


def find_nvcc() -> str | None:
    """The nvcc of the machine, by the rule of cmake/nvcc.cmake."""
    if named := os.environ.get("CUDACXX"):
        return shutil.which(named)
    home = os.environ.get("CUDA_HOME")
    places = [
        *([os.path.join(home, "bin")] if home else []),
        os.environ.get("PATH", ""),
        os.path.join(USUAL_TOOLKIT, "bin"),
    ]
    return shutil.which("nvcc", path=os.pathsep.join(places))


def toolkit_requirements() -> list[str]:
    """What to install of the package index so that the CUDA kernels can be built, where they are asked for and no nvcc is there."""
    if os.environ.get("SOFTMAX_EXT_CUDA", "").lower() not in ("1", "on") or os.environ.get("CUDACXX") or find_nvcc():
        return []
    torch = find_torch()
    cuda = torch and torch_cuda(torch)
    # Before CUDA 13 each package had a folder of its own.
    if not cuda or int(cuda.partition(".")[0]) < 13 or find_toolkit_packages(cuda):
        return []
    # nvvm and crt by name: nvcc alone would bring those of a newer minor version, which it refuses.
    return [f"cuda-toolkit[cccl,crt,cudart,nvcc,nvvm]=={cuda}.*"]


if __name__ == "__main__":
    sys.exit(0 if is_usable(sys.argv[1]) else 1)
