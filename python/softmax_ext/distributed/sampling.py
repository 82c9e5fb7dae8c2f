"""Sampling from logits whose classes are split over the ranks of a group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._collectives import all_gather, all_reduce
from ._filters import largest, top_p_threshold
from ._layout import Layout, layout
from ._random import uniforms

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh


def vocab_parallel_sample(
    logits: Tensor,
    *,
    seed: int | Tensor,
    group: ProcessGroup | DeviceMesh | None = None,
    vocab_start: int | None = None,
    vocab_size: int | None = None,
    temperature: float | Tensor | None = None,
    top_k: int | Tensor = 0,
    top_p: float | Tensor = 1,
    min_p: float | Tensor = 0,
    num_samples: int = 1,
) -> tuple[Tensor, Tensor]:
    """:func:`softmax_ext.sample` from logits whose classes are split over the ranks of ``group``.

    The same tokens on every rank, and those that ``sample`` draws from the whole rows with this seed, but for a uniform
    within rounding of a step of the distribution function, and for top-p where the mass is within rounding of it.
    Every filter is exact, ties included. No rank receives another's logits, but for its largest ones where ``top_k`` asks
    for those.

    Args:
        logits: This rank's classes of every row, ``[…, C_rank]``; float64, float32, bfloat16 or float16.
        seed: A number, or a tensor of one or of one for each row, as in :func:`softmax_ext.sample`. The same on every
            rank.
        group, vocab_start, vocab_size: As in :func:`vocab_parallel_cross_entropy`.
        temperature, top_k, top_p, min_p, num_samples: As in :func:`softmax_ext.sample`, the same on every rank.

    Returns:
        Indices into the whole vocabulary (int64) and their log-probabilities after filtering (float64 for float64 logits,
        else float32), both ``[…, num_samples]``. Neither is differentiable.

    Raises:
        ValueError: an option is out of its range, or the ranks do not agree, as in :func:`vocab_parallel_cross_entropy`.
        RuntimeError: on the CPU, a row has a NaN or +inf, or no finite logit. CUDA: its indices are −1.

    Communication of each row: an all-gather of its largest logit, or the ``top_k`` largest; an all-gather of one sum; an
    all-reduce of two numbers a draw. With ``top_p`` one more all-gather, and four all-reduces (eight for float64) of 256
    numbers.
    """
    op = "vocab_parallel_sample"
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    same = (logits.dtype, num_samples, *(tuple(o.shape) if isinstance(o, Tensor) else o for o in options.values()))
    rows = tuple(logits.shape[:-1])

    def check_arguments(classes: int) -> None:
        if logits.dim() == 0 or not logits.is_floating_point():
            raise ValueError(
                f"{op}: expected logits [..., classes] of a floating-point dtype, got {list(logits.shape)}"
            )
        for name, option in options.items():
            if isinstance(option, Tensor):
                torch.broadcast_to(option, rows)
            elif option is not None and option != option:
                raise ValueError(f"{op}: expected a number as {name}, got {option}")
        if not isinstance(temperature, Tensor) and temperature is not None and temperature < 0:
            raise ValueError(f"{op}: expected a temperature >= 0, got {temperature}")
        if not isinstance(top_p, Tensor) and top_p < 0:
            raise ValueError(f"{op}: expected top_p >= 0, got {top_p}")
        if not isinstance(min_p, Tensor) and min_p > 1:
            raise ValueError(f"{op}: expected min_p <= 1, got {min_p}")
        if num_samples < 1:
            raise ValueError(f"{op}: expected num_samples >= 1, got {num_samples}")

    shard = layout(op, group, vocab_start, vocab_size, logits.shape[-1], rows, logits.device, same, check_arguments)
    lane = torch.float64 if logits.dtype == torch.float64 else torch.float32
    with torch.no_grad():
        drawn = _draw(
            op,
            logits.to(lane).reshape(logits.shape[:-1].numel(), logits.shape[-1]),
            rows,
            shard,
            options,
            seed,
            num_samples,
        )
    indices, log_probs = (values.reshape(*rows, num_samples) for values in drawn)
    return indices.long(), log_probs.to(lane)


def _draw(
    op: str, x: Tensor, rows: tuple[int, ...], shard: Layout, options: dict, seed: int | Tensor, count: int
) -> tuple[Tensor, Tensor]:
    def of_rows(name: str, off: float, dtype: torch.dtype) -> Tensor:
        option = options[name]
        tensor = torch.as_tensor(off if option is None else option, device=x.device).to(dtype)
        return tensor.expand(rows).reshape(-1) if tensor.dim() else tensor.expand(x.shape[0])

    temperature, top_p, min_p = (of_rows(name, 1.0, torch.float64) for name in ("temperature", "top_p", "min_p"))
    top_k = of_rows("top_k", 0, torch.int64)
    top_k = torch.where((top_k <= 0) | (top_k >= shard.classes), 0, top_k)

    candidates = largest(x, max(1, int(top_k.max()) if top_k.numel() else 1), shard.ranks, shard.group)
    highest = candidates[:, :1]
    # NaN is the largest of all.
    is_valid = highest.squeeze(-1).isfinite() & (temperature >= 0)
    if x.device.type == "cpu" and not bool(is_valid.all()):
        row = int((~is_valid).to(torch.uint8).argmax())
        raise RuntimeError(
            f"{op}: expected logits of which one is finite and none NaN or +inf, got others in row {row}"
        )
    inverse = (1 / temperature).unsqueeze(-1)
    distance = torch.where(x == highest, 0, (x.double() - highest.double()) * inverse).masked_fill(
        x == -torch.inf, -torch.inf
    )
    kept = (x >= candidates.gather(-1, (top_k - 1).clamp(min=0).unsqueeze(-1))) | (top_k <= 0).unsqueeze(-1)
    weights = distance.exp() * kept
    if bool((top_p < 1).any()):
        total = all_gather(weights.sum(-1), shard.ranks, shard.group).sum(0)
        needed = (top_p * total).clamp(min=2.0**-1000)
        threshold = top_p_threshold(x, weights, needed, shard.group)
        weights = weights * ((x >= threshold.unsqueeze(-1)) | (top_p >= 1).unsqueeze(-1))
    weights = weights * ((distance >= min_p.log().unsqueeze(-1)) | (min_p <= 0).unsqueeze(-1))

    seeds, numbers = _random_rows(seed, rows, x.device)
    u = uniforms(seeds, numbers, count)
    u = u.masked_fill((temperature == 0).unsqueeze(-1), 0)  # the first of the maxima
    index, weight, total = _invert(weights, u, shard)
    index = index.masked_fill(~is_valid.unsqueeze(-1), -1)
    # At T = 0 one of the maxima is certain.
    return index, (weight / total).log().masked_fill((temperature == 0).unsqueeze(-1), 0)


def _random_rows(seed: int | Tensor, rows: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The seed and the number of each row."""
    count = 1
    for size in rows:
        count *= size
    if isinstance(seed, Tensor) and seed.numel() == count and tuple(seed.shape) == rows:
        return seed.reshape(-1).long(), torch.zeros(count, dtype=torch.int64, device=device)
    number = int(seed)
    seeds = torch.full((count,), (number + 2**63) % 2**64 - 2**63, dtype=torch.int64, device=device)
    return seeds, torch.arange(count, device=device)


def _invert(weights: Tensor, u: Tensor, shard: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """Index, weight and the total, of draws ``[rows, count]``: the rank whose classes a draw falls into finds it."""
    sums = weights.cumsum(-1)
    mass = sums[:, -1] if weights.shape[-1] else weights.new_zeros(weights.shape[0])
    first = torch.full_like(mass, shard.first)
    table = all_gather(torch.stack([first, mass]), shard.ranks, shard.group)
    # In the order of the classes, and of those without any the rank's.
    order = table[:, 0].argsort(stable=True, dim=0)
    masses = table[:, 1].gather(0, order).T.contiguous()  # [rows, ranks]
    ends = masses.cumsum(-1)
    total = ends[:, -1:]
    target = u * total
    owner = torch.searchsorted(ends, target, right=True)
    last = torch.where(masses > 0, torch.arange(shard.ranks, device=masses.device), 0).amax(-1, keepdim=True)
    owner = torch.minimum(owner, last)
    before = (ends - masses).gather(-1, owner)
    rank = order.T.gather(-1, owner)
    is_mine = rank == shard.rank
    if weights.shape[-1]:
        place = torch.searchsorted(sums, target - before, right=True)
        columns = torch.arange(weights.shape[-1], device=weights.device)
        place = torch.minimum(place, torch.where(weights > 0, columns, 0).amax(-1, keepdim=True))
        found = torch.stack([(place + shard.first).double(), weights.gather(-1, place)])
    else:
        found = target.new_zeros(2, *target.shape)
    found = all_reduce(found * is_mine, shard.group)
    return found[0], found[1], total
