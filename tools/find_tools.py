"""What a build needs and may already be on the machine: torch, and nvcc. Found without importing torch."""

import os
import re
import shutil
import site
import sys
import sysconfig
from pathlib import Path

TORCH_VERSION_FILE = "share/cmake/Torch/TorchConfigVersion.cmake"
USUAL_TOOLKIT = "/usr/local/cuda"


def package_folders() -> list[Path]:
    """Where packages lie: in pip's build isolation, those of the build and those of the environment that it builds for."""
    folders = [*sys.path, sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return [Path(folder) for folder in folders if folder]


def find_torch() -> Path | None:
    """torch's folder.

    pip's build isolation hides the packages of the environment, but the environment's folders are still those of
    ``sysconfig``. So the build uses the torch that the package will run with, and none is downloaded for it.
    """
    if "TORCH_DIR" in os.environ:
        candidates = [Path(os.environ["TORCH_DIR"])]
    else:
        candidates = [folder / "torch" for folder in package_folders()]
    return next((torch for torch in candidates if (torch / TORCH_VERSION_FILE).exists()), None)


def torch_minor(torch: Path) -> str:
    return re.search(r'PACKAGE_VERSION "(\d+\.\d+)', (torch / TORCH_VERSION_FILE).read_text())[1]


def torch_cuda(torch: Path) -> str | None:
    """The version of CUDA that torch was built for, as "13.0"."""
    version = torch / "version.py"
    found = re.search(r"^cuda\b.*= '([\d.]+)'", version.read_text(), re.MULTILINE) if version.exists() else None
    return found and found[1]


def find_toolkit_packages(cuda: str) -> Path | None:
    """The folder of a CUDA toolkit that came from the package index and has a compiler."""
    folders = (folder / "nvidia" / f"cu{cuda.partition('.')[0]}" for folder in package_folders())
    return next((folder for folder in folders if (folder / "bin" / "nvcc").exists()), None)


def find_nvcc() -> str | None:
    """The nvcc of the machine, in the places and the order of cmake/cuda.cmake."""
    places = [os.path.join(os.environ[name], "bin") for name in ("CUDA_HOME",) if os.environ.get(name)]
    places += [os.environ.get("PATH", ""), os.path.join(USUAL_TOOLKIT, "bin")]
    names = (os.environ.get("CUDACXX"), "nvcc")
    return next((found for name in names if name and (found := shutil.which(name, path=os.pathsep.join(places)))), None)


def toolkit_requirements() -> list[str]:
    """What to install of the package index so that the CUDA kernels can be built, where they are asked for and no nvcc is there."""
    if os.environ.get("SOFTMAX_EXT_CUDA", "").lower() not in ("1", "on") or find_nvcc():
        return []
    torch = find_torch()
    cuda = torch and torch_cuda(torch)
    # Before CUDA 13 each package had a folder of its own.
    if not cuda or int(cuda.partition(".")[0]) < 13 or find_toolkit_packages(cuda):
        return []
    # nvvm and crt by name: nvcc alone would bring those of a newer minor version, which it refuses.
    return [f"cuda-toolkit[cccl,crt,cudart,nvcc,nvvm]=={cuda}.*"]
