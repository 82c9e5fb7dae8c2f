"""The explorer's view of sampling: the lesson's probabilities, and draws that are the operator's."""

import math

import pytest

pytest.importorskip("starlette", reason="the explorer is an extra")

import torch

import softmax_ext
from softmax_ext.explorer.query import Query, QueryError
from softmax_ext.explorer.sampling import EIGHT_WORDS, NextToken, kept_tokens, sampling

SOURCES = {"words": EIGHT_WORDS}


def shown(sources=SOURCES, **settings):
    query = Query((name, str(value)) for name, value in settings.items())
    numbers = sampling(query, sources)
    query.refuse_the_rest()
    return numbers


@pytest.mark.parametrize(
    ("settings", "figures"),
    [
        ({}, [0.4201, 0.2548, 0.1265, 0.0694, 0.0514, 0.0381, 0.0255, 0.0140]),
        ({"temperature": 0.3}, [0.8258, 0.1560, 0.0151, 0.0020]),
        ({"temperature": 2}, [0.2622, 0.2042, 0.1439, 0.1066, 0.0917, 0.0790, 0.0646, 0.0479]),
        ({"top_k": 3}, [0.5242, 0.3179, 0.1579, 0, 0, 0, 0, 0]),
    ],
)
def test_the_expected_probabilities_are_the_lessons(settings, figures):
    numbers = shown(**settings)
    assert [round(p, 4) for p in numbers["filtered_probabilities"]][: len(figures)] == figures
    assert sum(numbers["counts"]) == numbers["draws"] == 200


@pytest.mark.parametrize(
    "settings",
    [{"seed": 7}, {"temperature": 2, "top_k": 5}, {"temperature": 3, "top_p": 0.8}, {"temperature": 2, "min_p": 0.35}],
)
def test_counts_are_the_draws_of_the_operator_and_its_log_probabilities_those_expected(settings):
    numbers = shown(draws=5000, **settings)
    options = {"temperature": 1.0, "seed": 0} | settings
    drawn, log_probs = softmax_ext.sample(EIGHT_WORDS.logits, num_samples=5000, **options)
    assert numbers["counts"] == torch.bincount(drawn, minlength=8).tolist()
    expected = torch.tensor(numbers["filtered_probabilities"], dtype=torch.float64)
    torch.testing.assert_close(log_probs.exp(), expected[drawn], rtol=1e-12, atol=0)
    assert [count > 0 for count in numbers["counts"]] == numbers["kept"]
    probs = [p for p in numbers["filtered_probabilities"] if p > 0]
    assert numbers["entropy"] == pytest.approx(-math.fsum(p * math.log2(p) for p in probs), rel=1e-12)
    assert numbers["distinct"] == sum(numbers["kept"])


def test_diversity_falls_with_the_temperature_and_with_each_filter():
    wide = shown(temperature=2)
    for narrower in ({"temperature": 0.3}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.5}):
        narrow = shown(**{"temperature": 2, **narrower})
        assert narrow["entropy"] < wide["entropy"]
        assert narrow["distinct"] < wide["distinct"]


@pytest.mark.parametrize(
    ("filters", "kept"),
    [
        ((2, 1.0, 0.0), [1, 1, 1, 0]),  # both of the tie at the threshold
        ((0, 0.3, 0.0), [1, 0, 0, 0]),
        ((0, 0.0, 0.0), [1, 0, 0, 0]),  # the most probable one always
        ((0, 0.75, 0.0), [1, 1, 1, 0]),
        ((0, 1.0, 0.3), [1, 1, 1, 0]),
        ((0, 1.0, 0.5), [1, 0, 0, 0]),
        ((0, 1.0, 1.0), [1, 0, 0, 0]),
        ((4, 1.0, 0.0), [1, 1, 1, 1]),
        ((0, 1.0, 0.0), [1, 1, 1, 1]),
    ],
)
def test_filters_keep_what_their_definitions_say(filters, kept):
    logits = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64).log()
    assert kept_tokens(logits, 1.0, *filters).tolist() == [bool(k) for k in kept]


def test_no_filter_keeps_tokens_too_improbable_to_see():
    assert all(shown(temperature=0.01)["kept"])


def test_one_seed_gives_one_picture():
    assert shown(seed=3) == shown(seed=3)
    assert shown(seed=3)["counts"] != shown(seed=4)["counts"]


@pytest.mark.parametrize(
    "setting", [{"top_k": 9}, {"data": "model"}, {"top_p": 1.5}, {"min_p": -0.1}, {"draws": 0}, {"seed": -1}]
)
def test_settings_out_of_range_are_refused_by_name(setting):
    with pytest.raises(QueryError, match=next(iter(setting))):
        shown(**setting)


def model(tokens=1000):
    logits = 3 * torch.randn(tokens, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return NextToken("a model", "Once upon a", [f"t{index}" for index in range(tokens)], logits)


@pytest.mark.parametrize("settings", [{}, {"top_k": 40, "temperature": 1.5}, {"top_p": 0.5}, {"min_p": 0.1}])
def test_of_many_tokens_the_most_probable_are_shown_and_the_others_as_one(settings):
    source = model()
    numbers = shown({"words": EIGHT_WORDS, "model": source}, data="model", draws=3000, **settings)
    best = source.logits.argsort(descending=True)[:15]
    assert numbers["tokens"] == [f"t{index}" for index in best.tolist()]
    assert (numbers["vocabulary"], numbers["others"]["tokens"]) == (1000, 985)
    for name in ("probabilities", "filtered_probabilities"):
        assert math.fsum(numbers[name]) + numbers["others"][name] == pytest.approx(1, abs=1e-12)
    assert sum(numbers["counts"]) + numbers["others"]["counts"] == 3000
    assert sum(numbers["kept"]) + numbers["others"]["kept"] == numbers["kept_tokens"]
    assert numbers["kept_tokens"] == settings.get("top_k", numbers["kept_tokens"])


def test_a_model_is_read_from_a_file_of_its_fields(tmp_path):
    written = model()
    torch.save({**vars(written), "logits": written.logits.float()}, tmp_path / "next_token.pt")
    read = NextToken.load(tmp_path / "next_token.pt")
    assert (read.source, read.prompt, read.tokens) == (written.source, written.prompt, written.tokens)
    assert read.logits.dtype == torch.float64
    torch.save({"logits": written.logits}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="expected a dict of source, prompt, tokens, logits"):
        NextToken.load(tmp_path / "other.pt")
    torch.save({**vars(written), "logits": written.logits[1:]}, tmp_path / "short.pt")
    with pytest.raises(ValueError, match=r"expected one logit for each of 1000 tokens, got a tensor of shape \[999\]"):
        NextToken.load(tmp_path / "short.pt")
