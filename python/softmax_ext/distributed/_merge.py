"""Rows from the parts that shards make of them: no communication, so that any number of shards can be tried in one
process."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Rows(NamedTuple):
    """Of each whole row, in the parts' dtype."""

    losses: Tensor  # Σ q·(−log p); NaN where there are no probabilities
    max: Tensor
    log_sum: Tensor  # log Σ exp((x − max) / T)
    spread: Tensor  # Σ q


def distances(maxima: Tensor, max: Tensor, scale: float | Tensor) -> Tensor:
    """``(maxima − max) · scale``, 0 between equals and −inf below, whatever the scale."""
    difference = (maxima - max) * scale
    difference = difference.masked_fill(maxima == -torch.inf, -torch.inf)
    return difference.masked_fill(maxima == max, 0)


def merge(parts: Tensor, scale: float | Tensor) -> Rows:
    """Merges the results ``[shards, 4, …]`` of ``_cross_entropy_shard``.

    The online-softmax identity over all shards at once: log-sums are measured from the largest maximum. Its own shard's
    sum, less 1, is kept apart from the others', so that the result keeps its digits near 0, where one class holds nearly
    all of the probability. The order is that of the shards in ``parts``: wherever this runs, it gives the same bits.

    Args:
        scale: 1/T, a number or one of each row.
    """
    maxima, log_sums, losses, spreads = parts.unbind(1)
    max = maxima.amax(0)
    behind = distances(maxima, max, scale)
    sums = (behind + log_sums).exp()
    leader = (maxima == max).to(torch.uint8).argmax(0, keepdim=True)  # the first of several
    others = sums.scatter(0, leader, 0).sum(0)
    log_sum = (others + log_sums.gather(0, leader).squeeze(0).expm1()).log1p()
    # A shard's own losses are measured from its own log-sum-exp, below that of the row by:
    missing = (log_sum - log_sums) - behind
    missing = missing.masked_fill(spreads == 0, 0) * spreads
    of_shards = losses.masked_fill(maxima == -torch.inf, 0) + missing
    is_undefined = max.isinf() | log_sum.isnan()
    return Rows(of_shards.sum(0).masked_fill(is_undefined, torch.nan), max, log_sum, spreads.sum(0))


def statistics(rows: Rows) -> Tensor:
    """``[2, …]``: what the kernel of the gradient takes of rows. In a row without probabilities it is NaN by a loss; by a
    log-sum-exp alone, which is what a row of no target has, it is NaN at a +inf and 0 elsewhere."""
    of_infinity = rows.log_sum.masked_fill(rows.max == torch.inf, torch.inf)
    return torch.stack([rows.max, of_infinity.masked_fill(rows.max.isinf() & (rows.spread != 0), torch.nan)])


def log_sum_exp(max: Tensor, log_sum: Tensor, scale: float | Tensor) -> Tensor:
    """±inf where the maximum is."""
    return torch.where(max.isinf() & ~log_sum.isnan(), max, max * scale + log_sum)
