"""Checks who includes whom: the table of CONTRIBUTING.md, "Who may include whom". Prints each offence as file:line.

Includes in angle brackets name what is outside the repository, those in quotes what is inside, from its root.
"""

import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

STANDARD = r"<[a-z0-9_]+>"
TORCH = r"<(ATen|c10|torch|caffe2)/"
CUDA = r"<(cuda|cooperative_groups|cub/|thrust/|nv/|vector_\w+\.h|math_constants|device_\w+|driver_\w+|builtin_types)"
INTRINSICS = r"<(\w*intrin|arm_neon|arm_sve)\.h>"
C_STANDARD = r"<(stdint|stddef|string|math|float|limits)\.h>"


class Rule(NamedTuple):
    files: str  # a regular expression of paths
    may: str  # what the files may include, and nothing else
    but_not: str = r"(?!)"


# The first rule whose `files` match is the file's.
RULES = [
    Rule(r"csrc/numerics/", may=rf'{STANDARD}|"csrc/numerics/', but_not=CUDA),
    Rule(r"csrc/cpu/simd/", may=rf'{INTRINSICS}|{C_STANDARD}|<c\w+>|<type_traits>|"csrc/(numerics|cpu/simd)/'),
    Rule(
        r"cuda/(glue\.h|.*\.cpp)$",
        may=rf'{STANDARD}|{CUDA}|{TORCH}|"csrc/(outputs|loss_outputs|losses|registration|rows|element_type)\.h"|"csrc/numerics/|"cuda/',
    ),
    Rule(
        r"cuda/",
        may=rf'{STANDARD}|{CUDA}|"csrc/numerics/|"cuda/',
        but_not=rf'{TORCH}|"cuda/glue\.h"',
    ),
    Rule(
        r"csrc/cpu/",
        may=rf'{STANDARD}|{TORCH}|"csrc/(outputs|loss_outputs|losses|registration|rows|element_type)\.h"|"csrc/(numerics|cpu)/',
        but_not=r"<(torch/csrc/autograd|ATen/cuda|c10/cuda)/",
    ),
    Rule(
        r"csrc/autograd/",
        may=rf'{STANDARD}|{TORCH}|"csrc/[a-z_]+\.h"|"csrc/autograd/',
        but_not=r"<(ATen/cuda|c10/cuda)/",
    ),
    Rule(r"csrc/huge_pages\.cpp$", may=rf'{STANDARD}|<sys/mman\.h>|"csrc/huge_pages\.h"'),
    Rule(r"csrc/", may=rf'{STANDARD}|{TORCH}|"csrc/', but_not=r'<(ATen/cuda|c10/cuda)/|"csrc/cpu/'),
]

# Headers that bring all of torch: each costs every file that includes it seconds.
WHOLE_TORCH = re.compile(r"<(torch/(torch|extension|script|all)\.h|ATen/ATen\.h)>")


def offences(path: Path):
    name = path.relative_to(ROOT).as_posix()
    rule = next((rule for rule in RULES if re.match(rule.files, name)), None)
    if rule is None:
        yield 1, "no rule for this file"
        return
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        include = re.match(r'\s*#\s*include\s*([<"].*?[>"])', line)
        if not include:
            continue
        target = include[1]
        if target.startswith('"') and not (ROOT / target.strip('"')).exists():
            yield number, f"{target} is not a path from the repository's root"
        elif WHOLE_TORCH.match(target):
            yield number, f"{target} brings all of torch: include the single headers"
        elif not re.match(rule.may, target) or re.match(rule.but_not, target):
            yield number, f"{name} may not include {target}"


def main() -> int:
    everything = [*(ROOT / "csrc").rglob("*"), *(ROOT / "cuda").rglob("*")]
    files = sorted(path for path in everything if path.suffix in {".h", ".cpp", ".cu", ".cuh"})
    found = [(path, *offence) for path in files for offence in offences(path)]
    for path, number, message in found:
        print(f"{path.relative_to(ROOT)}:{number}: {message}")
    print(f"{len(files)} files, {len(found)} forbidden includes")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
