"""The loss and the log-sum-exp of logits whose classes are split over the ranks of a group."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ._formulas import Options, rows_of
from ._layout import layout
from ._merge import log_sum_exp
from ._rows import row_losses

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_CLASSES = (torch.int64, torch.int32, torch.uint8)


def vocab_parallel_cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    group: ProcessGroup | DeviceMesh | None = None,
    vocab_start: int | None = None,
    vocab_size: int | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    temperature: float | Tensor | None = None,
    softcap: float | None = None,
    z_loss: float = 0,
    empty: str = "nan",
) -> Tensor:
    """:func:`softmax_ext.cross_entropy` of logits whose classes are split over the ranks of ``group``.

    Each rank calls it with its shard of the logits and gets the loss of the whole rows, the same bits on every rank;
    backward gives each rank the gradient of its shard. The forward pass takes one all-gather of four numbers of each row
    (five with ``weight``, class indices), backward none.

    Args:
        logits: This rank's classes of every row: ``[N, C_rank]``, ``[N, C_rank, …]`` or ``[C_rank]``; float64, float32,
            bfloat16 or float16. Ranks may have any number of classes, none included.
        target: Class indices of the whole vocabulary, the same on every rank: ``[N]``, ``[N, …]`` or ``[]``, int64, int32
            or uint8. Or this rank's classes of probabilities, of ``logits``' shape.
        weight: One number for each class of this rank, ``[C_rank]``: split as the logits are.
        group: The ranks: a ``ProcessGroup`` or a ``DeviceMesh`` of one dim; all ranks by default.
        vocab_start: The first class of this rank. By default classes lie in the order of the ranks.
        vocab_size: The number of classes of all ranks. Needed in a graph of :func:`torch.compile`, as is ``vocab_start``: ranks
            compare nothing there.
        ignore_index, reduction, label_smoothing, softcap, z_loss, empty: As in :func:`softmax_ext.cross_entropy`;
            smoothing is spread over all of ``vocab_size``.
        temperature: A number, or a tensor that is the same on every rank. One that requires a gradient costs backward an
            all-reduce of its elements.

    Returns:
        float64 for float64 logits, else float32: a scalar, or for ``reduction="none"`` one loss of each row.

    Raises:
        ValueError: the ranks' classes do not follow each other without gap and overlap, or the ranks do not agree on
            dtype, options or the shape of rows; or as in :func:`softmax_ext.cross_entropy`. On every rank.
        RuntimeError: another rank raised an error for its arguments; torch.distributed is not initialized; or as in
            :func:`softmax_ext.cross_entropy`.
        IndexError: a target is neither a class nor ``ignore_index`` (CPU; on CUDA an assertion of the device).
        TypeError: ``group`` is not one of the above.

    Ranks compare their calls the first time that each of them is made with arguments of new shapes or options; this
    takes an all-gather of eight integers, and waits for the device. So shapes have to change on all ranks together: where
    one alone passes others than before, the collectives do not fit, and gloo ends a process. The environment variable
    SOFTMAX_EXT_COMPARE_RANKS=always compares every call, and makes that an error on every rank too. A rank that fails
    between two collectives leaves the others in the next one until the group's ``timeout``
    (``init_process_group(timeout=…)``) ends the wait with an error (RuntimeError with gloo; NCCL ends the process).

    Differentiable to any order. In derivatives all ranks' results count as one value: a function of gradients, which are
    of shards, has to be summed over the ranks before it is differentiated again, and such second derivatives take one
    all-reduce. ``backward`` runs on every rank or on none.
    """
    op = "vocab_parallel_cross_entropy"
    dim = 0 if logits.dim() == 1 else 1
    if logits.dim() == 1 and not target.is_floating_point() and target.shape == (1,):
        target = target.squeeze(0)
    of_numbers = temperature is None or not isinstance(temperature, Tensor)
    same = (logits.dtype, target.dtype, weight is not None, ignore_index, reduction, label_smoothing, softcap, z_loss)
    same = (*same, empty, temperature if of_numbers else tuple(temperature.shape))

    def check_arguments(classes: int) -> None:
        check_shapes(op, logits, target, weight, dim)
        check_options(op, reduction, label_smoothing, temperature, softcap, z_loss, empty)
        if target.is_floating_point() and ignore_index >= 0:
            raise RuntimeError(f"{op}: expected no ignore_index with a target of probabilities, got {ignore_index}")

    shard = layout(
        op,
        group,
        vocab_start,
        vocab_size,
        _length(logits, dim),
        _row_sizes(logits, dim),
        logits.device,
        same,
        check_arguments,
    )
    options = options_of(shard, dim, ignore_index, label_smoothing, temperature, softcap)
    rows = _rows(logits, target, weight, temperature, options)
    return reduced(rows, target, options, reduction, z_loss, empty)


def vocab_parallel_logsumexp(
    input: Tensor,
    dim: int = -1,
    keepdim: bool = False,
    *,
    group: ProcessGroup | DeviceMesh | None = None,
    temperature: float | Tensor | None = None,
) -> Tensor:
    """:func:`softmax_ext.logsumexp` over a dim that is split over the ranks of ``group``, in any order of the ranks.

    Arguments, communication, errors and derivatives are those of :func:`vocab_parallel_cross_entropy`, but for ``dim``:
    one of ``input``'s. The temperature is above 0.

    Returns:
        In the dtype of ``input``, the same on every rank.
    """
    op = "vocab_parallel_logsumexp"
    axis = dim % max(input.dim(), 1)
    same = (input.dtype, axis, keepdim)
    same = (*same, tuple(temperature.shape) if isinstance(temperature, Tensor) else temperature)

    def check_arguments(classes: int) -> None:
        if not -input.dim() <= dim < input.dim():
            raise IndexError(f"{op}: expected dim in [{-input.dim()}, {input.dim() - 1}], got {dim}")
        _check_dtype(op, "input", input)
        if temperature is not None and not isinstance(temperature, Tensor) and not temperature > 0:
            raise ValueError(f"{op}: expected a temperature > 0, got {temperature}")

    compiling = torch.compiler.is_compiling()  # the classes that others have do not matter then
    length = _length(input, axis)
    shard = layout(
        op,
        group,
        0 if compiling else None,
        length if compiling else None,
        length,
        _row_sizes(input, axis),
        input.device,
        same,
        check_arguments,
    )
    # A loss of targets that no rank has: what is left of it is the log-sum-exp.
    options = options_of(shard, axis, -1, 0.0, temperature, None)._replace(first=1, classes=length + 1)
    target = input.new_zeros(_row_sizes(input, axis), dtype=torch.int64)
    rows = _rows(input, target, None, temperature, options)
    result = rows.logsumexp().to(input.dtype)
    return result.unsqueeze(axis) if keepdim else result


class RowResults(NamedTuple):
    """What there is of each row, alike on all ranks."""

    losses: Tensor
    log_sum: Tensor
    target_weight: Tensor
    max: Tensor
    scale: float | Tensor  # 1/T

    def logsumexp(self) -> Tensor:
        return log_sum_exp(self.max, self.log_sum, self.scale)


def _rows(
    logits: Tensor, target: Tensor, weight: Tensor | None, temperature: float | Tensor | None, options: Options
) -> RowResults:
    lane = torch.float64 if logits.dtype == torch.float64 else torch.float32
    tensor = temperature.to(lane) if isinstance(temperature, Tensor) else None
    if target.is_floating_point():
        target = target.to(lane)
    weight = None if weight is None else weight.to(lane)
    losses, log_sum, _, target_weight, max = row_losses(logits, target, weight, tensor, options)
    return RowResults(losses, log_sum, target_weight, max, rows_of(tensor, options.scale, logits, options.dim))


def reduced(rows: RowResults, target: Tensor, options: Options, reduction: str, z_loss: float, empty: str) -> Tensor:
    """The loss of all rows, from what there is of each."""
    are_classes = not target.is_floating_point()
    ignored = target.long() == options.ignore_index if are_classes else None
    losses = rows.losses
    if z_loss != 0:
        squares = rows.logsumexp().square() * z_loss
        losses = losses + (squares if ignored is None else squares.masked_fill(ignored, 0))
    if reduction == "none":
        return losses
    total = losses.sum(dtype=torch.float64)
    if reduction == "mean":
        if rows.target_weight.numel() > 0:
            count = rows.target_weight.sum(dtype=torch.float64)
        elif ignored is not None:
            count = (~ignored).sum(dtype=torch.float64)
        else:
            count = torch.full_like(total, losses.numel())
        if empty == "zero":
            is_empty = count == 0
            total = (total / count.masked_fill(is_empty, 1)).masked_fill(is_empty, 0)
        else:
            total = total / count
    return total.to(losses.dtype)


def options_of(shard, dim, ignore_index, label_smoothing, temperature, softcap) -> Options:
    is_number = temperature is not None and not isinstance(temperature, Tensor)
    scale = 1.0 if not is_number else (1 / temperature if temperature != 0 else torch.inf)
    softcap = 0.0 if softcap is None else float(softcap)
    first, classes = shard.first, shard.classes
    return Options(dim, first, classes, ignore_index, scale, float(label_smoothing), softcap, shard.group, shard.ranks)


def _length(logits: Tensor, dim: int) -> int:
    return logits.shape[dim] if logits.dim() else 1


def _row_sizes(logits: Tensor, dim: int) -> tuple[int, ...]:
    return (*logits.shape[:dim], *logits.shape[dim + 1 :])


def _check_dtype(op: str, name: str, tensor: Tensor) -> None:
    if tensor.dtype not in _FLOATS:
        raise NotImplementedError(
            f"{op}: expected {name} of dtype float64, float32, bfloat16 or float16, got {tensor.dtype}"
        )


def check_shapes(op: str, logits: Tensor, target: Tensor, weight: Tensor | None, dim: int) -> None:
    if logits.dim() == 0:
        raise RuntimeError(f"{op}: expected logits of shape [C] or [N, C, ...], got a 0-d tensor")
    _check_dtype(op, "logits", logits)
    rows = list(_row_sizes(logits, dim))
    if target.is_floating_point():
        if target.shape != logits.shape:
            raise RuntimeError(
                f"{op}: expected probabilities of the logits' shape {list(logits.shape)}, got {list(target.shape)}"
            )
    elif target.dtype not in _CLASSES:
        raise RuntimeError(f"{op}: expected class indices of dtype int64, int32 or uint8 as target, got {target.dtype}")
    elif list(target.shape) != rows:
        raise ValueError(f"{op}: expected a target of shape {rows}, one class of each row, got {list(target.shape)}")
    if weight is not None:
        _check_dtype(op, "weight", weight)
        if list(weight.shape) != [logits.shape[dim]]:
            raise RuntimeError(
                f"{op}: expected weight of shape [{logits.shape[dim]}], one of each class of this rank, got "
                f"{list(weight.shape)}"
            )


def check_options(op, reduction, label_smoothing, temperature, softcap, z_loss, empty) -> None:
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{op}: expected reduction 'none', 'mean' or 'sum', got {reduction!r}")
    if not 0 <= label_smoothing <= 1:
        raise RuntimeError(f"{op}: expected label_smoothing in [0, 1], got {label_smoothing}")
    if softcap is not None and not 0 < softcap < float("inf"):
        raise ValueError(f"{op}: expected a finite softcap > 0, got {softcap}")
    if not z_loss >= 0:
        raise ValueError(f"{op}: expected z_loss >= 0, got {z_loss}")
    if empty not in ("nan", "zero"):
        raise ValueError(f"{op}: expected empty 'nan' or 'zero', got {empty!r}")
    if temperature is None or isinstance(temperature, Tensor):
        return
    if not temperature >= 0:
        raise ValueError(f"{op}: expected a temperature >= 0, got {temperature}")
    if temperature == 0 and z_loss != 0:
        raise ValueError(f"{op}: expected a temperature > 0 with z_loss, got 0")
