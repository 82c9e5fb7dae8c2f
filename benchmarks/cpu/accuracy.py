"""Errors of ours beside torch's, against float64 (long double for float64)."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

import softmax_ext

LENGTHS = (10, 128, 1000, 32003, 128256)
ELEMENTS = 2_000_000


def units(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / 2


def _largest_over(error: Tensor, bound: Tensor) -> float:
    return float((error / bound).amax())


def softmax_error(function: Callable, x: Tensor) -> float:
    """The largest relative error of a normal probability, in units of u · (1 + distance from the maximum)."""
    exact = torch.softmax(x.double(), -1)
    distance = x.double().amax(-1, keepdim=True) - x.double()
    normal = exact > torch.finfo(x.dtype).tiny
    error = (function(x, -1).double() - exact).abs() / exact.clamp(min=1e-300) / (units(x.dtype) * (1 + distance))
    return float(error[normal].amax())


def ulp(values: Tensor, dtype: torch.dtype) -> Tensor:
    exponent = torch.frexp(values.abs().clamp(min=torch.finfo(dtype).tiny)).exponent.double()
    return torch.exp2(exponent) * units(dtype)


def log_softmax_error(function: Callable, x: Tensor) -> float:
    """The largest error in ULP of the larger of 1 and the result."""
    exact = torch.log_softmax(x.double(), -1)
    return _largest_over((function(x, -1).double() - exact).abs(), ulp(exact.abs().clamp(min=1), x.dtype))


def logsumexp_error(function: Callable, x: Tensor) -> float:
    exact = torch.logsumexp(x.double(), -1)
    return _largest_over((function(x, -1).double() - exact).abs(), ulp(exact.abs().clamp(min=1), x.dtype))


def cross_entropy_error(function: Callable, x: Tensor) -> float:
    """That of the losses of rows, relative to the larger of 1 and the loss, in units of 1e-7."""
    target = torch.arange(x.shape[0]) % x.shape[1]
    exact = F.cross_entropy(x.double(), target, reduction="none")
    loss = function(x, target, reduction="none").double()
    return _largest_over((loss - exact).abs(), exact.clamp(min=1)) / 1e-7


def row_sum_error(function: Callable, x: Tensor) -> float:
    """How far the probabilities of a row are from adding up to 1, in units of 1e-7."""
    return float((function(x, -1).double().sum(-1) - 1).abs().amax()) / 1e-7


def _gradient(function: Callable, x: Tensor, target: Tensor, dtype: torch.dtype) -> Tensor:
    x = x.to(dtype).requires_grad_()
    return torch.autograd.grad(function(x, target, reduction="sum"), x)[0].double()


def gradient_error(function: Callable, x: Tensor) -> float:
    """The L2 error of the cross-entropy's gradient, as a multiple of that of rounding the exact one."""
    target = torch.arange(x.shape[0]) % x.shape[1]
    exact = _gradient(F.cross_entropy, x.detach(), target, torch.float64)
    rounding = (exact.to(x.dtype).double() - exact).norm()
    return float((_gradient(function, x.detach(), target, x.dtype) - exact).norm() / rounding)


def true_class_error(function: Callable, x: Tensor) -> float:
    """The largest error of the true class's gradient, for probabilities up to 1 − 1e-7 and logits near 1e4, in units of
    1e-7."""
    x = x.clone()
    target = torch.zeros(x.shape[0], dtype=torch.int64)
    x[:, 0] = x[:, 1:].logsumexp(1) + torch.linspace(0, 16, x.shape[0])
    x += 1e4
    errors = _gradient(function, x, target, x.dtype) - _gradient(F.cross_entropy, x, target, torch.float64)
    return float(errors[:, 0].abs().amax()) / 1e-7


def misrounded(function: Callable, x: Tensor) -> float:
    """How many of a million 16-bit results are not the correctly rounded ones."""
    exact = getattr(torch, function.__name__)(x.double(), -1).to(x.dtype)
    return 1e6 * float((function(x, -1) != exact).double().mean())


class Measure(NamedTuple):
    name: str
    function: str
    dtype: torch.dtype
    unit: str
    #: The largest error that is allowed; shorter rows may have another.
    bound: float
    measure: Callable[[Callable, Tensor], float]
    bound_of_short_rows: float | None = None


F32, F16, BF16, F64 = torch.float32, torch.float16, torch.bfloat16, torch.float64
MEASURES = (
    Measure("probability", "softmax", F32, "u · (1 + d)", 6, softmax_error, 8),
    Measure("1 − sum of a row", "softmax", F32, "1e-7", 5, row_sum_error),
    Measure("log-probability", "log_softmax", F32, "ULP", 4, log_softmax_error),
    Measure("log-sum-exp", "logsumexp", F32, "ULP", 2, logsumexp_error),
    Measure("loss of a row", "cross_entropy", F32, "1e-7 · max(1, loss)", 4, cross_entropy_error),
    Measure("gradient of the true class", "cross_entropy", F32, "1e-7", 2, true_class_error),
    Measure("gradient, L2", "cross_entropy", BF16, "that of rounding", 1.2, gradient_error),
    Measure("not the nearest number", "softmax", BF16, "of a million", 500, misrounded),
    Measure("not the nearest number", "log_softmax", BF16, "of a million", 500, misrounded),
    Measure("not the nearest number", "softmax", F16, "of a million", 500, misrounded),
    Measure("not the nearest number", "log_softmax", F16, "of a million", 500, misrounded),
)
#: Rows of up to this many elements are short.
SHORT = 128


def _wide(x: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The maxima in long double, the distances from them, and exp of those."""
    wide = x.numpy().astype(np.longdouble)
    top = wide.max(-1, keepdims=True)
    return top, top - wide, np.exp(wide - top)


def float64_logsumexp_error(function: Callable, length: int) -> float:
    """That of logsumexp in float64 against long double, in ULP of the larger of 1 and the result."""
    x = torch.randn(16, length, dtype=torch.float64)
    top, _, terms = _wide(x)
    exact = top[:, 0] + np.log(terms.sum(-1))
    unit = ulp(torch.from_numpy(exact.astype(np.float64)).abs().clamp(min=1), torch.float64).numpy()
    return float((np.abs(function(x, -1).numpy() - exact) / unit).max())


def float64_error(function: Callable, length: int) -> float:
    """That of softmax in float64 against long double, in u · (1 + distance)."""
    x = torch.randn(16, length, dtype=torch.float64)
    _, distance, terms = _wide(x)
    exact = terms / terms.sum(-1, keepdims=True)
    error = np.abs(function(x, -1).numpy() - exact) / exact / (units(torch.float64) * (1 + distance))
    return float(error.max())


MEASURES_OF_FLOAT64 = (
    Measure("probability", "softmax", F64, "u · (1 + d)", 8, float64_error),
    Measure("log-sum-exp", "logsumexp", F64, "ULP", 2, float64_logsumexp_error),
)


def measure() -> list[dict]:
    """The largest errors over normal logits, ours and torch's, by length."""
    torch.manual_seed(0)
    inputs = {length: torch.randn(max(2, ELEMENTS // length), length) for length in LENGTHS}
    lines = []
    for of in (*MEASURES, *MEASURES_OF_FLOAT64):
        ours = getattr(softmax_ext, of.function)
        theirs = F.cross_entropy if of.function == "cross_entropy" else getattr(torch, of.function)
        for length, x in inputs.items():
            argument = length if of.dtype == F64 else x.to(of.dtype)
            is_short = of.bound_of_short_rows is not None and length <= SHORT
            lines.append(
                {
                    "what": of.name,
                    "function": of.function,
                    "dtype": str(of.dtype).removeprefix("torch."),
                    "unit": of.unit,
                    "length": length,
                    "bound": of.bound_of_short_rows if is_short else of.bound,
                    "ours": of.measure(ours, argument),
                    "torch": of.measure(theirs, argument),
                }
            )
    return lines


def table(lines: list[dict]) -> Table:
    """Ours beside torch's; what is beyond its bound is marked."""
    result = Table("largest error, ours / torch", *(f"N = {length}" for length in LENGTHS))
    for begin in range(0, len(lines), len(LENGTHS)):
        of_measure = lines[begin : begin + len(LENGTHS)]
        first = of_measure[0]
        cells = [
            f"{line['ours']:.3g} / {line['torch']:.3g}" + (" MISSED" if line["ours"] > line["bound"] else "")
            for line in of_measure
        ]
        name = f"{first['function']} {first['dtype']}, {first['what']}, {first['unit']} (bound {first['bound']:g})"
        result.add_row(name, *cells)
    return result
