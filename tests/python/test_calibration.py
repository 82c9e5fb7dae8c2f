"""Calibration errors, reliability curves and Brier scores, beside what other libraries and an obvious loop yield."""

import math
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import softmax_ext


def random_predictions(rows=3000, classes=7, dtype=torch.float32, temperature=2.0):
    """Over-confident logits, with their targets."""
    logits = 1.5 * torch.randn(rows, classes, dtype=torch.float64)
    target = torch.multinomial(torch.softmax(logits, 1), 1).squeeze(1)
    return (logits * temperature).to(dtype), target


def curve_by_loop(probs, target, bins):
    """(confidence, accuracy, count) of each bin (lo, hi] of equal width."""
    confidence, predicted = probs.max(1)
    rows = []
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        right = predicted[inside] == target[inside]
        rows.append((confidence[inside].double().mean().item(), right.double().mean().item(), int(inside.sum())))
    return rows


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_curve_is_that_of_an_obvious_loop(bins, dtype):
    logits, target = random_predictions(dtype=dtype)
    curve = softmax_ext.reliability_curve(logits, target, bins=bins)
    # The bin of a confidence next to an edge is a matter of its last bits: the same softmax for both.
    lane = torch.float64 if dtype == torch.float64 else torch.float32
    probs = softmax_ext.softmax(logits, 1, lane)
    expected = curve_by_loop(probs, target, bins)
    for b, (confidence, accuracy, count) in enumerate(expected):
        assert curve.count[b] == count
        np.testing.assert_allclose([curve.confidence[b], curve.accuracy[b]], [confidence, accuracy], rtol=1e-12)
    torch.testing.assert_close(curve.edges, torch.arange(bins + 1, dtype=torch.float64) / bins, rtol=1e-7, atol=0)


def test_a_confidence_on_an_edge_is_in_the_lower_bin():
    confidences = [0.6, 0.8, 1.0]
    for dtype in (torch.float64, torch.float32):
        probs = torch.tensor([[c, 1 - c] for c in confidences], dtype=dtype)
        curve = softmax_ext.reliability_curve(probs, torch.zeros(3).long(), bins=5, from_logits=False)
        assert curve.count.tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_the_error_is_torchmetrics(norm):
    metrics = pytest.importorskip("torchmetrics.functional.classification", reason="torchmetrics is not installed")
    for seed, bins in ((0, 15), (1, 10), (2, 20)):
        torch.manual_seed(seed)
        logits, target = random_predictions(dtype=torch.float64)
        probs = torch.softmax(logits, 1)
        expected = metrics.multiclass_calibration_error(probs, target, probs.shape[1], n_bins=bins, norm=norm)
        for call in ((logits, True), (probs, False)):
            actual = softmax_ext.calibration_error(call[0], target, bins=bins, norm=norm, from_logits=call[1])
            assert actual.item() == pytest.approx(expected.item(), abs=1e-6)


def test_the_error_is_relplots():
    metrics = pytest.importorskip("relplot.metrics", reason="relplot is not installed")
    for bins in (10, 15):
        logits, target = random_predictions(dtype=torch.float64)
        confidence, right = metrics.multiclass_logits_to_confidences(logits.cpu().numpy(), target.cpu().numpy())
        expected = metrics.binnedECE(confidence, right, nbins=bins)
        assert softmax_ext.calibration_error(logits, target, bins=bins).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_the_error_is_that_of_an_obvious_loop(norm):
    logits, target = random_predictions()
    gaps, shares = [], []
    for confidence, accuracy, count in curve_by_loop(softmax_ext.softmax(logits, 1), target, 15):
        if count:
            gaps.append(abs(accuracy - confidence))
            shares.append(count / len(target))
    gaps, shares = np.array(gaps), np.array(shares)
    expected = {"l1": (gaps * shares).sum(), "l2": (gaps**2 * shares).sum() ** 0.5, "max": gaps.max()}[norm]
    actual = softmax_ext.calibration_error(logits, target, norm=norm)
    assert actual.dtype == torch.float64
    assert actual.item() == pytest.approx(expected, rel=1e-12)
    assert softmax_ext.calibration_error(logits, target, norm=norm, temperature=2.0) < 0.6 * actual


@pytest.mark.parametrize("rows", [15, 100, 3000])
def test_bins_of_equal_mass_are_the_parts_of_the_sorted_confidences(rows):
    logits, target = random_predictions(rows, dtype=torch.float64)
    curve = softmax_ext.reliability_curve(logits, target, binning="mass")
    confidence, predicted = torch.softmax(logits, 1).max(1)
    order = confidence.argsort()
    bounds = [math.ceil(rows * b / 15) for b in range(16)]
    for b in range(15):
        part = order[bounds[b] : bounds[b + 1]]
        assert curve.count[b] == len(part)
        np.testing.assert_allclose(curve.confidence[b], confidence[part].mean(), rtol=1e-12)
        np.testing.assert_allclose(curve.accuracy[b], (predicted == target)[part].double().mean(), rtol=1e-12)
    assert curve.count.max() - curve.count.min() <= 1


def test_equal_confidences_share_a_bin_so_the_order_of_rows_does_not_count():
    probs = torch.tensor([[0.7, 0.3]]).expand(40, 2)
    target = (torch.arange(40) >= 30).long()
    for order in (torch.arange(40), torch.randperm(40)):
        options = {"bins": 4, "binning": "mass", "from_logits": False}
        curve = softmax_ext.reliability_curve(probs, target[order], **options)
        assert curve.count.tolist() == [40, 0, 0, 0]
        assert softmax_ext.calibration_error(probs, target[order], **options).item() == pytest.approx(0.05, abs=1e-7)


def test_the_floor_is_what_a_perfect_predictor_shows():
    logits = random_predictions(1000)[0]
    probs = torch.softmax(logits, 1)
    targets = torch.multinomial(probs, 2000, replacement=True).t()
    for norm in ("l1", "l2", "max"):
        errors = torch.stack([softmax_ext.calibration_error(logits, target, norm=norm) for target in targets[:400]])
        floor = softmax_ext.calibration_error_floor(logits, norm=norm, draws=400)
        # Two means of 400 draws each: five standard errors of their difference.
        assert abs(floor - errors.mean()) < 5 * errors.std() * (2 / 400) ** 0.5


def test_the_floor_falls_with_the_number_of_predictions_and_is_repeatable():
    logits = random_predictions(4000)[0]

    def floor(rows):
        return softmax_ext.calibration_error_floor(logits[:rows], generator=torch.Generator().manual_seed(3)).item()

    assert floor(4000) == floor(4000)
    assert 1.7 < floor(1000) / floor(4000) < 2.3  # as the square root
    certain = torch.tensor([[1.0, 0.0]]).expand(10, 2)
    assert softmax_ext.calibration_error_floor(certain, from_logits=False) == 0


def test_ignored_rows_are_left_out_whatever_they_hold():
    logits, target = random_predictions(400)
    more = torch.cat([torch.full((3, 7), math.nan), logits])
    ignored = torch.cat([torch.tensor([-1, -1, -1]), target])
    for function in (softmax_ext.calibration_error, softmax_ext.brier_score):
        assert function(more, ignored, ignore_index=-1) == function(logits, target)
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    floors = [
        softmax_ext.calibration_error_floor(x, t, ignore_index=-1, generator=g)
        for (x, t), g in zip(((more, ignored), (logits, target)), generators, strict=True)
    ]
    assert floors[0] == floors[1]


def test_logits_of_more_dims_are_as_many_rows():
    logits, target = random_predictions(600)
    images, labels = logits.reshape(10, 60, 7).movedim(2, 1), target.reshape(10, 60)
    for function in (softmax_ext.calibration_error, softmax_ext.brier_score):
        torch.testing.assert_close(function(images, labels), function(logits, target), rtol=1e-6, atol=0)


@pytest.mark.parametrize("from_logits", [True, False])
def test_the_brier_score_and_its_gradient(from_logits):
    logits, target = random_predictions(50, dtype=torch.float64)
    x = logits if from_logits else torch.softmax(logits, 1)
    temperature = 1.4 if from_logits else None

    def expected(x):
        probs = torch.softmax(x / temperature, 1) if from_logits else x
        return (probs - F.one_hot(target, 7)).square().sum(1).mean()

    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    score = softmax_ext.brier_score(ours, target, temperature=temperature, from_logits=from_logits)
    torch.testing.assert_close(score, expected(theirs))
    grads = torch.autograd.grad(score, ours), torch.autograd.grad(expected(theirs), theirs)
    torch.testing.assert_close(*grads)


def test_the_brier_score_keeps_its_digits_where_predictions_are_nearly_certain():
    logits = torch.tensor([[12.0, 0.0]])
    p = 1 / (1 + math.exp(12))
    assert softmax_ext.brier_score(logits, torch.tensor([0])).item() == pytest.approx(2 * p * p, rel=2e-2)


X, T = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "expected an input of shape [N, C, ...], got [3]", lambda f: f(X[0], T[0])),
        (ValueError, "expected a target of shape [4] for an input of shape [4, 3], got [3]", lambda f: f(X, T[:3])),
        (
            ValueError,
            "expected class indices of an integer dtype as target, got torch.float32",
            lambda f: f(X, T + 0.5),
        ),
        (IndexError, "expected targets in [0, 3) or ignore_index -100, got 3", lambda f: f(X, T + 1)),
        (
            ValueError,
            "expected logits beside a temperature, got from_logits=False",
            lambda f: f(X.softmax(1), T, temperature=2.0, from_logits=False),
        ),
    ],
)
def test_bad_input(error, message, call):
    for name in ("reliability_curve", "calibration_error", "brier_score"):
        with pytest.raises(error, match=re.escape(message)):
            call(getattr(softmax_ext, name))


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("expected bins >= 1, got 0", {"bins": 0}),
        ("expected binning 'width' or 'mass', got 'equal'", {"binning": "equal"}),
        ("expected norm 'l1', 'l2' or 'max', got 'l3'", {"norm": "l3"}),
    ],
)
def test_bad_options(message, options):
    for name in ("calibration_error", "calibration_error_floor"):
        with pytest.raises(ValueError, match=re.escape(message)):
            getattr(softmax_ext, name)(X, T, **options)


def test_what_is_no_probability_is_refused():
    with pytest.raises(ValueError, match="expected probabilities, got a largest probability of 2"):
        softmax_ext.calibration_error(2 * F.one_hot(T, 3).float(), T, from_logits=False)
    with pytest.raises(ValueError, match="expected logits with a softmax, got a largest probability of nan"):
        softmax_ext.calibration_error(torch.full((4, 3), math.nan), T)
    with pytest.raises(ValueError, match="expected draws >= 1, got 0"):
        softmax_ext.calibration_error_floor(X, draws=0)


def test_a_class_of_a_small_type_is_not_the_ignored_one():
    """−100 is 156 in a uint8."""
    logits, target = torch.randn(6, 200), torch.tensor([156, 1, 2, 3, 156, 5])
    small = target.to(torch.uint8)
    assert softmax_ext.reliability_curve(logits, small).count.sum() == 6
    assert softmax_ext.calibration_error(logits, small) == softmax_ext.calibration_error(logits, target)
    assert softmax_ext.brier_score(logits, small) == softmax_ext.brier_score(logits, target)


def test_a_temperature_that_is_learned_is_a_number_here():
    logits, target = random_predictions(rows=40)
    temperature = torch.nn.Parameter(torch.tensor(2.0))
    error = softmax_ext.calibration_error(logits, target, temperature=temperature)
    assert not error.requires_grad
    assert error == softmax_ext.calibration_error(logits, target, temperature=2.0)


def test_a_plot_takes_a_temperature_that_is_learned():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    logits, target = random_predictions(rows=40)
    softmax_ext.plot_reliability(logits, target, temperature=torch.nn.Parameter(torch.tensor(2.0)))


@pytest.mark.parametrize(
    ("wanted", "input", "from_logits"),
    [
        ("probabilities", torch.tensor([[3.0, -1.0]]), False),
        ("logits with a softmax", torch.tensor([[math.nan, 1.0]]), True),
    ],
)
def test_the_brier_score_refuses_what_is_no_probability(wanted, input, from_logits):
    with pytest.raises(ValueError, match=f"brier_score: expected {wanted}, got a largest probability of"):
        softmax_ext.brier_score(input, torch.tensor([0]), from_logits=from_logits)


def test_the_diagram_shows_the_curve():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    logits, target = random_predictions(2000)
    axes = softmax_ext.plot_reliability(logits, target, bins=10, title="before")
    curve = softmax_ext.reliability_curve(logits, target, bins=10)
    accuracy = curve.accuracy[curve.count > 0].tolist()
    heights = [patch.get_height() for patch in axes.patches]
    assert heights[: len(accuracy)] == pytest.approx(accuracy)
    (below,) = (other for other in axes.figure.axes if other is not axes)
    shares = [patch.get_height() for patch in below.patches]
    assert shares == pytest.approx((100 * curve.count / 2000).tolist())
    words = " ".join(text.get_text() for text in axes.texts)
    assert f"{softmax_ext.calibration_error(logits, target, bins=10).item():.1%}" in words
    assert f"{softmax_ext.cross_entropy(logits, target).item():.3f}" in words
    assert axes.get_title() == "before"


def test_the_diagram_is_drawn_where_it_is_told_and_the_same_from_probabilities(tmp_path):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    logits, target = random_predictions(500)
    target[:5] = -100
    axes = figure.subplots()
    assert softmax_ext.plot_reliability(logits, target, temperature=2.0, ax=axes) is axes
    probs = softmax_ext.softmax(logits, 1, temperature=2.0)
    other = softmax_ext.plot_reliability(probs, target, from_logits=False)
    assert [text.get_text() for text in axes.texts] == [text.get_text() for text in other.texts]
    figure.savefig(tmp_path / "diagram.png")
    assert (tmp_path / "diagram.png").stat().st_size > 5000


def test_without_matplotlib_the_error_says_what_to_install():
    code = """
    import sys, torch
    sys.modules["matplotlib"] = None
    import softmax_ext
    try:
        softmax_ext.plot_reliability(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))
    except ImportError as error:
        print(error)
    """
    code = "\n".join(line[4:] for line in code.splitlines())
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert completed.stdout == "plot_reliability: expected matplotlib to be installed. Run 'pip install matplotlib'.\n"
