"""Times functions that work on a GPU: in turn, each on a cold L2 cache, by the device's own clock."""

import statistics
from collections.abc import Callable, Mapping
from functools import cache

import torch

Function = Callable[[], object]

FLUSH_BYTES = 512 << 20  # several times any L2 cache; and the host is ahead of the device while it is written


@cache
def _flushed() -> torch.Tensor:
    return torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")


def medians(functions: Mapping[str, Function], repeats: int = 15, *, cold: bool = True) -> dict[str, float]:
    """The median time of one call of each function on the device, in seconds.

    Args:
        functions: What to time, by name.
        repeats: Calls of each, in rounds of one call of every function.
        cold: Whether the L2 cache is overwritten before every call.
    """
    for function in functions.values():
        function()
        function()
    events = {name: [] for name in functions}
    torch.cuda._sleep(2_000_000)  # the host gets ahead
    for _ in range(repeats):
        for name, function in functions.items():
            if cold:
                _flushed().zero_()
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
