"""The operators in float64, written to be obvious. Tests and benchmarks compare with these."""

import itertools
import math

import numpy as np
import scipy.optimize
import torch
import torch.nn.functional as F
from torch import Tensor


def softmax(logits: Tensor, dim: int, temperature: float | Tensor = 1.0) -> Tensor:
    return log_softmax(logits, dim, temperature).exp()


def softmax_in_long_double(logits: np.ndarray) -> np.ndarray:
    """Over the last axis of finite float64 logits, for what float64 itself is measured against."""
    exponentials = np.exp(logits.astype(np.longdouble) - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def logsumexp_in_long_double(logits: np.ndarray) -> np.ndarray:
    """As :func:`softmax_in_long_double`."""
    top = logits.max(-1, keepdims=True).astype(np.longdouble)
    return (np.log(np.exp(logits - top).sum(-1, keepdims=True)) + top).squeeze(-1)


def log_softmax(logits: Tensor, dim: int, temperature: float | Tensor = 1.0) -> Tensor:
    """NaN where softmax is undefined; both limits of the temperature are taken."""
    x = logits.double()
    if x.dim() == 0:
        return log_softmax(x.unsqueeze(0), 0, temperature).squeeze(0)
    if x.shape[dim] == 0:
        return x.clone()
    t = torch.as_tensor(temperature, dtype=torch.float64)
    top = x.amax(dim, keepdim=True)
    undefined = x.isnan().any(dim, keepdim=True) | top.isinf() | ~(t >= 0)
    shifted = x - top
    scaled = torch.where(t == 0, torch.where(shifted == 0, 0.0, -math.inf), shifted / t)
    scaled = torch.where((t == math.inf) & (x != -math.inf), 0.0, scaled).masked_fill(x == -math.inf, -math.inf)
    others = scaled.exp().sum(dim, keepdim=True) - 1  # the maximum's own exponential is 1
    few = (scaled.exp() * (scaled != 0)).sum(dim, keepdim=True) + ((scaled == 0).sum(dim, keepdim=True) - 1)
    log_sum = torch.log1p(torch.where(others < 0.5, few, others))
    return (scaled - log_sum).masked_fill(undefined, math.nan)


def logsumexp(logits: Tensor, dim: int | tuple[int, ...], temperature: float = 1.0) -> Tensor:
    return torch.logsumexp(logits.double() / temperature, dim)


def best_temperature(logits: Tensor, target: Tensor, weight: Tensor | None = None, bounds=(0.05, 20.0)) -> float:
    """Of the cross-entropy, by a grid over 1/T and bisection of its slope; ``[rows, C]``, no row ignored."""
    x = logits.double()
    x = x - x.amax(1, keepdim=True)
    of_target = x.gather(1, target.unsqueeze(1)).squeeze(1)
    row_weights = torch.ones(len(target), dtype=torch.float64) if weight is None else weight.double()[target]

    def slope(inverse: float) -> float:
        probs = torch.softmax(x * inverse, 1)
        expected = (probs * x.masked_fill(probs == 0, 0)).sum(1)
        return (row_weights * (expected - of_target)).sum().item()

    grid = np.geomspace(1 / bounds[1], 1 / bounds[0], 25)
    slopes = [slope(inverse) for inverse in grid]
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(slopes))  # convex
    if slopes[0] >= 0:
        return bounds[1]
    if slopes[-1] <= 0:
        return bounds[0]
    index = next(i for i, value in enumerate(slopes) if value > 0)
    return 1 / scipy.optimize.brentq(slope, grid[index - 1], grid[index], xtol=1e-13, rtol=1e-13)


def cross_entropy_rows(logits: Tensor, target: Tensor, ignore_index: int = -100) -> Tensor:
    """One loss per row; classes in dim 1. Ignored rows are 0, whatever they hold."""
    log_probs = log_softmax(logits, 1)
    ignored = target == ignore_index
    picked = log_probs.gather(1, target.long().masked_fill(ignored, 0).unsqueeze(1)).squeeze(1)
    return torch.where(ignored, 0.0, -picked)


def cross_entropy(logits: Tensor, target: Tensor, *, reduction: str = "mean", empty: str = "nan", **options) -> Tensor:
    """Classes in dim 1, or 0 of one sample. Every part is an operator of torch, so that autograd has its gradients."""
    dim = 0 if logits.dim() == 1 else 1
    z_loss = options.pop("z_loss", 0.0)
    x, q, ignored, denominator = cross_entropy_terms(logits, target, **options)
    top = x.detach().amax(dim, keepdim=True).nan_to_num(neginf=0)  # what is near 1e4 loses no digits
    lse = torch.logsumexp(x - top, dim)
    logp = x - top - lse.unsqueeze(dim)
    lse = lse + top.squeeze(dim)
    surprise = -q * logp.masked_fill((q == 0) & (logp == -math.inf), 0)
    rows = (surprise.sum(dim) + z_loss * lse.square()).masked_fill(ignored, 0)
    if reduction == "none":
        return rows
    if reduction == "sum" or (empty == "zero" and ignored.all()):
        return rows.sum()
    return rows.sum() / denominator


def cross_entropy_terms(
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    temperature: float | Tensor | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits as softcap and temperature leave them, the weight of each −log p, ignored rows, and what a mean divides by.

    Ignored rows of the logits are 0, whatever they held.
    """
    dim = 0 if logits.dim() == 1 else 1
    ignored = torch.zeros_like(logits.select(dim, 0), dtype=torch.bool)
    if not target.is_floating_point():
        ignored = target.long() == ignore_index
    x = logits.double().masked_fill(ignored.unsqueeze(dim), 0)
    if softcap is not None:
        x = softcap * torch.tanh(x / softcap)
    if temperature is not None:
        x = x / temperature

    classes = logits.shape[dim]
    w = torch.ones(classes, dtype=torch.float64) if weight is None else weight.double()
    w = w.reshape([-1 if d == dim else 1 for d in range(logits.dim())])
    if target.is_floating_point():
        q = w * target.double() * (1 - label_smoothing)
        denominator = torch.tensor(ignored.numel(), dtype=torch.float64)
    else:
        chosen = F.one_hot(target.long().masked_fill(ignored, 0), classes).movedim(-1, dim) == 1
        # Not a product: the weight of a class that is no target may be NaN.
        of_targets = torch.where(chosen, w, 0.0)
        q = of_targets * (1 - label_smoothing)
        denominator = of_targets.sum(dim).masked_fill(ignored, 0).sum()
    if label_smoothing > 0:
        q = q + w * (label_smoothing / classes)
    return x, q, ignored, denominator
