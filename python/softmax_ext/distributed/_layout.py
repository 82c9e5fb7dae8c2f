"""Which rank holds which classes, and that all ranks mean the same call."""

from __future__ import annotations

import os
import weakref
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from ._collectives import all_gather


class Layout(NamedTuple):
    """The classes ``[first, first + length)`` of ``classes``, on one of the ranks of a group."""

    group: str
    ranks: int
    rank: int
    first: int
    length: int
    classes: int


#: The calls that the ranks of a group have agreed on.
_agreed: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def process_group(op: str, group: Any) -> dist.ProcessGroup:
    """That of a ``ProcessGroup``, a 1-D ``DeviceMesh`` or None (all ranks).

    Raises:
        RuntimeError: torch.distributed is not initialized.
        ValueError: this rank is not in the group.
        TypeError: it is neither of the above.
    """
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(f"{op}: expected an initialized process group; call torch.distributed.init_process_group()")
    if group is None:
        return dist.group.WORLD
    if group is dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError(f"{op}: expected a group that this process, rank {dist.get_rank()} of all, is a member of")
    if isinstance(group, dist.ProcessGroup):
        return group
    if hasattr(group, "get_group"):  # a DeviceMesh, without importing it
        if group.ndim != 1:
            raise ValueError(
                f"{op}: expected a mesh of 1 dim as group, got one of {group.ndim}: mesh['name'] takes one"
            )
        return group.get_group()
    raise TypeError(f"{op}: expected a ProcessGroup, a DeviceMesh or None as group, got {type(group).__name__}")


def layout(
    op: str,
    group: Any,
    vocab_start: int | None,
    vocab_size: int | None,
    length: int,
    rows: tuple[int, ...],
    device: torch.device,
    same: tuple,
    check_arguments: Callable[[int], None],
) -> Layout:
    """Where this rank's shard lies.

    The first call of its kind compares it on all ranks, which takes a collective of its own: what they do not agree on
    is an error on each of them. So is what ``check_arguments`` raises on one, to which it hands the number of classes.
    Later calls take what was agreed on, and compiled code ``vocab_size``. With the environment variable
    SOFTMAX_EXT_COMPARE_RANKS=always every call is compared.

    Args:
        rows: The sizes of the other dims.
        same: What else has to be the same everywhere, such as options.
    """
    members = process_group(op, group)
    name, ranks = members.group_name, members.size()
    if torch.compiler.is_compiling():
        if vocab_size is None or vocab_start is None:
            raise ValueError(f"{op}: expected vocab_start and vocab_size where it is compiled")
        check_arguments(vocab_size)
        return Layout(name, ranks, dist.get_rank(members), vocab_start, length, vocab_size)
    call = (op, vocab_start, vocab_size, length, rows, same)
    agreed = _agreed.setdefault(members, {})
    if call not in agreed or os.environ.get("SOFTMAX_EXT_COMPARE_RANKS") == "always":
        agreed[call] = _agree(op, members, call, length, device, check_arguments)
    else:
        check_arguments(agreed[call].classes)
    return agreed[call]


def _agree(
    op: str,
    members: dist.ProcessGroup,
    call: tuple,
    length: int,
    device: torch.device,
    check_arguments: Callable[[int], None],
) -> Layout:
    _, start, size, _, rows, same = call
    error = None
    try:
        check_arguments(size if size is not None else (0 if start is None else start) + length)
    except (ValueError, RuntimeError, TypeError, IndexError, NotImplementedError) as raised:
        error = raised
    count = 1
    for size_of_dim in rows:
        count *= size_of_dim
    facts = (
        *(error is not None, -1 if start is None else start, length, -1 if size is None else size, count),
        *(zlib.crc32(repr(fact).encode()) for fact in (rows, op, same)),
    )
    of_device = torch.device("cpu") if dist.get_backend(members) == "gloo" else device
    mine = torch.tensor(facts, dtype=torch.int64, device=of_device)
    table = all_gather(mine, members.size(), members.group_name).tolist()
    if error is not None:
        raise error
    failed, starts, lengths, sizes, counts, shapes, ops, sames = zip(*table, strict=True)
    if any(failed):
        raise RuntimeError(
            f"{op}: rank {failed.index(1)} of the group raised an error for its arguments; see its message"
        )
    _check_equal(op, "the same function", ops)
    _check_equal(op, "as many rows", counts, shown=True)
    _check_equal(op, "rows of the same shape", shapes)
    _check_equal(op, "the same vocab_size (or None)", sizes, shown=True)
    _check_equal(op, "the same dtype and options", sames)
    rank = dist.get_rank(members)
    first, classes = _ranges(op, starts, lengths, sizes[0], rank)
    return Layout(members.group_name, members.size(), rank, first, length, classes)


def _check_equal(op: str, what: str, values: tuple, shown: bool = False) -> None:
    if len(set(values)) == 1:
        return
    got = list(values) if shown else f"others on ranks {[i for i, v in enumerate(values) if v != values[0]]} than on 0"
    raise ValueError(f"{op}: expected {what} on all ranks of the group, got {got}")


def _ranges(op: str, starts: tuple, lengths: tuple, size: int, rank: int) -> tuple[int, int]:
    """The first class of the rank, and how many there are in all."""
    if all(start == -1 for start in starts):  # in the order of the ranks
        starts = tuple(sum(lengths[:i]) for i in range(len(lengths)))
    ranges = [(start, start + length) for start, length in zip(starts, lengths, strict=True)]
    end = 0
    for first, last in sorted(ranges):
        if first == end:
            end = last
            continue
        kind = "gap" if first > end else "overlap"
        raise ValueError(
            f"{op}: expected the classes of the ranks to follow each other from 0 on, got {ranges}, with a {kind} at "
            f"{min(first, end)}"
        )
    if size not in (-1, end):
        raise ValueError(f"{op}: expected the classes of the ranks to be vocab_size {size} in all, got {ranges}")
    return starts[rank], end
