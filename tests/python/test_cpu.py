"""The CPU kernels: their instruction sets, and results that do not depend on the number of threads."""

import math
import os
import subprocess
import sys
import textwrap

import pytest
import torch
import torch.nn.functional as F
from backend import cpu_kernels_only
from operators import DTYPE_CODES

import softmax_ext

pytestmark = cpu_kernels_only
LEVELS = ["portable", "avx2", "avx512"]
ops = torch.ops.softmax_ext


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("variable", ["SOFTMAX_EXT_CPU", "ATEN_CPU_CAPABILITY"])
@pytest.mark.parametrize("level", LEVELS)
def test_the_environment_caps_the_instruction_set(variable, level):
    of_torch = {"portable": "default"}.get(level, level)
    value = level if variable == "SOFTMAX_EXT_CPU" else of_torch
    environment = {"SOFTMAX_EXT_CPU": "", "ATEN_CPU_CAPABILITY": "", variable: value}
    environment = {name: value for name, value in environment.items() if value or name == "SOFTMAX_EXT_CPU"}
    shown = run('import softmax_ext; print(softmax_ext.info()["cpu"])', **environment)
    assert shown.returncode == 0, shown.stderr
    # The best that there is, if that is less.
    uncapped = run('import softmax_ext; print(softmax_ext.info()["cpu"])', SOFTMAX_EXT_CPU="").stdout.strip()
    assert shown.stdout.strip() == min(level, uncapped, key=LEVELS.index)


def test_an_unknown_instruction_set_is_an_error():
    shown = run("import softmax_ext, torch; softmax_ext.softmax(torch.ones(3), 0)", SOFTMAX_EXT_CPU="sse9")
    assert "ValueError: softmax_ext: expected SOFTMAX_EXT_CPU to be portable, avx2 or avx512, got sse9" in shown.stderr


def results(x, grad, target, dim):
    """What every operator yields along a dim of x."""
    code = DTYPE_CODES[x.dtype]
    y, log_y = ops._softmax(x, None, dim, 0.7, None), ops._log_softmax(x, None, dim, 0.7, None)
    losses, count, statistics, _ = ops._cross_entropy(x, target, dim, 0, 0, -100)
    logits = x.clone()
    sums = ops._logsumexp(x, None, dim, 0.7, None)
    return [
        y,
        log_y,
        losses,
        sums,
        ops._softmax_backward(grad, y, None, dim, 0.7, code),
        ops._log_softmax_backward(grad, log_y, None, dim, 0.7, code),
        ops._logsumexp_backward(torch.ones_like(sums), x, None, dim, 0.7),
        ops._cross_entropy_backward(torch.ones_like(losses), x, target, count, statistics, dim, 0, -100),
        *ops._cross_entropy_with_gradient(x, target, dim, 0, 0, -100),
        *ops._cross_entropy_in_place(logits, target, dim, 0, 0, -100),
        logits,
    ]


# One or few rows of several chunks, which threads share; many rows; batches; columns.
SHAPES = [
    ((1, 32_000), 1),
    ((2, 20_003), 1),
    ((2, 9001), 1),
    ((5, 9001), 1),
    ((700, 17), 1),
    ((300, 333), 1),
    ((9000, 3), 1),
    ((2, 50, 300), 1),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("shape", "dim"), SHAPES, ids=str)
def test_the_number_of_threads_changes_no_bit(shape, dim, dtype):
    x, grad = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    x.view(-1)[[0, 1, -1]] = torch.tensor([-torch.inf, 60, -60], dtype=dtype)
    target = torch.randint(shape[dim], shape[:dim] + shape[dim + 1 :])
    threads = torch.get_num_threads()
    try:
        of_threads = []
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            of_threads.append(results(x, grad, target, dim))
    finally:
        torch.set_num_threads(threads)
    for other in of_threads[1:]:
        for a, b in zip(of_threads[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", [2, 8, 9, 16, 17, 64, 65, 127, 128, 129, 256, 4096, 4097, 9001])
def test_a_row_has_the_same_bits_alone_and_in_a_batch(length, dtype):
    x, grad = torch.randn(19, length).to(dtype), torch.randn(19, length).to(dtype)
    target = torch.randint(length, (19,))
    together = results(x, grad, target, 1)
    for row in (0, 7, 18):
        alone = results(x[row : row + 1].clone(), grad[row : row + 1].clone(), target[row : row + 1], 1)
        for a, b in zip(together, alone, strict=True):
            # Of each row, but for how many there are.
            if a.dim() > 0:
                of_row = a[:, row : row + 1] if a.shape[0] == 2 else a[row : row + 1]
                assert torch.equal(of_row, b)


@pytest.mark.parametrize("level", LEVELS)
def test_every_instruction_set_has_accurate_results(level):
    code = """
        import torch, softmax_ext
        torch.manual_seed(0)
        for length in (1, 2, 5, 8, 9, 16, 17, 31, 32, 33, 64, 65, 100, 127, 128, 129, 1000, 4097, 20000):
            for spread in (0.1, 1, 30):
                x = spread * torch.randn(9, length)
                exact = torch.softmax(x.double(), 1)
                distance = x.amax(1, keepdim=True).double() - x
                for result, dim in ((softmax_ext.softmax(x, 1), 1), (softmax_ext.softmax(x.t().contiguous(), 0).t(), 0)):
                    bound = 8 * 2**-24 * (1 + distance) * exact + 2**-149
                    assert ((result - exact).abs() <= bound).all(), (length, spread, dim)
        print(softmax_ext.info()["cpu"])
    """
    shown = run(code, SOFTMAX_EXT_CPU=level)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.strip() in LEVELS[: LEVELS.index(level) + 1]


# Bits of a float32 NaN: rounded as a number is, they would become −0 in bfloat16, or keep low bits.
@pytest.mark.parametrize("payload", [0x7FFFFFFF, 0x7FC00001, -1])
@pytest.mark.parametrize("length", [3, 40, 300, 5000])
@pytest.mark.parametrize("infinity", [False, True], ids=["finite", "infinity"])
@pytest.mark.parametrize("dim", [1, 0])
def test_a_gradient_of_any_nan_is_nan_in_bfloat16(dim, infinity, length, payload):
    shape = (2, length) if dim == 1 else (length, 2)
    nan = torch.full((2,), payload, dtype=torch.int64).to(torch.int32).view(torch.float32)
    x = torch.randn(shape).to(torch.bfloat16)
    if infinity:
        x.select(dim, 1).fill_(torch.inf)
    gradient = ops._logsumexp_backward(nan.view((2, 1) if dim == 1 else (1, 2)), x, None, dim, 1.0)
    assert gradient.isnan().all()
    if not infinity:
        target = torch.tensor([0, 1])
        _, count, statistics, _ = ops._cross_entropy(x, target, dim, 0, 0, -100)
        assert ops._cross_entropy_backward(nan, x, target, count, statistics, dim, 0, -100).isnan().all()


@pytest.mark.parametrize("name", ["logsumexp", "log_softmax"])
def test_more_equal_logits_along_a_column_than_a_float_counts(name):
    length = 2**24 + 2**22
    x = torch.zeros(1, 2).expand(length, 2)
    result = getattr(softmax_ext, name)(x, 0)
    expected = math.log(length) * (1 if name == "logsumexp" else -1)
    torch.testing.assert_close(result[-1], torch.full_like(result[-1], expected), rtol=2**-22, atol=0)


def test_long_columns_of_16_bits_take_no_memory_beside_the_result():
    code = """
        import resource, torch, softmax_ext
        torch.set_num_threads(1)
        x = torch.zeros(1_000_000, 2, dtype=torch.bfloat16)
        softmax_ext.softmax(x[:10_000], 0)
        resource.setrlimit(resource.RLIMIT_AS, (int(open("/proc/self/statm").read().split()[0]) * 4096 + 2**26,) * 2)
        y = softmax_ext.softmax(x, 0)
        assert (y == y[0]).all()
    """
    shown = run(code)
    assert shown.returncode == 0, shown.stderr


def test_bits_of_cross_entropy_do_not_depend_on_threads_through_the_python_function():
    x, target = torch.randn(3, 40_000), torch.randint(40_000, (3,))
    threads = torch.get_num_threads()
    try:
        losses = []
        for number in (1, 3):
            torch.set_num_threads(number)
            losses.append(softmax_ext.cross_entropy(x, target))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*losses)
    torch.testing.assert_close(losses[0], F.cross_entropy(x, target))
