"""Sampling: which tokens are kept, which of them is drawn for given random numbers, and how often."""

import math
import re

import numpy as np
import pytest
import scipy.stats
import torch
from backend import ON_CUDA_KERNELS, cpu_kernels_only
from operators import name_of
from sampling_reference import distance_to_step, inverse_cdf, kept, uniforms, weights

from softmax_ext import sample

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=name_of)

#: The relative error of a sum of exponentials in the dtype of the arithmetic: each is within 1 ULP of one whose argument
#: is up to some 30 with a rounding.
SUM_ERROR = {torch.float64: 1e-13, torch.float32: 64 * 2.0**-24}
#: The executor runs each thread of a block: fewer rows do there.
ROWS = 100 if ON_CUDA_KERNELS else 10_000


def lane(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def rows_of_every_kind(rows, length, dtype=torch.float64):
    """Normal logits of several widths, with ties, flat, peaked, with −inf, in turn."""
    logits = torch.randn(rows, length, dtype=torch.float64)
    logits[1::7] = logits[1::7].mul(2).round()
    logits[2::7] = 0.25
    logits[3::7, 0] += 30
    logits[4::7] *= 10
    logits[5::7] = logits[5::7].where(torch.rand(logits[5::7].shape) < 0.5, -math.inf)
    logits[5::7, -1] = 0
    logits[6::7] = torch.linspace(-3, 3, length, dtype=torch.float64)
    return logits.to(dtype)


def options_of_every_kind(rows, length):
    """For each row one of every option, on and off and at its limits, in combinations that do not follow the rows'."""
    generator = torch.Generator().manual_seed(1)

    def choice(values, dtype=torch.float64):
        index = torch.randint(len(values), (rows,), generator=generator)
        return torch.tensor(values, dtype=dtype)[index]

    return {
        "temperature": choice([1.0, 0.3, 2.0, 17.0]),
        "top_k": choice([0, -1, 1, 2, 3, 17, 50, length - 1, length, length + 5], torch.int64),
        "top_p": choice([1.0, 2.0, 0.9, 0.5, 0.1, 0.999, 1e-9, 0.0]),
        "min_p": choice([0.0, -1.0, 0.05, 0.5, 1e-6, 1.0]),
    }


def subset(options, names):
    return {name: option for name, option in options.items() if name in names}


def kept_mass(logits, indices, log_probs, temperature):
    """The weight of all kept tokens, from the log-probability of the one drawn."""
    weight = weights(logits, temperature).gather(-1, indices)
    return (weight / log_probs.double().exp()).squeeze(-1)


# Kept sets. Equal masses mean equal sets: both keep all that is above a threshold, and a token more or less shows.


def assert_keeps_what_the_reference_keeps(logits, options, dtype):
    indices, log_probs = sample(logits, **options)
    temperature = options.get("temperature", torch.ones(len(logits), dtype=torch.float64))
    expected = kept(logits, **options)
    assert expected.gather(-1, indices).all()
    mass = (weights(logits, temperature) * expected).sum(-1)
    actual = kept_mass(logits, indices, log_probs, temperature)
    tolerance = SUM_ERROR[dtype]
    differs = (actual - mass).abs() > tolerance * mass
    if dtype == torch.float32 and "top_p" in options:
        # Where the reference's own set depends on a rounding of top_p, either set will do.
        for nudge in (1 - 1e-6, 1 + 1e-6):
            other = kept(logits, **{**options, "top_p": options["top_p"] * nudge})
            differs &= (actual - (weights(logits, temperature) * other).sum(-1)).abs() > tolerance * mass
            assert (expected != other).any(-1).sum() <= 1 + 0.25 * len(logits)  # most are not
    assert not differs.any(), (differs.nonzero().squeeze(-1)[:5], actual[differs][:5], mass[differs][:5])


@pytest.mark.parametrize("names", [("top_k",), ("top_p",), ("min_p",), ("top_k", "top_p", "min_p")], ids=" ".join)
@pytest.mark.parametrize("length", [1, 5, 64, 300])
def test_kept_sets_are_those_of_sorted_rows(names, length):
    rows = ROWS if length == 64 else ROWS // 10
    logits = rows_of_every_kind(rows, length)
    options = subset(options_of_every_kind(rows, length), ("temperature", *names))
    assert_keeps_what_the_reference_keeps(logits, options, torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=name_of)
@pytest.mark.parametrize("length", [4096, 4097, 20_000])
def test_kept_sets_of_long_rows_are_those_of_sorted_rows(length, dtype):
    rows = 7 if ON_CUDA_KERNELS else 140
    logits = rows_of_every_kind(rows, length, dtype)
    options = options_of_every_kind(rows, length)
    for names in (("top_k",), ("top_p",), ("temperature", "top_k", "top_p", "min_p")):
        assert_keeps_what_the_reference_keeps(logits, subset(options, names), dtype)


@dtypes
def test_equal_logits_at_a_threshold_are_all_kept(dtype):
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0, 2.0, 0.0]], dtype=dtype)
    for options, tokens in (
        ({"top_k": 2}, {1, 2, 3, 4}),
        ({"top_p": 0.5}, {1, 2, 3, 4}),
        ({"top_k": 2, "top_p": 0.3}, {1}),
        ({"min_p": math.exp(-1) * 0.999}, {1, 2, 3, 4}),
        ({"min_p": 1.0}, {1}),
        ({"top_k": 1}, {1}),
        ({"top_p": 0.0}, {1}),
    ):
        indices, log_probs = sample(logits, num_samples=200, seed=3, **options)
        assert set(indices.flatten().tolist()) == tokens, options
        # Renormalized over what is kept.
        of_token = dict(zip(indices.flatten().tolist(), log_probs.flatten().double().exp().tolist(), strict=True))
        assert sum(of_token.values()) == pytest.approx(1, abs=1e-6)


def test_minus_zero_and_zero_are_equal_logits():
    logits = torch.tensor([-0.0, 0.0, -1.0, -0.0])
    indices, _ = sample(logits, top_k=1, num_samples=100, seed=0)
    assert set(indices.tolist()) == {0, 1, 3}


def test_top_p_is_of_what_top_k_keeps_and_min_p_comes_last():
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).log()
    # Of 0.4 and 0.3 alone, 0.4 has 0.57: enough for 0.55, and not for 0.6.
    assert set(sample(logits, top_k=2, top_p=0.55, num_samples=100)[0].tolist()) == {0}
    assert set(sample(logits, top_k=2, top_p=0.6, num_samples=100)[0].tolist()) == {0, 1}
    # min_p compares with the largest probability.
    assert set(sample(logits, top_p=0.75, min_p=0.7, num_samples=100)[0].tolist()) == {0, 1}


def test_options_at_their_off_values_change_nothing():
    logits = torch.randn(20, 50)
    expected = sample(logits, seed=5)
    for options in ({"top_k": 0}, {"top_k": -3}, {"top_k": 50}, {"top_p": 1.0}, {"top_p": 7.0}, {"min_p": -1.0}):
        indices, log_probs = sample(logits, seed=5, **options)
        assert torch.equal(indices, expected[0])
        torch.testing.assert_close(log_probs, expected[1])


# The drawn token, for known random numbers.


def assert_draws_what_the_reference_draws(logits, options, seed, num_samples):
    indices, log_probs = sample(logits, seed=seed, num_samples=num_samples, **options)
    temperature = options.get("temperature", 1.0)
    probs = weights(logits, temperature) * kept(logits, **options)
    rows = torch.arange(len(logits))
    near = 1e-12 if logits.dtype == torch.float64 else 5e-7
    for i in range(num_samples):
        uniform = uniforms(seed, rows, i)
        # Within rounding of a step, the token on either side of it will do.
        expected = inverse_cdf(probs, uniform)
        is_near = distance_to_step(probs, uniform) < near
        assert torch.equal(indices[~is_near, i], expected[~is_near])
        low, high = (inverse_cdf(probs, (uniform + shift).clamp(0, 1 - 2.0**-53)) for shift in (-near, near))
        assert ((low <= indices[:, i]) & (indices[:, i] <= high)).all()
        assert (probs.gather(-1, indices[:, i : i + 1]) > 0).all()
        expected_log_probs = (probs / probs.sum(-1, keepdim=True)).gather(-1, indices[:, i : i + 1]).log().squeeze(-1)
        torch.testing.assert_close(
            log_probs[:, i].double(), expected_log_probs, rtol=SUM_ERROR[lane(logits.dtype)], atol=2 * near
        )


@dtypes
@pytest.mark.parametrize("length", [1, 2, 7, 64, 1000])
def test_the_index_is_the_inverse_of_the_distribution_function_at_the_uniform(length, dtype):
    logits = rows_of_every_kind(70, length, dtype)
    logits[:] = logits.clamp(min=-2e4)  # a float16 of −65504 would leave no term to compare
    for options in ({}, {"temperature": 0.7}, {"top_k": 10}, {"top_p": 0.8}, {"min_p": 0.1}):
        if "top_p" in options and dtype != torch.float64:
            continue  # a rounding may change what is kept: the tests above allow for it
        assert_draws_what_the_reference_draws(logits, options, 11, 3)


@pytest.mark.parametrize("length", [5000, 50_257])
def test_the_index_of_long_rows_is_the_inverse_of_the_distribution_function(length):
    logits = rows_of_every_kind(7, length, torch.float32)
    logits = torch.cat(
        [logits, torch.randn(2, length).sort().values, torch.randn(2, length).sort(descending=True).values]
    )
    for options in ({}, {"temperature": 1.5}, {"top_k": 200}, {"min_p": 1e-3}):
        assert_draws_what_the_reference_draws(logits, options, 2**40 + 3, 4)


def test_rows_and_samples_have_random_numbers_of_their_own():
    logits = torch.zeros(3, 4, 1 << 20)[..., :1000]
    indices, _ = sample(logits, seed=-5, num_samples=3)
    rows = torch.arange(12).reshape(3, 4)
    expected = torch.stack([(uniforms(-5, rows, i) * 1000).long() for i in range(3)], -1)
    assert torch.equal(indices, expected)


def test_a_seed_for_each_row_gives_the_same_tokens_wherever_the_row_stands():
    logits, seeds = torch.randn(40, 3000), torch.randint(2**62, (40,))
    options = {"temperature": 0.8, "top_k": 100, "top_p": 0.9, "num_samples": 2}
    indices, log_probs = sample(logits, seed=seeds, **options)
    order = torch.randperm(40)
    permuted = sample(logits[order], seed=seeds[order], **options)
    assert torch.equal(permuted[0], indices[order])
    assert torch.equal(permuted[1], log_probs[order])
    for row in (0, 17, 39):
        alone = sample(logits[row], seed=seeds[row], **options)
        assert torch.equal(alone[0], indices[row])
        assert torch.equal(alone[1], log_probs[row])
    expected = uniforms(seeds, 0, 1)
    probs = weights(logits, 0.8) * kept(logits, 0.8, 100, 0.9)
    is_near = distance_to_step(probs, expected) < 2e-6
    assert torch.equal(indices[~is_near, 1], inverse_cdf(probs, expected)[~is_near])


@cpu_kernels_only
@pytest.mark.parametrize("shape", [(1, 128_256), (3, 50_257), (64, 1000), (1, 5000)], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"top_k": 50}, {"top_p": 0.9}, {"top_k": 1000, "top_p": 0.5, "min_p": 1e-4}], ids=str
)
def test_the_number_of_threads_changes_no_bit(shape, options):
    logits = torch.randn(shape) * 2
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(sample(logits, seed=1, num_samples=500, **options))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert torch.equal(other[0], results[0][0])
        assert torch.equal(other[1], results[0][1])


@dtypes
def test_strides_are_followed(dtype):
    logits = torch.randn(6, 5, 40).to(dtype)
    for view in (
        logits.transpose(0, 2),
        logits[:, ::2],
        logits[..., 3:],
        logits[:1].expand(4, 5, 40),
        logits[..., ::3],
    ):
        actual = sample(view, seed=9, num_samples=2, top_k=5)
        expected = sample(view.contiguous(), seed=9, num_samples=2, top_k=5)
        assert torch.equal(actual[0], expected[0])
        torch.testing.assert_close(actual[1], expected[1])


# Limits


def test_at_temperature_0_the_first_of_the_largest_is_drawn():
    logits = torch.tensor([[1.0, 5.0, 2.0, 5.0], [7.0, 0.0, -math.inf, 7.0]])
    for options in ({}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.1}):
        indices, log_probs = sample(logits, temperature=0.0, num_samples=20, **options)
        assert (indices == torch.tensor([[1], [0]])).all()
        assert (log_probs == 0).all()
    mixed, _ = sample(logits, temperature=torch.tensor([0.0, 1.0]), num_samples=100)
    assert (mixed[0] == 1).all()
    assert set(mixed[1].tolist()) == {0, 3}


def test_at_an_infinite_temperature_all_that_is_not_minus_infinity_is_as_likely():
    logits = torch.tensor([3e38, -3e38, 0.0, -math.inf, 5.0])
    indices, log_probs = sample(logits, temperature=math.inf, num_samples=4000, seed=0)
    counts = indices.bincount(minlength=5)
    assert counts[3] == 0
    assert (counts[[0, 1, 2, 4]] - 1000).abs().max() < 5 * math.sqrt(750)
    torch.testing.assert_close(log_probs, torch.full((4000,), -math.log(4)))
    assert set(sample(logits, temperature=math.inf, top_k=2, num_samples=50)[0].tolist()) == {0, 4}


def test_what_has_no_probability_is_never_drawn():
    logits = torch.full((2, 9000), -math.inf)
    logits[0, 8999] = -50.0
    logits[1, [0, 4500]] = torch.tensor([0.0, -200.0])  # e^−200 is 0 in float32
    indices, log_probs = sample(logits, num_samples=200)
    assert (indices[0] == 8999).all()
    assert (indices[1] == 0).all()
    assert (log_probs == 0).all()


BAD = {
    "NaN": [1.0, math.nan, 0.0],
    "NaN first": [math.nan, 1.0, 0.0],
    "plus infinity": [1.0, math.inf, 0.0],
    "minus infinity alone": [-math.inf] * 3,
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.0}, {"temperature": math.inf}, {"top_k": 2}, {"top_p": 0.5}], ids=str
)
def test_a_row_without_a_distribution_is_named_on_the_cpu_and_minus_1_on_cuda(bad, options):
    logits = torch.randn(4, 3)
    logits[2] = torch.tensor(BAD[bad])
    if not ON_CUDA_KERNELS:
        with pytest.raises(RuntimeError, match="row 2"):
            sample(logits, **options)
        return
    indices, _ = sample(logits, num_samples=2, **options)
    assert (indices[2] == -1).all()
    assert (indices[[0, 1, 3]] >= 0).all()


@pytest.mark.parametrize(
    "bad", [{"temperature": math.nan}, {"temperature": -1.0}, {"top_p": math.nan}, {"min_p": 1.5}], ids=str
)
def test_an_option_of_a_row_out_of_its_range(bad):
    logits = torch.randn(3, 6)
    ((name, value),) = bad.items()
    option = {name: torch.tensor([0.5, value, 0.5])}
    if not ON_CUDA_KERNELS:
        with pytest.raises(ValueError, match="row 1"):
            sample(logits, **option)
        return
    assert sample(logits, **option)[0].flatten().sign().tolist()[1] == -1


def test_no_row_has_no_sample():
    indices, log_probs = sample(torch.empty(0, 5, dtype=torch.bfloat16), num_samples=3)
    assert indices.shape == log_probs.shape == (0, 3)
    assert (indices.dtype, log_probs.dtype) == (torch.int64, torch.float32)


# Frequencies. Seeds are fixed, so a test that passes once always does.


def chi_square(counts, probs):
    """The p-value, over the tokens that are expected five times or more; the others count as one."""
    expected = probs.double() * counts.sum()
    is_many = expected >= 5
    observed, wanted = counts[is_many].double(), expected[is_many]
    if not is_many.all():
        observed = torch.cat([observed, counts[~is_many].sum()[None].double()])
        wanted = torch.cat([wanted, expected[~is_many].sum()[None]])
    statistic = ((observed - wanted) ** 2 / wanted).sum().item()
    return scipy.stats.chi2.sf(statistic, len(observed) - 1)


LESSON = torch.tensor([3.0, 2.5, 1.8, 1.2, 0.9, 0.6, 0.2, -0.4], dtype=torch.float64)
DISTRIBUTIONS = {
    "lesson": (LESSON, {}),
    "lesson at 0.3": (LESSON, {"temperature": 0.3}),
    "lesson at 2": (LESSON, {"temperature": 2.0}),
    "lesson, top-k 3": (LESSON, {"top_k": 3}),
    "flat": (torch.zeros(100), {}),
    "Zipf": (-torch.arange(1.0, 2001).log(), {}),
    "Zipf, top-p": (-torch.arange(1.0, 2001).log(), {"top_p": 0.7}),
    "normal": (torch.randn(500, generator=torch.Generator().manual_seed(0)), {"min_p": 0.01}),
    "normal, bfloat16": (torch.randn(500, generator=torch.Generator().manual_seed(1)).bfloat16(), {}),
    "peaked": (torch.tensor([10.0] + [0.0] * 5000), {}),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_frequencies_follow_the_probabilities(name):
    logits, options = DISTRIBUTIONS[name]
    draws = 3000 if ON_CUDA_KERNELS else 200_000
    indices, _ = sample(logits, num_samples=draws, seed=1234, **options)
    probs = weights(logits, options.get("temperature", 1.0)) * kept(logits, **options)
    counts = indices.bincount(minlength=len(logits))
    assert (counts[probs == 0] == 0).all()
    kept_probs, kept_counts = probs[probs > 0] / probs.sum(), counts[probs > 0]
    assert chi_square(kept_counts, kept_probs) > 0.001 / len(DISTRIBUTIONS)  # Bonferroni
    # And the test sees what is wrong: a temperature a tenth off.
    if "top" not in name and name not in ("flat", "peaked") and not ON_CUDA_KERNELS:
        assert chi_square(kept_counts, kept_probs**1.1 / (kept_probs**1.1).sum()) < 1e-6


@cpu_kernels_only
def test_frequencies_over_rows_follow_the_probabilities():
    """One draw from each of many rows, under one seed and under a seed each."""
    rows = 100_000
    logits = LESSON.float().expand(rows, 8)
    probs = LESSON.softmax(0)
    for seed in (77, torch.arange(rows)):
        indices, _ = sample(logits, seed=seed)
        assert chi_square(indices.flatten().bincount(minlength=8), probs) > 0.001


@cpu_kernels_only
def test_the_mass_of_a_long_tail_is_drawn():
    """262,144 tokens 20.5 below the maximum have 3.3e-4 of the probability together: noise in float32 loses them all."""
    logits = torch.full((262_145,), -20.5)
    logits[100_000] = 0
    draws = 400_000
    indices, _ = sample(logits, num_samples=draws, seed=3)
    tail = 262_144 * math.exp(-20.5)
    expected = draws * tail / (1 + tail)
    hits = indices[indices != 100_000]
    assert abs(len(hits) - expected) < 4 * math.sqrt(expected)
    # Evenly over the tail, on either side of the maximum.
    assert len(hits.unique()) > 0.99 * len(hits)
    assert scipy.stats.kstest(hits.numpy() / 262_145, "uniform").pvalue > 0.001


@cpu_kernels_only
def test_every_token_of_a_flat_vocabulary_is_reached():
    size = 152_064
    indices, log_probs = sample(torch.zeros(size), num_samples=28 * size, seed=0)
    # The expected number of tokens that are missed is size · e^−28, about 1e-7.
    assert len(indices.unique()) == size
    torch.testing.assert_close(log_probs.double().mean().item(), -math.log(size), rtol=1e-6, atol=0)


def test_neighbouring_seeds_are_uncorrelated():
    count = 500 if ON_CUDA_KERNELS else 20_000
    logits = torch.zeros(count, 1000)
    indices, _ = sample(logits, seed=torch.arange(count))
    position = indices.flatten().double()
    for lag in (1, 2, 64):
        correlation = np.corrcoef(position[:-lag], position[lag:])[0, 1]
        assert abs(correlation) < 5 / math.sqrt(count)
    of_seeds = [sample(logits, seed=seed)[0].flatten().double() for seed in (6, 7)]
    assert abs(np.corrcoef(*of_seeds)[0, 1]) < 5 / math.sqrt(count)


def test_a_generator_repeats_the_draws_and_moves_on():
    logits = torch.randn(50, 20)
    generator = torch.Generator().manual_seed(4)
    first, second = sample(logits, generator=generator)[0], sample(logits, generator=generator)[0]
    generator.manual_seed(4)
    assert torch.equal(sample(logits, generator=generator)[0], first)
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    by_default = sample(logits)[0]
    torch.manual_seed(5)
    assert torch.equal(sample(logits)[0], by_default)


def test_seeds_of_64_bits_are_taken():
    logits = torch.zeros(1000)
    unsigned, signed = (sample(logits, seed=seed)[0] for seed in (2**64 - 1, -1))
    assert torch.equal(unsigned, signed)
    assert not torch.equal(unsigned, sample(logits, seed=2**32 - 1)[0])


# Errors


def raises(error, message, call):
    with pytest.raises(error, match=re.escape(message)) as caught:
        call()
    assert type(caught.value) is error


def test_errors_say_what_was_wanted_and_what_came():
    logits = torch.randn(2, 3)
    raises(ValueError, "expected a temperature >= 0, got -1", lambda: sample(logits, temperature=-1.0))
    raises(ValueError, "expected a temperature >= 0, got nan", lambda: sample(logits, temperature=math.nan))
    raises(ValueError, "expected top_p >= 0, got -0.5", lambda: sample(logits, top_p=-0.5))
    raises(ValueError, "expected min_p <= 1, got 2", lambda: sample(logits, min_p=2.0))
    raises(ValueError, "expected num_samples >= 1, got 0", lambda: sample(logits, num_samples=0))
    raises(
        ValueError,
        "expected a generator or a seed, got both",
        lambda: sample(logits, generator=torch.Generator(), seed=1),
    )
    raises(
        ValueError,
        "expected temperature to broadcast over the rows, the dims of the logits but the last, got shape [2, 1] for "
        "logits of shape [2, 3]",
        lambda: sample(logits, temperature=torch.ones(2, 1)),
    )
    raises(ValueError, "expected top_k to broadcast over the rows", lambda: sample(logits, top_k=torch.ones(3).int()))
    raises(RuntimeError, "expected top_k of an integer dtype, got Float", lambda: sample(logits, top_k=torch.ones(2)))
    raises(ValueError, "expected one seed, or one for each row", lambda: sample(logits, seed=torch.arange(3)))
    raises(RuntimeError, "expected a seed of an integer dtype, got Float", lambda: sample(logits, seed=torch.ones(())))
    raises(RuntimeError, "expected logits of shape (…, V), got a 0-d tensor", lambda: sample(torch.tensor(1.0)))
    raises(RuntimeError, "expected logits of at least 1 token, got 0", lambda: sample(torch.empty(2, 0)))
    raises(
        NotImplementedError,
        "expected logits of dtype float64, float32, bfloat16 or float16, got Long",
        lambda: sample(logits.long()),
    )
