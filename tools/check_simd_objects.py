"""Checks the objects of csrc/cpu/simd: an object compiled for one instruction set may define nothing that the linker
could use for another. So there are no weak symbols, and the others are in the namespace of the level.

    python tools/check_simd_objects.py LEVEL OBJECT...
"""

import re
import subprocess
import sys


def main() -> int:
    level, *objects = sys.argv[1:]
    if not objects:
        sys.exit("check_simd_objects: expected objects, got none")
    symbols = subprocess.run(
        ["nm", "--demangle", "--defined-only", *objects], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    bad = []
    for line in symbols:
        match = re.match(r"[0-9a-f]+ (\w) (.*)", line)
        # Lower case: local to the object, but for weak (v, w) and unique (u) ones.
        if match and (match[1] in "VvWwu" or (match[1].isupper() and f"simd::{level}::" not in match[2])):
            bad.append(f"{match[1]} {match[2]}")
    tables = sum("_table" in line for line in symbols)
    for symbol in bad:
        print(f"{level}: exported: {symbol}")
    print(f"{level}: {len(objects)} objects, {tables} tables, {len(bad)} symbols that should not be exported")
    return 1 if bad or tables == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
