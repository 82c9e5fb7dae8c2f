"""Values and gradients of masked_softmax and causal_softmax: those of softmax over what is kept, and 0 elsewhere."""

import math

import pytest
import tolerances
import torch
import torch.nn.functional as F
from backend import cpu_kernels_only
from operators import CLOSE, causal_mask, torch_causal_softmax, torch_masked_softmax

import softmax_ext

INF, NAN = math.inf, math.nan
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# On both sides of what the CPU does at once: transposed rows, batches, spans, chunks.
LENGTHS = [1, 3, 7, 8, 9, 16, 65, 128, 129, 1000, 4096, 4097, 9001]

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
lengths = pytest.mark.parametrize("length", LENGTHS)


def random_mask(*shape):
    """One that keeps half, and something of each row along the last dim."""
    mask = torch.rand(shape) < 0.5
    mask[..., -1] = True
    return mask


def assert_is_softmax_over_the_mask(actual, x, mask, dim=-1, temperature=1.0):
    masked = x.double().masked_fill(~mask, -INF)
    expected = torch_masked_softmax(x.double() / temperature, mask, dim)
    assert actual.dtype == x.dtype
    assert not actual[~mask.expand(x.shape)].any()
    if x.dtype in (torch.bfloat16, torch.float16):
        tolerances.assert_nearly_all_correctly_rounded(actual, expected)
        return
    distance = (masked.amax(dim, keepdim=True) - masked) / temperature
    bound = tolerances.softmax_bound(expected, distance, x.dtype, x.shape[dim])
    bound = torch.where(expected > 0, bound, 0)
    tolerances.assert_within(actual, expected, bound)


@dtypes
@lengths
def test_values_are_within_their_bound_at_every_length(dtype, length):
    for rows in (1, 5, 70):
        x, mask = (3 * torch.randn(rows, length)).to(dtype), random_mask(rows, length)
        assert_is_softmax_over_the_mask(softmax_ext.masked_softmax(x, mask, 1), x, mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_mask_that_keeps_all_changes_no_bit(dtype):
    for length in LENGTHS:
        x = torch.randn(5, length).to(dtype)
        everything = torch.ones(5, length, dtype=torch.bool)
        assert torch.equal(softmax_ext.masked_softmax(x, everything, 1), softmax_ext.softmax(x, 1)), length


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", [2, 33, 700])
def test_a_dim_that_is_not_last(dtype, length):
    x = torch.randn(2, length, 150).to(dtype)
    full = random_mask(2, 150, length).transpose(1, 2)
    for mask in (full, full.contiguous(), full[:1], full[..., :1], full[0, :, :1]):
        assert_is_softmax_over_the_mask(softmax_ext.masked_softmax(x, mask, 1), x, mask, 1)


@pytest.mark.parametrize("length", [5, 40, 300, 5000])
def test_a_mask_is_read_by_whatever_strides_it_has(length):
    x = torch.randn(3, 4, length)
    full = random_mask(3, 4, length)
    views = {
        "as it is": full,
        "one for all": full[0, 0],
        "one per batch": full[:, :1],
        "one per row of the batch": full[:1],
        "every second column": random_mask(3, 4, 2 * length)[..., ::2],
        "transposed": random_mask(length, 4, 3).permute(2, 1, 0),
        "backwards in rows": full.flip(1),
        "one element per row": torch.tensor([True, False, True, True])[:, None],
        "expanded": full[:, :1].expand(3, 4, length),
    }
    for name, mask in views.items():
        actual = softmax_ext.masked_softmax(x, mask, -1, empty="zero")
        expected = torch_masked_softmax(x.double(), mask, -1, empty="zero")
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-9, msg=name)
        noncontiguous = x.transpose(0, 1).contiguous().transpose(0, 1)
        assert torch.equal(softmax_ext.masked_softmax(noncontiguous, mask, -1, empty="zero"), actual), name


@dtypes
@pytest.mark.parametrize("length", [3, 20, 300, 5000])
@pytest.mark.parametrize("junk", [NAN, INF, -INF])
def test_what_is_left_out_may_be_anything(dtype, length, junk):
    x, mask = torch.randn(3, length).to(dtype), random_mask(3, length)
    mask[:, 0] = False
    clean = x.masked_fill(~mask, 0)
    spoilt = x.masked_fill(~mask, junk)

    def results(x):
        x = x.detach().requires_grad_()
        temperature = torch.full((3, 1), 0.7, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        temperature.requires_grad_()
        probs = softmax_ext.masked_softmax(x, mask, 1, temperature=temperature)
        weights = torch.arange(length, dtype=dtype)
        return probs, *torch.autograd.grad((probs * weights).sum(), (x, temperature))

    for actual, expected in zip(results(spoilt), results(clean), strict=True):
        assert torch.equal(actual, expected)
    probs, gradient, _ = results(spoilt)
    assert not probs[~mask].any()
    assert not gradient[~mask].any()


@dtypes
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("length", [1, 3, 20, 300, 5000])
def test_a_row_that_keeps_nothing_is_nan_or_zero_as_is_asked(dtype, length, dim):
    x, mask = torch.randn(4, length).to(dtype), random_mask(4, length)
    mask[1] = False
    mask[3] = True
    x[3] = -INF  # kept, and without probabilities all the same
    full, kept = (x, mask) if dim == 1 else (x.t().contiguous(), mask.t())

    def rows(empty):
        logits = full.detach().requires_grad_()
        probs = softmax_ext.masked_softmax(logits, kept, dim, empty=empty)
        weights = torch.arange(length, dtype=dtype)
        (gradient,) = torch.autograd.grad((probs * (weights if dim == 1 else weights[:, None])).sum(), logits)
        return (probs, gradient) if dim == 1 else (probs.t(), gradient.t())

    probs, gradient = rows("nan")
    assert probs[1::2].isnan().all()
    assert gradient[1::2].isnan().all()
    zero, zero_gradient = rows("zero")
    assert torch.equal(zero[1::2], torch.zeros(2, length, dtype=dtype))
    assert torch.equal(zero_gradient[1::2], torch.zeros(2, length, dtype=dtype))
    assert torch.equal(zero[::2], probs[::2])
    assert torch.equal(zero_gradient[::2], gradient[::2])


@pytest.mark.parametrize("length", [3, 20, 300, 5000])
def test_a_kept_nan_or_infinity_is_never_dropped(length):
    for junk in (NAN, INF):
        x, mask = torch.randn(3, length), random_mask(3, length)
        x[1, -1] = junk
        for empty in ("nan", "zero"):
            probs = softmax_ext.masked_softmax(x, mask, 1, empty=empty)
            assert probs[1].isnan().all()
            assert not probs[::2].isnan().any()


@pytest.mark.parametrize("temperature", [0.0, 0.3, 4.0, INF])
@pytest.mark.parametrize("length", [3, 300, 5000])
def test_temperatures(temperature, length):
    x, mask = torch.randn(4, length), random_mask(4, length)
    x[~mask] = 100  # the maximum, if it counted
    mask[2] = False
    for given in (temperature, torch.tensor(temperature), torch.full((4, 1), temperature)):
        probs = softmax_ext.masked_softmax(x, mask, 1, temperature=given, empty="zero")
        kept = softmax_ext.softmax(x.masked_fill(~mask, -INF), 1, temperature=temperature)
        torch.testing.assert_close(probs, kept.masked_fill(kept.isnan(), 0), rtol=1e-6, atol=1e-12)
        assert not probs[2].any()
    invalid = softmax_ext.masked_softmax(x, mask, 1, temperature=torch.tensor(-1.0), empty="zero")
    assert invalid.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_row_has_the_same_bits_alone_and_in_a_batch(dtype):
    for length in LENGTHS:
        x, mask = torch.randn(70, length).to(dtype), random_mask(70, length)
        together = softmax_ext.masked_softmax(x, mask, 1)
        for row in (0, 17, 69):
            assert torch.equal(softmax_ext.masked_softmax(x[row].clone(), mask[row].clone(), 0), together[row]), length


@cpu_kernels_only
def test_bits_do_not_depend_on_the_number_of_threads():
    x, mask = torch.randn(3, 100_001), random_mask(3, 100_001)
    scores = torch.randn(3, 200, 300)
    threads = torch.get_num_threads()

    def results():
        return softmax_ext.masked_softmax(x[:1], mask[:1], 1), softmax_ext.causal_softmax(scores)

    several = results()
    torch.set_num_threads(1)
    try:
        one = results()
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(several, one, strict=True))


# Causal


SHAPES = [(1, 1), (5, 5), (3, 8), (8, 3), (40, 40), (20, 150), (150, 20), (150, 200), (3, 5000), (1, 4097)]


@dtypes
@pytest.mark.parametrize(("queries", "keys"), SHAPES)
def test_causal_values_are_within_their_bound(dtype, queries, keys):
    scores = torch.randn(2, queries, keys).to(dtype)
    keeps = causal_mask(queries, keys).any(1)
    actual = softmax_ext.causal_softmax(scores)
    assert actual.shape == scores.shape
    assert not actual[:, ~keeps].any()
    assert_is_softmax_over_the_mask(
        actual[:, keeps], scores[:, keeps], causal_mask(queries, keys)[keeps].expand(2, -1, -1)
    )
    nan = softmax_ext.causal_softmax(scores, empty="nan")
    assert nan[:, ~keeps].isnan().all()
    assert torch.equal(nan[:, keeps], actual[:, keeps])


@pytest.mark.parametrize(("queries", "keys"), SHAPES)
def test_later_keys_may_be_anything(queries, keys):
    scores = torch.randn(2, queries, keys)
    later = ~causal_mask(queries, keys)
    weights = torch.randn(queries, keys)

    def results(junk):
        x = scores.masked_fill(later, junk).requires_grad_()
        probs = softmax_ext.causal_softmax(x)
        return probs, torch.autograd.grad((probs * weights).sum(), x)[0]

    for junk in (NAN, INF):
        for actual, expected in zip(results(junk), results(0.0), strict=True):
            assert torch.equal(actual, expected)


@pytest.mark.parametrize(("queries", "keys"), [(7, 7), (3, 9), (150, 200)])
def test_causal_attention_is_that_of_scaled_dot_product_attention(queries, keys):
    q, k, v = (torch.randn(2, 3, n, 16, dtype=torch.float64) for n in (queries, keys, keys))
    actual = softmax_ext.causal_softmax(q @ k.mT, temperature=4.0) @ v
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=causal_mask(queries, keys))
    torch.testing.assert_close(actual, expected, **CLOSE)


@pytest.mark.parametrize("temperature", [0.5, 0.0, INF])
def test_causal_temperatures_and_layouts(temperature):
    scores = torch.randn(3, 40, 50)
    expected = softmax_ext.softmax(scores.masked_fill(~causal_mask(40, 50), -INF), -1, temperature=temperature)
    for given in (temperature, torch.full((3, 40, 1), temperature), torch.tensor(temperature)):
        for view in (scores, scores.transpose(0, 1).contiguous().transpose(0, 1), scores.mT.contiguous().mT):
            actual = softmax_ext.causal_softmax(view, temperature=given)
            torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-12)


@dtypes
@pytest.mark.parametrize(("queries", "keys"), SHAPES)
def test_a_causal_row_that_is_nan_is_so_as_a_whole(dtype, queries, keys):
    for junk in (NAN, INF):
        scores = torch.randn(queries, keys).to(dtype)
        first = max(0, queries - keys)  # the first query that sees a key
        scores[first, 0] = junk
        for empty in ("nan", "zero"):
            probs = softmax_ext.causal_softmax(scores, empty=empty)
            masked = softmax_ext.masked_softmax(scores, causal_mask(queries, keys), -1, empty=empty)
            assert probs[first].isnan().all()
            assert torch.equal(probs.isnan(), masked.isnan())


def test_gradients_of_causal_scores():
    scores = torch.randn(2, 30, 20, requires_grad=True)
    exact = scores.detach().double().requires_grad_()
    weights = torch.randn(2, 30, 20)
    (actual,) = torch.autograd.grad((softmax_ext.causal_softmax(scores) * weights).sum(), scores)
    (expected,) = torch.autograd.grad((torch_causal_softmax(exact) * weights).sum(), exact)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-7)
    assert not actual[:, :10].any()


@pytest.mark.parametrize("length", [7, 200, 5000])
def test_the_result_has_the_dtype_that_is_asked_for(length):
    x, mask = torch.randn(6, length).bfloat16(), random_mask(6, length)
    expected = torch_masked_softmax(x.double(), mask, 1)
    distance = (x.double().masked_fill(~mask, -math.inf) - x.double().masked_fill(~mask, -math.inf).amax(1, True)).abs()
    results = (
        (softmax_ext.masked_softmax(x, mask, 1, torch.float32), expected, distance),
        (
            softmax_ext.causal_softmax(x, torch.float32),
            torch_causal_softmax(x.double()),
            (x.double() - x.double().amax(1, True)).abs(),
        ),
    )
    for actual, of_double, distance in results:
        assert actual.dtype == torch.float32
        bound = tolerances.softmax_bound(of_double, distance.nan_to_num(posinf=0), torch.float32, length)
        assert ((actual.double() - of_double).abs() <= bound).all()


def test_integers_become_the_dtype_that_is_asked_for():
    scores, mask = torch.tensor([[1, 2, 3], [3, 1, 0]]), torch.tensor([True, False, True])
    for dtype in DTYPES:
        assert torch.equal(
            softmax_ext.masked_softmax(scores, mask, 1, dtype), softmax_ext.masked_softmax(scores.to(dtype), mask, 1)
        )
        assert torch.equal(softmax_ext.causal_softmax(scores, dtype), softmax_ext.causal_softmax(scores.to(dtype)))


def test_a_result_of_another_dtype_has_the_gradient_of_its_input():
    x, mask = torch.randn(4, 9).bfloat16().requires_grad_(), random_mask(4, 9)
    weights = torch.randn(4, 9)
    (softmax_ext.masked_softmax(x, mask, 1, torch.float32) * weights).sum().backward()
    y = x.detach().double().requires_grad_()
    (torch_masked_softmax(y, mask, 1) * weights).sum().backward()
    assert x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(x.grad.double(), y.grad, atol=2**-9, rtol=2**-8)


@pytest.mark.parametrize("poison", [NAN, INF, -INF], ids=str)
@pytest.mark.parametrize("size", [20, 300, 5000])
def test_a_causal_row_without_a_softmax_is_nan_as_a_whole(size, poison):
    """Also beyond what it keeps, and in every layout."""
    scores = torch.zeros(size, size)
    rows = [0, 3, size // 2, size - 1]
    for row in rows:
        scores[row, : 1 if poison != -INF else size] = poison
    for x in (scores, scores.mT.contiguous().mT):
        is_nan = softmax_ext.causal_softmax(x, empty="nan").isnan()
        assert is_nan[rows].all()
        assert is_nan.sum() == len(rows) * size


@pytest.mark.parametrize("dim", [0, 1])
def test_rows_that_keep_nothing_are_zero_along_every_dim(dim):
    x = torch.randn(300, 257)
    x[dim * 5, :] = -INF
    x[:, 7] = -INF
    mask = torch.rand(300, 257) < 0.7
    mask[:, 200:] = False
    mask[120:, :] = False
    actual = softmax_ext.masked_softmax(x, mask, dim, empty="zero")
    expected = torch_masked_softmax(x.double(), mask, dim)
    assert (actual.double() - expected.nan_to_num(0)).abs().max() < 1e-6
    assert (softmax_ext.masked_softmax(x, mask, dim).isnan() == expected.isnan()).all()
