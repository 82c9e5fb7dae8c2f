"""The loss of a linear layer whose classes are split over the ranks of a group."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._formulas import rows_of
from ._layout import layout
from ._linear_rows import linear_row_losses
from .cross_entropy import RowResults, check_options, check_shapes, options_of, reduced

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh


def vocab_parallel_linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    group: ProcessGroup | DeviceMesh | None = None,
    vocab_start: int | None = None,
    vocab_size: int | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    temperature: float | Tensor | None = None,
    softcap: float | None = None,
    z_loss: float = 0,
    empty: str = "nan",
    chunk: int | None = None,
) -> Tensor:
    """:func:`softmax_ext.linear_cross_entropy` of a layer whose classes are split over the ranks of ``group``.

    A rank holds ``chunk`` rows of its own classes' logits at a time, and never another rank's. The forward pass takes one
    all-gather of four numbers of each row; backward one all-reduce of the gradient of ``input``, which every rank's
    classes add to, if it requires one.

    Args:
        input: ``[…, features]``, the same on every rank.
        linear_weight: This rank's classes, ``[C_rank, features]``; an ``nn.Linear`` that was split by column.
        target: Class indices of the whole vocabulary ``[…]``, or this rank's classes of probabilities ``[…, C_rank]``.
        linear_bias: ``[C_rank]``.
        weight, group, vocab_start, vocab_size: As in :func:`vocab_parallel_cross_entropy`.
        reduction, ignore_index, label_smoothing, softcap, z_loss, empty: As there.
        temperature: A number, or a tensor of one element or of ``[N, 1]`` for an ``input`` ``[N, features]``.
        chunk: Rows at a time; by default so many that their logits take the memory of ``input``, or 16 Mi elements where
            that is more.

    Returns:
        float64 for float64 input, else float32: a scalar, or for ``reduction="none"`` ``[…]``.

    Raises:
        As :func:`vocab_parallel_cross_entropy`, and RuntimeError where shapes or dtypes of the layer do not match.

    Differentiable to any order. The gradients of probabilities, weights and a temperature, and higher orders, take the
    memory of this rank's logits.
    """
    op = "vocab_parallel_linear_cross_entropy"
    of_number = temperature is None or not isinstance(temperature, Tensor)
    same = (input.dtype, target.dtype, weight is not None, ignore_index, reduction, label_smoothing, softcap, z_loss)
    same = (*same, empty, input.shape[-1], temperature if of_number else tuple(temperature.shape))
    rows, count = tuple(input.shape[:-1]), input.shape[:-1].numel()
    length = linear_weight.shape[0] if linear_weight.dim() else 0

    def check_arguments(classes: int) -> None:
        _check_layer(op, input, linear_weight, linear_bias, chunk)
        _check_target(op, target, (*rows, length) if target.is_floating_point() else rows)
        like = input.new_empty(()).expand(count, length)
        check_shapes(
            op, like, target.reshape(like.shape) if target.is_floating_point() else target.reshape(-1), weight, 1
        )
        check_options(op, reduction, label_smoothing, temperature, softcap, z_loss, empty)

    shard = layout(op, group, vocab_start, vocab_size, length, rows, input.device, same, check_arguments)
    options = options_of(shard, 1, ignore_index, label_smoothing, temperature, softcap)
    flat = input.reshape(count, input.shape[-1])
    lane = torch.float64 if input.dtype == torch.float64 else torch.float32
    tensor = None if of_number else temperature.to(lane)
    weight = None if weight is None else weight.to(lane)
    target = target.to(lane).reshape(count, length) if target.is_floating_point() else target.reshape(-1)
    if chunk is None:
        chunk = max(1, max(flat.numel(), 1 << 24) // max(length, 1))
    losses, log_sum, _, target_weight, maximum = linear_row_losses(
        flat, linear_weight, linear_bias, target, weight, tensor, options, chunk
    )
    scale = rows_of(tensor, options.scale, flat.new_empty(()).expand(flat.shape[0], 1), 1)
    loss = reduced(
        RowResults(losses, log_sum, target_weight, maximum, scale), target, options, reduction, z_loss, empty
    )
    return loss.reshape(rows) if reduction == "none" else loss


def _check_target(op: str, target: Tensor, sizes: tuple[int, ...]) -> None:
    if tuple(target.shape) != sizes:
        raise ValueError(f"{op}: expected a target of shape {list(sizes)}, got {list(target.shape)}")


def _check_layer(op: str, input: Tensor, linear_weight: Tensor, linear_bias: Tensor | None, chunk: int | None) -> None:
    if input.dim() == 0 or linear_weight.dim() != 2 or linear_weight.shape[1] != input.shape[-1]:
        raise RuntimeError(
            f"{op}: expected an input [..., features] and a linear_weight [classes of this rank, features], got "
            f"{list(input.shape)} and {list(linear_weight.shape)}"
        )
    if linear_weight.dtype != input.dtype:
        raise RuntimeError(f"{op}: expected linear_weight of dtype {input.dtype}, got {linear_weight.dtype}")
    if linear_bias is not None and (linear_bias.shape != linear_weight.shape[:1] or linear_bias.dtype != input.dtype):
        raise RuntimeError(
            f"{op}: expected linear_bias of shape {list(linear_weight.shape[:1])} and dtype {input.dtype}, got "
            f"{list(linear_bias.shape)} of {linear_bias.dtype}"
        )
    if chunk is not None and chunk < 1:
        raise ValueError(f"{op}: expected a chunk > 0, got {chunk}")
