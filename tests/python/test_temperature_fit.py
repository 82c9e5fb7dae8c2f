"""fit_temperature: the temperature of the least loss, whatever the logits' dtype, shape and difficulty, in ten passes."""

import math
import re
import warnings

import numpy as np
import pytest
import reference
import scipy.optimize
import torch
import torch.nn.functional as F

import softmax_ext
from softmax_ext import nn

statistics = torch.ops.softmax_ext._temperature_statistics.default
#: What the primitive is where a device has no kernel of it: made of ATen operators.
WITHOUT_KERNEL = torch._C.DispatchKeySet(torch._C.DispatchKey.XPU)
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def drawn(rows, classes, temperature=1.8, deviation=2.0, dtype=torch.float32):
    """Logits whose best temperature is near ``temperature``: targets are drawn with the probabilities at it."""
    logits = deviation * torch.randn(rows, classes, dtype=torch.float64)
    target = torch.multinomial(torch.softmax(logits, 1), 1).squeeze(1)
    return (logits * temperature).to(dtype), target


def fit(*arguments, **options):
    """Where nothing is to warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return softmax_ext.fit_temperature(*arguments, **options)


def expected_statistics(logits, target, scale, weight=None):
    """Σ of weight, loss, distance of the target from the maximum, that distance as expected, and its variance."""
    x = logits.double().movedim(1, -1).reshape(-1, logits.shape[1])
    target = target.reshape(-1, 1)
    distance = x.amax(1, keepdim=True) - x
    probs = torch.softmax(x * scale, 1)
    distance_or_0 = distance.masked_fill(probs == 0, 0)
    expected = (probs * distance_or_0).sum(1)
    variance = (probs * (distance_or_0 - expected.unsqueeze(1)).square()).sum(1)
    loss = F.cross_entropy(x * scale, target.squeeze(1), reduction="none")
    rows = torch.stack([torch.ones_like(loss), loss, distance.gather(1, target).squeeze(1), expected, variance])
    return (rows if weight is None else rows * weight.reshape(-1)).sum(1)


def tolerance(dtype):
    """Of sums whose terms are rounded, relative: a variance is a difference of squares, of logits of some deviations."""
    return 1e-13 if dtype == torch.float64 else 1e-5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 3, 7, 8, 10, 20, 33, 100, 513, 1000, 4096, 4097, 9001])
def test_the_statistics_of_rows_at_every_length(classes, dtype):
    for rows in (1, 70 if classes < 4096 else 3):
        logits, target = drawn(rows, classes, dtype=dtype)
        for scale in (0.3, 2.0):
            expected = expected_statistics(logits, target, scale)
            actual = statistics(logits, target, None, 1, scale)
            torch.testing.assert_close(actual, expected, rtol=tolerance(dtype), atol=tolerance(dtype) * rows)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(3, 5, 2), (2, 21, 30, 31), (1, 4, 1000), (4, 150, 7, 7), (0, 3, 4), (2, 3, 0), (2, 5000, 3)]
)
def test_the_statistics_along_a_dim_that_is_not_last(shape, dtype):
    logits = torch.randn(shape, dtype=torch.float64).to(dtype)
    target = torch.randint(shape[1], shape[:1] + shape[2:])
    weight = torch.rand(target.shape, dtype=torch.float64)
    expected = expected_statistics(logits, target, 1.3, weight)
    for layout in (
        logits,
        logits.movedim(1, -1).contiguous().movedim(-1, 1),  # channels last
        torch.stack([logits, logits], -1)[..., 0],  # no two elements are neighbours
    ):
        actual = statistics(layout, target, weight, 1, 1.3)
        torch.testing.assert_close(actual, expected, rtol=tolerance(dtype), atol=tolerance(dtype) * max(1, len(target)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40, 10), (3, 5000), (2, 7, 3, 4), (5,), (0, 3)])
def test_a_device_without_a_kernel_has_the_same_statistics(shape, dtype):
    dim = 0 if len(shape) == 1 else 1
    logits = (3 * torch.randn(shape, dtype=torch.float64)).to(dtype)
    logits.flatten()[::7] = -math.inf
    target = logits.argmax(dim) if logits.numel() else torch.empty(0).long()
    weight = (torch.rand(target.shape, dtype=torch.float64) - 0.3).clamp(min=0)
    for weights in (None, weight):
        expected = statistics(logits, target, weights, dim, 0.8)
        actual = statistics.redispatch(WITHOUT_KERNEL, logits, target, weights, dim, 0.8)
        torch.testing.assert_close(actual, expected, rtol=tolerance(dtype), atol=tolerance(dtype))


def test_the_statistics_do_not_depend_on_the_number_of_threads():
    threads = torch.get_num_threads()
    try:
        for shape in ((5000, 10), (700, 100), (1, 200_000), (3, 50_000), (2, 11, 100, 101)):
            logits = torch.randn(shape)
            target = torch.randint(shape[1], shape[:1] + shape[2:])
            results = []
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                results.append(statistics(logits, target, None, 1, 0.7))
            assert torch.equal(results[0], results[1])
            assert torch.equal(results[0], results[2])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("temperature", [0.07, 1.0, 1.8, 18.0])
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_the_temperature_is_that_of_a_grid_and_bisection(classes, temperature, dtype):
    logits, target = drawn(300, classes, temperature, dtype=dtype)
    result = softmax_ext.fit_temperature(logits, target)
    best = reference.best_temperature(logits, target)
    assert abs(result.temperature - best) <= 1e-4
    assert result.is_clamped == (best in (0.05, 20.0))
    assert result.passes <= 10
    expected = F.cross_entropy(logits.double() / result.temperature, target).item()
    assert result.nll == pytest.approx(expected, rel=1e-6)


def near_separable(gap, wrong):
    """Every target but a few has the largest logit."""
    logits, target = gap * torch.randn(1000, 5, dtype=torch.float64), torch.empty(1000).long()
    target = logits.argmax(1)
    target[:wrong] = logits[:wrong].topk(2).indices[:, 1]
    return logits, target


HARD = {
    "near-separable": near_separable(0.5, 1),
    "near-separable, large": near_separable(30.0, 3),
    "under-confident": drawn(1000, 10, 0.06),
    "over-confident": drawn(1000, 10, 19.0),
    "heavy tails": (torch.distributions.StudentT(1.2).sample((800, 20)).double(), torch.randint(3, (800,))),
    "rows of very different scale": (
        torch.randn(600, 10, dtype=torch.float64) * torch.logspace(-2, 3, 600, dtype=torch.float64).unsqueeze(1),
        torch.randint(10, (600,)),
    ),
    "far from zero": (drawn(500, 10)[0].double() + 1e4, drawn(500, 10)[1]),
    "two values": (4.0 * F.one_hot(torch.arange(900) % 3, 3).double(), (torch.arange(900) // 100) % 3),
}
HARD["masked classes"] = (HARD["over-confident"][0].clone(), HARD["over-confident"][1])
HARD["masked classes"][0].scatter_(1, (HARD["over-confident"][1] + 1).unsqueeze(1) % 10, -math.inf)


@pytest.mark.parametrize("name", HARD)
def test_ten_passes_are_enough_for_hard_logits(name):
    for dtype in (torch.float64, torch.float32):
        logits, target = HARD[name][0].to(dtype), HARD[name][1]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"fit_temperature: the loss is least beyond")
            warnings.filterwarnings("error", message=r".*no convergence")
            result = softmax_ext.fit_temperature(logits, target)
        assert result.passes <= 10
        assert abs(result.temperature - reference.best_temperature(logits, target)) <= 1e-4


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_where_every_target_has_the_largest_logit_the_temperature_is_clamped_and_a_warning_says_so(offset):
    logits = torch.randn(100, 5) + offset
    message = (
        r"fit_temperature: the loss is least beyond the bounds \[0.05, 20\], as every target, or nearly, has the largest "
        r"logit of its row; the temperature is clamped to 0.05"
    )
    with pytest.warns(UserWarning, match=message):
        result = softmax_ext.fit_temperature(logits, logits.argmax(1))
    assert result[:1] + result[2:3] == (0.05, True)


def test_where_the_logits_are_wrong_the_temperature_is_clamped_to_the_upper_bound():
    logits = torch.randn(100, 5)
    with pytest.warns(UserWarning, match=r"as the logits say little of the targets; the temperature is clamped to 20"):
        result = softmax_ext.fit_temperature(logits, logits.argmin(1))
    assert (result.temperature, result.is_clamped) == (20.0, True)


def test_other_bounds_are_kept():
    logits, target = drawn(500, 10)
    best = fit(logits, target).temperature
    assert fit(logits, target, min_temperature=1e-3, max_temperature=1e3).temperature == pytest.approx(best, rel=1e-6)
    with pytest.warns(UserWarning, match=r"beyond the bounds \[2.5, 3\]"):
        assert softmax_ext.fit_temperature(logits, target, min_temperature=2.5, max_temperature=3).temperature == 2.5


@pytest.mark.parametrize("logits", [torch.zeros(9, 4), torch.full((9, 4), 1e30), torch.randn(9, 1)])
def test_where_the_temperature_changes_nothing_it_stays_1(logits):
    result = fit(logits, torch.zeros(9).long())
    assert (result.temperature, result.is_clamped) == (1.0, False)
    assert result.nll == pytest.approx(math.log(logits.shape[1]))


@pytest.mark.parametrize("size", [1e4, 1e20, 1e30])
def test_huge_logits_that_are_sometimes_wrong_are_clamped(size):
    logits = size * torch.randn(50, 4)
    with pytest.warns(UserWarning, match="clamped to 20"):
        result = softmax_ext.fit_temperature(logits, torch.randint(4, (50,)))
    assert math.isfinite(result.nll)


def test_ignored_rows_count_for_nothing_whatever_they_hold():
    logits, target = drawn(300, 10)
    expected = fit(logits, target)
    bad = torch.tensor([math.nan, math.inf, -math.inf]).unsqueeze(1).expand(3, 10)
    for ignore_index in (-100, 255):
        ignored = torch.full((3,), ignore_index)
        result = fit(torch.cat([bad, logits]), torch.cat([ignored, target]), None, ignore_index)
        assert result.temperature == pytest.approx(expected.temperature, rel=1e-9)
        assert result.nll == pytest.approx(expected.nll, rel=1e-9)


def test_weights_of_classes_count_as_in_the_loss():
    logits, target = drawn(800, 4, dtype=torch.float64)
    logits[:, 0] *= 3  # so that they matter
    weight = torch.tensor([0.0, 0.3, 5.0, 1.0], dtype=torch.float64)

    def loss(inverse):
        return F.cross_entropy(logits * inverse, target, weight).item()

    best = scipy.optimize.minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9})
    result = fit(logits, target, weight)
    assert result.temperature == pytest.approx(1 / best.x, abs=1e-5)
    assert result.temperature == pytest.approx(reference.best_temperature(logits, target, weight), abs=1e-6)
    assert abs(result.temperature - fit(logits, target).temperature) > 1e-2
    assert result.nll == pytest.approx(best.fun, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_targets_of_other_dtypes_and_logits_of_more_dims(dtype):
    logits, target = drawn(600, 6, dtype=torch.float64)
    expected = fit(logits, target).temperature
    images = logits.reshape(10, 60, 6).movedim(2, 1)
    assert fit(images, target.reshape(10, 60).to(dtype)).temperature == pytest.approx(expected, rel=1e-9)
    one = torch.tensor([1.0, 3.0, 0.0]), torch.tensor(2).to(dtype)
    with pytest.warns(UserWarning, match="clamped"):
        assert softmax_ext.fit_temperature(*one).temperature == 20


def test_scikit_learn_finds_the_same_temperature():
    calibration = pytest.importorskip("sklearn.calibration", reason="scikit-learn is not installed")
    frozen = pytest.importorskip("sklearn.frozen")
    logits, target = drawn(2000, 5, dtype=torch.float64)

    from sklearn.base import BaseEstimator, ClassifierMixin

    class Logits(ClassifierMixin, BaseEstimator):
        """A classifier that is given its logits as the features."""

        def fit(self, features, classes):
            self.classes_ = np.unique(classes)
            return self

        def decision_function(self, features):
            return features

        def predict(self, features):
            return self.classes_[features.argmax(1)]

    estimator = Logits().fit(logits.cpu().numpy(), target.cpu().numpy())
    scaled = calibration.CalibratedClassifierCV(frozen.FrozenEstimator(estimator), method="temperature", ensemble=False)
    scaled.fit(logits.cpu().numpy(), target.cpu().numpy())
    inverse = scaled.calibrated_classifiers_[0].calibrators[0].beta_
    assert fit(logits, target).temperature == pytest.approx(1 / inverse, abs=1e-6)


def test_no_gradient_is_made():
    logits, target = drawn(50, 4)
    assert not statistics(logits.requires_grad_(), target, None, 1, 1.0).requires_grad
    fit(logits, target)


def test_it_scripts():
    @torch.jit.script
    def fitted(logits: torch.Tensor, target: torch.Tensor) -> float:
        return torch.ops.softmax_ext.fit_temperature(logits, target)[0]

    logits, target = drawn(200, 4)
    assert fitted(logits, target) == fit(logits, target).temperature


X, T = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (IndexError, "expected targets in [0, 3) or ignore_index -100, got 3 at position 2", (X, T + 1)),
        (RuntimeError, "expected class indices of dtype int64, int32 or uint8 as target, got Float", (X, T.float())),
        (RuntimeError, "expected target of shape [4] for input [4, 3], got [3]", (X, T[:3])),
        (NotImplementedError, "expected input of dtype float64, float32, bfloat16 or float16, got Long", (X.long(), T)),
        (RuntimeError, "expected logits of shape [C] or [N, C, ...], got a 0-d tensor", (X[0, 0], T[0])),
        (RuntimeError, "expected weight of shape [3], one per class, got [4]", (X, T, torch.ones(4))),
        (
            ValueError,
            "expected finite weights of classes >= 0, got -1 for class 1",
            (X, T, torch.tensor([1.0, -1.0, 1.0])),
        ),
        (
            ValueError,
            "expected finite weights of classes >= 0, got inf for class 2",
            (X, T, torch.tensor([1.0, 1.0, math.inf])),
        ),
        (ValueError, "expected a row that is not ignored and whose class has a weight", (X, T * 0 - 100)),
        (ValueError, "expected a row that is not ignored and whose class has a weight", (X, T, torch.zeros(3))),
        (ValueError, "expected a row that is not ignored and whose class has a weight", (X[:0], T[:0])),
    ],
)
def test_bad_input(error, message, call):
    with pytest.raises(error, match=re.escape(message)) as caught:
        softmax_ext.fit_temperature(*call)
    assert type(caught.value) is error


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0), (1.0, math.inf), (math.nan, 1.0)])
def test_bounds_that_are_none(bounds):
    with pytest.raises(ValueError, match="expected 0 < min_temperature <= max_temperature < inf, got"):
        softmax_ext.fit_temperature(X, T, min_temperature=bounds[0], max_temperature=bounds[1])


@pytest.mark.parametrize(("value", "loss"), [(math.nan, "nan"), (math.inf, "nan"), (-math.inf, "inf")])
def test_a_row_without_a_finite_loss_is_named(value, loss):
    logits = torch.randn(2, 3, 4)
    logits[1, :, 2] = torch.tensor([0.0, value, 1.0])
    target = torch.ones(2, 4).long()
    with pytest.raises(ValueError, match=rf"expected rows of finite loss, got {loss} at position 6 of the target"):
        softmax_ext.fit_temperature(logits, target)


def test_the_module_fits_and_turns_logits_into_calibrated_probabilities():
    logits, target = drawn(500, 6)
    scaling = nn.TemperatureScaling()
    result = scaling.fit(logits, target)
    assert result == fit(logits, target)
    assert repr(scaling) == f"TemperatureScaling(dim=1, temperature={result.temperature:.4g})"
    expected = torch.softmax(logits / scaling.temperature, 1)
    torch.testing.assert_close(scaling(logits), expected)
    assert list(scaling.parameters()) == []


def test_the_module_takes_classes_in_any_dim():
    logits, target = drawn(300, 6)
    for dim, of_dim, targets in (
        (-1, logits.reshape(30, 10, 6), target.reshape(30, 10)),
        (2, logits.reshape(30, 10, 6), target.reshape(30, 10)),
        (0, logits.t(), target),
    ):
        scaling = nn.TemperatureScaling(dim)
        assert scaling.fit(of_dim, targets).temperature == pytest.approx(fit(logits, target).temperature, rel=1e-6)
        torch.testing.assert_close(scaling(of_dim).sum(dim), torch.ones(targets.shape))


def test_the_module_is_saved_with_its_state_and_scripts(tmp_path):
    logits, target = drawn(200, 6)
    scaling = nn.TemperatureScaling()
    scaling.fit(logits, target)
    torch.save(torch.nn.Sequential(torch.nn.Identity(), scaling).state_dict(), tmp_path / "state.pt")
    loaded = torch.nn.Sequential(torch.nn.Identity(), nn.TemperatureScaling())
    loaded.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert torch.equal(loaded(logits), scaling(logits))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)
        torch.jit.save(torch.jit.script(loaded), tmp_path / "scripted.pt")
        assert torch.equal(torch.jit.load(tmp_path / "scripted.pt")(logits), scaling(logits))


def test_the_module_refuses_a_number_that_is_no_temperature():
    with pytest.raises(ValueError, match="TemperatureScaling: expected a temperature of at least 0, got -1"):
        nn.TemperatureScaling(temperature=-1)
