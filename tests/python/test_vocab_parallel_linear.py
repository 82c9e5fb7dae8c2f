"""The loss of a layer whose classes are split beside that of one process."""

from __future__ import annotations

import pytest
import torch
from ranks import Ranks
from torch.distributed.tensor.debug import CommDebugMode

import softmax_ext
from softmax_ext.distributed import vocab_parallel_linear_cross_entropy
from softmax_ext.distributed._collectives import SumOfShards

CLASSES, FEATURES, ROWS = 23, 5, 9
ENDS = {2: (15, 23), 3: (5, 11, 23), 4: (9, 9, 20, 23)}
CLOSE = {"rtol": 1e-12, "atol": 1e-12}
OPTIONS = {
    "plain": {},
    "chunks": {"chunk": 4, "label_smoothing": 0.1},
    "bias and all": {
        "bias": True, "chunk": 2, "label_smoothing": 0.1, "z_loss": 0.1, "softcap": 4.0, "weight": True, "temperature": 0.7
    },
    "none": {"reduction": "none", "chunk": 5},
    "temperature of rows": {"temperature": "rows", "chunk": 4},
    "probabilities": {"probabilities": True, "chunk": 4},
}  # fmt: skip


@pytest.fixture(scope="module")
def ranks():
    with Ranks(4) as ranks:
        yield ranks


def check(group, options: dict) -> None:
    options = dict(options)
    first, last = ([0, *ENDS[group.size()]])[group.rank() : group.rank() + 2]
    x, w = torch.randn(ROWS, FEATURES, dtype=torch.float64), torch.randn(CLASSES, FEATURES, dtype=torch.float64)
    target = torch.randint(0, CLASSES, (ROWS,))
    target[4] = -100
    shard_of_target = target
    if options.pop("probabilities", False):
        target = torch.randn(ROWS, CLASSES, dtype=torch.float64).softmax(1)
        shard_of_target = target[:, first:last]
    bias = torch.randn(CLASSES, dtype=torch.float64) if options.pop("bias", False) else None
    weight = torch.rand(CLASSES, dtype=torch.float64) if options.pop("weight", False) else None
    if options.get("temperature") == "rows":
        options["temperature"] = torch.rand(ROWS, 1, dtype=torch.float64) + 0.5
    x_one, w_one = x.clone().requires_grad_(), w.clone().requires_grad_()
    b_one = None if bias is None else bias.clone().requires_grad_()
    leaves_one = [t for t in (x_one, w_one, b_one) if t is not None]
    of_one = {name: value for name, value in options.items() if name != "chunk"}
    logits = torch.nn.functional.linear(x_one, w_one, b_one)
    expected = softmax_ext.cross_entropy(logits, target, weight, **of_one)
    x_rank, w_rank = x.clone().requires_grad_(), w[first:last].clone().requires_grad_()
    b_rank = None if bias is None else bias[first:last].clone().requires_grad_()
    leaves = [t for t in (x_rank, w_rank, b_rank) if t is not None]

    def loss_of_rank():
        return vocab_parallel_linear_cross_entropy(
            x_rank,
            w_rank,
            shard_of_target,
            linear_bias=b_rank,
            weight=None if weight is None else weight[first:last],
            group=group,
            vocab_start=first,
            **options,
        )

    loss_of_rank()
    with CommDebugMode() as mode:
        loss = loss_of_rank()
    assert mode.get_total_counts() == 1
    torch.testing.assert_close(loss, expected, **CLOSE)
    upstream = torch.rand_like(expected)
    made_of_one = torch.autograd.grad(expected, leaves_one, upstream, create_graph=True)
    with CommDebugMode() as mode:
        made = torch.autograd.grad(loss, leaves, upstream, retain_graph=True)
    assert mode.get_total_counts() == 1  # of the input's gradient
    for parts in (made, torch.autograd.grad(loss, leaves, upstream, create_graph=True)):
        torch.testing.assert_close(parts[0], made_of_one[0], **CLOSE)
        for part, whole in zip(parts[1:], made_of_one[1:], strict=True):
            torch.testing.assert_close(part, whole[first:last], **CLOSE)
    split = sum((part**3).sum() for part in parts[1:])
    of_ranks = SumOfShards.apply(split, group.group_name) + (parts[0] ** 3).sum()
    second = torch.autograd.grad(of_ranks, leaves)
    second_of_one = torch.autograd.grad(sum((part**3).sum() for part in made_of_one), leaves_one)
    torch.testing.assert_close(second[0], second_of_one[0], rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(second[1], second_of_one[1][first:last], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("world", ENDS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_loss_and_derivatives_are_those_of_one_process(ranks, world, options):
    ranks.run(check, world, options)


def check_leading_dims(group) -> None:
    first, last = ([0, *ENDS[group.size()]])[group.rank() : group.rank() + 2]
    x, w = torch.randn(2, 3, FEATURES), torch.randn(CLASSES, FEATURES)
    target = torch.randint(0, CLASSES, (2, 3))
    loss = vocab_parallel_linear_cross_entropy(
        x.bfloat16(), w[first:last].bfloat16(), target, group=group, vocab_start=first, reduction="none", chunk=4
    )
    expected = softmax_ext.linear_cross_entropy(x.bfloat16(), w.bfloat16(), target, reduction="none")
    assert loss.dtype == torch.float32
    # The products are those of shards: their rounding to bfloat16 is the same.
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=1e-2)


def test_leading_dims_and_bfloat16(ranks):
    ranks.run(check_leading_dims, 3)
