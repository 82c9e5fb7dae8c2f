"""What has gone wrong in softmax kernels elsewhere, where no other test would see it here.

CONTRIBUTING.md has the table of all of them; the tests of kernels are in tests/simt/kernels/test_pitfalls.cpp, those of
the cross-entropy's options in test_cross_entropy_pitfalls.py.
"""

import math
import re
from pathlib import Path

import pytest
import reference
import tolerances
import torch
import torch.nn.functional as F
from backend import cpu_kernels_only
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import softmax_ext

INF, NAN = math.inf, math.nan
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
HALVES = [torch.bfloat16, torch.float16]
NORMALIZATIONS = ["softmax", "log_softmax"]
# One for each mapping of float32 rows to threads: slab, warp, block, cluster.
LENGTHS = [7, 101, 1001, 20_001]

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)

OPERATORS = {
    "softmax": lambda x, target: softmax_ext.softmax(x, 1),
    "log_softmax": lambda x, target: softmax_ext.log_softmax(x, 1),
    "logsumexp": lambda x, target: softmax_ext.logsumexp(x, 1),
    "cross_entropy": lambda x, target: softmax_ext.cross_entropy(x, target, reduction="none"),
    "entropy": lambda x, target: softmax_ext.entropy(x, 1),
    "masked_softmax": lambda x, target: softmax_ext.masked_softmax(x, target.unsqueeze(1) >= 0, 1),
}
RESULTS = [result for name in OPERATORS for result in (name, f"gradient of {name}")]


def every_result(x, target, upstream):
    """RESULTS along dim 1; the gradient of what has one number per row is that of the row's first element."""
    x = x.detach().requires_grad_()
    results = []
    for function in OPERATORS.values():
        value = function(x, target)
        grad = upstream if value.dim() == x.dim() else upstream.select(1, 0).to(value.dtype)
        results += [value, *torch.autograd.grad(value, x, grad)]
    return results


def assert_same_bits(actual, expected):
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


# Offsets and layouts


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((3, 5), (2**30, 1)),  # rows lie far apart,
        ((3, 5), (7, 2**29)),  # elements do,
        ((2, 5, 3), (2**31, 3, 1)),  # and each dim along one that is not last
        ((2, 5, 3), (16, 2**29, 1)),
        ((2, 5, 3), (16, 3, 2**30)),
    ],
)
def test_offsets_beyond_2_to_31_elements_are_followed(shape, strides):
    memory = torch.empty(2**31 + 2**28, dtype=torch.bfloat16)  # on the CPU, of pages that are there once touched
    x = memory.as_strided(shape, strides).copy_(torch.randn(shape))
    grad = memory.as_strided(shape, strides, storage_offset=2**27).copy_(torch.randn(shape))
    target = torch.randint(5, (*shape[:1], *shape[2:]))
    near = (tensor.clone(memory_format=torch.contiguous_format) for tensor in (x, grad))
    # To rounding: sums of elements that are no neighbours have another order.
    for far, expected in zip(every_result(x, target, grad), every_result(next(near), target, next(near)), strict=True):
        tolerance = 2**-7 if far.dtype == torch.bfloat16 else 2**-20
        torch.testing.assert_close(far, expected, rtol=tolerance, atol=tolerance / 8, equal_nan=True)


@dtypes
@pytest.mark.parametrize("length", LENGTHS)
def test_rows_at_every_offset_give_the_bits_of_aligned_rows(dtype, length):
    rows = 2
    x, grad = torch.randn(rows, length).to(dtype), torch.randn(rows, length).to(dtype)
    target = torch.randint(length, (rows,))
    expected = every_result(x, target, grad)

    def at_offset(tensor, offset):
        return torch.empty(tensor.numel() + offset, dtype=tensor.dtype)[offset:].view_as(tensor).copy_(tensor)

    for offset in range(1, 16) if length < 10_000 else (1, 6, 11):
        actual = every_result(at_offset(x, offset), at_offset(target, offset), at_offset(grad, offset * 3 % 16))
        assert_same_bits(actual, expected)


@pytest.mark.parametrize("layout", ["one number", "one row", "one column", "sliced", "transposed"])
@pytest.mark.parametrize("length", LENGTHS)
def test_upstream_gradients_of_every_layout_are_followed(layout, length):
    x, dense = torch.randn(3, length), torch.randn(3, length)
    target = torch.randint(length, (3,))
    dense[1] = 0
    grad = {
        "one number": dense[0, 0].expand(3, length),
        "one row": dense[:1].expand(3, length),
        "one column": dense[:, :1].expand(3, length),
        "sliced": torch.stack([dense, dense], 2)[..., 1],
        "transposed": dense.t().contiguous().t(),
    }[layout]
    actual = every_result(x, target, grad)
    assert_same_bits(actual, every_result(x, target, grad.clone(memory_format=torch.contiguous_format)))
    if not grad[1].any():
        assert not any(gradient[1].any() for gradient in actual[1::2])


# Special values


@dtypes
@pytest.mark.parametrize("length", LENGTHS)
def test_a_row_without_probabilities_spoils_no_other_row(dtype, length):
    x, grad = torch.randn(7, length).to(dtype), torch.randn(7, length).to(dtype)
    target = torch.randint(length, (7,))
    clean = every_result(x, target, grad)
    x[1::2] = -INF
    x[3, length // 2], x[5, length // 2] = NAN, INF
    special = {"logsumexp": [-INF, NAN, INF], "gradient of logsumexp": [0, NAN, None]}  # None: NaN at +inf, as in torch
    for actual, expected, name in zip(every_result(x, target, grad), clean, RESULTS, strict=True):
        assert_same_bits([actual[::2]], [expected[::2]])
        for row, value in zip(actual[1::2], special.get(name, [NAN] * 3), strict=True):
            if value is not None:
                assert_same_bits([row], [torch.full_like(row, value)])


@pytest.mark.parametrize("temperature", [1e-6, 1e-30, 1e-42, 1e30, INF])
@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_no_temperature_makes_anything_of_minus_infinity(name, temperature):
    x = torch.tensor([[-INF, 1.0, 0.5, -INF], [3.0, -INF, -INF, 3.0]])
    expected = getattr(reference, name)(x, 1, temperature)
    expected[expected < torch.finfo(torch.float32).min] = -INF
    for given in (temperature, torch.tensor(temperature), torch.full((2, 1), temperature)):
        actual = getattr(softmax_ext, name)(x, 1, temperature=given)
        tolerances.assert_within(actual, expected, 4 * tolerances.ulp(expected, torch.float32))


# Accuracy


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("prob", [0.9, 0.99, 0.999, 1 - 1e-6])
@pytest.mark.parametrize("length", LENGTHS)
def test_the_true_class_gradient_is_rounded_once(dtype, prob, length):
    x = torch.zeros(4, length)
    target = torch.tensor([0, length // 2, length // 3, length - 1])
    x[range(4), target] = math.log(prob / (1 - prob) * (length - 1))
    x = (x + 0.1 * torch.rand(4, length)).to(dtype).requires_grad_()
    gradients = [
        torch.autograd.grad(f(x, target, reduction="sum"), x)[0] for f in (softmax_ext.cross_entropy, F.cross_entropy)
    ]
    probs = reference.softmax(x.detach(), 1)
    others = 1 - F.one_hot(target, length)
    # Without a cancellation in float64 either.
    expected = torch.where(others == 1, probs, -(probs * others).sum(1, keepdim=True))
    tolerances.assert_within(
        gradients[0],
        expected,
        0.5 * tolerances.ulp(expected, dtype) + 16 * tolerances.unit(torch.float32) * expected.abs(),
    )
    ours, theirs = ((gradient.double() - expected).norm() for gradient in gradients)
    assert ours <= 1.01 * theirs


@dtypes
@pytest.mark.parametrize("length", LENGTHS)
def test_a_constant_added_to_every_logit_changes_no_bit(dtype, length):
    # Logits of whole steps at the offset: the addition is exact, and so are all differences.
    step = 8192 * torch.finfo(dtype).eps
    x = (step * torch.randint(-40, 40, (3, length))).to(dtype)
    target, grad = torch.randint(length, (3,)), torch.randn(3, length).to(dtype)
    results = every_result(x, target, grad)
    for offset in (8192, -8192):
        shifted = x + offset
        assert torch.equal(shifted.double() - offset, x.double())
        for actual, expected, name in zip(every_result(shifted, target, grad), results, RESULTS, strict=True):
            if name == "logsumexp":
                exact = torch.logsumexp(x.double(), 1) + offset
                tolerances.assert_within(actual, exact, tolerances.logsumexp_bound(exact, exact, dtype))
            else:
                assert_same_bits([actual], [expected])


# Targets


def test_a_uint8_target_of_156_is_a_class_and_not_minus_100():
    x = torch.randn(3, 200, requires_grad=True)
    target = torch.tensor([156, 0, 199])
    expected = F.cross_entropy(x, target, reduction="none")
    torch.testing.assert_close(softmax_ext.cross_entropy(x, target.to(torch.uint8), reduction="none"), expected)
    actual = softmax_ext.cross_entropy(x, target.to(torch.uint8), ignore_index=156)
    torch.testing.assert_close(actual, expected[1:].mean())


@cpu_kernels_only  # on CUDA it is an assertion of the device
@pytest.mark.parametrize(("dtype", "value"), [(torch.int32, -1), (torch.int32, 2**31 - 1), (torch.uint8, 255)])
def test_a_target_of_a_small_type_that_is_out_of_range_is_named(dtype, value):
    target = torch.tensor([0, value, 1], dtype=dtype)
    with pytest.raises(IndexError, match=f"got {value} at position 1"):
        softmax_ext.cross_entropy(torch.randn(3, 7), target)


# Autocast


def test_cross_entropy_under_autocast_makes_no_copy_of_the_logits():
    called = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            called.append((function, args))
            return function(*args, **(kwargs or {}))

    was = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", True)
    try:
        with FakeTensorMode():
            x = torch.empty(3, 4, dtype=torch.bfloat16, device="cuda")
            target = torch.empty(3, dtype=torch.long, device="cuda")
            with Record():
                loss = softmax_ext.cross_entropy(x, target)
    finally:
        torch.set_autocast_enabled("cuda", was)
    assert loss.dtype == torch.float32
    assert any(argument is x for _, args in called for argument in args)
    assert all(
        argument.numel() <= 3
        for _, args in called
        for argument in args
        if torch.is_tensor(argument) and argument is not x
    )


# The table


ROOT = Path(__file__).resolve().parents[2]


def lines_of_the_table():
    """The tests that each line names, as (file, test)."""
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## What goes wrong in softmax kernels")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return {line: [name.split("::") for name in re.findall(r"`([^`]*)`", line)] for line in lines}


def names_in(file):
    (path,) = (ROOT / "tests").rglob(file)
    pattern = r"^def (test_\w+)" if path.suffix == ".py" else r"^TEST_F\(\w+, (\w+)\)"
    return set(re.findall(pattern, path.read_text(), re.MULTILINE))


def test_each_line_of_the_table_names_tests_that_exist():
    lines = lines_of_the_table()
    assert len(lines) == 31
    for line, tests in lines.items():
        assert tests or "no test: " in line or "to come with " in line, line
        for file, test in tests:
            assert test in names_in(file), f"{file}::{test}"


def test_the_table_has_each_test_that_is_named_for_a_pitfall():
    in_the_table = {(file, test) for tests in lines_of_the_table().values() for file, test in tests}
    for file in ("test_pitfalls.py", "test_cross_entropy_pitfalls.py", "test_pitfalls.cpp"):
        for test in names_in(file):
            assert (file, test) in in_the_table or "the_table" in test, f"{file}::{test}"
