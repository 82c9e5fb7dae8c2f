"""Checks the machine code of the CUDA kernels in a library, without a GPU.

    python tools/check_kernels.py libsoftmax_ext.so --nvcc nvcc

Wants, of every kernel: no access to local memory (a spill, or an array that is indexed by a variable); registers that
its threads can all have; 128-bit loads and stores wherever it moves packs. And of softmax: two exponentials per element,
one for the usual temperatures and one for their limits, of which a row takes one; twice as many where elements have 16
bits and their terms are made again for the map. Prints a line per offence and exits with 1 if there is one.

Instructions of sm_75 and later have 16 bytes: bits 0–11 are the opcode, bits 73–75 of a memory access its width. The
encodings below are not documented, so they are first tried on probes that the same nvcc compiles. The library must be
linked without compression of the kernels (nvcc --no-compress), as the development presets do.
"""

import argparse
import collections
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

EM_CUDA = 190
OPCODES = {0x981: "LDG", 0x986: "STG", 0x983: "LDL", 0x387: "STL", 0x308: "MUFU"}
WIDTHS = {4: 32, 5: 64, 6: 128}
EXPONENTIAL = 2  # of the functions of MUFU
REGISTER_COUNT = 0x2F  # of the attributes of kernels
REGISTERS_OF_A_MULTIPROCESSOR = 65536

PROBES = """
extern "C" __global__ void load_128(const int4* a, int* o) { int4 v = a[threadIdx.x]; o[0] = v.x ^ v.y ^ v.z ^ v.w; }
extern "C" __global__ void store_128(int4* a) { a[threadIdx.x] = make_int4(threadIdx.x, 1, 2, 3); }
extern "C" __global__ void load_32(const int* a, int* o) { o[0] = a[threadIdx.x]; }
extern "C" __global__ void local(const int* a, int* o, int n) {
  int x[64];
  for (int i = 0; i < 64; i++) x[i] = a[i];
  for (int i = 0; i < n; i++) x[a[i] & 63] += i;
  o[0] = x[n & 63];
}
extern "C" __global__ void exponential(const float* a, float* o) { o[0] = exp2f(a[0]); }
extern "C" __global__ void reciprocal(const float* a, float* o) { o[0] = __frcp_rn(a[0]); }
"""
WANTED_OF_PROBES = {
    "load_128": ("LDG.128", 1),
    "store_128": ("STG.128", 1),
    "load_32": ("LDG.128", 0),
    "exponential": ("EX2", 1),
    "reciprocal": ("EX2", 0),
}


class Kernel(NamedTuple):
    name: str
    registers: int
    count: collections.Counter

    @property
    def local_accesses(self) -> int:
        return sum(n for what, n in self.count.items() if what.startswith(("LDL", "STL")))


def kernels_of(data: bytes) -> Iterator[Kernel]:
    """Of every cubin in a file: a cubin is an ELF file of its own machine."""
    for match in re.finditer(b"\x7fELF\x02\x01", data):
        cubin = data[match.start() :]
        if len(cubin) > 64 and struct.unpack_from("<H", cubin, 18)[0] == EM_CUDA:
            yield from kernels_of_cubin(cubin)


def kernels_of_cubin(cubin: bytes) -> Iterator[Kernel]:
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    sections, names = struct.unpack_from("<HH", cubin, 0x3C)
    headers = [struct.unpack_from("<IIQQQQIIQQ", cubin, table + 64 * i) for i in range(sections)]

    def text(begin: int) -> str:
        return cubin[begin : cubin.index(b"\0", begin)].decode()

    bytes_of = {text(headers[names][4] + header[0]): cubin[header[4] : header[4] + header[5]] for header in headers}
    strings = next(header[4] for header in headers if text(headers[names][4] + header[0]) == ".strtab")
    symbols = [text(strings + offset) for offset, *_ in struct.iter_unpack("<IBBHQQ", bytes_of[".symtab"])]
    registers = dict(register_counts(bytes_of.get(".nv.info", b"")))
    registers_of = {symbols[symbol]: count for symbol, count in registers.items()}
    for name, code in bytes_of.items():
        if name.startswith(".text."):
            kernel = name.removeprefix(".text.")
            yield Kernel(kernel, registers_of.get(kernel, 0), counted(code))


def register_counts(info: bytes) -> Iterator[tuple[int, int]]:
    """Attributes are a format, a name, and a value of 2 bytes, which for format 4 is the size of what follows."""
    at = 0
    while at + 4 <= len(info):
        layout, attribute, size = struct.unpack_from("<BBH", info, at)
        at += 4
        if layout != 4:
            continue
        if attribute == REGISTER_COUNT:
            yield struct.unpack_from("<II", info, at)
        at += size


def counted(code: bytes) -> collections.Counter:
    count = collections.Counter()
    for low, high in struct.iter_unpack("<QQ", code):
        name = OPCODES.get(low & 0xFFF)
        if name == "MUFU":
            if high >> 10 & 0xF == EXPONENTIAL:
                count["EX2"] += 1
        elif name:
            count[f"{name}.{WIDTHS.get(high >> 9 & 7, 'narrow')}"] += 1
    return count


def check_probes(nvcc: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder, "probes.cu"), Path(folder, "probes.cubin")
        source.write_text(PROBES)
        subprocess.run([nvcc, "-O3", "-arch=sm_90", "-cubin", source, "-o", cubin], check=True)
        probes = {kernel.name: kernel for kernel in kernels_of(cubin.read_bytes())}
    for name, (what, wanted) in WANTED_OF_PROBES.items():
        found = probes[name].count[what]
        if (found > 0) != (wanted > 0):
            sys.exit(f"check_kernels: this nvcc encodes instructions otherwise: {found} {what} in the probe {name}")
    if not probes["local"].local_accesses:
        sys.exit("check_kernels: this nvcc encodes instructions otherwise: no local memory in the probe local")


def offences(kernel: Kernel) -> Iterator[str]:
    name, count = kernel.name, kernel.count
    if kernel.local_accesses:
        yield f"{kernel.local_accesses} accesses to local memory"
    shape = re.search(r"LaunchShapeILi(\d+)ELi(\d+)ELi(\d+)E", name)
    if shape is None:
        return
    threads, _, packs = map(int, shape.groups())
    if kernel.registers * threads > REGISTERS_OF_A_MULTIPROCESSOR:
        yield f"{kernel.registers} registers for each of {threads} threads"
    if not count["LDG.128"]:
        yield "no load of 128 bits"
    without_map = ("summarize_tiles", "LogSumExpRows", "EntropyRows", "CrossEntropyForward", "sample_kernel")
    maps = not any(part in name for part in without_map)
    if maps and not count["STG.128"]:
        yield "no store of 128 bits"
    if re.search("(warp|block)_per_row", name) and "14SoftmaxForwardIff" in name and "Lb1E" in name:
        has_16_bits = re.search("__half|__nv_bfloat16", name) is not None
        elements = packs * (8 if has_16_bits else 4)
        if count["EX2"] != (4 if has_16_bits else 2) * elements:
            yield f"{count['EX2']} exponentials for {elements} elements"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path, help="a library or a cubin")
    parser.add_argument("--nvcc", default=shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc", help="what made it")
    parser.add_argument("--if-any", action="store_true", help="a library without kernels is no offence")
    arguments = parser.parse_args()
    kernels = list(kernels_of(arguments.library.read_bytes()))
    if not kernels and arguments.if_any:
        print(f"check_kernels: no kernel in {arguments.library}")
        return
    check_probes(arguments.nvcc)
    if not kernels:
        sys.exit(f"check_kernels: no kernel in {arguments.library}: is it compressed?")
    found = [f"{kernel.name}: {offence}" for kernel in kernels for offence in offences(kernel)]
    print(*found, sep="\n", end="\n" if found else "")
    print(f"{len(kernels)} kernels, {len(found)} offences")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
