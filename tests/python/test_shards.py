"""The kernels of shards and the merge of what they make: any number of shards, in one process."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import softmax_ext
from softmax_ext.distributed._formulas import rows_of
from softmax_ext.distributed._merge import log_sum_exp, merge, statistics

ops = torch.ops.softmax_ext
CLOSE = {"rtol": 1e-12, "atol": 1e-12}
ROWS = 40

OPTIONS = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.1},
    "weights": {"weight": True, "label_smoothing": 0.2},
    "softcap": {"softcap": 5.0, "temperature": 0.5},
    "temperatures of rows": {"temperature": "rows", "label_smoothing": 0.1},
    "temperature 0": {"temperature": 0.0},
    "infinite temperature": {"temperature": float("inf"), "label_smoothing": 0.1},
    "probabilities": {"probabilities": True, "weight": True, "label_smoothing": 0.1},
}


def ranges(classes: int, shards: int) -> list[tuple[int, int]]:
    """Uneven ones, and where there are many, some of no class."""
    cuts = sorted(torch.randint(0, classes + 1, (shards - 1,), device="cpu").tolist())
    return list(itertools.pairwise([0, *cuts, classes]))


class Shards:
    """A loss and its gradient by the primitives of shards."""

    def __init__(
        self, x: Tensor, target: Tensor, shards: int, options: dict, weight=None, temperature=None, others: int = 0
    ):
        classes = x.shape[1] + others  # that no shard has
        scale = 1.0
        if isinstance(options.get("temperature"), float):
            scale = 1 / options["temperature"] if options["temperature"] else float("inf")
        smoothing, softcap = options.get("label_smoothing", 0.0), options.get("softcap", 0.0)
        self.calls = []
        for first, last in ranges(x.shape[1], shards):
            part = slice(first, last)
            of_part = target[:, part] if target.is_floating_point() else target
            own = None if weight is None else weight[part]
            rest = (1, first, classes, -100, own, temperature, scale, smoothing, softcap)
            self.calls.append((x[:, part], of_part, rest))
        self.parts = torch.stack([ops._cross_entropy_shard(x, t, *rest) for x, t, rest in self.calls])
        self.rows = merge(self.parts, rows_of(temperature, scale, x, 1))

    def gradient(self, grad: Tensor, grad_logsumexp: Tensor) -> Tensor:
        return torch.cat(
            [
                ops._cross_entropy_shard_backward(
                    grad, grad * (self.rows.spread - part[3]) + grad_logsumexp, x, t, statistics(self.rows), *rest
                )
                for (x, t, rest), part in zip(self.calls, self.parts, strict=True)
            ],
            1,
        )


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(("shards", "classes"), [(1, 200), (2, 200), (7, 200), (64, 200), (3, 40), (4, 9000)])
def test_losses_and_gradients_are_those_of_whole_rows(shards, classes, options):
    options = dict(options)
    x = torch.randn(ROWS, classes, dtype=torch.float64) * 5
    x[0, : classes // 2] = -torch.inf
    x[1] = -torch.inf
    x[2, 3] = torch.inf
    x[3, 5] = torch.nan
    target = torch.randint(0, classes, (ROWS,))
    target[4] = -100
    x[4] = torch.nan
    x[5, target[5]] = -torch.inf
    if options.pop("probabilities", False):
        x[4] = 1
        target = torch.randn(ROWS, classes, dtype=torch.float64).softmax(1)
    weight = torch.rand(classes, dtype=torch.float64) if options.pop("weight", False) else None
    temperature = None
    if options.get("temperature") == "rows":
        temperature = options["temperature"] = torch.rand(ROWS, 1, dtype=torch.float64) + 0.5
        temperature[7], temperature[8], temperature[9] = 0, torch.inf, -1
    of_one = x.clone().requires_grad_()
    expected = softmax_ext.cross_entropy(of_one, target, weight, reduction="none", **options)
    upstream = torch.rand(ROWS, dtype=torch.float64)
    expected.backward(upstream)
    made = Shards(x, target, shards, options, weight, temperature)
    same = {"equal_nan": True, **CLOSE}
    losses = made.rows.losses
    if not target.is_floating_point():
        losses = losses.masked_fill(target == -100, 0)
    torch.testing.assert_close(losses, expected, **same)
    torch.testing.assert_close(made.gradient(upstream, torch.zeros_like(upstream)), of_one.grad, **same)


@pytest.mark.parametrize("shards", [1, 3, 64])
def test_log_sum_exp(shards):
    x = torch.randn(ROWS, 100, dtype=torch.float64) * 50
    x[0, :70] = -torch.inf
    x[1] = -torch.inf
    x[2, 3] = torch.inf
    x[3, 5] = torch.nan
    of_one = x.clone().requires_grad_()
    expected = softmax_ext.logsumexp(of_one, 1, temperature=2.0)
    upstream = torch.rand(ROWS, dtype=torch.float64)
    expected.backward(upstream)
    made = Shards(x, torch.full((ROWS,), 100), shards, {"temperature": 2.0}, others=1)
    same = {"equal_nan": True, **CLOSE}
    torch.testing.assert_close(log_sum_exp(made.rows.max, made.rows.log_sum, 0.5), expected, **same)
    torch.testing.assert_close(made.gradient(torch.zeros_like(upstream), upstream), of_one.grad, **same)


def test_a_loss_near_0_keeps_its_digits():
    """Far from 0, too: a log-sum-exp in one float32 would leave none of them."""
    x = torch.full((3, 100), 1e4, dtype=torch.float32)
    target = torch.tensor([3, 99, 40])
    for row, height in enumerate((20, 30, 15)):
        x[row, target[row]] += height
    of_one = x.double().requires_grad_()
    expected = softmax_ext.cross_entropy(of_one, target, reduction="none")
    expected.sum().backward()
    made = Shards(x, target, 5, {})
    torch.testing.assert_close(made.rows.losses.double(), expected, rtol=1e-6, atol=0)
    ones = torch.ones(3)
    torch.testing.assert_close(made.gradient(ones, ones * 0).double(), of_one.grad, rtol=1e-6, atol=0)


def test_classes_out_of_range_are_an_error():
    x, target = torch.randn(2, 5), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"classes in \[0, 8\), got those from 4 to 9"):
        ops._cross_entropy_shard(x, target, 1, 4, 8, -100)
    parts = ops._cross_entropy_shard(x.to("meta"), target.to("meta"), 1, 4, 9, -100)
    assert parts.shape == (4, 2)
