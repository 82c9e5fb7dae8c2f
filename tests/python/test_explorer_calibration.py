"""The explorer's view of calibration, against NumPy and SciPy on the same logits."""

import math

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the explorer is an extra")

import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from softmax_ext.explorer import calibration as view
from softmax_ext.explorer.query import Query, QueryError


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def shown(**settings):
    query = Query((name, str(value)) for name, value in settings.items())
    numbers = view.calibration(query)
    query.refuse_the_rest()
    return numbers


def log_probs(split, temperature):
    logits, labels = (tensor.cpu().numpy() for tensor in split)
    return log_softmax(logits.astype(np.float64) / temperature, 1), labels


def nll(split, temperature):
    rows, labels = log_probs(split, temperature)
    return -rows[np.arange(len(labels)), labels].mean()


def bins(split, temperature):
    """Confidence, accuracy and count of 15 bins (lo, hi]."""
    rows, labels = log_probs(split, temperature)
    confidence, is_right = np.exp(rows.max(1)), rows.argmax(1) == labels
    index = np.ceil(confidence * 15).astype(int).clip(1, 15) - 1
    inside = [index == number for number in range(15)]
    return [(confidence[b].mean(), is_right[b].mean(), b.sum()) if b.any() else (math.nan, math.nan, 0) for b in inside]


def test_one_temperature_brings_the_error_of_unseen_documents_down_to_near_its_floor():
    numbers = shown()
    assert numbers["documents"] + numbers["fit_documents"] == 7528
    assert 0.09 < numbers["before"]["ece"] < 0.1
    assert numbers["after"]["ece"] < 0.025
    assert numbers["after"]["nll"] < numbers["before"]["nll"]
    assert numbers["after"]["brier"] < numbers["before"]["brier"]
    assert 0.005 < numbers["floor"] < 0.02
    assert numbers["temperature"] == pytest.approx(numbers["fitted_temperature"], rel=5e-3)


def test_the_fitted_temperature_is_that_of_the_other_documents_least_loss():
    to_fit, rest = view.held_out()
    assert len(to_fit.labels) == 2509
    best = minimize_scalar(lambda t: nll(to_fit, t), bounds=(0.5, 5), method="bounded", options={"xatol": 1e-8})
    assert shown()["fitted_temperature"] == pytest.approx(best.x, abs=1e-4)
    assert abs(best.x - minimize_scalar(lambda t: nll(rest, t), bounds=(0.5, 5), method="bounded").x) > 1e-3


@pytest.mark.parametrize("temperature", [0.4, 1.0, 1.75, 6.0])
def test_every_bin_and_measure_is_that_of_the_definition(temperature):
    _, split = view.held_out()
    after = shown(temperature=temperature)["after"]
    expected = bins(split, temperature)
    assert after["bin_count"] == [count for _, _, count in expected]
    for index, (confidence, accuracy, count) in enumerate(expected):
        if count:
            assert after["bin_confidence"][index] == pytest.approx(confidence, abs=1e-6)
            assert after["bin_accuracy"][index] == pytest.approx(accuracy, abs=1e-12)
    gaps = [abs(accuracy - confidence) * count for confidence, accuracy, count in expected if count]
    assert after["ece"] == pytest.approx(math.fsum(gaps) / 5019, abs=1e-6)
    assert after["nll"] == pytest.approx(nll(split, temperature), rel=1e-5)
    rows, labels = log_probs(split, temperature)
    one_hot = np.eye(20)[labels]
    assert after["brier"] == pytest.approx(((np.exp(rows) - one_hot) ** 2).sum(1).mean(), rel=1e-5)
    assert after["accuracy"] == pytest.approx((rows.argmax(1) == labels).mean(), abs=1e-12)
    assert after["confidence"] == pytest.approx(np.exp(rows.max(1)).mean(), rel=1e-6)


def test_the_sweep_is_the_view_at_each_of_its_temperatures():
    sweep = view.calibration_sweep(Query([]))
    assert (sweep["temperatures"][0], sweep["temperatures"][-1]) == (pytest.approx(0.2), pytest.approx(10))
    for index in (0, 60, 120):
        after = view.reliability(sweep["temperatures"][index])
        assert (sweep["ece"][index], sweep["nll"][index]) == (after["ece"], after["nll"])
    fitted = shown()["fitted_temperature"]
    best = sweep["temperatures"][int(np.argmin(sweep["nll"]))]
    assert best == pytest.approx(fitted, rel=0.05)


def test_a_temperature_out_of_range_is_refused():
    with pytest.raises(QueryError, match=r"temperature: expected a number from 0\.2 to 10, got '11'"):
        shown(temperature=11)
