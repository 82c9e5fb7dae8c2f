"""Values and gradients of the entropy against float64, from rows that are nearly one-hot to rows that are nearly alike."""

import math

import pytest
import reference
import tolerances
import torch
from operators import torch_entropy

import softmax_ext

INF, NAN = math.inf, math.nan
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# On both sides of what the CPU does at once, in a batch and in a chunk.
LENGTHS = [1, 2, 3, 7, 8, 9, 17, 100, 129, 1000, 4096, 4097, 20001]
DEVIATIONS = [1e-3, 1.0, 30.0]

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
lengths = pytest.mark.parametrize("length", LENGTHS)


class Expected:
    """Of rows along the last dim, in float64. ``spread`` is Σ p·(1 + D)², which bounds what the rounding of terms costs."""

    def __init__(self, x, temperature=1.0):
        x = x.double()
        self.distance = (x.amax(-1, keepdim=True) - x) / temperature
        log_probs = reference.log_softmax(x, -1, temperature)
        self.probs = log_probs.exp()
        finite = torch.where(self.probs > 0, self.distance, 0)
        self.mean_distance = (self.probs * finite).sum(-1, keepdim=True)
        log_sum = -log_probs.amax(-1, keepdim=True)
        self.entropy = (log_sum + self.mean_distance).squeeze(-1)
        self.spread = (self.probs * (1 + finite) ** 2).sum(-1, keepdim=True)
        self.gradient = self.probs * (finite - self.mean_distance) / temperature
        self.size = self.probs * (1 + finite) * (finite + self.mean_distance + self.spread) / temperature


def lane(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def assert_entropies_are_within_their_bound(actual, expected, dtype):
    assert actual.dtype == lane(dtype)
    bound = 6 * tolerances.unit(actual.dtype) * (expected.entropy + expected.spread.squeeze(-1))
    tolerances.assert_within(actual, expected.entropy, bound)


def assert_gradients_are_within_their_bound(actual, expected, dtype):
    bound = 10 * tolerances.unit(lane(dtype)) * expected.size * (1 + math.log(actual.shape[-1]))
    bound = bound + torch.finfo(lane(dtype)).smallest_normal * 1e-3
    if dtype in (torch.bfloat16, torch.float16):
        bound = bound + tolerances.ulp(expected.gradient, dtype)
    tolerances.assert_within(actual, expected.gradient, bound)


@dtypes
@lengths
def test_entropies_and_gradients_are_within_their_bound(dtype, length):
    for deviation in DEVIATIONS:
        x = (deviation * torch.randn(5, length, dtype=torch.float64)).to(dtype).requires_grad_()
        expected = Expected(x.detach())
        value = softmax_ext.entropy(x, 1)
        assert_entropies_are_within_their_bound(value, expected, dtype)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        assert gradient.dtype == dtype
        assert_gradients_are_within_their_bound(gradient, expected, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", [2, 5, 33, 700])
def test_a_dim_that_is_not_last(dtype, length):
    x = (3 * torch.randn(3, length, 37)).to(dtype).requires_grad_()
    expected = Expected(x.detach().transpose(1, 2))
    value = softmax_ext.entropy(x, 1)
    assert_entropies_are_within_their_bound(value, expected, dtype)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert_gradients_are_within_their_bound(gradient.transpose(1, 2), expected, dtype)


@pytest.mark.parametrize("temperature", [0.1, 0.7, 20.0])
def test_a_temperature_divides_the_logits(temperature):
    x = 3 * torch.randn(6, 300)
    expected = Expected(x, temperature)
    assert_entropies_are_within_their_bound(softmax_ext.entropy(x, 1, temperature=temperature), expected, x.dtype)
    per_row = torch.full((6, 1), temperature)
    torch.testing.assert_close(
        softmax_ext.entropy(x, 1, temperature=per_row),
        softmax_ext.entropy(x, 1, temperature=per_row[0, 0].item()),
        rtol=4 * tolerances.unit(x.dtype),
        atol=0,
    )


@pytest.mark.parametrize("others", [1, 3, 40, 5000])
@pytest.mark.parametrize("gap", [10.0, 30.0, 80.0])
def test_a_row_that_is_nearly_one_hot_keeps_its_relative_accuracy(gap, others):
    x = torch.full((2, 1 + others), -gap)
    x[:, others // 2] = 0
    x.requires_grad_()
    rest = others * math.exp(-gap)
    value = softmax_ext.entropy(x, 1)
    expected = math.log1p(rest) + rest / (1 + rest) * gap
    torch.testing.assert_close(value.double(), torch.full((2,), expected).double(), rtol=1e-7 * (1 + gap), atol=0)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    of_others = math.exp(-gap) / (1 + rest) * gap / (1 + rest)
    wanted = torch.full_like(x, of_others).double()
    wanted[:, others // 2] = -rest / (1 + rest) * gap / (1 + rest)
    torch.testing.assert_close(gradient.double(), wanted, rtol=1e-6 * (1 + gap), atol=0)


@pytest.mark.parametrize("length", [2, 10, 100, 5000])
def test_alike_logits_have_the_log_of_their_number_and_gradient_0(length):
    x = torch.full((3, length), 1e4, requires_grad=True)
    value = softmax_ext.entropy(x, 1)
    torch.testing.assert_close(value, torch.full((3,), math.log(length)), rtol=2e-7, atol=0)
    assert not torch.autograd.grad(value.sum(), x)[0].any()
    bits = softmax_ext.entropy(torch.zeros(2, 2**10), 1, base=2)
    torch.testing.assert_close(bits, torch.full((2,), 10.0), rtol=2e-7, atol=0)


@dtypes
@pytest.mark.parametrize("length", [3, 20, 300, 5000])
def test_logits_of_minus_infinity_count_as_absent(dtype, length):
    present = torch.randn(2, length).to(dtype)
    x = torch.cat([torch.full((2, length), -INF, dtype=dtype), present, torch.full((2, 1), -INF, dtype=dtype)], 1)
    x.requires_grad_()
    value = softmax_ext.entropy(x, 1)
    expected = Expected(present)
    assert_entropies_are_within_their_bound(value, expected, dtype)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert not gradient[:, :length].any()
    assert not gradient[:, -1].any()
    assert_gradients_are_within_their_bound(gradient[:, length:-1], expected, dtype)


@dtypes
@pytest.mark.parametrize("length", [3, 20, 300, 5000])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_row_without_probabilities_is_nan_and_spoils_no_other(dtype, length, value):
    x = torch.randn(3, length).to(dtype)
    clean = softmax_ext.entropy(x, 1)
    if value == -INF:
        x[1] = value
    else:
        x[1, length // 2] = value
    x.requires_grad_()
    actual = softmax_ext.entropy(x, 1)
    assert actual[1].isnan()
    assert torch.equal(actual[::2], clean[::2])
    (gradient,) = torch.autograd.grad(actual.sum(), x)
    assert gradient[1].isnan().all()
    assert not gradient[::2].isnan().any()


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("length", [5, 5000])
def test_limits_of_the_temperature(as_tensor, length):
    x = torch.randn(2, length)
    x[:, 1] = x[:, 3] = 9
    x[:, 2] = -INF
    x.requires_grad_()
    for temperature, count in ((0.0, 2), (INF, length - 1)):
        given = torch.tensor(temperature, requires_grad=True) if as_tensor else temperature
        value = softmax_ext.entropy(x, 1, temperature=given)
        torch.testing.assert_close(value, torch.full((2,), math.log(count)), rtol=3e-7, atol=0)
        inputs = (x, given) if as_tensor else (x,)
        for gradient in torch.autograd.grad(value.sum(), inputs):
            assert torch.equal(gradient, torch.zeros_like(gradient))


def test_a_temperature_tensor_that_is_no_temperature_gives_nan_rows():
    value = softmax_ext.entropy(torch.randn(3, 4), 1, temperature=torch.tensor([[-1.0], [1.0], [NAN]]))
    assert value.isnan().tolist() == [True, False, True]


def test_empty_tensors_have_no_entropy():
    assert softmax_ext.entropy(torch.empty(0, 3), 1).shape == (0,)
    assert torch.equal(softmax_ext.entropy(torch.empty(3, 0), 1), torch.zeros(3))
    assert softmax_ext.entropy(torch.tensor(7.0), 0) == 0


def test_logits_near_minus_ten_million_keep_their_accuracy():
    x = torch.rand(4, 1000) - 1e7
    assert_entropies_are_within_their_bound(softmax_ext.entropy(x, 1), Expected(x), x.dtype)


def test_strides_are_followed():
    x = torch.randn(6, 4, 10)
    for view in (x.transpose(0, 1), x[::2], x[..., 1::3], x[:, :1].expand(6, 4, 10), x.permute(2, 0, 1)):
        for dim in range(3):
            expected = torch_entropy(view.double(), dim)
            torch.testing.assert_close(softmax_ext.entropy(view, dim).double(), expected, rtol=1e-6, atol=1e-6)


def test_a_long_row_has_the_same_bits_with_any_number_of_threads():
    x = torch.randn(1, 300_001, requires_grad=True)

    def results():
        value = softmax_ext.entropy(x, 1)
        return value, torch.autograd.grad(value, x)[0]

    threads = torch.get_num_threads()
    several = results()
    torch.set_num_threads(1)
    try:
        one = results()
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(several, one, strict=True):
        assert torch.equal(a, b)
