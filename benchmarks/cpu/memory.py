"""How much memory forward and backward of the cross-entropy take beside its inputs: ours, by each way to the gradient,
and torch's; and the same of a linear layer's outputs."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

import softmax_ext
from benchmarks.cpu.cases import COMPILED, compiled, in_place

SHAPES = ((2048, 32000), (512, 128256))
LAYERS = ((4096, 512, 32000),)  # rows, features, classes
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _resident(what: str) -> int:
    """VmRSS or VmHWM, its peak, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024


def peak(function: Callable[[Tensor], object], x: Tensor) -> int:
    """The most memory in use at once during a call, beyond what was in use before, in bytes."""
    function(x)  # what a first call keeps
    CLEAR.write_text("5")  # the peak is that of now
    before = _resident("VmRSS")
    function(x)
    return _resident("VmHWM") - before


def _step(loss: Callable[[Tensor, Tensor], Tensor], target: Tensor) -> Callable[[Tensor], object]:
    return lambda x: torch.autograd.grad(loss(x, target), x)


def _pair(x: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x, weight), target)


def _layer_step(loss: Callable[..., Tensor], weight: Tensor, target: Tensor) -> Callable[[Tensor], object]:
    return lambda x: torch.autograd.grad(loss(x, weight, target), (x, weight))


def measure() -> list[dict]:
    """The peak beside the inputs, in bytes (ours of a layer: its chunk, and its gradients)."""
    if not CLEAR.exists():
        raise RuntimeError("the peak of memory is measured on Linux alone")
    lines = []
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(shape).to(dtype).requires_grad_()
            target = torch.randint(shape[1], shape[:1])

            functions = {
                "recompute": _step(softmax_ext.cross_entropy, target),
                "forward": _step(partial(softmax_ext.cross_entropy, gradient="forward"), target),
                "inplace": in_place(target),
                "torch": _step(F.cross_entropy, target),
                COMPILED: _step(compiled(F.cross_entropy), target),
            }
            lines.append(_line("cross_entropy", shape, dtype, x.numel() * x.element_size(), functions, x))
    for rows, features, classes in LAYERS:
        x = torch.randn(rows, features, requires_grad=True)
        weight = torch.randn(classes, features, requires_grad=True)
        target = torch.randint(classes, (rows,))

        functions = {
            "recompute": _layer_step(partial(softmax_ext.linear_cross_entropy, gradient="recompute"), weight, target),
            "forward": _layer_step(partial(softmax_ext.linear_cross_entropy, gradient="forward"), weight, target),
            "torch": _layer_step(_pair, weight, target),
            COMPILED: _layer_step(compiled(_pair), weight, target),
        }
        size = rows * classes * x.element_size()
        lines.append(_line("linear_cross_entropy", (rows, features, classes), x.dtype, size, functions, x))
    return lines


def _line(
    what: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    size: int,
    functions: dict[str, Callable[[Tensor], object]],
    x: Tensor,
) -> dict:
    return {
        "function": what,
        "shape": list(shape),
        "dtype": str(dtype).removeprefix("torch."),
        "bytes_of_logits": size,
        "peak_bytes": {name: peak(function, x) for name, function in functions.items()},
    }


def table(lines: list[dict]) -> Table:
    """The peaks as multiples of the logits' size."""
    columns = list(lines[0]["peak_bytes"])
    result = Table("peak / size of the logits", *columns)
    for line in lines:
        peaks = line["peak_bytes"]
        cells = [f"{peaks[name] / line['bytes_of_logits']:.2f}" if name in peaks else "–" for name in columns]
        result.add_row(f"{line['function']} {' × '.join(map(str, line['shape']))} {line['dtype']}", *cells)
    return result
