"""Values of softmax, log_softmax and logsumexp against float64 references, on inputs that hurt."""

import math

import pytest
import reference
import tolerances
import torch
from backend import cpu_kernels_only

import softmax_ext

INF, NAN = math.inf, math.nan
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
HALVES = [torch.bfloat16, torch.float16]
# Around the chunk that the CPU walker sums at once, and around powers of two.
CHUNK = 512
LENGTHS = sorted({1, 2, 3, 10, 127, 128, 129, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1, 32003})
NORMALIZATIONS = {
    "softmax": (softmax_ext.softmax, reference.softmax, torch.softmax),
    "log_softmax": (softmax_ext.log_softmax, reference.log_softmax, torch.log_softmax),
}

both = pytest.mark.parametrize("name", NORMALIZATIONS)


def distances(x, dim=-1, temperature=1.0):
    x = x.double()
    return (x.amax(dim, keepdim=True) - x) / temperature


def assert_accurate(name, actual, x, dim=-1, temperature=1.0):
    expected = NORMALIZATIONS[name][1](x, dim, temperature)
    expected[expected < torch.finfo(actual.dtype).min] = -INF  # the true value overflows
    distance = distances(x, dim, temperature)
    if actual.dtype in HALVES:
        tolerances.assert_nearly_all_correctly_rounded(actual, expected)
    elif name == "softmax":
        bound = tolerances.softmax_bound(expected, distance, actual.dtype, x.shape[dim])
        tolerances.assert_within(actual, expected, bound)
    else:
        tolerances.assert_within(actual, expected, tolerances.log_softmax_bound(expected, distance, actual.dtype))


@both
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("length", LENGTHS)
def test_values_are_within_their_bound_at_every_length(name, dtype, length):
    for deviation in (0.1, 1.0, 30.0):
        x = deviation * torch.randn(4, length, dtype=dtype)
        assert_accurate(name, NORMALIZATIONS[name][0](x, -1), x)


@pytest.mark.parametrize("length", LENGTHS)
def test_float64_is_within_its_bound_of_long_double(length):
    u = tolerances.unit(torch.float64)
    for deviation in (0.1, 1.0, 30.0):
        x = deviation * torch.randn(16, length, dtype=torch.float64)
        expected = reference.softmax_in_long_double(x.cpu().numpy())
        error = abs(softmax_ext.softmax(x, 1).cpu().numpy() - expected) / expected
        assert (error <= 8 * u * (1 + distances(x).cpu().numpy())).all()
        expected = reference.logsumexp_in_long_double(x.cpu().numpy())
        largest = torch.maximum(torch.from_numpy(expected.astype(float)).abs(), x.amax(1).abs().cpu()).clamp(min=1.0)
        error = abs(softmax_ext.logsumexp(x, 1).cpu().numpy() - expected)
        assert (error <= 2 * tolerances.ulp(largest, torch.float64).cpu().numpy()).all()


@both
@pytest.mark.parametrize("dtype", HALVES)
def test_half_results_are_correctly_rounded(name, dtype):
    for deviation, length in ((1.0, 10), (1.0, 1000), (8.0, 1000), (1.0, 32003)):
        x = (deviation * torch.randn(200_000 // length + 1, length)).to(dtype)
        assert_accurate(name, NORMALIZATIONS[name][0](x, -1), x)


@both
@pytest.mark.parametrize("dtype", HALVES)
def test_half_results_are_correctly_rounded_near_probability_one(name, dtype):
    gaps = torch.linspace(2, 30, 4001).to(dtype)
    x = torch.stack([torch.zeros_like(gaps), -gaps], dim=1)
    assert_accurate(name, NORMALIZATIONS[name][0](x, 1), x)


@both
@pytest.mark.parametrize("temperature", [0.1, 0.7, 3.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_temperature_divides_the_shifted_logits(name, temperature, dtype):
    f = NORMALIZATIONS[name][0]
    x = 5 * torch.randn(6, 300, dtype=dtype)
    assert_accurate(name, f(x, -1, temperature=temperature), x, temperature=temperature)
    per_row = torch.rand(6, 1, dtype=dtype) + 0.5
    actual = f(x, -1, temperature=per_row)
    for row in range(6):
        torch.testing.assert_close(actual[row], f(x[row], 0, temperature=per_row[row]), rtol=0, atol=0)
        assert_accurate(name, actual[row : row + 1], x[row : row + 1], temperature=per_row[row].item())


@both
def test_a_temperature_below_the_smallest_quotient_does_not_overflow(name):
    x = torch.tensor([[1e38, 0.5e38, 1e38]])  # x / T is infinite
    assert_accurate(name, NORMALIZATIONS[name][0](x, 1, temperature=1e-3), x, temperature=1e-3)


@both
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("as_tensor", [False, True])
def test_limits_of_the_temperature_are_exact(name, dtype, as_tensor):
    f = NORMALIZATIONS[name][0]
    x = torch.tensor([[3.0, 1.0, 3.0, -INF, 2.984375], [5.0, 4.0, 3.0, 2.0, 1.0]], dtype=dtype)
    for temperature in (0.0, INF):
        given = torch.tensor(temperature, dtype=dtype) if as_tensor else temperature
        probs = f(x, 1, temperature=given).double()
        probs = probs.exp() if name == "log_softmax" else probs
        expected = reference.softmax(x, 1, temperature)
        # The largest error of a value in [0, 1], through exp for log_softmax: 2 roundings.
        torch.testing.assert_close(probs, expected, rtol=0, atol=4 * tolerances.unit(dtype))
        assert torch.equal(probs == 0, expected == 0)


@both
def test_infinite_temperature_is_uniform_over_differences_that_overflow(name):
    x = torch.tensor([3e38, -3e38, 0.0, -INF])
    probs = NORMALIZATIONS[name][0](x, 0, temperature=INF)
    probs = probs.exp() if name == "log_softmax" else probs
    torch.testing.assert_close(probs, torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.0]))


@both
def test_a_temperature_tensor_that_is_no_temperature_gives_nan_rows(name):
    x = torch.randn(3, 4)
    y = NORMALIZATIONS[name][0](x, 1, temperature=torch.tensor([[-1.0], [NAN], [1.0]]))
    assert y[:2].isnan().all()
    torch.testing.assert_close(y[2], NORMALIZATIONS[name][2](x[2], 0))


@both
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [3, 700, 2 * CHUNK + 3])
@pytest.mark.parametrize("special", ["nan", "+inf", "nan and +inf", "all -inf", "some -inf", "a chunk of -inf"])
def test_special_values_give_what_torch_gives(name, dtype, length, special):
    f, _, torch_f = NORMALIZATIONS[name]
    for place in {0, length // 2, length - 1}:
        x = torch.randn(2, length, dtype=dtype)
        if special == "nan":
            x[0, place] = NAN
        elif special == "+inf":
            x[0, place] = INF
        elif special == "nan and +inf":
            x[0, place], x[0, (place + 1) % length] = NAN, INF
        elif special == "all -inf":
            x[0] = -INF
        elif special == "some -inf":
            x[0, place] = -INF
        else:
            x[0, : min(CHUNK, length - 1)] = -INF
        actual, expected = f(x, 1), torch_f(x.double(), 1)
        assert torch.equal(actual.isnan(), expected.isnan())
        assert torch.equal(actual == -INF, expected == -INF)
        assert_accurate(name, actual[expected.isfinite().all(1)], x[expected.isfinite().all(1)])
        if name == "softmax" and "-inf" in special:
            assert (actual[x == -INF].isnan() | (actual[x == -INF] == 0)).all()


@both
@pytest.mark.parametrize(
    "row",
    [
        [1e8] * 8,
        [1e38, -1e38, 3e38, 0.0],
        [0.0, -20.0],
        [0.0, -88.0],
        [0.0, -104.0],
        [0.0, -745.0],
        [1e4, 1e4 - 1, 1e4 - 2],
        [2.0, 2.0, 2.0],
    ],
)
def test_rows_that_broke_other_libraries(name, row):
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor([row], dtype=dtype)
        assert_accurate(name, NORMALIZATIONS[name][0](x, 1), x)


@both
def test_logits_near_minus_ten_million_keep_their_accuracy(name):
    x = torch.rand(3, 1000) - 1e7
    assert_accurate(name, NORMALIZATIONS[name][0](x, 1), x)


@both
def test_a_quarter_million_equal_logits_are_uniform(name):
    x = torch.full((1, 2**18), 3.7)
    assert_accurate(name, NORMALIZATIONS[name][0](x, 1), x)


@both
def test_minus_infinity_in_the_first_32k_columns_counts_as_absent(name):
    x = torch.randn(2, 40_000)
    x[:, :32768] = -INF
    y = NORMALIZATIONS[name][0](x, 1)
    torch.testing.assert_close(y[:, 32768:], NORMALIZATIONS[name][0](x[:, 32768:], 1), rtol=1e-6, atol=1e-6)
    assert (y[:, :32768] == (0 if name == "softmax" else -INF)).all()


def test_probabilities_of_a_row_add_up_to_one():
    for length in LENGTHS:
        for deviation in (0.1, 1.0, 30.0):
            sums = softmax_ext.softmax(deviation * torch.randn(8, length), 1).double().sum(1)
            assert (sums - 1).abs().max() <= 5e-7


@both
@pytest.mark.parametrize("shape", [(3, 5, 7), (2, 3, 4, 5), (6, 1), (1, 6)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dim_and_layout_gives_the_values_of_the_contiguous_row(name, shape, dtype):
    f = NORMALIZATIONS[name][0]
    base = torch.randn(*shape, dtype=dtype)
    wide = torch.randn(*shape[:-1], shape[-1] + 3, dtype=dtype)
    layouts = [
        base,
        base.movedim(0, -1),
        base.flip(-1),
        wide[..., 1:-2],
        base.repeat_interleave(2, dim=-1)[..., ::2],
        base[:1].expand(5, *shape[1:]),
        base.transpose(0, -1).contiguous().transpose(0, -1),
    ]
    if base.dim() == 4:
        layouts.append(base.contiguous(memory_format=torch.channels_last))
    for x in layouts:
        for dim in range(-x.dim(), x.dim()):
            y = f(x, dim)
            rows = x.movedim(dim, -1).reshape(-1, x.shape[dim]).contiguous()
            expected = torch.stack([f(row, 0) for row in rows]).reshape(x.movedim(dim, -1).shape).movedim(-1, dim)
            # Rows whose neighbours are contiguous are summed in another order than contiguous rows.
            tolerance = {"rtol": 8 * torch.finfo(dtype).eps, "atol": 8 * torch.finfo(dtype).eps}
            torch.testing.assert_close(y, expected, **tolerance)
            assert y.is_contiguous()
            assert y.data_ptr() != x.data_ptr()


@both
def test_a_misaligned_row_gives_the_same_values(name):
    f = NORMALIZATIONS[name][0]
    buffer = torch.randn(1000, dtype=torch.bfloat16)
    for offset in range(9):
        x = buffer[offset : offset + 901]
        torch.testing.assert_close(f(x, 0), f(x.clone(), 0), rtol=0, atol=0)


@both
@pytest.mark.parametrize("shape_and_dim", [((0, 3), 1), ((3, 0), 1), ((3, 0), 0), ((0,), 0), ((2, 0, 3), 1)])
def test_empty_tensors_keep_their_shape(name, shape_and_dim):
    shape, dim = shape_and_dim
    y = NORMALIZATIONS[name][0](torch.empty(shape), dim)
    assert y.shape == shape


def test_a_zero_dimensional_tensor_is_one_class():
    for dim in (0, -1):
        assert softmax_ext.softmax(torch.tensor(3.0), dim) == 1
        assert softmax_ext.log_softmax(torch.tensor(3.0), dim) == 0
        assert softmax_ext.logsumexp(torch.tensor(3.0), dim) == 3


@both
@pytest.mark.parametrize("source", [*DTYPES, torch.int64, torch.bool])
@pytest.mark.parametrize("target", DTYPES)
def test_dtype_converts_in_the_same_pass(name, source, target):
    x = (3 * torch.randn(4, 600)).to(source)
    y = NORMALIZATIONS[name][0](x, 1, target)
    assert y.dtype == target
    # Integers are converted first, as in torch.
    assert_accurate(name, y, x if source.is_floating_point else x.to(target))


@both
def test_results_do_not_depend_on_threads_or_batch(name):
    f = NORMALIZATIONS[name][0]
    x = torch.randn(64, 5000)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(f(x, 1))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    for row in (0, 17, 63):
        assert torch.equal(f(x[row], 0), results[0][row])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("length", LENGTHS)
def test_logsumexp_is_within_its_bound_at_every_length(dtype, length):
    for deviation, offset in ((0.1, 0), (1.0, 0), (30.0, 0), (1.0, 1e4), (1.0, -1e4)):
        x = deviation * torch.randn(4, length, dtype=dtype) + offset
        expected = reference.logsumexp(x, 1)
        bound = tolerances.logsumexp_bound(expected, x.double().amax(1), dtype)
        tolerances.assert_within(softmax_ext.logsumexp(x, 1), expected, bound)


def test_logsumexp_divides_by_the_temperature():
    x = 5 * torch.randn(4, 300)
    expected = reference.logsumexp(x, 1, 0.3)
    bound = tolerances.logsumexp_bound(expected, x.double().amax(1) / 0.3, x.dtype)
    tolerances.assert_within(softmax_ext.logsumexp(x, 1, temperature=0.3), expected, bound)
    per_row = torch.full((4, 1), 0.3)
    tolerances.assert_within(softmax_ext.logsumexp(x, 1, temperature=per_row), expected, bound)


@pytest.mark.parametrize("dim", [0, (0,), (0, 2), (2, 0), (0, 1, 2), (), (-1, 1)])
@pytest.mark.parametrize("keepdim", [False, True])
def test_logsumexp_reduces_any_set_of_dims(dim, keepdim):
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    dims = {0, 1, 2} if dim == () else {d % 3 for d in ((dim,) if isinstance(dim, int) else dim)}
    expected = torch.logsumexp(x, tuple(dims), keepdim)
    torch.testing.assert_close(softmax_ext.logsumexp(x, dim, keepdim), expected)
    temperature = torch.rand([1 if d in dims else n for d, n in enumerate(x.shape)], dtype=torch.float64) + 0.5
    expected = torch.logsumexp(x / temperature, tuple(dims), keepdim)
    torch.testing.assert_close(softmax_ext.logsumexp(x, dim, keepdim, temperature=temperature), expected)


def test_logsumexp_of_special_rows_is_torchs():
    rows = [[-INF, -INF], [1.0, INF], [-INF, INF], [NAN, INF], [NAN, -INF], [-INF, 2.0], [INF, INF], [1e38, 3e38]]
    x = torch.tensor(rows)
    torch.testing.assert_close(softmax_ext.logsumexp(x, 1), torch.logsumexp(x, 1), equal_nan=True)
    assert torch.equal(softmax_ext.logsumexp(torch.empty(2, 0), 1), torch.tensor([-INF, -INF]))


def test_logsumexp_converts_integers_to_the_default_dtype():
    x = torch.tensor([[1, 2], [3, 4]])
    torch.testing.assert_close(softmax_ext.logsumexp(x, 1), torch.logsumexp(x, 1))
    assert softmax_ext.logsumexp(x > 1, 1).dtype == torch.float32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_gradients_are_within_a_few_units_of_float64(name, dtype):
    f = getattr(softmax_ext, name)
    for length in (1, 10, 600, 5000):
        x = (3 * torch.randn(3, length)).to(dtype).requires_grad_()
        y = f(x, 1)
        g = torch.randn(y.shape).to(dtype)
        (actual,) = torch.autograd.grad(y, x, g)
        x64 = x.detach().double().requires_grad_()
        y64 = getattr(torch, name)(x64, 1)
        (expected,) = torch.autograd.grad(y64, x64, g.double())
        # Inputs of the formula are rounded outputs: each has the relative error u, as the result has.
        scale = torch.maximum(expected.abs(), g.double().abs().amax() * torch.softmax(x64, 1)).detach()
        unit = tolerances.unit(dtype)
        bound = 8 * unit * scale * (1 + distances(x.detach()) * (dtype == torch.float32)) + ulp_floor(dtype)
        tolerances.assert_within(actual, expected, bound * (40 if name == "log_softmax" else 4))


def ulp_floor(dtype):
    """The smallest subnormal: results below the normal range are rounded to multiples of it."""
    return torch.finfo(dtype).tiny * torch.finfo(dtype).eps


@both
@cpu_kernels_only
def test_strides_are_followed_without_a_copy(name):
    f = NORMALIZATIONS[name][0]
    base = torch.randn(4, 6, 5, 8)
    for x in (base[:, :3], base.transpose(1, 2), base[..., 1:5], base.permute(3, 1, 0, 2), base[:1].expand(3, 6, 5, 8)):
        for dim in range(4):
            with torch.profiler.profile() as profile:
                f(x, dim)
            assert not {event.key for event in profile.key_averages()} & {"aten::clone", "aten::copy_"}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [0, 1])
def test_logsumexp_of_a_row_of_minus_infinity_has_gradient_0_at_every_length(dtype, dim):
    for length in LENGTHS:
        x = torch.randn(3, length).to(dtype)
        x[1] = -INF
        x = x if dim == 1 else x.t().contiguous()
        x.requires_grad_()
        value = softmax_ext.logsumexp(x, dim)
        (gradient,) = torch.autograd.grad(value, x, torch.tensor([1, 3, 1]).to(dtype))
        gradient = gradient if dim == 1 else gradient.t()
        assert value[1] == -INF
        assert not gradient[1].any()
        assert gradient[::2].ne(0).any(1).all()
