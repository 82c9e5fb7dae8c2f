"""Every operator at row lengths on both sides of every bound of the CUDA launch policies, against float64."""

import pytest
import torch
import torch.nn.functional as F
from backend import lengths_at_bounds
from operators import some_columns, torch_entropy, torch_masked_softmax

import softmax_ext

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
PAIRS = {
    "softmax": (softmax_ext.softmax, torch.softmax),
    "log_softmax": (softmax_ext.log_softmax, torch.log_softmax),
    "logsumexp": (softmax_ext.logsumexp, torch.logsumexp),
    "entropy": (softmax_ext.entropy, torch_entropy),
    "masked_softmax": (
        lambda x, dim: softmax_ext.masked_softmax(x, kept(x), dim),
        lambda x, dim: torch_masked_softmax(x, kept(x), dim),
    ),
}
# Beyond the longest row that a cluster keeps, in any dtype.
LONGEST = 140_000


def kept(x):
    """A mask that keeps something of every row."""
    return some_columns(x)


dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def shapes(dtype):
    for length in lengths_at_bounds(dtype.itemsize, LONGEST):
        yield (3 if length < 10_000 else 1), length


def assert_near(actual, expected, dtype, scale=None):
    unit = torch.finfo(dtype).eps
    smallest = torch.finfo(dtype).tiny * unit  # the step of subnormal numbers
    scale = expected.abs().amax(-1, keepdim=True).clamp(min=1e-30) if scale is None else scale
    error = (actual.double() - expected).abs()
    assert (error <= 2 * unit * expected.abs() + 1e-6 * scale + smallest).all(), error.max()


@dtypes
@pytest.mark.parametrize("name", PAIRS)
def test_values_and_gradients(name, dtype):
    ours, theirs = PAIRS[name]
    for rows, length in shapes(dtype):
        x = (2 * torch.randn(rows, length, dtype=torch.float64)).to(dtype).requires_grad_()
        exact = x.detach().double().requires_grad_()
        value, expected = ours(x, 1), theirs(exact, 1)
        assert_near(value, expected.detach(), dtype)
        g = torch.randn_like(expected)
        (gradient,) = torch.autograd.grad(value, x, g.to(dtype))
        # The backward starts from the rounded output, if it is one of the output.
        rounded = value.detach().double()
        g = g.to(dtype).double()
        # What cancels in a gradient is as large as its largest term.
        scale = None
        if name in ("softmax", "masked_softmax"):
            scale = (g * rounded).abs().amax(1, keepdim=True)
            wanted = rounded * (g - (g * rounded).sum(1, keepdim=True))
        elif name == "log_softmax":
            wanted = g - rounded.exp() * g.sum(1, keepdim=True)
        else:
            (wanted,) = torch.autograd.grad(expected, exact, g)
        assert_near(gradient, wanted, dtype, scale)


@dtypes
def test_losses_and_gradients(dtype):
    for rows, length in shapes(dtype):
        x = (2 * torch.randn(rows, length, dtype=torch.float64)).to(dtype).requires_grad_()
        exact = x.detach().double().requires_grad_()
        target = torch.randint(length, (rows,))
        loss, expected = (f(tensor, target) for f, tensor in ((softmax_ext.cross_entropy, x), (F.cross_entropy, exact)))
        torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)
        loss.backward()
        expected.backward()
        assert_near(x.grad, exact.grad, dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_a_conversion_in_the_kernel(name, dtype):
    ours, theirs = PAIRS[name]
    for rows, length in shapes(dtype):
        x = torch.randn(rows, length).to(dtype).requires_grad_()
        exact = x.detach().double().requires_grad_()
        value, expected = ours(x, 1, torch.float32), theirs(exact, 1)
        assert value.dtype == torch.float32
        assert_near(value, expected.detach(), torch.float32)
        g = torch.randn_like(value)
        (gradient,) = torch.autograd.grad(value, x, g)
        (wanted,) = torch.autograd.grad(expected, exact, g.double())
        assert_near(gradient, wanted, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", PAIRS)
def test_a_row_has_the_same_bits_alone_and_in_a_batch(name, dtype):
    ours, _ = PAIRS[name]
    for _, length in shapes(dtype):
        x = torch.randn(5, length).to(dtype)
        together = ours(x, 1)
        for row in range(5):
            assert torch.equal(ours(x[row].clone(), 0), together[row]), length
