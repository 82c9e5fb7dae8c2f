"""Finds the library of operators and loads it."""

import ctypes
import importlib.metadata
import os
from pathlib import Path

import torch

_PACKAGE = Path(__file__).resolve().parent


def _version() -> str:
    """Of the installation; or of a copy that no installer knows, as the Kernel Hub has them, from its version.txt."""
    copy = _PACKAGE / "version.txt"
    if copy.exists():
        return copy.read_text().strip()
    try:
        return importlib.metadata.version("softmax_ext")
    except importlib.metadata.PackageNotFoundError:
        raise ImportError("softmax_ext is not installed. Run 'pip install -e .' in the source tree.") from None


#: The version of the package, as "0.1.0".
__version__ = _version()

#: For C++ programs: the folder to put in CMAKE_PREFIX_PATH.
cmake_prefix_path = str(_PACKAGE)
#: The folder of ``softmax_ext/softmax_ext.h``.
include_dir = str(_PACKAGE / "include")
#: The library; the environment variable SOFTMAX_EXT_LIBRARY names another build of it, one with sanitizers say.
library_path = os.environ.get("SOFTMAX_EXT_LIBRARY") or str(_PACKAGE / "lib" / "libsoftmax_ext.so")


_loaded_path: str | None = None


def load() -> None:
    """Registers the operators, once per process.

    A second copy of the library would terminate the process as it registers the same names. So where another copy is
    loaded already, by ``torch.ops.load_library`` or as part of the program, it is used if its version is this one.

    Raises:
        ImportError: If the library is missing, was built for another torch, or another version of it is loaded.
    """
    global _loaded_path
    if torch._C._dispatch_has_kernel("softmax_ext::_softmax"):
        _loaded_path = _check_loaded_copy()
        return
    path = Path(library_path)
    if not path.exists():
        raise ImportError(
            f"softmax_ext: expected its library at {path}, found none. "
            "Run 'pip install .' (or 'pip install -e .') in the source tree."
        )
    _check_torch(path.with_name("torch_version.txt"))
    torch.ops.load_library(str(path))
    _loaded_path = str(path)


def info() -> dict[str, str | None]:
    """What this installation is made of, for a bug report and for choosing kernels.

    Returns:
        ``version`` of softmax_ext, ``torch``, ``library`` (the path of the loaded one), ``cpu`` (the instruction set that its CPU
        kernels use here: "avx512", "avx2" or "portable"; the environment variables SOFTMAX_EXT_CPU and
        ATEN_CPU_CAPABILITY are upper limits) and ``cuda`` (the architectures that it has kernels for, as "80 90", or None).

    >>> softmax_ext.info()["cpu"]  # doctest: +SKIP
    'avx512'
    """
    operators = torch.ops.softmax_ext
    return {
        "version": __version__,
        "torch": torch.__version__,
        "library": _loaded_path,
        "cpu": operators._cpu_level() if hasattr(operators, "_cpu_level") else None,
        "cuda": operators._cuda_architectures() if hasattr(operators, "_cuda_architectures") else None,
    }


def _check_torch(version_file: Path) -> None:
    if not version_file.exists():
        raise ImportError(
            f"softmax_ext: expected the torch version that {library_path} was built for in {version_file}, found no "
            "such file. Install the library as a whole ('pip install .'), or put the file beside it."
        )
    built_for = version_file.read_text().strip()
    running = ".".join(torch.__version__.split(".")[:2])
    if running != built_for:
        raise ImportError(
            f"softmax_ext {__version__} was built for torch {built_for}, but this is torch {torch.__version__}. "
            "Build it again for this torch: 'pip install --force-reinstall --no-deps .' in the source tree; "
            f"or run 'pip install torch=={built_for}.*'."
        )


def _check_loaded_copy() -> str:
    """The path of the copy that is loaded, whose version is this one."""
    mappings = Path("/proc/self/maps").read_text().splitlines()
    copies = {mapping.split(maxsplit=5)[5] for mapping in mappings if ".so" in mapping}
    for copy in sorted(copies):
        try:
            version = ctypes.CDLL(copy).softmax_ext_version  # opening a loaded library again yields its handle
        except (OSError, AttributeError):
            continue
        version.restype = ctypes.c_char_p
        loaded = version().decode()
        if loaded != __version__:
            raise ImportError(
                f"softmax_ext {__version__} cannot be imported: version {loaded} of its library is loaded already, "
                f"from {copy}. Do not load that copy, or install softmax_ext {loaded}."
            )
        return copy
    raise ImportError(
        f"softmax_ext {__version__} cannot be imported: operators named softmax_ext:: are registered already, "
        "and not by a library of ours that is loaded in this process. Import softmax_ext before what registers them."
    )
