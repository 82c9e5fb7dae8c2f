"""Batching rules of the primitives, for ``torch.vmap`` and what is built on it.

Each moves the batch dimension to the front of every tensor, gives the tensors equal rank and calls the primitive with
the dim shifted by one. Public operators need none: they are decomposed into primitives first. Importing this module
registers the rules.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_primitives = torch.ops.softmax_ext


def _rank(tensor: Tensor, batch_dim: int | None) -> int:
    """The rank that the mapped function sees."""
    return tensor.dim() - (batch_dim is not None)


def _batch_first(tensor: Tensor | None, batch_dim: int | None, rank: int) -> Tensor | None:
    """``tensor`` with its batch dimension (size 1 if it has none) first and ``rank`` dimensions after it."""
    if tensor is None:
        return None
    missing = rank - _rank(tensor, batch_dim)
    tensor = tensor.unsqueeze(0) if batch_dim is None else tensor.movedim(batch_dim, 0)
    return tensor.reshape(tensor.shape[:1] + (1,) * missing + tensor.shape[1:])


def _shifted_dim(primitive: str, dim: int, rank: int) -> int:
    """The dim of the batched tensor that is ``dim`` of a sample of ``rank`` dimensions."""
    dims = max(rank, 1)
    if not -dims <= dim < dims:
        raise IndexError(
            f"{primitive.lstrip('_')}: expected dim in [{-dims}, {dims - 1}] for a {rank}-d tensor, got {dim}"
        )
    return dim % dims + 1


def _expanded(tensor: Tensor, batch_size: int) -> Tensor:
    return tensor.expand(batch_size, *tensor.shape[1:])


def _normalize_rule(name: str) -> Callable:
    """For primitives of (self, temperature, dim, …) and of (grad, other, temperature, dim, …)."""

    primitive = getattr(_primitives, name)

    def rule(info, in_dims, *args):
        dim_index = next(i for i, argument in enumerate(args) if isinstance(argument, int))
        *tensors, temperature = args[:dim_index]
        dim, *rest = args[dim_index:]
        rank = max(_rank(t, d) for t, d in zip(tensors, in_dims, strict=False))
        # A 0-d sample is a row of one element: it gets a dim for the primitive to reduce.
        scalar = rank == 0
        batched = [_expanded(_batch_first(t, d, rank), info.batch_size) for t, d in zip(tensors, in_dims, strict=False)]
        temperature = _batch_first(temperature, in_dims[dim_index - 1], rank)
        if scalar:
            batched = [t.unsqueeze(1) for t in batched]
            temperature = None if temperature is None else temperature.unsqueeze(1)
        result = primitive(*batched, temperature, _shifted_dim(name, dim, rank), *rest)
        return (result.squeeze(1) if scalar else result), 0

    return rule


def _cross_entropy_rule(name: str) -> Callable:
    primitive = getattr(_primitives, name)

    def rule(info, in_dims, self, target, dim, reduction, leading, ignore_index):
        rank = _rank(self, in_dims[0])
        self = _expanded(_batch_first(self, in_dims[0], rank), info.batch_size)
        target = _expanded(_batch_first(target, in_dims[1], rank - 1), info.batch_size)
        results = primitive(self, target, _shifted_dim(name, dim, rank), reduction, leading + 1, ignore_index)
        return results, (0, 0, 1, 0)[: len(results)]

    return rule


def _cross_entropy_backward_rule(info, in_dims, grad, self, target, count, statistics, dim, reduction, ignore_index):
    rank = _rank(self, in_dims[1])
    self = _expanded(_batch_first(self, in_dims[1], rank), info.batch_size)
    target = _expanded(_batch_first(target, in_dims[2], rank - 1), info.batch_size)
    grad, count, statistics = (
        _expanded(_batch_first(tensor, batch_dim, _rank(tensor, batch_dim)), info.batch_size)
        for tensor, batch_dim in zip((grad, count, statistics), (in_dims[0], *in_dims[3:5]), strict=True)
    )
    dim = _shifted_dim("_cross_entropy_backward", dim, rank)
    return (
        _primitives._cross_entropy_backward(
            grad, self, target, count, statistics.movedim(1, 0), dim, reduction, ignore_index
        ),
        0,
    )


def _class_indices_rule(info, in_dims, self, target, dim, ignore_index):
    rank = _rank(self, in_dims[0])
    self = _expanded(_batch_first(self, in_dims[0], rank), info.batch_size)
    target = _expanded(_batch_first(target, in_dims[1], rank - 1), info.batch_size)
    return _primitives._class_indices(self, target, _shifted_dim("_class_indices", dim, rank), ignore_index), 0


for _name in (
    "_softmax",
    "_softmax_backward",
    "_log_softmax",
    "_log_softmax_backward",
    "_logsumexp",
    "_logsumexp_backward",
):
    torch.library.register_vmap(f"softmax_ext::{_name}", _normalize_rule(_name))
for _name in ("_cross_entropy", "_cross_entropy_with_gradient"):
    torch.library.register_vmap(f"softmax_ext::{_name}", _cross_entropy_rule(_name))
torch.library.register_vmap("softmax_ext::_cross_entropy_backward", _cross_entropy_backward_rule)
torch.library.register_vmap("softmax_ext::_class_indices", _class_indices_rule)
