"""Ours beside torch, torch.compile and Liger on a GPU, and beside a copy of as many bytes.

    python -m benchmarks.gpu                     the table and the public grid
    python -m benchmarks.gpu --report            what RESULTS has, as Markdown

Each result is a line of RESULTS; a case that has one of this library on this device is not measured again. Liger takes
part where it is installed. Exits with 75 if cases are left for another run.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

import softmax_ext
from benchmarks.gpu import cases, report
from benchmarks.gpu.timing import copy_seconds, medians

SUITES = {"table": cases.table, "grid": cases.grid}


def device() -> dict[str, str]:
    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = "none"
    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton_version,
        "Liger": "yes" if cases.LigerSoftmaxFunction else "not installed: left out",
        "driver": subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip(),
        "softmax_ext": softmax_ext.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def measure(case: cases.Case, compile_peers: bool) -> dict:
    torch._dynamo.reset()
    functions = case.make(compile_peers and case.compiles)
    failed = {peer: error for peer in list(functions) if peer != "ours" and (error := error_of(functions[peer]))}
    times = medians({peer: f for peer, f in functions.items() if peer not in failed}, cold=case.is_cold)
    copy = copy_seconds(case.traffic, cold=case.is_cold)
    return {
        "group": case.group,
        "shape": list(case.shape),
        "dtype": str(case.dtype).removeprefix("torch."),
        "traffic": case.traffic,
        "copy": copy,
        "seconds": times,
        "failed": failed,
    }


def error_of(function: Callable[[], object]) -> str | None:
    """What a peer says that cannot do its work."""
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return None


def host_times(calls: int = 300, repeats: int = 9) -> dict[str, dict[str, float]]:
    """What a call costs the host, in seconds: small inputs, so that the device is never waited for."""
    x = torch.randn(8, 128, device="cuda")
    x_with_grad = x.clone().requires_grad_()
    target = torch.randint(128, (8,), device="cuda")
    functions: dict[str, dict[str, Callable]] = {
        "softmax": {
            "ours": lambda: torch.ops.softmax_ext.softmax(x, -1),
            "eager": lambda: torch.softmax(x, -1),
        },
        "softmax with a gradient": {
            "ours": lambda: torch.ops.softmax_ext.softmax(x_with_grad, -1),
            "eager": lambda: torch.softmax(x_with_grad, -1),
        },
        "cross_entropy": {
            "ours": lambda: softmax_ext.cross_entropy(x, target),
            "eager": lambda: torch.nn.functional.cross_entropy(x, target),
        },
    }
    result = {}
    for name, peers in functions.items():
        times = {peer: [] for peer in peers}
        for _ in range(repeats):
            for peer, function in peers.items():
                torch.cuda.synchronize()
                begin = time.perf_counter()
                for _ in range(calls):
                    function()
                times[peer].append((time.perf_counter() - begin) / calls)
        result[name] = {peer: statistics.median(values) for peer, values in times.items()}
    return result


def compile_ahead(suites: list[str], workers: int) -> None:
    """Fills the caches of peers that compile, with many processes: one by one it takes minutes."""
    commands = [
        [sys.executable, "-m", "benchmarks.gpu", "--suites", *suites, "--only-compile", f"{i}/{workers}"]
        for i in range(workers)
    ]
    for process in [subprocess.Popen(command) for command in commands]:
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("build/gpu-check/bench.jsonl"), metavar="RESULTS")
    parser.add_argument("--suites", nargs="+", choices=SUITES, default=list(SUITES))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after the case that passes this time")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 12), help="that compile ahead")
    parser.add_argument("--only-compile", help=argparse.SUPPRESS)
    parser.add_argument("--report", action="store_true", help="print Markdown, measure nothing")
    arguments = parser.parse_args()
    if arguments.report:
        print(report.markdown(arguments.results))
        return
    if not torch.cuda.is_available():
        parser.error("expected a GPU, found none")
    begin = time.monotonic()
    chosen = [case for suite in arguments.suites for case in SUITES[suite]()]

    if arguments.only_compile:
        index, workers = map(int, arguments.only_compile.split("/"))
        for case in chosen[index::workers]:
            torch._dynamo.reset()
            functions = case.make(case.compiles)
            for peer in functions.keys() & {"torch.compile", "Liger"}:
                error_of(functions[peer])
        return

    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    library = hashlib.sha256(Path(softmax_ext.library_path).read_bytes()).hexdigest()[:16]
    of = f"{library}, torch {torch.__version__}, {torch.cuda.get_device_name()}"
    done = {line["key"] for line in report.read(arguments.results, of)}
    left = [case for case in chosen if case.key not in done]
    with arguments.results.open("a") as file:

        def write(line: dict) -> None:
            print(json.dumps({"of": of, **line}), file=file, flush=True)

        if report.HOST_KEY not in done:
            write({"key": report.HOST_KEY, "machine": device(), "host": host_times()})
        if not arguments.no_compile and left:
            compile_ahead(arguments.suites, arguments.workers)
        for i, case in enumerate(left):
            if time.monotonic() - begin > arguments.seconds:
                print(f"{len(left) - i} cases left for another run", file=sys.stderr)
                sys.exit(75)
            line = {"key": case.key, **measure(case, not arguments.no_compile)}
            write(line)
            print(f"[{i + 1}/{len(left)}] {report.one_line(line)}", flush=True)


if __name__ == "__main__":
    main()
