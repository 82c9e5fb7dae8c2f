"""What holds of every public operator for whatever tensors and options it is given: one function per operator, that draws
a call and asserts that its value and gradient are those of float64, within their bounds.

test_properties.py runs a few examples of each, soak.py as many as there is time for.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import reference
import strategies
import tolerances
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from operators import causal_mask
from strategies import dtypes, lane, logits, shapes, temperatures
from test_entropy import Expected, assert_entropies_are_within_their_bound, assert_gradients_are_within_their_bound
from torch import Tensor

import softmax_ext

INF = math.inf
HALVES = (torch.bfloat16, torch.float16)

#: By the operator's name.
PROPERTIES: dict[str, Callable[[DrawFn], None]] = {}


def holds(check: Callable[[DrawFn], None]) -> Callable[[DrawFn], None]:
    PROPERTIES[check.__name__] = check
    return check


def options_of(temperature: float | Tensor | None) -> dict:
    return {} if temperature is None else {"temperature": temperature}


def called(function: Callable, *arguments, **options):
    """The result, of which no argument has changed, nor shares its memory, and which comes again with the same bits."""
    given = [argument for argument in (*arguments, *options.values()) if isinstance(argument, Tensor)]
    before = [argument.detach().clone() for argument in given]
    result = function(*arguments, **options)
    for argument, copy in zip(given, before, strict=True):
        assert torch.equal(argument.nan_to_num(nan=7), copy.nan_to_num(nan=7)), "an argument was written to"
        assert argument.numel() == 0 or argument.data_ptr() != result.data_ptr(), "the result is an argument"
    torch.testing.assert_close(function(*arguments, **options), result, rtol=0, atol=0, equal_nan=True)
    assert result.is_contiguous()
    return result


def assert_rows_have_the_bits_of_contiguous_ones(function: Callable, x: Tensor, dim: int, result: Tensor) -> None:
    if x.dim() and dim % x.dim() == x.dim() - 1 and (x.stride(-1) == 1 or x.shape[-1] == 1):
        torch.testing.assert_close(function(x.contiguous()), result, rtol=0, atol=0, equal_nan=True)


class Rows:
    """Logits along a dim in float64: probabilities, their logarithms, and distances from the maximum, over T."""

    def __init__(self, x: Tensor, dim: int, temperature: float | Tensor | None):
        self.temperature = 1.0 if temperature is None else temperature
        if isinstance(temperature, Tensor):
            self.temperature = temperature.double()
        self.log_probs = reference.log_softmax(x, dim, self.temperature)
        self.probs = self.log_probs.exp()
        top = x.double().amax(dim, keepdim=True)
        self.distance = ((top - x.double()) / self.temperature).nan_to_num(nan=0, posinf=1e4)
        self.length = x.shape[dim] if x.dim() else 1


def assert_probs_are_within_their_bound(actual: Tensor, rows: Rows) -> None:
    if actual.dtype in HALVES:
        tolerances.assert_nearly_all_correctly_rounded(actual, rows.probs)
    else:
        bound = tolerances.softmax_bound(rows.probs, rows.distance, actual.dtype, rows.length)
        tolerances.assert_within(actual, rows.probs, bound)


def assert_softmax_gradient(actual: Tensor, y: Tensor, grad: Tensor, dim: int, rows: Rows) -> None:
    """From the rounded output, as backward has it: y (g − Σ g y) / T, where a product and a sum are rounded."""
    y, grad = y.detach().double(), grad.double()
    product = torch.where(y == 0, 0, grad * y)
    wanted = (product - torch.where(y == 0, 0, y * product.sum(dim, keepdim=True))) / rows.temperature
    size = (product.abs() + y * product.abs().sum(dim, keepdim=True)) / rows.temperature
    assert_gradient(actual, wanted, size, rows.length)


def assert_gradient(actual: Tensor, wanted: Tensor, size: Tensor, length: int) -> None:
    """Within the rounding of the result, and some of the arithmetic of terms that are as large as ``size``: 8, and in
    float64, where a sum over a row is not in more, one for each of its terms."""
    dtype = lane(actual.dtype)
    units = 8 + length if dtype == torch.float64 else 8
    bound = 0.5 * tolerances.ulp(wanted.nan_to_num(), actual.dtype) + units * tolerances.unit(dtype) * size
    # Below the normal numbers of the arithmetic a step is as large as they.
    tolerances.assert_within(actual, wanted, 1.001 * bound + 4 * torch.finfo(dtype).smallest_normal)


def gradient_of(value: Tensor, x: Tensor, draw: DrawFn) -> tuple[Tensor, Tensor]:
    """The gradient of x, and the upstream gradient that was drawn, of any layout."""
    grad = draw(strategies.layouts(strategies.normal(draw, value.shape).to(value.dtype)))
    (gradient,) = torch.autograd.grad(value, x, grad)
    assert gradient.dtype == x.dtype
    assert gradient.shape == x.shape
    return gradient, grad


def result_dtype(draw: DrawFn, x: Tensor) -> torch.dtype | None:
    return draw(st.one_of(st.none(), dtypes)) if draw(st.integers(0, 4)) == 0 else None


def normalization(name: str) -> Callable[[DrawFn], None]:
    function = getattr(softmax_ext, name)

    def check(draw: DrawFn) -> None:
        shape, dim = draw(shapes())
        x = draw(logits(shape)).requires_grad_()
        temperature, dtype = draw(temperatures(shape, (dim,), x.dtype)), result_dtype(draw, x)
        value = called(function, x, dim, dtype, **options_of(temperature))
        assert value.shape == x.shape
        assert value.dtype == (dtype or x.dtype)
        if x.numel() == 0:
            return
        assert_rows_have_the_bits_of_contiguous_ones(
            lambda x: function(x, dim, dtype, **options_of(temperature)), x, dim, value
        )
        rows = Rows(x.detach(), dim, temperature)
        y = value.detach().double()
        if name == "softmax":
            assert_probs_are_within_their_bound(value.detach(), rows)
        else:
            assert_log_probs_are_within_their_bound(value.detach(), rows)
        if value.dtype != x.dtype:
            return  # its gradient is rounded twice
        gradient, grad = gradient_of(value, x, draw)
        if name == "softmax":
            assert_softmax_gradient(gradient, y, grad, dim, rows)
        else:
            p, g = y.exp(), grad.double()
            size = (
                g.abs() + p * (1 + y.nan_to_num(neginf=0).abs()) * g.abs().sum(dim, keepdim=True)
            ) / rows.temperature
            assert_gradient(gradient, (g - p * g.sum(dim, keepdim=True)) / rows.temperature, size, rows.length)

    return check


def assert_log_probs_are_within_their_bound(actual: Tensor, rows: Rows) -> None:
    expected = rows.log_probs.where(~(rows.log_probs < torch.finfo(actual.dtype).min), -INF)
    if actual.dtype in HALVES:
        tolerances.assert_nearly_all_correctly_rounded(actual, expected)
    else:
        tolerances.assert_within(actual, expected, tolerances.log_softmax_bound(expected, rows.distance, actual.dtype))


PROPERTIES["softmax"] = normalization("softmax")
PROPERTIES["log_softmax"] = normalization("log_softmax")


@holds
def logsumexp(draw: DrawFn) -> None:
    shape, dim = draw(shapes())
    x = draw(logits(shape)).requires_grad_()
    dims = {dim}
    if x.dim() > 1 and draw(st.booleans()):
        dims |= {draw(st.integers(-x.dim(), x.dim() - 1).filter(lambda other: (other - dim) % x.dim()))}
    dims, keepdim = tuple(dims), draw(st.booleans())
    temperature = draw(temperatures(shape, dims, x.dtype))
    t = torch.as_tensor(1.0 if temperature is None else temperature, dtype=torch.float64)
    value = called(softmax_ext.logsumexp, x, dims, keepdim, **options_of(temperature))
    empty = any(shape[d] == 0 for d in dims) if shape else False
    if x.numel() == 0:
        assert (value == -INF).all() if empty else value.numel() == 0
        return
    exact = x.detach().double()
    top = exact.amax(dims, keepdim=True)
    shifted = (exact - top.nan_to_num(0, 0, 0)) / t  # as x / T would lose digits of logits near 1e4
    log_sum = torch.logsumexp(shifted, dims, keepdim=True)
    expected = log_sum + top.nan_to_num(0, 0, 0) / t
    bound = tolerances.logsumexp_bound(expected, top / t, x.dtype)
    factor = 2 if x.dtype == torch.float64 else 1  # the reference has an error of the same size
    assert value.shape == torch.logsumexp(exact, dims, keepdim).shape
    tolerances.assert_within(value.detach().reshape(expected.shape), expected, factor * bound)
    gradient, grad = gradient_of(value, x, draw)
    if not exact.isfinite().all():
        return  # test_softmax.py and test_gradients.py say what it is: not torch's where a row is −inf
    wanted = grad.reshape(top.shape).double() * (shifted - log_sum).exp() / t
    assert_gradient(gradient, wanted, 2 * wanted.abs() * (1 - shifted), x.numel() // top.numel())


@holds
def entropy(draw: DrawFn) -> None:
    shape, dim = draw(shapes())
    x = draw(logits(shape, specials=(-INF,))).requires_grad_()
    temperature = draw(temperatures(shape, (dim,), x.dtype))
    value = called(softmax_ext.entropy, x, dim, **options_of(temperature))
    assert value.dtype == lane(x.dtype)
    assert value.shape == (torch.Size(shape[:dim] + shape[dim % len(shape) + 1 :]) if shape else ())
    if x.numel() == 0:
        assert not value.any()
        return
    rows = x.detach().movedim(dim, -1) if shape else x.detach().reshape(1)
    of_rows = 1.0
    if temperature is not None:
        of_rows = torch.as_tensor(temperature, dtype=torch.float64)
        of_rows = (
            of_rows.expand([1 if d == dim % len(shape) else size for d, size in enumerate(shape)]) if shape else of_rows
        )
        of_rows = of_rows.movedim(dim, -1) if shape else of_rows.reshape(1)
    some = rows.amax(-1) > -INF
    expected = Expected(rows, of_rows)
    for member, given in vars(expected).items():  # a row of −inf alone has none
        setattr(expected, member, given.where(some if given.dim() == some.dim() else some.unsqueeze(-1), math.nan))
    assert_entropies_are_within_their_bound(value.detach().reshape(expected.entropy.shape), expected, x.dtype)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    gradient = gradient.movedim(dim, -1) if shape else gradient.reshape(1)
    assert_gradients_are_within_their_bound(gradient, expected, x.dtype)


def assert_masked(draw: DrawFn, function: Callable, x: Tensor, mask: Tensor, dim: int, empty: str, temperature) -> None:
    value = called(function, x)
    assert value.shape == x.shape
    if x.numel() == 0:
        return
    assert_rows_have_the_bits_of_contiguous_ones(function, x, dim, value)
    masked = x.detach().masked_fill(~mask, -INF)
    rows = Rows(masked, dim, temperature)
    nothing = (masked == -INF).all(dim, keepdim=True) if x.dim() else masked == -INF
    if empty == "zero":
        rows.probs = rows.probs.masked_fill(nothing, 0)
    left_out = ~mask.expand(x.shape)
    if empty == "zero" or not nothing.any():
        undefined = rows.probs.isnan()
        assert not value[left_out & ~undefined].any(), "what is left out has a probability"
    assert_probs_are_within_their_bound(value.detach(), rows)
    gradient, grad = gradient_of(value, x, draw)
    assert_softmax_gradient(gradient, value, grad, dim, rows)


@holds
def masked_softmax(draw: DrawFn) -> None:
    shape, dim = draw(shapes())
    x, mask = draw(logits(shape)).requires_grad_(), draw(strategies.masks(shape))
    temperature, empty = draw(temperatures(shape, (dim,), x.dtype)), draw(st.sampled_from(["nan", "zero"]))
    assert_masked(
        draw,
        lambda x: softmax_ext.masked_softmax(x, mask, dim, empty=empty, **options_of(temperature)),
        x,
        mask,
        dim,
        empty,
        temperature,
    )


@holds
def causal_softmax(draw: DrawFn) -> None:
    shape, _ = draw(shapes(2, at=-1))
    x = draw(logits(shape)).requires_grad_()
    temperature, empty = draw(temperatures(shape, (-1,), x.dtype)), draw(st.sampled_from(["nan", "zero"]))
    assert_masked(
        draw,
        lambda x: softmax_ext.causal_softmax(x, empty=empty, **options_of(temperature)),
        x,
        causal_mask(*shape[-2:]),
        -1,
        empty,
        temperature,
    )
