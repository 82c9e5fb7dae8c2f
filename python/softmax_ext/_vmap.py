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


def _loss_tensors(info, rank, target, target_dim, temperature, temperature_dim):
    """The target, of classes or of probabilities, and the temperature of a loss of ``rank``-d samples."""
    target = _expanded(_batch_first(target, target_dim, rank - (not target.is_floating_point())), info.batch_size)
    return target, _batch_first(temperature, temperature_dim, rank)


def _with_batched_weight(rule: Callable, weight_index: int) -> Callable:
    """``rule``, by way of one sample after another where the class weights are batched: primitives take one vector."""

    def with_batched_weight(info, in_dims, *args):
        if len(args) <= weight_index or in_dims[weight_index] is None:
            return rule(info, in_dims, *args)
        results = []
        for i in range(info.batch_size):
            sample = [a if d is None else a.select(d, i) for a, d in zip(args, in_dims, strict=True)]
            one = info._replace(batch_size=1)
            dims = tuple(0 if isinstance(a, Tensor) and j != weight_index else None for j, a in enumerate(sample))
            batched = [a if d is None else a.unsqueeze(0) for a, d in zip(sample, dims, strict=True)]
            results.append(rule(one, dims, *batched))
        (_, out_dims) = results[0]
        if isinstance(out_dims, int):
            return torch.cat([result for result, _ in results], out_dims), out_dims
        parts = zip(*(result for result, _ in results), strict=True)
        return tuple(torch.cat(part, dim) for part, dim in zip(parts, out_dims, strict=True)), out_dims

    return with_batched_weight


def _cross_entropy_rule(name: str) -> Callable:
    primitive = getattr(_primitives, name)

    def rule(
        info, in_dims, self, target, dim, reduction, leading, ignore_index, weight=None, temperature=None, *options
    ):
        rank = _rank(self, in_dims[0])
        self = _expanded(_batch_first(self, in_dims[0], rank), info.batch_size)
        of_temperature = in_dims[7] if len(in_dims) > 7 else None
        target, temperature = _loss_tensors(info, rank, target, in_dims[1], temperature, of_temperature)
        results = primitive(
            self,
            target,
            _shifted_dim(name, dim, rank),
            reduction,
            leading + 1,
            ignore_index,
            weight,
            temperature,
            *options,
        )
        if name == "_cross_entropy" and results[3].dim() != rank:  # there is no log-sum-exp
            results = (*results[:3], results[3].expand(info.batch_size, 0))
        return results, (0, 0, 1, 0)

    return _with_batched_weight(rule, 6)


def _cross_entropy_backward_rule(
    info,
    in_dims,
    grad,
    self,
    target,
    count,
    statistics,
    dim,
    reduction,
    ignore_index,
    weight=None,
    temperature=None,
    *options,
):
    rank = _rank(self, in_dims[1])
    self = _expanded(_batch_first(self, in_dims[1], rank), info.batch_size)
    of_temperature = in_dims[9] if len(in_dims) > 9 else None
    target, temperature = _loss_tensors(info, rank, target, in_dims[2], temperature, of_temperature)
    *numbers, grad_logsumexp = options if len(options) == 5 else (*options, None)
    of_logsumexp = in_dims[14] if len(in_dims) > 14 else None
    grad, count, statistics, grad_logsumexp = (
        None
        if tensor is None
        else _expanded(_batch_first(tensor, batch_dim, _rank(tensor, batch_dim)), info.batch_size)
        for tensor, batch_dim in (
            (grad, in_dims[0]),
            (count, in_dims[3]),
            (statistics, in_dims[4]),
            (grad_logsumexp, of_logsumexp),
        )
    )
    return (
        _primitives._cross_entropy_backward(
            grad,
            self,
            target,
            count,
            statistics.movedim(1, 0),
            _shifted_dim("_cross_entropy_backward", dim, rank),
            reduction,
            ignore_index,
            weight,
            temperature,
            *numbers,
            grad_logsumexp=grad_logsumexp,
        ),
        0,
    )


def _class_indices_rule(info, in_dims, self, target, dim, ignore_index):
    rank = _rank(self, in_dims[0])
    self = _expanded(_batch_first(self, in_dims[0], rank), info.batch_size)
    target = _expanded(_batch_first(target, in_dims[1], rank - 1), info.batch_size)
    return _primitives._class_indices(self, target, _shifted_dim("_class_indices", dim, rank), ignore_index), 0


def _linear_rule(name: str) -> Callable:
    """One sample after another: there is no batch of matrices whose logits are never there as a whole."""
    primitive = getattr(_primitives, name)

    def rule(info, in_dims, *args):
        if info.batch_size == 0:
            raise ValueError(f"{name.lstrip('_')}: expected at least one sample to map over, got 0")
        samples = []
        for i in range(info.batch_size):
            sample = (
                a if not isinstance(a, Tensor) or d is None else a.select(d, i)
                for a, d in zip(args, in_dims, strict=True)
            )
            samples.append(primitive(*sample))
        return tuple(torch.stack(parts) for parts in zip(*samples, strict=True)), (0,) * len(samples[0])

    return rule


def _sample_rule(info, in_dims, self, seed, *arguments):
    """The seed of a batch is that of its rows: it has the shape of the first dims."""
    rank = _rank(self, in_dims[0])
    self = _expanded(_batch_first(self, in_dims[0], rank), info.batch_size)
    seed = _expanded(_batch_first(seed, in_dims[1], _rank(seed, in_dims[1])), info.batch_size)
    options = (
        _batch_first(option, batch_dim, max(rank - 1, 0))
        for option, batch_dim in zip(arguments[:4], in_dims[2:6], strict=True)
    )
    return _primitives._sample(self, seed, *options, *arguments[4:]), (0, 0)


def _masked_softmax_rule(info, in_dims, self, mask, temperature, dim, scale, dtype, is_causal, empty_is_zero):
    rank = _rank(self, in_dims[0])
    if is_causal and rank < 2:
        raise RuntimeError(f"causal_softmax: expected scores of shape [..., queries, keys], got a {rank}-d tensor")
    self, mask, temperature = (
        _batch_first(tensor, batch_dim, rank)
        for tensor, batch_dim in zip((self, mask, temperature), in_dims[:3], strict=True)
    )
    self = _expanded(self, info.batch_size)
    scalar = rank == 0
    if scalar:
        self, mask, temperature = (None if t is None else t.unsqueeze(1) for t in (self, mask, temperature))
    dim = _shifted_dim("_masked_softmax", dim, rank)
    result = _primitives._masked_softmax(self, mask, temperature, dim, scale, dtype, is_causal, empty_is_zero)
    return (result.squeeze(1) if scalar else result), 0


def _register() -> None:
    for name in (
        "_softmax",
        "_softmax_backward",
        "_log_softmax",
        "_log_softmax_backward",
        "_logsumexp",
        "_logsumexp_backward",
        "_entropy",
        "_entropy_backward",
    ):
        torch.library.register_vmap(f"softmax_ext::{name}", _normalize_rule(name))
    for name in ("_cross_entropy", "_cross_entropy_with_gradient"):
        torch.library.register_vmap(f"softmax_ext::{name}", _cross_entropy_rule(name))
    torch.library.register_vmap(
        "softmax_ext::_cross_entropy_backward", _with_batched_weight(_cross_entropy_backward_rule, 8)
    )
    torch.library.register_vmap("softmax_ext::_class_indices", _class_indices_rule)
    for name in ("_linear_cross_entropy", "_linear_cross_entropy_backward"):
        torch.library.register_vmap(f"softmax_ext::{name}", _linear_rule(name))
    torch.library.register_vmap("softmax_ext::_sample", _sample_rule)
    torch.library.register_vmap("softmax_ext::_masked_softmax", _masked_softmax_rule)


# Once per process, whatever the number of copies of this package.
if not torch._C._dispatch_has_kernel_for_dispatch_key("softmax_ext::_softmax", "FuncTorchBatched"):
    _register()
