"""Ours beside torch and torch.compile on a CPU, interleaved in one process, with 1 and 2 threads.

    python -m benchmarks.cpu --quick         a case of every kind, under two minutes; compiles for all threads alone
    python -m benchmarks.cpu                 all cases
    python -m benchmarks.cpu --accuracy      errors in ULP beside torch's instead
    python -m benchmarks.cpu --memory        the memory that cross-entropy takes, beside torch's, instead

Prints ratios (peer's time / ours) beside what is asked of them, and how ours compares with a pass over the same memory:
``torch.mul(x, c, out=y)`` where there is an output, else ``x.sum()``; an entropy and masked softmaxes, with our own
logsumexp and softmax of as many logits. RESULT.json has what was measured, RESULT.png the chart of times.

The time of large new results depends on malloc: glibc returns them to the system at each free. --tuned-malloc keeps
them, for torch's as for ours.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import torch
import torch._inductor.config
from rich.console import Console
from rich.progress import track
from rich.table import Table

import softmax_ext
from benchmarks import results
from benchmarks.cpu import accuracy, cases, chart, memory, sampling
from benchmarks.interleaved import machine, medians

PEERS = ("eager", cases.COMPILED)
PASSES = ("x * c", "x.sum()", "plain")
TUNED = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592", "MALLOC_TOP_PAD_": "268435456"}


def measure(case: cases.Case, threads: int, repeats: int, compiles: bool) -> dict:
    torch.set_num_threads(threads)
    torch._dynamo.reset()
    torch._inductor.config.cpp.threads = threads  # else what was compiled for one thread is found again for two
    torch.manual_seed(0)
    times = medians(case.make(compiles), repeats)
    return {
        "key": case.key,
        "group": case.group,
        "shape": list(case.shape),
        "dtype": str(case.dtype).removeprefix("torch."),
        "threads": threads,
        "seconds": times,
        "bars": dict(zip(PEERS, case.bars, strict=True)),
    }


def row(line: dict) -> list[str]:
    """Of the table: what is below what is asked of it is marked."""
    ours = line["seconds"]["ours"]
    cells = [f"{line['group']} {' × '.join(map(str, line['shape']))}", line["dtype"], str(line["threads"])]
    cells.append(f"{ours * 1e6:.1f} µs")
    for peer in PEERS:
        bar = line["bars"][peer]
        if peer not in line["seconds"]:
            cells.append("–")
            continue
        ratio = line["seconds"][peer] / ours
        cells.append(f"{ratio:.2f} ×" + (f" (bar {bar:g}{'' if ratio >= bar else ', MISSED'})" if bar else ""))
    of_pass = next((line["seconds"][name] / ours for name in PASSES if name in line["seconds"]), None)
    return [*cells, f"{of_pass:.2f}" if of_pass else "–"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a case of every kind")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=9, help="batches of at least 20 ms per function, 9 or more")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--tuned-malloc", action="store_true", help="keep freed memory (glibc)")
    parser.add_argument("--result", type=Path, default=Path("build/bench/cpu"), help="without suffix")
    parser.add_argument("--accuracy", action="store_true", help="measure errors, not times")
    parser.add_argument("--memory", action="store_true", help="measure the memory of the loss, not times")
    arguments = parser.parse_args()
    if arguments.repeats < 9:
        parser.error(f"expected at least 9 repeats, got {arguments.repeats}")
    if arguments.tuned_malloc and any(os.environ.get(name) != value for name, value in TUNED.items()):
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.cpu", *sys.argv[1:]], {**os.environ, **TUNED})
    console = Console(width=None if sys.stdout.isatty() else 180, highlight=False)
    about = [*machine().splitlines(), f"softmax_ext {softmax_ext.__version__}, {softmax_ext.info()['cpu']}"]
    console.print(*about, sep="\n", markup=False)
    for is_wanted, report in ((arguments.accuracy, accuracy), (arguments.memory, memory)):
        if is_wanted:
            lines = report.measure()
            results.save(arguments.result, about, lines)
            console.print(report.table(lines))
            return

    chosen = [
        (case, threads)
        for case in (*cases.table(), *sampling.table())
        for threads in arguments.threads
        if (case.is_quick or not arguments.quick) and arguments.only in case.key and case.threads in (None, threads)
    ]
    if not chosen:
        parser.error(f"expected a part of a case's name, got --only {arguments.only}")
    lines = []
    begin = time.monotonic()
    for case, threads in track(chosen, "measuring", console=console, disable=not sys.stdout.isatty()):
        compiles = not arguments.no_compile and not (arguments.quick and threads < max(arguments.threads))
        lines.append(measure(case, threads, arguments.repeats, compiles))
        results.save(arguments.result, about, lines)
    table = Table("case", "dtype", "threads", "ours", *(f"{peer} / ours" for peer in PEERS), "of a pass")
    for line in lines:
        table.add_row(*row(line))
    console.print(table)
    chart.draw(lines, about, arguments.result.with_suffix(".png"))
    console.print(f"{len(lines)} cases in {time.monotonic() - begin:.0f} s; {arguments.result}.json and .png")


if __name__ == "__main__":
    main()
