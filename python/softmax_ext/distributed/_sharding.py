"""The placements that each primitive takes as they are, over one dim of a mesh.

A primitive is described by what its tensors have of the rows: the dims of the logits (``x``), those with size 1 in dim
(``k``), those without dim (``r``), two numbers of each row (``s``), what broadcasts against the logits (``b``), the classes
alone (``w``), or something that all ranks need (``*``). Then every dim of the rows may be split.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.distributed.tensor import Replicate, Shard

_ops = torch.ops.softmax_ext


def _placement(kind: str, argument, dim: int, row_dim: int, rank: int):
    """Where the logits are split along ``row_dim``."""
    if argument is None:
        return None
    without = row_dim - (row_dim > dim)
    if kind in ("x", "k"):
        return Shard(row_dim)
    if kind == "r":
        return Shard(without)
    if kind == "s":
        return Shard(without + 1)
    if kind == "b":
        own = row_dim - (rank - argument.ndim)  # dims are aligned at the last
        return Shard(own) if own >= 0 and argument.shape[own] != 1 else Replicate()
    return Replicate()


def _rule(operator, results: str, tensors: str, is_split: Callable[[dict, int], bool] = lambda arguments, d: True):
    """``tensors``: the kind of each tensor argument; ``t`` is a target of classes or probabilities."""
    schema = operator._schema.arguments
    names = [argument.name for argument in schema]
    are_tensors = ["Tensor" in str(argument.type) for argument in schema]

    def placements(*positional, **keywords):
        arguments = dict(zip(names, positional, strict=False)) | keywords
        given = [arguments.get(name) for name in names[: max(len(positional), 1)]]
        kinds = iter(tensors)
        kind_of = {name: next(kinds) for name, is_tensor in zip(names, are_tensors, strict=True) if is_tensor}
        like = next(arguments[name] for name in names if kind_of.get(name) == "x")
        rank = like.ndim
        dim = arguments["dim"] % max(rank, 1)

        def inputs(row_dim: int | None) -> list:
            found = []
            for name, argument in zip(names[: len(given)], given, strict=True):
                kind = kind_of.get(name)
                if kind is None or argument is None:
                    found.append(None)
                    continue
                if kind == "t":
                    kind = "x" if argument.ndim == rank else "r"
                is_whole = row_dim is None
                found.append(Replicate() if is_whole else _placement(kind, argument, dim, row_dim, rank))
            for name in keywords:
                kind = kind_of.get(name)
                whole = row_dim is None or kind is None
                if kind is not None and keywords[name] is not None:
                    found.append(Replicate() if whole else _placement(kind, keywords[name], dim, row_dim, rank))
            return found

        accepted = [([Replicate()] * len(results), inputs(None))]
        for row_dim in range(rank):
            if row_dim != dim and is_split(arguments, row_dim):
                split = [_placement(kind, like, dim, row_dim, rank) for kind in results]
                accepted.append((split, inputs(row_dim)))
        return accepted

    return placements


def _linear_rule(operator, results: int):
    """Whole: its rows and its classes are those of matrices that are never there."""

    def placements(*arguments, **keywords):
        found = [Replicate() if hasattr(a, "placements") else None for a in (*arguments, *keywords.values())]
        return [([Replicate()] * results, found)]

    return placements


def _is_not_causal(arguments: dict, row_dim: int) -> bool:
    """A causal mask is of the last two dims, whose places it needs."""
    rank = arguments["self"].ndim
    return not arguments["is_causal"] or row_dim < rank - 2


def _of_rows_alone(arguments: dict, row_dim: int) -> bool:
    return arguments["reduction"] == 0


def _sample_rule(*arguments, **keywords):
    """A row's random numbers depend on its place: rows may be split where each has a seed of its own."""
    logits, seed, *options = arguments
    rows = logits.ndim - 1

    def inputs(row_dim: int | None) -> list:
        found = [Replicate() if row_dim is None else Shard(row_dim)] * 2
        for option in options:
            if not hasattr(option, "placements"):
                found.append(None)
                continue
            own = None if row_dim is None else row_dim - (rows - option.ndim)
            is_split = own is not None and own >= 0 and option.shape[own] != 1
            found.append(Shard(own) if is_split else Replicate())
        return found

    accepted = [([Replicate()] * 2, inputs(None))]
    if seed.ndim == rows:
        accepted += [([Shard(d)] * 2, inputs(d)) for d in range(rows)]
    return accepted


RULES = {
    operator: _rule(operator, *kinds)
    for operator, kinds in {
        _ops._softmax.default: ("x", "xb"),
        _ops._softmax_backward.default: ("x", "xxb"),
        _ops._log_softmax.default: ("x", "xb"),
        _ops._log_softmax_backward.default: ("x", "xxb"),
        _ops._logsumexp.default: ("k", "xb"),
        _ops._logsumexp_backward.default: ("x", "kxb"),
        _ops._entropy.default: ("k", "xb"),
        _ops._entropy_backward.default: ("x", "kxb"),
        _ops._masked_softmax.default: ("x", "xbb", _is_not_causal),
        _ops._cross_entropy_with_gradient.default: ("r*sx", "xtwb", _of_rows_alone),
        _ops._cross_entropy.default: ("r*sr", "xtwb", _of_rows_alone),
        _ops._cross_entropy_backward.default: ("x", "rxt*swbr", _of_rows_alone),
        _ops._class_indices.default: ("r", "xr"),
    }.items()
} | {
    _ops._sample.default: _sample_rule,
    _ops._linear_cross_entropy.default: _linear_rule(_ops._linear_cross_entropy.default, 6),
    _ops._linear_cross_entropy_backward.default: _linear_rule(_ops._linear_cross_entropy_backward.default, 3),
}
