"""Lays out a built library as the Hugging Face Kernel Hub has kernels: build.toml, and build/<variant>/softmax_ext.

    python tools/kernel_hub.py build/dev/libsoftmax_ext.so build/kernel-hub

``kernels.get_local_kernel(Path("build/kernel-hub"))`` then returns the package, under a name of its own. A variant is for one
minor version of torch, CPU or one version of CUDA, and one platform; layouts of several builds may share a folder.
"""

import argparse
import json
import platform
import re
import shutil
from pathlib import Path

import torch

try:
    import tomllib
except ModuleNotFoundError:  # before Python 3.11
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]


def variant_name(torch_minor: str, backend: str) -> str:
    abi = "cxx11" if torch.compiled_with_cxx11_abi() else "cxx98"
    of_backend = "cpu" if backend == "cpu" else "cu" + torch.version.cuda.replace(".", "")
    return f"torch{torch_minor.replace('.', '')}-{abi}-{of_backend}-{platform.machine()}-linux"


def lay_out(library: Path, output: Path) -> Path:
    """Returns the folder of the variant, which is made anew."""
    torch_version = library.with_name("torch_version.txt")
    if not library.exists() or not torch_version.exists():
        raise SystemExit(f"kernel_hub: expected {library} and torch_version.txt beside it; build the library first")
    torch.ops.load_library(str(library))
    operators = torch.ops.softmax_ext
    archs = operators._cuda_architectures().split() if hasattr(operators, "_cuda_architectures") else []
    backend = "cuda" if archs else "cpu"

    general = tomllib.loads((ROOT / "build.toml").read_text())["general"]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    variant = output / "build" / variant_name(torch_version.read_text().strip(), backend)
    shutil.rmtree(variant, ignore_errors=True)
    package = variant / "softmax_ext"
    # Neither the explorer, which is a program, nor what an editable installation leaves.
    left_out = shutil.ignore_patterns("explorer", "include", "lib", "share", "__pycache__")
    shutil.copytree(ROOT / "python" / "softmax_ext", package, ignore=left_out)
    (package / "lib").mkdir()
    shutil.copy2(library, package / "lib" / "libsoftmax_ext.so")
    shutil.copy2(torch_version, package / "lib")
    (package / "version.txt").write_text(version + "\n")
    metadata = {
        "id": f"softmax_ext_{backend}_{version.replace('.', '_')}",
        "name": general["name"],
        "version": general["version"],
        "license": general["license"],
        "python-depends": [],
        "backend": {"type": backend}
        | ({"archs": [re.sub(r"(\d[af]?)$", r".\1", arch) for arch in archs]} if archs else {}),
    }
    (variant / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
    for name in ("build.toml", "LICENSE", "README.md"):
        shutil.copy2(ROOT / name, output)
    return variant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    print(lay_out(arguments.library, arguments.output))


if __name__ == "__main__":
    main()
