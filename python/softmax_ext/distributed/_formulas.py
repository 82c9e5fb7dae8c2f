"""The gradients of a shard from what is known of its rows, in operators that can be differentiated again.

The kernels make that of the logits by themselves; this is for the others, and for derivatives of higher order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Options(NamedTuple):
    """Of a loss over a shard of the classes, those from ``first`` on; those of ``_cross_entropy_shard``."""

    dim: int
    first: int
    classes: int
    ignore_index: int
    scale: float
    label_smoothing: float
    softcap: float
    group: str
    ranks: int

    def arguments(self, weight: Tensor | None, temperature: Tensor | None) -> tuple:
        return (
            *(self.dim, self.first, self.classes, self.ignore_index, weight, temperature),
            *(self.scale, self.label_smoothing, self.softcap),
        )


class Upstream(NamedTuple):
    """The gradients of each row's results, with their dim of size 1."""

    losses: Tensor
    log_sum: Tensor
    spread: Tensor
    target_weight: Tensor | None


class Gradients(NamedTuple):
    logits: Tensor | None
    target: Tensor | None
    weight: Tensor | None
    temperature: Tensor | None


def rows_of(temperature: Tensor | None, scale: float, like: Tensor, dim: int) -> float | Tensor:
    """1/T of each row; NaN for a negative one."""
    if temperature is None:
        return scale
    sizes = list(like.shape)
    sizes[dim] = 1
    inverse = torch.where(temperature >= 0, 1 / temperature.abs(), torch.nan)
    return inverse.expand(sizes).squeeze(dim)


def ignored_rows(target: Tensor, options: Options) -> Tensor | None:
    """None for probabilities."""
    return None if target.is_floating_point() else target.long() == options.ignore_index


def along_dim(vector: Tensor, like: Tensor, dim: int) -> Tensor:
    return vector.reshape(-1, *[1] * (like.dim() - dim - 1))


def gradients(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    temperature: Tensor | None,
    max: Tensor,
    log_sum: Tensor,
    spread: Tensor,
    upstream: Upstream,
    options: Options,
    needed: tuple[bool, ...],
) -> Gradients:
    """``max``, ``log_sum`` and ``spread`` are of whole rows, with their dim of size 1, in the dtype of the arithmetic."""
    dim, smoothing, softcap = options.dim, options.label_smoothing, options.softcap
    ignored = ignored_rows(target, options)
    x = logits.to(log_sum.dtype)
    if ignored is not None:
        ignored = ignored.unsqueeze(dim)
        x = x.masked_fill(ignored, 0)
    capped = x if softcap == 0 else (x / softcap).tanh() * softcap
    inverse = rows_of(temperature, options.scale, logits, dim)
    if isinstance(inverse, Tensor):
        inverse = inverse.unsqueeze(dim)
        # Where nothing moves with the logits: T is 0 or infinite.
        inverse = torch.where((inverse == 0) | inverse.isposinf(), 0, inverse)
    elif inverse == torch.inf:
        inverse = 0.0
    shifted = (capped - max) * inverse
    logp = shifted - log_sum
    unweighted = _unweighted(x, target, ignored, options)
    q = unweighted if weight is None else unweighted * along_dim(weight, x, dim)
    of_logits = (upstream.losses * spread + upstream.log_sum) * logp.exp() - upstream.losses * q

    def unless_ignored(value: Tensor) -> Tensor:
        return value if ignored is None else value.masked_fill(ignored, 0)

    of_q = None
    if needed[1] or needed[2]:
        known = logp.masked_fill(logp.isneginf() & (q == 0), 0)
        of_q = upstream.spread - upstream.losses * known
    result = [None] * 4
    if needed[0]:
        slope = 1 if softcap == 0 else 1 - (capped / softcap).square()
        result[0] = unless_ignored(of_logits * inverse * slope).to(logits.dtype)
    if needed[1]:
        of_target = of_q * (1 - smoothing)
        result[1] = of_target if weight is None else of_target * along_dim(weight, x, dim)
    if needed[2]:
        of_weight = unless_ignored(of_q * unweighted)
        if upstream.target_weight is not None:
            of_weight = of_weight + _one_hot(x, target, ignored, options) * upstream.target_weight
        others = [d for d in range(x.dim()) if d != dim]
        result[2] = of_weight.sum(others) if others else of_weight
    if needed[3]:
        finite = shifted.masked_fill(shifted.isinf(), 0)
        of_rows = (of_logits * finite).sum(dim, keepdim=True) * -inverse
        result[3] = unless_ignored(of_rows).sum_to_size(temperature.shape)
    return Gradients(*result)


def _one_hot(x: Tensor, target: Tensor, ignored: Tensor, options: Options) -> Tensor:
    """Of the targets in this shard."""
    dim = options.dim
    local = target.long().unsqueeze(dim) - options.first
    is_here = (local >= 0) & (local < x.shape[dim]) & ~ignored
    if x.shape[dim] == 0:
        return torch.zeros_like(x)
    return torch.zeros_like(x).scatter(dim, local.masked_fill(~is_here, 0), is_here.to(x.dtype))


def _unweighted(x: Tensor, target: Tensor, ignored: Tensor | None, options: Options) -> Tensor:
    """q without the weights of the classes."""
    spread = target if ignored is None else _one_hot(x, target, ignored, options)
    smoothing = options.label_smoothing
    return spread if smoothing == 0 else spread * (1 - smoothing) + smoothing / options.classes
