"""Tensors of more than 2^31 elements, and what is left where memory runs out."""

import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import torch
from backend import cpu_kernels_only

import softmax_ext

pytestmark = cpu_kernels_only

COLUMNS = 2**16
ROWS = 2**15 + 2  # 2^31 elements and two rows more
#: On both sides of the element at which an index of 32 bits would end, or turn negative.
SOME = [0, 1, 2**14 - 1, 2**14, 2**15 - 1, 2**15, ROWS - 1]


def rows_beyond_2_to_31_elements():
    """[ROWS, COLUMNS] in which each row is one of three, without the memory: rows begin anywhere in two."""
    torch.manual_seed(0)
    memory = torch.randn(COLUMNS + ROWS, dtype=torch.float32).bfloat16()
    return memory.as_strided((ROWS, COLUMNS), (1, 1))


def alone(function, *tensors):
    return torch.stack([function(*(tensor[row : row + 1].clone() for tensor in tensors))[0] for row in SOME])


REDUCTIONS = {
    "logsumexp": lambda x, target: softmax_ext.logsumexp(x, 1),
    "entropy": lambda x, target: softmax_ext.entropy(x, 1),
    "cross_entropy": lambda x, target: softmax_ext.cross_entropy(x, target, reduction="none"),
    "cross_entropy with options": lambda x, target: softmax_ext.cross_entropy(
        x, target, reduction="none", label_smoothing=0.1, z_loss=0.1
    ),
    "sample": lambda x, target: softmax_ext.sample(x, seed=target)[1],
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_each_row_beyond_2_to_31_elements_is_reduced_as_alone(name):
    x, target = rows_beyond_2_to_31_elements(), torch.arange(ROWS) * 2 % COLUMNS
    assert x.numel() > 2**31
    result = REDUCTIONS[name](x, target)
    assert torch.equal(result[SOME], alone(REDUCTIONS[name], x, target))


def available_bytes():
    (line,) = (line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) * 1024


def need(gibibytes, what):
    """What is left out is said in the summary of a run, not only with -rs."""
    if available_bytes() < gibibytes * 2**30:
        reason = f"NOT TESTED: {what}, which takes {gibibytes} GiB; {available_bytes() / 2**30:.1f} are there"
        warnings.warn(reason, stacklevel=2)
        pytest.skip(reason)


MAPS = {
    "softmax": lambda x: softmax_ext.softmax(x, 1),
    "log_softmax": lambda x: softmax_ext.log_softmax(x, 1),
    "masked_softmax": lambda x: softmax_ext.masked_softmax(x, torch.arange(COLUMNS) % 3 > 0, 1),
}


@pytest.mark.parametrize("name", MAPS)
def test_each_row_of_a_result_of_more_than_2_to_31_elements_is_that_of_it_alone(name):
    need(6, f"{name} with a result of more than 2^31 elements")
    x = rows_beyond_2_to_31_elements()
    result = MAPS[name](x)
    assert result.is_contiguous()
    assert torch.equal(result[SOME], alone(MAPS[name], x))


def test_columns_and_gradients_of_more_than_2_to_31_elements_are_those_of_each_alone():
    need(11, "a gradient of more than 2^31 elements")
    x = rows_beyond_2_to_31_elements()

    def loss_gradient(x, target):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(softmax_ext.cross_entropy(x, target, reduction="sum"), x)[0]

    target = torch.arange(ROWS) % COLUMNS
    gradient = loss_gradient(x, target)
    assert torch.equal(gradient[SOME], alone(loss_gradient, x, target))
    del gradient
    of_columns = softmax_ext.softmax(x, 0)
    for column in (0, 2**15, COLUMNS - 1):
        expected = torch.softmax(x[:, column].double(), 0)
        torch.testing.assert_close(of_columns[:, column].double(), expected, rtol=2**-8, atol=0)


# Memory that runs out. Each in a process of its own, whose limit is a little above what it has.


EXHAUSTING = {
    "softmax": "softmax_ext.softmax(big, 1)",
    "log_softmax": "softmax_ext.log_softmax(big, 1, temperature=0.5)",
    "softmax along columns": "softmax_ext.softmax(big, 0)",
    "softmax in float64": "softmax_ext.softmax(big, 1, torch.float64)",
    "masked_softmax": "softmax_ext.masked_softmax(big, torch.ones(COLUMNS).bool(), 1)",
    "causal_softmax": "softmax_ext.causal_softmax(big)",
    "softmax backward": "torch.ops.softmax_ext._softmax_backward(big, big, None, 1, 1.0, 6)",
    "logsumexp backward": "torch.autograd.grad(softmax_ext.logsumexp(leaf, 1).sum(), leaf)",
    "entropy backward": "torch.autograd.grad(softmax_ext.entropy(leaf, 1).sum(), leaf)",
    "cross_entropy backward": "torch.autograd.grad(softmax_ext.cross_entropy(leaf, target), leaf)",
    "cross_entropy, gradient in forward": "softmax_ext.cross_entropy(leaf, target, gradient='forward')",
    "cross_entropy of probabilities": "softmax_ext.cross_entropy(big, big.double())",
    "linear_cross_entropy": "softmax_ext.linear_cross_entropy(big, torch.ones(5, COLUMNS, requires_grad=True), target % 5,"
    " gradient='forward', chunk=2**40) + softmax_ext.linear_cross_entropy(leaf, torch.ones(5, COLUMNS), target % 5).backward()",
    "sample": "softmax_ext.sample(big, num_samples=2**25)",
    "rows that are gathered": "softmax_ext.logsumexp(torch.zeros(1).expand(2**28, 2), 0, temperature=torch.ones(1, 2))"
    " + softmax_ext.softmax(torch.zeros(2).double().as_strided((1, 2**28), (0, 0)), 1)",
}


@pytest.mark.parametrize("name", EXHAUSTING)
def test_where_memory_runs_out_torchs_error_comes_and_a_later_call_works(name):
    program = f"""
        import resource, torch, softmax_ext
        ROWS, COLUMNS = 2**12, 2**14
        big = torch.randn(COLUMNS).expand(ROWS, COLUMNS)  # 256 MiB, had it the memory
        leaf = big.detach().requires_grad_()
        target = torch.arange(ROWS)
        small = torch.randn(7, 300, requires_grad=True)

        def results():
            value = softmax_ext.softmax(small, 1)
            loss = softmax_ext.cross_entropy(small, target[:7], label_smoothing=0.1)
            return value, loss, *torch.autograd.grad(value.square().sum() + loss, small)

        expected = results()
        softmax_ext.logsumexp(torch.randn(64, 5000), 1)  # the threads are there
        limits = resource.getrlimit(resource.RLIMIT_AS)
        now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        for _ in range(2):
            resource.setrlimit(resource.RLIMIT_AS, (now + 96 * 2**20, limits[1]))
            try:
                {EXHAUSTING[name]}
            except RuntimeError as error:
                print("out of memory" if "alloc" in str(error) else error)
            else:
                print("no error")
            # Where there is no more, and where there is again.
            for actual, wanted in zip(results(), expected):
                assert torch.equal(actual, wanted)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        y = softmax_ext.softmax(big, 1)
        assert torch.equal(y[-1], softmax_ext.softmax(big[0].clone(), 0))
    """
    shown = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines() == ["out of memory"] * 2
