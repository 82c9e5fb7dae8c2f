"""Errors of ours beside torch's, against float64 (long double for float64)."""

from collections.abc import Callable

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
    target = torch.arange(x.shape[0]) % x.shape[1]
    exact = F.cross_entropy(x.double(), target, reduction="none")
    loss = function(x, target, reduction="none").double()
    return _largest_over((loss - exact).abs(), ulp(exact.clamp(min=1), torch.float32))


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
    """The share of 16-bit results that are not the correctly rounded ones, in percent."""
    exact = getattr(torch, function.__name__)(x.double(), -1).to(x.dtype)
    return 100 * float((function(x, -1) != exact).double().mean())


MEASURES = {
    "softmax float32, u·(1 + distance)": (softmax_error, torch.float32, "softmax"),
    "log_softmax float32, ULP": (log_softmax_error, torch.float32, "log_softmax"),
    "logsumexp float32, ULP": (logsumexp_error, torch.float32, "logsumexp"),
    "cross_entropy float32, ULP": (cross_entropy_error, torch.float32, "cross_entropy"),
    "softmax float32, |1 − row sum|, 1e-7": (row_sum_error, torch.float32, "softmax"),
    "cross_entropy gradient bfloat16, L2 of ideal": (gradient_error, torch.bfloat16, "cross_entropy"),
    "true class's gradient float32, 1e-7": (true_class_error, torch.float32, "cross_entropy"),
    "softmax bfloat16, % misrounded": (misrounded, torch.bfloat16, "softmax"),
    "log_softmax bfloat16, % misrounded": (misrounded, torch.bfloat16, "log_softmax"),
    "softmax float16, % misrounded": (misrounded, torch.float16, "softmax"),
    "log_softmax float16, % misrounded": (misrounded, torch.float16, "log_softmax"),
}


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


def table() -> Table:
    """The largest error over normal logits, ours and torch's, by length."""
    result = Table("largest error, ours / torch", *(f"N = {length}" for length in LENGTHS))
    torch.manual_seed(0)
    inputs = {length: torch.randn(max(2, ELEMENTS // length), length) for length in LENGTHS}
    for what, (measure, dtype, name) in MEASURES.items():
        ours = getattr(softmax_ext, name)
        theirs = F.cross_entropy if name == "cross_entropy" else getattr(torch, name)
        cells = []
        for x in inputs.values():
            x = x.to(dtype)
            cells.append(f"{measure(ours, x):.3g} / {measure(theirs, x):.3g}")
        result.add_row(what, *cells)
    for what, measure, name in (
        ("softmax float64, u·(1 + distance)", float64_error, "softmax"),
        ("logsumexp float64, ULP", float64_logsumexp_error, "logsumexp"),
    ):
        functions = getattr(softmax_ext, name), getattr(torch, name)
        result.add_row(what, *(" / ".join(f"{measure(f, length):.3g}" for f in functions) for length in LENGTHS))
    return result
