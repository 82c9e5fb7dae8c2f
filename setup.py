"""CMakeLists.txt builds the library; this file finds torch, runs CMake and names the wheel.

Environment variables: TORCH_DIR (torch's folder, where it is not in this environment), SOFTMAX_EXT_CUDA (auto, 1 or 0),
SOFTMAX_EXT_ARCHS (as "80;90"), CMAKE_BUILD_TYPE, MAX_JOBS, SOFTMAX_EXT_BUILD_DIR (the CMake build folder to use).
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ModuleNotFoundError:  # only without pip's build isolation
    raise SystemExit("softmax_ext is built with setuptools>=77: run 'pip install -U setuptools'") from None

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tools"))

from find_tools import (  # noqa: E402
    find_toolkit_packages,
    find_torch,
    missing_tools,
    package_folders,
    torch_cuda,
    torch_minor,
)

TORCH = find_torch()
if TORCH is None and "sdist" not in sys.argv:
    places = os.environ.get("TORCH_DIR") or "\n  ".join(["", *map(str, package_folders())])
    raise SystemExit(
        f"softmax_ext builds against an installed torch, and found none in {places}\n"
        "Run 'pip install torch==2.11.*' first; where torch lies elsewhere, set TORCH_DIR to its folder: "
        "TORCH_DIR=\"$(python -c 'import torch; print(torch.__path__[0])')\""
    )


class BinaryDistribution(Distribution):
    def has_ext_modules(self):
        return True


class Build(build):
    def run(self):
        # setuptools would package what earlier builds left here, files deleted since among them.
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class BuildLibrary(build_ext):
    editable_mode = False

    def run(self):
        if missing := missing_tools():  # without pip's build isolation, which has them
            raise SystemExit(
                f"softmax_ext is built with {' and '.join(missing)}: run 'pip install {' '.join(missing)}'"
            )
        in_place = self.inplace or self.editable_mode
        prefix = (ROOT / "python" if in_place else Path(self.build_lib).resolve()) / "softmax_ext"
        build_dir = os.environ.get("SOFTMAX_EXT_BUILD_DIR") or ROOT / "build" / f"torch-{torch_minor(TORCH)}"

        configure = ["cmake", "-S", ROOT, "-B", build_dir, "-G", "Ninja", f"-DTORCH_DIR={TORCH.resolve()}"]
        # Named anew each time: pip's isolated ninja lies in another folder in every build.
        configure.append(f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}")
        configure.append(f"-DSOFTMAX_EXT_IN_PLACE={'ON' if in_place else 'OFF'}")
        for option in ("SOFTMAX_EXT_CUDA", "SOFTMAX_EXT_ARCHS", "CMAKE_BUILD_TYPE"):
            value = os.environ.get(option)
            configure.append(f"-D{option}={value}" if value else f"-U{option}")
        cuda = torch_cuda(TORCH)
        toolkit = find_toolkit_packages(cuda) if cuda else None
        configure.append(
            f"-DSOFTMAX_EXT_CUDA_PACKAGES={toolkit.resolve()}" if toolkit else "-USOFTMAX_EXT_CUDA_PACKAGES"
        )

        compile_ = ["cmake", "--build", build_dir, "--target", "softmax_ext"]
        if "MAX_JOBS" in os.environ:
            compile_ += ["--parallel", os.environ["MAX_JOBS"]]

        for command in (configure, compile_, ["cmake", "--install", build_dir, "--prefix", prefix]):
            print("+", *command, flush=True)
            if subprocess.run(command).returncode != 0:
                raise SystemExit("softmax_ext was not built: CMake's message above says why.")

    def get_outputs(self):
        return []

    def get_output_mapping(self):
        return {}

    def get_source_files(self):
        return []


class Wheel(bdist_wheel):
    def get_tag(self):
        # The library has no Python in it, so one wheel serves every version.
        return "py3", "none", super().get_tag()[2]


setup(
    # A library built against one minor version of torch does not run with another.
    install_requires=[f"torch=={torch_minor(TORCH)}.*" if TORCH else "torch>=2.11"],
    distclass=BinaryDistribution,
    cmdclass={"build": Build, "build_ext": BuildLibrary, "bdist_wheel": Wheel},
)
