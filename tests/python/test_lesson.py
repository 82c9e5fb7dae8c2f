"""The figures of the lesson "turn raw logits into calibrated probabilities", from our operators.

Systems 1 (softmax with temperature), 5 (three layers), 6 (sampling), 7 (the gotchas), 8 (calibrated) and 9 (PyTorch's
three names).
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import softmax_ext
from softmax_ext import nn

EXPLORER = [2.20, 1.70, 0.80, -0.10, -1.40]  # cat, dog, bird, fish, fox
SWEEP = [2.0, 1.2, 0.6, -0.3, -1.1]
LAYERS = [2.0, 1.2, 0.3, -0.8, -2.0]


def probabilities(logits, temperature=None, dtype=torch.float64):
    return softmax_ext.softmax(torch.tensor(logits, dtype=dtype), 0, temperature=temperature)


def entropy_in_bits(probs):
    return -(probs * probs.log2()).sum().item()


def percent(probs):
    return [round(100 * p, 1) for p in probs.tolist()]


def test_1_softmax_of_five_classes():
    probs = probabilities(EXPLORER)
    assert percent(probs) == [50.5, 30.6, 12.4, 5.1, 1.4]
    assert probs.argmax() == 0
    assert round(entropy_in_bits(probs), 3) == 1.698
    assert probs.sum().item() == pytest.approx(1, abs=1e-15)
    assert percent(probabilities(SWEEP)) == [54.3, 24.4, 13.4, 5.4, 2.4]


@pytest.mark.parametrize(
    ("temperature", "bits", "share"),
    [(0.3, 0.422, 0.18), (0.5, 0.975, 0.42), (1.0, 1.723, 0.74), (2.0, 2.131, 0.92), (5.0, 2.289, 0.99)],
)
def test_1_temperature_sets_the_entropy(temperature, bits, share):
    entropy = entropy_in_bits(probabilities(SWEEP, temperature))
    assert round(entropy, 3) == bits
    assert round(entropy / math.log2(5), 2) == share


def test_1_the_limits_of_the_temperature():
    assert probabilities(SWEEP, 0.0).tolist() == [1, 0, 0, 0, 0]
    assert probabilities(SWEEP, math.inf).tolist() == [0.2] * 5
    assert round(entropy_in_bits(probabilities(SWEEP, math.inf)), 3) == 2.322


def test_1_one_class_is_certain_and_two_are_a_sigmoid():
    for logit in (-1000.0, 0.0, 1000.0):
        assert probabilities([logit]).item() == 1
    for a, b in ((0.3, -1.2), (2.0, 2.0), (-5.0, 30.0)):
        expected = torch.sigmoid(torch.tensor([a - b, b - a], dtype=torch.float64))
        torch.testing.assert_close(probabilities([a, b]), expected)


@pytest.mark.parametrize("offset", [-1000.0, -0.5, 842.3, 1000.0, 1e6])
def test_1_a_constant_added_to_every_logit_changes_nothing(offset):
    shifted = probabilities([logit + offset for logit in SWEEP])
    # Adding the offset rounds the logits themselves, by u · |offset|.
    torch.testing.assert_close(shifted, probabilities(SWEEP), rtol=4 * abs(offset) * 2.0**-53 + 1e-15, atol=0)


def test_5_plain_python_numpy_and_the_operator_agree():
    exponentials = [math.exp(z - max(LAYERS)) for z in LAYERS]
    in_python = [e / sum(exponentials) for e in exponentials]
    z = np.array(LAYERS)
    in_numpy = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    ours = probabilities(LAYERS)
    # The lesson prints 0.6439, 0.2896, 0.0466, 0.0155, 0.0044, which is the softmax of these logits at no temperature.
    assert [round(p, 4) for p in ours.tolist()] == [0.5844, 0.2626, 0.1068, 0.0355, 0.0107]
    np.testing.assert_allclose(ours.cpu().numpy(), in_python, rtol=4e-16)
    np.testing.assert_allclose(ours.cpu().numpy(), in_numpy, rtol=4e-16)


def test_7_the_unshifted_formula_breaks_where_the_operator_does_not():
    z = torch.tensor(SWEEP, dtype=torch.float64) + 842.3
    naive = z.exp() / z.exp().sum()
    assert naive.isnan().any()
    assert [round(100 * p, 2) for p in softmax_ext.softmax(z, 0).tolist()] == [54.31, 24.40, 13.39, 5.45, 2.45]


def test_7_the_loss_belongs_on_raw_logits():
    logits = torch.tensor([[100.0, 0.0]], requires_grad=True)
    target = torch.tensor([1])
    loss = softmax_ext.cross_entropy(logits, target)
    assert loss.item() == 100
    (grad,) = torch.autograd.grad(loss, logits)
    assert grad.tolist() == [[1.0, -1.0]]
    # Through probabilities the logarithm meets a probability that has become 0, and the gradient is lost.
    through = -softmax_ext.softmax(logits, 1)[0, 1].log()
    (lost,) = torch.autograd.grad(through, logits)
    assert not lost.isfinite().all() or lost.abs().sum() == 0


def test_7_softmax_over_one_class_is_constant_and_learns_nothing():
    logit = torch.randn(4, 1, requires_grad=True)
    probs = softmax_ext.softmax(logit, 1)
    assert (probs == 1).all()
    probs.sum().backward()
    assert (logit.grad == 0).all()


@pytest.mark.parametrize("temperature", [0.05, 0.3, 1.0, 2.0, 50.0])
def test_7_order_is_kept_at_every_temperature(temperature):
    logits = torch.randn(100, dtype=torch.float64)
    probs = softmax_ext.softmax(logits, 0, temperature=temperature)
    assert torch.equal(probs.argsort(), logits.argsort())


def test_8_a_temperature_fitted_on_held_out_data_makes_probabilities_calibrated():
    truth = 1.5 * torch.randn(8000, 7, dtype=torch.float64)
    target = torch.multinomial(torch.softmax(truth, 1), 1).squeeze(1)
    logits = 2 * truth  # surer than it should be
    held_out, labels = logits[4000:], target[4000:]
    scaling = nn.TemperatureScaling()
    assert scaling.fit(logits[:4000], target[:4000]).temperature == pytest.approx(2, abs=0.15)
    temperature = scaling.temperature.item()
    before, after = (softmax_ext.calibration_error(held_out, labels, temperature=t) for t in (1, temperature))
    floor = softmax_ext.calibration_error_floor(held_out, temperature=temperature)
    assert before > 0.15
    assert after < 2 * floor
    for loss in (softmax_ext.cross_entropy, softmax_ext.brier_score):
        assert loss(held_out, labels, temperature=temperature) < loss(held_out, labels)
    assert torch.equal(scaling(held_out).argmax(1), held_out.argmax(1))


def test_9_the_three_names_of_torch_have_counterparts_with_the_same_call():
    x = torch.randn(4, 5, dtype=torch.float64)
    target = torch.tensor([0, 4, -100, 2])
    torch.testing.assert_close(softmax_ext.softmax(x, dim=1), F.softmax(x, dim=1))
    torch.testing.assert_close(softmax_ext.log_softmax(x, dim=1), F.log_softmax(x, dim=1))
    torch.testing.assert_close(nn.CrossEntropyLoss()(x, target), torch.nn.CrossEntropyLoss()(x, target))
    torch.testing.assert_close(
        nn.CrossEntropyLoss(ignore_index=4, reduction="sum")(x, target.clamp(min=0)),
        torch.nn.CrossEntropyLoss(ignore_index=4, reduction="sum")(x, target.clamp(min=0)),
    )
    torch.testing.assert_close(nn.Softmax(dim=1)(x), torch.nn.Softmax(dim=1)(x))
    torch.testing.assert_close(nn.LogSoftmax(dim=1)(x), torch.nn.LogSoftmax(dim=1)(x))


WORDS = ["the", "a", "cat", "dog", "sat", "ran", "slept", "<eos>"]
WORD_LOGITS = torch.tensor([3.0, 2.5, 1.8, 1.2, 0.9, 0.6, 0.2, -0.4])


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (1.0, [0.4201, 0.2548, 0.1265, 0.0694, 0.0514, 0.0381, 0.0255, 0.0140]),
        (0.3, [0.8258, 0.1560, 0.0151, 0.0020]),
        (2.0, [0.2622, 0.2042, 0.1439, 0.1066, 0.0917, 0.0790, 0.0646, 0.0479]),
    ],
)
def test_6_two_hundred_draws_follow_the_temperature(temperature, expected):
    probs = softmax_ext.softmax(WORD_LOGITS, 0, temperature=temperature)
    assert [round(p, 4) for p in probs.tolist()][: len(expected)] == expected
    indices, log_probs = softmax_ext.sample(WORD_LOGITS, temperature=temperature, num_samples=200, seed=0)
    torch.testing.assert_close(log_probs, probs.log()[indices])
    counts = indices.bincount(minlength=len(WORDS))
    deviation = (200 * probs * (1 - probs)).sqrt()
    assert ((counts - 200 * probs).abs() <= 4 * deviation + 1).all()


def test_6_diversity_falls_with_the_temperature():
    kinds = [
        len(softmax_ext.sample(WORD_LOGITS, temperature=t, num_samples=200, seed=0)[0].unique())
        for t in (0.3, 1.0, 2.0)
    ]
    assert kinds[0] < kinds[1] <= kinds[2] == len(WORDS)


def test_6_top_k_3_leaves_three_words_with_their_shares():
    indices, log_probs = softmax_ext.sample(WORD_LOGITS, top_k=3, num_samples=200, seed=0)
    assert set(indices.tolist()) == {0, 1, 2}
    shares = dict(zip(indices.tolist(), log_probs.exp().tolist(), strict=True))
    assert [round(shares[i], 4) for i in range(3)] == [0.5242, 0.3179, 0.1579]
