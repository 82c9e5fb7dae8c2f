"""Which kernels the operators have here: those of the CPU, those of cuda/ on the CPU executor, or those of a GPU."""

import os
import re
from pathlib import Path

import pytest

import softmax_ext

#: The library of tests/simt, named by SOFTMAX_EXT_LIBRARY.
ON_EXECUTOR = "simt" in Path(softmax_ext.library_path).name

#: Where tests make their tensors: "cuda" runs those of operators' values and derivatives on a GPU.
DEVICE = os.environ.get("SOFTMAX_EXT_TEST_DEVICE", "cpu")

#: Those of cuda/, wherever they run.
ON_CUDA_KERNELS = ON_EXECUTOR or DEVICE != "cpu"

cpu_kernels_only = pytest.mark.skipif(ON_CUDA_KERNELS, reason="says something of the CPU's kernels")

_POLICIES = Path(__file__).resolve().parents[2] / "cuda" / "launch_policy.h"


def pack_bounds() -> list[int]:
    """The bounds of all launch policies, in packs of 16 bytes."""
    return sorted({int(packs) for packs in re.findall(r"\{\s*(\d+),\s*Mapping::", _POLICIES.read_text())})


def lengths_at_bounds(element_size: int, longest: int) -> list[int]:
    """Row lengths on both sides of every bound: of whole packs, and where an odd length shifts the rows."""
    pack = 16 // element_size
    lengths = {1, 2, 31, 32, 33}
    for bound in pack_bounds():
        lengths |= {(bound - 1) * pack + 1, bound * pack - 1, bound * pack, bound * pack + 1}
    return sorted(length for length in lengths if 1 <= length <= longest)
