"""Which logits of a row the filters of ``sample`` keep, where its classes are split over ranks.

Each filter is a threshold, which all ranks find alike: from what they gather of their largest logits, or by a search that
sums over the ranks at every step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._collectives import all_gather, all_reduce

_BITS = 8  # of a threshold that one step of a search finds


def largest(logits: Tensor, count: int, ranks: int, group: str) -> Tensor:
    """The ``count`` largest logits of whole rows, ``[rows, count]`` in descending order; −inf where there are no more."""
    own = min(count, logits.shape[-1])
    mine = logits.new_full((logits.shape[0], count), -torch.inf)
    if own:
        mine[:, :own] = logits.topk(own, -1).values
    return all_gather(mine, ranks, group).movedim(0, 1).flatten(1).topk(count, -1).values


def top_p_threshold(logits: Tensor, weights: Tensor, needed: Tensor, group: str) -> Tensor:
    """The largest value of each row for which the logits from it on weigh ``needed`` ``[rows]`` together.

    Logits are searched by their bits, 8 at a time, in 4 all-reduces of 256 sums of each row (8 for float64): the masses
    above a value are looked up in running sums of this rank's sorted logits.
    """
    bits = 64 if logits.dtype == torch.float64 else 32
    keys, order = _ordered_keys(logits).sort(-1)
    sums = torch.zeros(logits.shape[0], logits.shape[1] + 1, dtype=torch.float64, device=logits.device)
    sums[:, :-1] = weights.gather(-1, order).flip(-1).cumsum(-1).flip(-1)  # of a key and all above it
    threshold = torch.full((logits.shape[0], 1), -(1 << bits - 1), device=logits.device)
    steps = torch.arange(1 << _BITS, device=logits.device)
    for shift in range(bits - _BITS, -1, -_BITS):
        candidates = threshold + (steps << shift)
        masses = all_reduce(sums.gather(-1, torch.searchsorted(keys, candidates)), group)
        is_enough = masses >= needed.unsqueeze(-1)
        is_enough[:, 0] = True  # as was found before, however sums round
        threshold = candidates.gather(-1, is_enough.sum(-1, keepdim=True) - 1)
    return _of_keys(threshold.squeeze(-1), logits.dtype)


def _ordered_keys(values: Tensor) -> Tensor:
    """Integers in the order of the floats."""
    is_double = values.dtype == torch.float64
    # 0.0 and −0.0 are equal.
    bits = (values + 0.0).view(torch.int64 if is_double else torch.int32).long()
    mask = (1 << 63) - 1 if is_double else (1 << 31) - 1
    return torch.where(bits < 0, bits ^ mask, bits)


def _of_keys(keys: Tensor, dtype: torch.dtype) -> Tensor:
    is_double = dtype == torch.float64
    mask = (1 << 63) - 1 if is_double else (1 << 31) - 1
    bits = torch.where(keys < 0, keys ^ mask, keys)
    return bits.view(torch.float64) if is_double else bits.int().view(torch.float32)
