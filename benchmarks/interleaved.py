"""Times several functions in turn, in one process, so that a change of the machine's speed meets all of them alike."""

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch.utils.benchmark import Timer

BATCH_SECONDS = 0.02


def medians(
    functions: Mapping[str, Callable[[], object]],
    repeats: int = 15,
    batch_seconds: float = BATCH_SECONDS,
    trials: int = 100,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """The median time of one call of each function, in seconds of ``clock``, over ``repeats`` batches of
    ``batch_seconds``, of as many calls as ``trials`` before say."""
    timers = {
        name: Timer("f()", globals={"f": f}, num_threads=torch.get_num_threads(), timer=clock)
        for name, f in functions.items()
    }
    calls = {name: max(1, round(batch_seconds / timer.timeit(trials).mean)) for name, timer in timers.items()}
    times = {name: [] for name in functions}
    for _ in range(repeats):
        for name, timer in timers.items():
            times[name].append(timer.timeit(calls[name]).mean)
    return {name: statistics.median(values) for name, values in times.items()}


def machine() -> str:
    """What a figure needs beside it: command, processor, threads, versions."""
    cpu = Path("/proc/cpuinfo")
    model = (
        next((line.split(":")[1].strip() for line in cpu.open() if "model name" in line), "") if cpu.exists() else ""
    )
    command = f"python -m {sys.modules['__main__'].__spec__.name.removesuffix('.__main__')}" + "".join(
        f" {a}" for a in sys.argv[1:]
    )
    return (
        f"{command}\n{model or platform.processor()}, {os.cpu_count()} processors, {torch.get_num_threads()} threads; "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )
