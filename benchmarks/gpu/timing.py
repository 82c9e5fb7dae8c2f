"""Times functions that work on a GPU: in turn, each on a cold L2 cache, by the device's own clock."""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import cache

import torch

Function = Callable[[], object]

FLUSH_BYTES = 512 << 20  # several times any L2 cache
CLOCK = 3e9  # cycles a second, no less than any GPU has


@cache
def _flushed() -> torch.Tensor:
    return torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")


def host_seconds(function: Function) -> float:
    """What a call takes the host: the least of three, as the first ones may compile."""
    times = []
    for _ in range(3):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return min(times)


def medians(functions: Mapping[str, Function], repeats: int = 15, *, cold: bool = True) -> dict[str, float]:
    """The median time of one call of each function on the device, in seconds.

    Args:
        functions: What to time, by name.
        repeats: Calls of each, in rounds of one call of every function.
        cold: Whether the L2 cache is overwritten before every call.
    """
    # The device sleeps for longer than the host takes to launch: else it would wait for it between begin and end.
    pauses = {name: int(CLOCK * (host_seconds(function) + 50e-6)) for name, function in functions.items()}
    events = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            if cold:
                _flushed().zero_()
            torch.cuda._sleep(pauses[name])
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            function()
            end.record()
            events[name].append((begin, end))
    torch.cuda.synchronize()
    return {name: statistics.median(b.elapsed_time(e) for b, e in pairs) / 1e3 for name, pairs in events.items()}


@cache
def copy_seconds(traffic: int, repeats: int = 15, *, cold: bool = True) -> float:
    """The time of a copy on the device that reads and writes ``traffic`` bytes together."""
    source = torch.empty(max(traffic // 2, 1), dtype=torch.int8, device="cuda").zero_()
    target = torch.empty_like(source)
    return medians({"copy": lambda: target.copy_(source)}, repeats, cold=cold)["copy"]
