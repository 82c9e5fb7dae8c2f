"""The CUDA backend: what can be seen without a GPU, and values and gradients where there is one."""

import pytest
import reference
import tolerances
import torch

import softmax_ext

PRIMITIVES = [
    "_softmax",
    "_softmax_backward",
    "_log_softmax",
    "_log_softmax_backward",
    "_logsumexp",
    "_logsumexp_backward",
    "_cross_entropy",
    "_cross_entropy_backward",
    "_reduce_losses",
]
LONGEST = 1024


def has_cuda_kernel(primitive):
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"softmax_ext::{primitive}", "CUDA")


built_with_cuda = pytest.mark.skipif(not has_cuda_kernel("_softmax"), reason="this build has no CUDA kernels")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
both = pytest.mark.parametrize("name", ["softmax", "log_softmax"])


@built_with_cuda
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_every_primitive_is_registered_for_cuda(primitive):
    assert has_cuda_kernel(primitive)


def assert_accurate(name, actual, x, temperature=1.0):
    """The bounds of the CPU with an exponential of 2 ULP instead of 1, and float32 totals."""
    expected = getattr(reference, name)(x.cpu(), -1, temperature)
    if actual.dtype in (torch.bfloat16, torch.float16):
        torch.testing.assert_close(actual.cpu().double(), expected, rtol=2**-7, atol=2**-9)
        return
    distance = (x.cpu().double().amax(-1, keepdim=True) - x.cpu().double()) / temperature
    if name == "softmax":
        bound = 2 * tolerances.softmax_bound(expected, distance, actual.dtype, 1)
    else:
        bound = 2 * tolerances.log_softmax_bound(expected, distance, actual.dtype)
    tolerances.assert_within(actual.cpu(), expected, bound)


@on_gpu
@both
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_values_and_gradients_at_every_length(name, dtype):
    f = getattr(softmax_ext, name)
    for length in range(1, LONGEST + 1, 1 if dtype == torch.float32 else 13):
        x = (3 * torch.randn(5, length)).to(dtype)
        on_device = x.cuda().requires_grad_()
        y = f(on_device, -1)
        assert_accurate(name, y.detach(), x)
        g = torch.randn(5, length).to(dtype)
        (actual,) = torch.autograd.grad(y, on_device, g.cuda())
        on_host = x.requires_grad_()
        (expected,) = torch.autograd.grad(f(on_host, -1), on_host, g)
        torch.testing.assert_close(actual.cpu(), expected)


@on_gpu
@both
def test_layouts_and_misaligned_rows(name):
    f = getattr(softmax_ext, name)
    base = torch.randn(6, 5, 300, device="cuda")
    for x in (base, base.transpose(0, 2), base[..., 1:], base[..., ::3], base[:1].expand(4, 5, 300), base[0, 0, 7]):
        for dim in range(-max(x.dim(), 1), max(x.dim(), 1)):
            y = f(x, dim)
            assert y.is_contiguous()
            torch.testing.assert_close(y.cpu(), f(x.cpu(), dim))


@on_gpu
@both
def test_special_values_and_temperatures(name):
    f = getattr(softmax_ext, name)
    inf, nan = float("inf"), float("nan")
    x = torch.randn(8, 200)
    x[0, 3], x[1, 5], x[2], x[3, ::2] = nan, inf, -inf, -inf
    for temperature in (None, 0.0, 0.7, inf, torch.rand(8, 1) + 0.5, torch.tensor(-1.0)):
        on_device = temperature.cuda() if isinstance(temperature, torch.Tensor) else temperature
        torch.testing.assert_close(
            f(x.cuda(), 1, temperature=on_device).cpu(), f(x, 1, temperature=temperature), equal_nan=True
        )


@on_gpu
@both
def test_dtype_converts_in_the_kernel_and_autocast_gives_float32(name):
    f = getattr(softmax_ext, name)
    x = torch.randn(7, 100, device="cuda", dtype=torch.bfloat16)
    torch.testing.assert_close(f(x, 1, torch.float32).cpu(), f(x.cpu(), 1, torch.float32))
    with torch.autocast("cuda", dtype=torch.bfloat16):
        assert f(x, 1).dtype == torch.float32


@on_gpu
@both
def test_a_longer_row_is_an_error_that_names_both_lengths(name):
    message = f"{name} on CUDA: expected at most {LONGEST} elements in dim 1, got {LONGEST + 1}"
    with pytest.raises(NotImplementedError, match=message):
        getattr(softmax_ext, name)(torch.randn(2, LONGEST + 1, device="cuda"), 1)


@on_gpu
def test_what_is_not_available_yet_says_so():
    x = torch.randn(2, 3, device="cuda")
    with pytest.raises(NotImplementedError, match="logsumexp is not available on CUDA yet"):
        softmax_ext.logsumexp(x, 1)
    with pytest.raises(NotImplementedError, match="cross_entropy is not available on CUDA yet"):
        softmax_ext.cross_entropy(x, torch.tensor([0, 1], device="cuda"))
