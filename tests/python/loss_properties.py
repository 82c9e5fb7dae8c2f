"""As properties.py, of the losses, sampling and the fit of a temperature."""

from __future__ import annotations

import math
import warnings

import reference
import strategies
import tolerances
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from properties import called, gradient_of, holds
from strategies import dtypes, lane
from test_sample import assert_draws_what_the_reference_draws, assert_keeps_what_the_reference_keeps
from torch import Tensor

import softmax_ext

INF = math.inf


def coldest(temperature: float | Tensor | None) -> float:
    """The lowest temperature, and no more than 1."""
    of_rows = torch.as_tensor(1.0 if temperature is None else temperature)
    return of_rows.clamp(max=1).min().item() if of_rows.numel() else 1.0


def reference_error(x: Tensor, options: dict) -> float:
    """Relative, of an exponential in the reference, which divides by the temperature before it shifts."""
    largest = x.detach().double().abs().max().item() if x.numel() else 1.0
    return torch.finfo(torch.float64).eps * largest / coldest(options["temperature"])


def assert_loss(value: Tensor, expected: Tensor, x: Tensor, options: dict) -> None:
    assert value.dtype == lane(x.dtype)
    rows = x.numel() // max(1, x.shape[min(1, x.dim() - 1)]) if options["reduction"] == "sum" else 1
    bound = 16 * torch.finfo(value.dtype).eps * expected.detach().abs().clamp(min=1.0)
    bound = bound + 16 * rows * reference_error(x, options) * (1 + 2 * options["z_loss"] * expected.detach().abs())
    tolerances.assert_within(value.detach(), expected.detach(), bound)


@holds
def cross_entropy(draw: DrawFn) -> None:
    x, target, options = draw(strategies.losses())
    x.requires_grad_()
    way = draw(st.sampled_from(["recompute", "forward"]))
    value = called(softmax_ext.cross_entropy, x, target, gradient=way, **options)
    exact = x.detach().double().requires_grad_()
    given = {name: option.double() if isinstance(option, Tensor) else option for name, option in options.items()}
    expected = reference.cross_entropy(exact, target.double() if target.is_floating_point() else target, **given)
    assert_loss(value, expected, x, options)
    gradient, grad = gradient_of(value, x, draw)
    (wanted,) = torch.autograd.grad(expected, exact, grad.double())
    assert_loss_gradient(gradient, wanted, grad, x, options)
    if way == "forward" and x.is_contiguous():
        leaf = x.detach().clone().requires_grad_()
        in_place = softmax_ext.cross_entropy(leaf * 1, target, gradient="inplace", **options)
        torch.testing.assert_close(in_place, value, rtol=0, atol=0, equal_nan=True)
        assert_loss_gradient(torch.autograd.grad(in_place, leaf, grad)[0], wanted, grad, x, options)


def assert_loss_gradient(actual: Tensor, wanted: Tensor, grad: Tensor, x: Tensor, options: dict) -> None:
    """g (p Σq − q) / T: p has the relative error of a probability, and may be all but q."""
    if actual.numel() == 0:
        return
    of_rows = 1.0 if options["reduction"] != "mean" else 1 / max(1, x.numel() // x.shape[min(1, x.dim() - 1)])
    largest = max(wanted.abs().max().item(), of_rows * grad.abs().max().item() / coldest(options["temperature"]))
    relative = 16 * tolerances.unit(lane(actual.dtype)) + 16 * reference_error(x, options)
    bound = 2 * tolerances.ulp(wanted, actual.dtype) + relative * largest
    tolerances.assert_within(actual, wanted, bound)


@holds
def cross_entropy_with_logsumexp(draw: DrawFn) -> None:
    x, target, options = draw(strategies.losses())
    loss, lse = softmax_ext.cross_entropy_with_logsumexp(x, target, **options)
    torch.testing.assert_close(loss, softmax_ext.cross_entropy(x, target, **options), rtol=0, atol=0, equal_nan=True)
    dim = 0 if x.dim() == 1 else 1
    logits, *_ = reference.cross_entropy_terms(
        x,
        target,
        ignore_index=options.get("ignore_index", -100),
        softcap=options["softcap"],
        temperature=options["temperature"],
    )
    expected = torch.logsumexp(logits, dim)
    if not target.is_floating_point():
        expected = expected.masked_fill(target.long() == options["ignore_index"], 0)
    if x.numel():
        bound = 3 * tolerances.logsumexp_bound(expected, logits.amax(dim), lse.dtype)
        tolerances.assert_within(lse, expected, bound)


@holds
def linear_cross_entropy(draw: DrawFn) -> None:
    """As the pair of a linear layer and a loss, whose sums have another order in chunks."""
    dtype = draw(dtypes)
    rows, features, classes = draw(st.integers(1, 30)), draw(st.integers(1, 20)), draw(st.integers(2, 40))
    x = draw(strategies.layouts(strategies.normal(draw, (rows, features)).to(dtype)))
    w = draw(strategies.layouts(strategies.normal(draw, (classes, features)).to(dtype)))
    bias = strategies.normal(draw, (classes,)).to(dtype) if draw(st.booleans()) else None
    target = (strategies.uniform(draw, (rows,)) * classes).long()
    target = target.where(strategies.uniform(draw, (rows,)) >= draw(st.sampled_from([0.0, 0.5])), -100)
    if draw(st.integers(0, 3)) == 0:
        target = torch.softmax(strategies.normal(draw, (rows, classes)), 1).to(lane(dtype))
    options = {
        "reduction": draw(st.sampled_from(["mean", "sum", "none"])),
        "label_smoothing": draw(st.sampled_from([0.0, 0.1])),
        "softcap": draw(st.sampled_from([None, 5.0])),
        "z_loss": draw(st.sampled_from([0.0, 0.01])),
        "temperature": draw(st.sampled_from([None, 0.7])),
        "empty": "zero",
    }
    ways = {
        "gradient": draw(st.sampled_from(["forward", "recompute"])),
        "chunk": draw(st.sampled_from([None, 1, 7, 64])),
    }
    leaves = [tensor.requires_grad_() for tensor in (x, w, bias) if tensor is not None]
    value = called(softmax_ext.linear_cross_entropy, x, w, target, linear_bias=bias, **options, **ways)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = reference.cross_entropy(F.linear(*exact), target, **options)
    # Each logit is rounded to the dtype of the layer.
    size = F.linear(*(leaf.abs() for leaf in exact)).max().item() / min(1.0, options["temperature"] or 1.0)
    size *= 1 + 2 * options["z_loss"] * size
    many = rows if options["reduction"] == "sum" else 1
    close = 4 * torch.finfo(dtype).eps * size
    tolerances.assert_within(
        value.detach(), expected.detach(), torch.full_like(expected, many * close * (2 + features / 8)).detach()
    )
    grad = strategies.normal(draw, value.shape).to(value.dtype)
    ours = torch.autograd.grad(value, leaves, grad)
    for got, want, leaf in zip(ours, torch.autograd.grad(expected, exact, grad.double()), leaves, strict=True):
        assert got.dtype == leaf.dtype
        upstream = grad.double().abs().sum() if options["reduction"] != "mean" else grad.double().abs()
        bound = close * (2 + features / 8) * upstream * 4 * max(1, *(t.abs().max().item() for t in exact))
        tolerances.assert_within(got, want, torch.full_like(want, bound))


@holds
def sample(draw: DrawFn) -> None:
    rows, length, dtype = draw(st.integers(1, 20)), max(1, draw(strategies.lengths)), draw(dtypes)
    x = strategies.normal(draw, (rows, length)) * draw(st.sampled_from([0.3, 1.0, 4.0]))
    if draw(st.booleans()):
        x = x.round()
    x = x.to(dtype)
    if draw(st.booleans()):
        x[strategies.uniform(draw, (rows, length)) < 0.5] = -INF
        x[:, draw(st.integers(0, length - 1))] = 0
    x = draw(strategies.layouts(x).filter(lambda view: bool((view > -INF).any(-1).all())))

    def option(values: list, of_rows: torch.dtype) -> float | int | Tensor:
        if draw(st.booleans()):
            return draw(st.sampled_from(values))
        index = (strategies.uniform(draw, (rows,)) * len(values)).long()
        return torch.tensor(values, dtype=of_rows)[index]

    options = {"temperature": option([1.0, 0.3, 2.0], torch.float64)}
    if draw(st.booleans()):
        options["top_k"] = option([0, 1, 2, 17, length - 1, length], torch.int64)
    if draw(st.booleans()):
        options["min_p"] = option([0.0, 0.05, 0.5, 1.0], torch.float64)
    with_top_p = {**options, "top_p": option([1.0, 0.9, 0.5, 0.1], torch.float64)}
    tensors = {
        name: value if isinstance(value, Tensor) else torch.full((rows,), value) for name, value in with_top_p.items()
    }
    if dtype == torch.float64:
        assert_keeps_what_the_reference_keeps(x, tensors, dtype)
        options = draw(st.sampled_from([options, with_top_p]))
    assert_draws_what_the_reference_draws(x, options, draw(strategies.seeds), draw(st.integers(1, 3)))


@holds
def fit_temperature(draw: DrawFn) -> None:
    rows, classes, dtype = draw(st.integers(1, 200)), draw(st.integers(2, 40)), draw(dtypes)
    x = strategies.normal(draw, (rows, classes)) * draw(st.sampled_from([0.1, 1.0, 20.0]))
    target = (strategies.uniform(draw, (rows,)) * classes).long()
    if draw(st.booleans()):  # drawn with the probabilities at some temperature
        probs = torch.softmax(x / draw(st.sampled_from([0.3, 1.0, 5.0])), 1)
        target = torch.multinomial(probs, 1, generator=torch.Generator().manual_seed(draw(strategies.seeds))).squeeze(1)
    x = draw(strategies.layouts(x.to(dtype)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it was clamped
        result = softmax_ext.fit_temperature(x, target)
    assert 0.05 <= result.temperature <= 20
    assert result.passes <= 10

    def loss(temperature: float) -> float:
        return reference.cross_entropy(x, target, temperature=temperature).item()

    best = loss(reference.best_temperature(x, target))
    close = 1e-9 if dtype == torch.float64 else 1e-5
    assert abs(result.nll - loss(result.temperature)) <= close * (1 + best)
    assert loss(result.temperature) <= best + close * (1 + best)
