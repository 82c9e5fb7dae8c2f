"""Losses and log-sum-exps of logits whose classes, rows or both are split, as primitives on ``DTensor``.

A rule of sharding says where a primitive may run as it is. These have more to do: they merge what ranks make of their
classes, and divide by what all ranks count. Their derivatives are those of any other logits (csrc/autograd), which call the
backwards below.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from ._collectives import all_reduce
from ._formulas import Options, rows_of
from ._merge import log_sum_exp
from ._rows import merged

_ops = torch.ops.softmax_ext


class Split(NamedTuple):
    """How logits lie on a mesh: their classes over at most one of its dims, their rows over others."""

    mesh: DeviceMesh
    dim: int  # of the classes
    rank: int
    placements: tuple[Placement, ...]

    @classmethod
    def of(cls, logits: DTensor, dim: int, splits_rows: bool = True) -> Split:
        """Anything else is redistributed."""
        dim = dim % max(logits.ndim, 1)
        placements, has_classes = [], False
        for placement in logits.placements:
            if type(placement) is Shard and placement.dim % logits.ndim == dim and not has_classes:
                has_classes = True
                placements.append(Shard(dim))
            elif type(placement) is Shard and placement.dim % logits.ndim != dim and splits_rows:
                placements.append(Shard(placement.dim % logits.ndim))
            else:
                placements.append(Replicate())
        return cls(logits.device_mesh, dim, logits.ndim, tuple(placements))

    @property
    def mesh_dim(self) -> int | None:
        """That over which the classes are split."""
        found = [i for i, p in enumerate(self.placements) if p == Shard(self.dim)]
        return found[0] if found else None

    def local(self, tensor: Tensor | None, kind: str) -> Tensor | None:
        """This rank's part of what has the dims ``kind`` (as in _sharding.py) of the logits."""
        if tensor is None:
            return None
        if not isinstance(tensor, DTensor):  # the same on all ranks
            tensor = DTensor.from_local(tensor, self.mesh, [Replicate()] * self.mesh.ndim, run_check=False)
        placements = self.placed(kind, tensor)
        return (
            tensor if tensor.placements == tuple(placements) else tensor.redistribute(self.mesh, placements)
        ).to_local()

    def placed(self, kind: str, tensor: Tensor | None = None) -> list[Placement]:
        return [self._placement(kind, p, tensor) for p in self.placements]

    def _placement(self, kind: str, placement: Placement, tensor: Tensor | None) -> Placement:
        if placement == Replicate() or kind == "*":
            return Replicate()
        if placement == Shard(self.dim):
            return {"x": Shard(self.dim), "w": Shard(0)}.get(kind, Replicate())
        without = placement.dim - (placement.dim > self.dim)
        if kind == "b":
            own = placement.dim - (self.rank - tensor.ndim)
            return Shard(own) if own >= 0 and tensor.shape[own] != 1 else Replicate()
        return {"x": placement, "k": placement, "r": Shard(without), "s": Shard(without + 1)}.get(kind, Replicate())

    def whole(self, local: Tensor, kind: str, sizes: tuple[int, ...]) -> DTensor:
        """The tensor of ``sizes`` of which every rank has its part."""
        strides = torch.empty(sizes, device="meta").stride()
        return DTensor.from_local(
            local, self.mesh, self.placed(kind), run_check=False, shape=torch.Size(sizes), stride=strides
        )

    def classes(self, classes: int) -> tuple[int, int]:
        """The first of this rank's, and how many ranks there are to a row. Shards are those of ``torch.chunk``."""
        if self.mesh_dim is None:
            return 0, 1
        ranks = self.mesh.size(self.mesh_dim)
        return min(self.mesh.get_local_rank(self.mesh_dim) * -(-classes // ranks), classes), ranks

    def group(self) -> str:
        return "" if self.mesh_dim is None else self.mesh.get_group(self.mesh_dim).group_name

    def sum_over_rows(self, numbers: Tensor) -> Tensor:
        """Over the ranks that have other rows."""
        for i, placement in enumerate(self.placements):
            if placement not in (Replicate(), Shard(self.dim)):
                numbers = all_reduce(numbers, self.mesh.get_group(i).group_name)
        return numbers


def _bound(operator, arguments: tuple, keywords: dict) -> dict:
    """By their names, with the defaults."""
    schema = operator._schema.arguments
    bound = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    return bound | dict(zip((a.name for a in schema), arguments, strict=False)) | keywords


class _Loss:
    """What a loss primitive was called with, and this rank's part of it."""

    def __init__(self, call: dict):
        logits, target = call["self"], call["target"]
        if not isinstance(logits, DTensor):
            mesh = next(value.device_mesh for value in call.values() if isinstance(value, DTensor))
            logits = DTensor.from_local(logits, mesh, [Replicate()] * mesh.ndim, run_check=False)
        self.whole, self.reduction, self.z_loss = logits, call["reduction"], call["z_loss"]
        splits_rows = call.get("leading", 0) == 0
        self.split = Split.of(logits, call["dim"], splits_rows)
        self.are_classes = not target.is_floating_point()
        local = self.split.local
        self.logits = local(logits, "x")
        self.target = local(target, "r" if self.are_classes else "x")
        self.weight, self.temperature = local(call["weight"], "w"), local(call["temperature"], "b")
        dim = self.split.dim
        classes = logits.shape[dim]
        first, ranks = self.split.classes(classes)
        self.options = Options(
            dim, first, classes, call["ignore_index"], call["scale"], call["label_smoothing"], call["softcap"],
            self.split.group(), ranks,
        )  # fmt: skip
        self.row_sizes = (*logits.shape[:dim], *logits.shape[dim + 1 :])

    @property
    def arguments(self) -> tuple:
        """Those of a primitive of whole rows, behind ``reduction``."""
        o = self.options
        return (o.ignore_index, self.weight, self.temperature, o.scale, o.label_smoothing, o.softcap, self.z_loss)

    def ignored(self) -> Tensor | None:
        return self.target.long() == self.options.ignore_index if self.are_classes else None

    def rows(self, has_logsumexp: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(losses, statistics, log-sum-exps, what the mean counts each row for) of this rank's rows."""
        o = self.options
        ignored = self.ignored()
        if o.ranks == 1:
            losses, _, statistics, lse = _ops._cross_entropy(
                self.logits, self.target, o.dim, 0, 0, *self.arguments, has_logsumexp
            )
            counts = torch.ones_like(losses, dtype=torch.float64)
            if self.weight is not None and self.are_classes:
                indices = self.target.long().masked_fill(ignored, 0)
                counts = self.weight[indices].double()
        else:
            scale = rows_of(self.temperature, o.scale, self.logits, o.dim)
            parts = _ops._cross_entropy_shard(self.logits, self.target, *o.arguments(self.weight, self.temperature))
            losses, log_sum, spread, of_target, max, statistics = merged(parts, self.target, self.weight, scale, o)
            # Backward asks for Σ q of whole rows beside the two numbers of each.
            statistics = torch.cat([statistics[:2], spread.unsqueeze(0)])
            lse = log_sum_exp(max, log_sum, scale)
            lse = lse if ignored is None else lse.masked_fill(ignored, 0)
            if self.z_loss != 0:
                losses = losses + self.z_loss * lse.square()
            counts = of_target.double() if of_target.numel() else torch.ones_like(losses, dtype=torch.float64)
        return losses, statistics, lse, counts if ignored is None else counts.masked_fill(ignored, 0)

    def results(self, has_logsumexp: bool) -> tuple[DTensor, DTensor, DTensor, DTensor]:
        losses, statistics, lse, counts = self.rows(has_logsumexp)
        whole = self.split.whole
        sums = torch.stack([losses.sum(dtype=torch.float64), counts.sum()])
        total, count = self.split.sum_over_rows(sums)
        if self.reduction == 0:
            loss = whole(losses, "r", self.row_sizes)
        else:
            loss = whole((total / count if self.reduction == 1 else total).to(losses.dtype), "*", ())
        return (
            loss,
            whole(count, "*", ()),
            whole(statistics, "s", (statistics.shape[0], *self.row_sizes)),
            whole(lse, "r", self.row_sizes) if has_logsumexp else whole(lse.new_empty(0), "*", (0,)),
        )

    def gradient(self, grad: Tensor, count: Tensor, statistics: Tensor, grad_logsumexp: Tensor | None) -> DTensor:
        local, o = self.split.local, self.options
        statistics = local(statistics, "s")
        if self.reduction == 0:
            of_rows = local(grad, "r")
        else:
            of_rows = local(grad, "*")
            if self.reduction == 1:
                divided = of_rows / local(count, "*").to(of_rows.dtype)
                of_rows = divided.masked_fill(of_rows == 0, 0)
            of_rows = of_rows.expand(statistics.shape[1:])
        of_logsumexp = local(grad_logsumexp, "r")
        if o.ranks == 1:
            made = _ops._cross_entropy_backward(
                of_rows, self.logits, self.target, statistics.new_zeros((), dtype=torch.float64), statistics, o.dim, 0,
                *self.arguments, of_logsumexp,
            )  # fmt: skip
        else:
            of_others = of_rows * (statistics[2] - self._local_spread())
            if of_logsumexp is not None:
                of_others = of_others + of_logsumexp
            if self.z_loss != 0:
                scale = rows_of(self.temperature, o.scale, self.logits, o.dim)
                of_others = of_others + 2 * self.z_loss * of_rows * log_sum_exp(statistics[0], statistics[1], scale)
            made = _ops._cross_entropy_shard_backward(
                of_rows.contiguous(), of_others, self.logits, self.target, statistics[:2],
                *o.arguments(self.weight, self.temperature),
            )  # fmt: skip
        return self.split.whole(made, "x", tuple(self.whole.shape))

    def _local_spread(self) -> Tensor:
        """Σ q of this rank's classes."""
        o, dim = self.options, self.options.dim
        uniform = o.label_smoothing / o.classes
        length = self.logits.shape[dim]
        if not self.are_classes:
            q = self.target * (1 - o.label_smoothing) + uniform
            if self.weight is not None:
                q = q * self.weight.reshape(-1, *[1] * (q.dim() - dim - 1))
            return q.sum(dim)
        weight = self.logits.new_ones(length, dtype=self._lane()) if self.weight is None else self.weight
        local = self.target.long() - o.first
        is_here = (local >= 0) & (local < length)
        of_target = weight.new_zeros(local.shape)
        if length:
            of_target = weight[local.masked_fill(~is_here, 0)].masked_fill(~is_here, 0)
        return of_target * (1 - o.label_smoothing) + uniform * weight.sum()

    def _lane(self) -> torch.dtype:
        return torch.float64 if self.logits.dtype == torch.float64 else torch.float32


def _cross_entropy(operator, arguments, keywords):
    call = _bound(operator, arguments, keywords)
    return _Loss(call).results(call["has_logsumexp"])


def _cross_entropy_with_gradient(operator, arguments, keywords):
    loss = _Loss(_bound(operator, arguments, keywords))
    result, count, statistics, _ = loss.results(False)
    return result, count, statistics, loss.gradient(torch.ones_like(result), count, statistics, None)


def _cross_entropy_backward(operator, arguments, keywords):
    call = _bound(operator, arguments, keywords)
    return _Loss(call).gradient(call["grad"], call["count"], call["statistics"], call["grad_logsumexp"])


def _logsumexp_rows(call: dict, dim: int) -> tuple[Split, Tensor, Tensor | None, Tensor, Options, tuple]:
    split = Split.of(call["self"], dim)
    logits, temperature = split.local(call["self"], "x"), split.local(call["temperature"], "b")
    # A loss of targets that no rank has.
    classes = call["self"].shape[split.dim]
    options = Options(split.dim, 1, classes + 1, -1, call["scale"], 0.0, 0.0, split.group(), split.classes(classes)[1])
    target = logits.new_zeros((*logits.shape[: split.dim], *logits.shape[split.dim + 1 :]), dtype=torch.int64)
    parts = _ops._cross_entropy_shard(logits, target, *options.arguments(None, temperature))
    rows = merged(parts, target, None, rows_of(temperature, options.scale, logits, split.dim), options)
    return split, logits, temperature, target, options, rows


def _logsumexp(operator, arguments, keywords):
    call = _bound(operator, arguments, keywords)
    logits, dim = call["self"], call["dim"]
    split = Split.of(logits, dim)
    sizes = tuple(1 if d == split.dim else size for d, size in enumerate(logits.shape))
    if split.mesh_dim is None:
        locals_ = split.local(logits, "x"), split.local(call["temperature"], "b")
        return split.whole(operator(*locals_, split.dim, call["scale"], call["dtype"]), "k", sizes)
    _, local, temperature, _, options, (_, log_sum, _, _, max, _) = _logsumexp_rows(call, dim)
    result = log_sum_exp(max, log_sum, rows_of(temperature, options.scale, local, split.dim))
    dtype = logits.dtype if call["dtype"] is None else _DTYPES[call["dtype"]]
    return split.whole(result.unsqueeze(split.dim).to(dtype), "k", sizes)


def _logsumexp_backward(operator, arguments, keywords):
    call = _bound(operator, arguments, keywords)
    split = Split.of(call["self"], call["dim"])
    if split.mesh_dim is None:
        locals_ = split.local(call["grad"], "k"), split.local(call["self"], "x"), split.local(call["temperature"], "b")
        return split.whole(operator(*locals_, split.dim, call["scale"]), "x", tuple(call["self"].shape))
    # The statistics of the rows are not among what this primitive is given: it gathers them again.
    _, logits, temperature, target, options, rows = _logsumexp_rows(call, call["dim"])
    statistics = rows[5][:2]
    grad = split.local(call["grad"], "k").squeeze(split.dim).to(statistics.dtype)
    made = _ops._cross_entropy_shard_backward(
        torch.zeros_like(grad), grad, logits, target, statistics, *options.arguments(None, temperature)
    )
    return split.whole(made, "x", tuple(call["self"].shape))


#: By c10::ScalarType, as primitives take it.
_DTYPES = {5: torch.float16, 6: torch.float32, 7: torch.float64, 15: torch.bfloat16}

# They run below autograd, which the methods of DTensor do not know.
HANDLERS = {
    operator: torch.no_grad()(handler)
    for operator, handler in {
        _ops._cross_entropy.default: _cross_entropy,
        _ops._cross_entropy_with_gradient.default: _cross_entropy_with_gradient,
        _ops._cross_entropy_backward.default: _cross_entropy_backward,
        _ops._logsumexp.default: _logsumexp,
        _ops._logsumexp_backward.default: _logsumexp_backward,
    }.items()
}
