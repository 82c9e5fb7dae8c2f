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


def table() -> Table:
    """The peak beside the inputs, as a multiple of the logits' size (ours of a layer: its chunk, and its gradients)."""
    if not CLEAR.exists():
        raise RuntimeError("the peak of memory is measured on Linux alone")
    result = Table("peak / size of the logits", "softmax_ext: recompute", "forward", "inplace", "torch", COMPILED)
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(shape).to(dtype).requires_grad_()
            target = torch.randint(shape[1], shape[:1])

            functions = [
                _step(softmax_ext.cross_entropy, target),
                _step(partial(softmax_ext.cross_entropy, gradient="forward"), target),
                in_place(target),
                _step(F.cross_entropy, target),
                _step(compiled(F.cross_entropy), target),
            ]
            size = x.numel() * x.element_size()
            cells = [f"{peak(function, x) / size:.2f}" for function in functions]
            result.add_row(f"{' × '.join(map(str, shape))} {str(dtype).removeprefix('torch.')}", *cells)
    for rows, features, classes in LAYERS:
        x = torch.randn(rows, features, requires_grad=True)
        weight = torch.randn(classes, features, requires_grad=True)
        target = torch.randint(classes, (rows,))

        functions = [
            _layer_step(partial(softmax_ext.linear_cross_entropy, gradient="recompute"), weight, target),
            _layer_step(partial(softmax_ext.linear_cross_entropy, gradient="forward"), weight, target),
            None,
            _layer_step(_pair, weight, target),
            _layer_step(compiled(_pair), weight, target),
        ]
        size = rows * classes * x.element_size()
        cells = ["-" if function is None else f"{peak(function, x) / size:.2f}" for function in functions]
        result.add_row(f"linear {rows} × {features} × {classes} float32", *cells)
    return result
