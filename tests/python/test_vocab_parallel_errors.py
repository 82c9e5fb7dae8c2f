"""Bad use is an error on every rank, and no rank waits for ever."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from ranks import Ranks

from softmax_ext.distributed import (
    vocab_parallel_cross_entropy,
    vocab_parallel_linear_cross_entropy,
    vocab_parallel_logsumexp,
    vocab_parallel_sample,
)


@pytest.fixture(scope="module")
def ranks():
    with Ranks(3) as ranks:
        yield ranks


def message_of(function, error: type[Exception]) -> str:
    try:
        function()
    except error as raised:
        return str(raised)
    raise AssertionError(f"expected {error.__name__}")


#: What each of three ranks passes: first class, classes, rows, other arguments.
DISAGREEMENTS = {
    "overlap": ([(0, 5), (4, 5), (9, 3)], {}, r"follow each other.*\(0, 5\), \(4, 9\), \(9, 12\).*overlap at 4"),
    "gap": ([(0, 5), (6, 5), (11, 1)], {}, r"follow each other.*gap at 5"),
    "no first class": ([(1, 5), (6, 5), (11, 1)], {}, r"from 0 on.*gap at 0"),
    "vocab_size": ([(0, 5), (5, 5), (10, 2)], {"vocab_size": [13, 13, 13]}, r"vocab_size 13 in all, got"),
    "one vocab_size": ([(0, 5), (5, 5), (10, 2)], {"vocab_size": [12, 12, 13]}, r"same vocab_size.*\[12, 12, 13\]"),
    "rows": (
        [(0, 5), (5, 5), (10, 2)],
        {"rows": [4, 4, 5]},
        r"as many rows on all ranks of the group, got \[4, 4, 5\]",
    ),
    "smoothing": (
        [(0, 5), (5, 5), (10, 2)],
        {"label_smoothing": [0.1, 0.1, 0.2]},
        r"same dtype and options.*ranks \[2\]",
    ),
    "dtype": (
        [(0, 5), (5, 5), (10, 2)],
        {"dtype": [torch.float32, torch.float64, torch.float32]},
        r"same dtype and options.*ranks \[1\]",
    ),
    "starts on some": ([(0, 5), (None, 5), (10, 2)], {}, r"follow each other"),
}


def check_disagreement(group, shards, arguments) -> str:
    rank = group.rank()
    mine = {name: values[rank] for name, values in arguments.items()}
    start, length = shards[rank]
    logits = torch.randn(mine.pop("rows", 4), length, dtype=mine.pop("dtype", torch.float32))
    target = torch.zeros(logits.shape[0], dtype=torch.int64)
    return message_of(
        lambda: vocab_parallel_cross_entropy(logits, target, group=group, vocab_start=start, **mine), ValueError
    )


@pytest.mark.parametrize(("shards", "arguments", "pattern"), DISAGREEMENTS.values(), ids=DISAGREEMENTS)
def test_disagreements_are_errors_on_every_rank(ranks, shards, arguments, pattern):
    messages = ranks.run(check_disagreement, 3, shards, arguments)
    assert len(set(messages)) == 1
    with pytest.raises(ValueError, match=pattern):
        raise ValueError(messages[0])


def bad_on_rank_1(group, change: dict, error: type[Exception]) -> tuple[type, str]:
    rank = group.rank()
    arguments = {"logits": torch.randn(4, 5), "target": torch.zeros(4, dtype=torch.int64), "group": group}
    arguments["vocab_start"] = 5 * rank
    if rank == 1:
        arguments |= change
    return message_of(lambda: vocab_parallel_cross_entropy(**arguments), error if rank == 1 else RuntimeError)


@pytest.mark.parametrize(
    ("change", "error", "pattern"),
    [
        (
            {"target": torch.zeros(5, dtype=torch.int64)},
            ValueError,
            r"target of shape \[4\], one class of each row, got \[5\]",
        ),
        ({"logits": torch.zeros(4, 5, dtype=torch.int64)}, NotImplementedError, r"dtype float64, float32"),
        (
            {"weight": torch.ones(15)},
            RuntimeError,
            r"weight of shape \[5\], one of each class of this rank, got \[15\]",
        ),
        ({"z_loss": -1.0}, ValueError, r"z_loss >= 0, got -1"),
        ({"label_smoothing": 2.0}, RuntimeError, r"label_smoothing in \[0, 1\], got 2"),
        ({"reduction": "average"}, ValueError, r"'none', 'mean' or 'sum', got 'average'"),
        ({"empty": "no"}, ValueError, r"empty 'nan' or 'zero'"),
        ({"softcap": 0.0}, ValueError, r"softcap > 0"),
        ({"temperature": -1.0}, ValueError, r"temperature >= 0"),
        ({"temperature": 0.0, "z_loss": 1.0}, ValueError, r"temperature > 0 with z_loss"),
        ({"target": torch.zeros(4, 5), "ignore_index": 3}, RuntimeError, r"no ignore_index with a target of probab"),
        ({"target": torch.zeros(4, dtype=torch.bool)}, RuntimeError, r"class indices of dtype int64, int32 or uint8"),
    ],
)
def test_an_error_on_one_rank_is_one_on_all(ranks, change, error, pattern):
    first, own, last = ranks.run(bad_on_rank_1, 3, change, error)
    with pytest.raises(error, match=pattern):
        raise error(own)
    assert (
        first
        == last
        == "vocab_parallel_cross_entropy: rank 1 of the group raised an error for its arguments; see its message"
    )


def check_targets(group) -> str:
    logits = torch.randn(4, 5)
    target = torch.tensor([0, 3, 15, 2])
    return message_of(
        lambda: vocab_parallel_cross_entropy(logits, target, group=group, vocab_start=5 * group.rank()), IndexError
    )


def test_target_out_of_range(ranks):
    (message,) = set(ranks.run(check_targets, 3))
    assert "targets in [0, 15) or ignore_index -100, got 15 at position 2" in message


def check_groups(group) -> None:
    pair = dist.new_group([0, 1])
    logits, target = torch.randn(4, 5), torch.zeros(4, dtype=torch.int64)
    if group.rank() == 2:
        message = message_of(lambda: vocab_parallel_cross_entropy(logits, target, group=pair), ValueError)
        assert "a group that this process, rank 2 of all, is a member of" in message
    else:
        vocab_parallel_cross_entropy(logits, target, group=pair)
    assert "got str" in message_of(lambda: vocab_parallel_logsumexp(logits, group="pair"), TypeError)
    mesh = dist.device_mesh.init_device_mesh("cpu", (1, 3))
    assert "a mesh of 1 dim as group, got one of 2" in message_of(
        lambda: vocab_parallel_cross_entropy(logits, target, group=mesh), ValueError
    )


def test_wrong_groups(ranks):
    ranks.run(check_groups, 3)


def test_without_a_process_group():
    with pytest.raises(RuntimeError, match="expected an initialized process group"):
        vocab_parallel_cross_entropy(torch.randn(4, 5), torch.zeros(4, dtype=torch.int64))


def check_others(group) -> None:
    call = {"group": group, "vocab_start": 5 * group.rank()}
    x, w = torch.randn(4, 6), torch.randn(5, 6)
    target = torch.zeros(4, dtype=torch.int64)
    for change, error, text in [
        ({"linear_weight": torch.randn(5, 7)}, RuntimeError, "[4, 6] and [5, 7]"),
        ({"linear_weight": w.double()}, RuntimeError, "linear_weight of dtype torch.float32"),
        ({"linear_bias": torch.randn(4)}, RuntimeError, "linear_bias of shape [5]"),
        ({"chunk": 0}, ValueError, "chunk > 0, got 0"),
    ]:
        arguments = {"input": x, "linear_weight": w, "target": target} | change
        assert text in message_of(lambda a=arguments: vocab_parallel_linear_cross_entropy(**a, **call), error)
    for change, text in [
        ({"top_p": -0.1}, "top_p >= 0"),
        ({"min_p": 1.5}, "min_p <= 1"),
        ({"num_samples": 0}, "num_samples >= 1"),
        ({"temperature": float("nan")}, "expected a number as temperature"),
    ]:
        assert text in message_of(lambda c=change: vocab_parallel_sample(x, seed=0, **c, **call), ValueError)
    x[2, 3] = float("nan")
    assert "none NaN or +inf, got others in row 2" in message_of(
        lambda: vocab_parallel_sample(x, seed=0, group=group), RuntimeError
    )


def test_errors_of_the_other_functions(ranks):
    ranks.run(check_others, 3)


def check_later_disagreement(group) -> str:
    os.environ["SOFTMAX_EXT_COMPARE_RANKS"] = "always"
    try:
        call = {"group": group, "vocab_start": 5 * group.rank()}
        vocab_parallel_cross_entropy(torch.randn(4, 5), torch.zeros(4, dtype=torch.int64), **call)
        rows = 4 + group.rank() // 2  # of which rank 2 alone has others now
        logits, target = torch.randn(rows, 5), torch.zeros(rows, dtype=torch.int64)
        return message_of(lambda: vocab_parallel_cross_entropy(logits, target, **call), ValueError)
    finally:
        del os.environ["SOFTMAX_EXT_COMPARE_RANKS"]


def test_every_call_is_compared_where_that_is_asked_for(ranks):
    (message,) = set(ranks.run(check_later_disagreement, 3))
    assert "expected as many rows on all ranks of the group, got [4, 4, 5]" in message


def check_timeout(group) -> float:
    """A rank that fails between two calls leaves the others in the second until the group's timeout."""
    impatient = dist.new_group([0, 1, 2], timeout=timedelta(seconds=3))
    logits, target = torch.randn(4, 5), torch.zeros(4, dtype=torch.int64)
    call = {"group": impatient, "vocab_start": 5 * group.rank()}
    vocab_parallel_cross_entropy(logits, target, **call)
    begin = time.monotonic()
    if group.rank() != 1:
        message_of(lambda: vocab_parallel_cross_entropy(logits, target, **call), RuntimeError)
    return time.monotonic() - begin


def test_the_groups_timeout_ends_the_wait_for_a_rank_that_failed(ranks):
    first, _, last = ranks.run(check_timeout, 3)
    assert first < 60
    assert last < 60
