"""Tokens drawn from split classes are those that one process draws."""

from __future__ import annotations

import pytest
import sampling_reference
import torch
from ranks import Ranks

import softmax_ext
from softmax_ext.distributed import vocab_parallel_sample
from softmax_ext.distributed._random import uniforms

CLASSES = 41
ENDS = {2: (30, 41), 3: (5, 20, 41), 4: (9, 9, 36, 41)}
OPTIONS = {
    "plain": {},
    "temperature": {"temperature": 0.5},
    "temperature 0": {"temperature": 0.0},
    "infinite temperature": {"temperature": float("inf")},
    "top-k": {"top_k": 7},
    "top-k 1": {"top_k": 1},
    "top-p": {"top_p": 0.6},
    "top-p 0": {"top_p": 0.0},
    "min-p": {"min_p": 0.1},
    "all": {"temperature": 1.5, "top_k": 20, "top_p": 0.8, "min_p": 0.02},
    "of rows": {"top_k": "rows", "temperature": "rows", "top_p": "rows", "min_p": "rows"},
    "seeds of rows": {"seed": "rows"},
}


@pytest.fixture(scope="module")
def ranks():
    with Ranks(4) as ranks:
        yield ranks


def check(group, options: dict, dtype: torch.dtype, are_tied: bool) -> None:
    first, last = ([0, *ENDS[group.size()]])[group.rank() : group.rank() + 2]
    logits = torch.randn(4, 8, CLASSES, dtype=torch.float64) * 2
    logits[0, 0, :30] = -torch.inf
    logits[0, 1, 30:] = -torch.inf
    if are_tied:
        logits = (logits * 2).round() / 2  # thresholds fall on equal logits, which lie on several ranks
    logits = logits.to(dtype)
    options = dict(options)
    values = {
        "top_k": torch.randint(0, 12, (4, 8)),
        "temperature": torch.rand(4, 8, dtype=torch.float64) + 0.5,
        "top_p": torch.rand(8, dtype=torch.float64) + 0.3,
        "min_p": torch.rand(4, 1, dtype=torch.float64) * 0.2,
        "seed": torch.randint(-(2**62), 2**62, (4, 8)),
    }
    options = {"seed": 12345678901} | {k: values[k] if v == "rows" else v for k, v in options.items()}
    expected, of_expected = softmax_ext.sample(logits, num_samples=16, **options)
    drawn, log_probs = vocab_parallel_sample(
        logits[..., first:last], group=group, vocab_start=first, num_samples=16, **options
    )
    assert torch.equal(drawn, expected)
    torch.testing.assert_close(log_probs, of_expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("world", ENDS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("are_tied", [False, True])
def test_tokens_are_those_of_one_process(ranks, world, options, are_tied):
    ranks.run(check, world, options, torch.float64, are_tied)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes(ranks, dtype):
    ranks.run(check, 3, {"top_p": 0.7}, dtype, True)


def test_random_numbers_are_those_of_philox():
    seeds = torch.tensor([0, 1, -1, 2**62 + 12345, -(2**63), 2**63 - 1])
    rows = torch.tensor([0, 5, 2**40, 1, 2**62, 7])
    ours = uniforms(seeds, rows, 5)
    for i, (seed, row) in enumerate(zip(seeds.tolist(), rows.tolist(), strict=True)):
        assert torch.equal(ours[i], sampling_reference.uniforms(seed, row, torch.arange(5)))
