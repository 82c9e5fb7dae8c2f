"""What is in the wheel, and what its library asks of a machine: ``make test-wheel``, whose wheel SOFTMAX_EXT_WHEEL names."""

import email
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import torch

import softmax_ext

WHEEL = Path(os.environ["SOFTMAX_EXT_WHEEL"]).resolve()
REPAIRED = Path(os.environ["SOFTMAX_EXT_REPAIRED_WHEEL"]).resolve()  # and installed
MINOR = ".".join(torch.__version__.split(".")[:2])


def names(wheel=WHEEL):
    return [name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")]


def test_one_wheel_serves_every_python_of_the_platform():
    assert re.fullmatch(r"softmax_ext-[\d.]+-py3-none-linux_\w+\.whl", WHEEL.name)


def test_the_metadata_pins_the_minor_version_of_torch():
    (path,) = (name for name in names() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(zipfile.ZipFile(WHEEL).read(path))
    assert f"torch=={MINOR}.*" in metadata.get_all("Requires-Dist")
    assert metadata["Name"] in ("softmax_ext", "softmax-ext")
    assert metadata["License-Expression"] == "BSD-3-Clause"


def test_it_has_the_library_the_header_and_the_cmake_config():
    for name in (
        "lib/libsoftmax_ext.so",
        "lib/torch_version.txt",
        "include/softmax_ext/softmax_ext.h",
        "share/cmake/softmax_ext/softmax_extConfig.cmake",
        "py.typed",
        "explorer/static/index.html",
    ):
        assert f"softmax_ext/{name}" in names()
    assert not [name for name in names() if "test" in name.lower() or "__pycache__" in name]


def dynamic_section():
    return subprocess.run(
        ["readelf", "-d", softmax_ext.library_path], capture_output=True, text=True, check=True
    ).stdout


def test_its_libraries_are_those_of_torch_and_of_the_system():
    """What the library asks the loader for, and where that looks first."""
    libraries = set(re.findall(r"NEEDED.*\[(.*?)\]", dynamic_section()))
    of_torch = {name for name in libraries if re.match(r"lib(torch|c10|cudart|gomp)", name)}
    of_the_system = {
        name for name in libraries if re.match(r"(libstdc\+\+|libgcc_s|libm|libc|libdl|libpthread|ld-linux)", name)
    }
    assert libraries == of_torch | of_the_system
    (path,) = re.findall(r"RUNPATH.*\[(.*?)\]", dynamic_section())
    assert path.split(":")[0] == "$ORIGIN/../../torch/lib"


def test_auditwheel_names_the_oldest_linux_and_takes_no_library_in():
    assert re.fullmatch(r"softmax_ext-[\d.]+-py3-none-manylinux_2_\d+_\w+\.whl", REPAIRED.name)
    assert set(names(REPAIRED)) == set(names())
    assert [name for name in names(REPAIRED) if ".so" in name] == ["softmax_ext/lib/libsoftmax_ext.so"]


def test_it_is_imported_twice_from_anywhere_and_without_a_gpu(tmp_path):
    """Also from the root of a source tree, whose python/ is not on the path."""
    root = Path(__file__).resolve().parents[2]
    for folder in (tmp_path, root):
        for _ in range(2):
            program = "import softmax_ext, importlib; importlib.reload(softmax_ext); print(softmax_ext.__file__)"
            shown = subprocess.run(
                [sys.executable, "-c", program],
                cwd=folder,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
                capture_output=True,
                text=True,
            )
            assert shown.returncode == 0, shown.stderr
            assert "site-packages" in shown.stdout
