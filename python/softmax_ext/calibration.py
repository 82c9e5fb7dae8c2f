"""Calibration: how far a classifier's confidence is from its accuracy, and the temperature that brings them together.

A classifier is calibrated if, of what it says with confidence 0.8, 80 % is right. Guo, Pleiss, Sun and Weinberger, "On
Calibration of Modern Neural Networks", 2017 (arXiv:1706.04599) is the source of the temperature and of the measures.

Functions of an ``input`` take logits ``[N, C]`` or ``[N, C, …]`` (float64, float32, bfloat16 or float16) and a
``target`` of class indices ``[N]`` or ``[N, …]``; with ``from_logits=False`` ``input`` holds probabilities.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from . import functional

_fit_temperature = torch.ops.softmax_ext.fit_temperature.default
_NORMS = ("l1", "l2", "max")
_BINNINGS = ("width", "mass")


class TemperatureFit(NamedTuple):
    """What :func:`fit_temperature` found."""

    #: The temperature of the least loss.
    temperature: float
    #: The mean negative log-likelihood at that temperature, in nats.
    nll: float
    #: Whether the best temperature lies beyond a bound, which ``temperature`` then is.
    is_clamped: bool
    #: Passes over the logits that it took; at most 10.
    passes: int


class ReliabilityCurve(NamedTuple):
    """Confidence and accuracy by bins of confidence, float64; bin b holds what is in ``(edges[b], edges[b + 1]]``."""

    #: ``[bins + 1]``.
    edges: Tensor
    #: ``[bins]``, the mean confidence in each; NaN in an empty bin.
    confidence: Tensor
    #: ``[bins]``, the share that is right; NaN in an empty bin.
    accuracy: Tensor
    #: ``[bins]``, int64, how many predictions it holds.
    count: Tensor


def fit_temperature(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    *,
    min_temperature: float = 0.05,
    max_temperature: float = 20.0,
) -> TemperatureFit:
    """The temperature at which ``cross_entropy(input, target, temperature=T)`` is least.

    Fit it on data that the model was not trained on: on its training data a model is right more often than elsewhere.

    Args:
        input: Logits ``[N, C]``, ``[N, C, …]`` or ``[C]``; float64, float32, bfloat16 or float16. No gradient is made.
        target: Class indices, as for :func:`softmax_ext.cross_entropy`.
        weight: One number ≥ 0 per class, ``[C]``, by which its rows count.
        ignore_index: Rows with this target count for nothing, whatever their logits are.
        min_temperature, max_temperature: Bounds of the temperature. Where every target has the largest logit of its
            row, say, the loss falls with T all the way to 0.

    Returns:
        The temperature, the loss there, whether it was clamped, and the number of passes over the logits. 1 (or the bound
        next to it) where the loss does not depend on the temperature: logits that are equal, or a single class.

    Raises:
        IndexError: a target is neither a class nor ``ignore_index`` (CPU; on CUDA an assertion of the device).
        ValueError: no row counts, a row that counts has no finite loss (its logits hold NaN or +inf, or −inf for its
            target), a weight is below 0, or the bounds are not ``0 < min_temperature <= max_temperature < inf``.
        NotImplementedError: the dtype of ``input`` or ``weight`` is not one of the above.

    Warns:
        UserWarning: the temperature was clamped.

    Newton's method on 1/T, in which the loss is convex, kept between bounds of the minimum. A step is one pass, which
    makes the loss and its first two derivatives, with sums in float64 in a fixed order. On CUDA a pass is made of ATen
    operators and takes some memory.

    >>> fit_temperature(torch.tensor([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0]]), torch.tensor([0, 1, 1])).temperature
    5.7707...
    """
    arguments = (input, target, weight, ignore_index, min_temperature, max_temperature)
    result = TemperatureFit(*_fit_temperature(*arguments))
    if result.is_clamped:
        reason = (
            "every target, or nearly, has the largest logit of its row"
            if result.temperature == min_temperature
            else "the logits say little of the targets"
        )
        warnings.warn(
            f"fit_temperature: the loss is least beyond the bounds [{min_temperature:g}, {max_temperature:g}], as "
            f"{reason}; the temperature is clamped to {result.temperature:g}",
            stacklevel=2,
        )
    return result


def reliability_curve(
    input: Tensor,
    target: Tensor,
    *,
    bins: int = 15,
    binning: str = "width",
    temperature: float | Tensor | None = None,
    from_logits: bool = True,
    ignore_index: int = -100,
) -> ReliabilityCurve:
    """Mean confidence and accuracy of the predictions, by bins of confidence.

    A prediction is the class of the largest probability, and its confidence that probability.

    Args:
        input: Logits ``[N, C, …]``, or probabilities.
        target: Class indices ``[N, …]``.
        bins: How many.
        binning: ``"width"`` for bins of equal width in [0, 1], or ``"mass"`` for bins that hold equally many
            predictions, as far as equal confidences, which are kept together, allow. A confidence on the edge of two
            bins is in the lower one, as with Guo et al.
        temperature: Of the softmax, as for :func:`softmax_ext.softmax`; only with logits.
        from_logits: Whether ``input`` holds logits, or probabilities.
        ignore_index: Rows with this target are left out.

    Raises:
        ValueError: an argument is not one of the above, a shape does not match, or a row has no probabilities (NaN).
        IndexError: a target is neither a class nor ``ignore_index``.
    """
    op = "reliability_curve"
    confidence, is_right = _predictions(op, input, target, temperature, from_logits, ignore_index)
    edges = _edges(op, confidence, bins, binning)
    index = _bin_of(confidence, edges)
    count = torch.bincount(index, minlength=bins)
    means = (torch.bincount(index, values.double(), minlength=bins) / count for values in (confidence, is_right))
    return ReliabilityCurve(edges.double(), *means, count)


def calibration_error(
    input: Tensor,
    target: Tensor,
    *,
    bins: int = 15,
    norm: str = "l1",
    binning: str = "width",
    temperature: float | Tensor | None = None,
    from_logits: bool = True,
    ignore_index: int = -100,
) -> Tensor:
    """How far accuracy is from confidence: the gaps between them in the bins of :func:`reliability_curve`.

    Args:
        norm: ``"l1"``, the expected calibration error (ECE): the mean of the gaps, each counted by the predictions in its
            bin; ``"l2"``, the root of the mean of their squares; ``"max"``, the largest one.
        input, target, bins, binning, temperature, from_logits, ignore_index: As for :func:`reliability_curve`.

    Returns:
        A number in [0, 1], float64, 0-d. Not differentiable. Of finitely many predictions it is not 0 even where they are
        perfect: see :func:`calibration_error_floor`.

    >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    >>> calibration_error(logits, torch.tensor([0, 0, 1, 0]))
    tensor(0.1308, dtype=torch.float64)
    """
    _check_choice("calibration_error", "norm", norm, _NORMS)
    options = {"temperature": temperature, "from_logits": from_logits, "ignore_index": ignore_index}
    curve = reliability_curve(input, target, bins=bins, binning=binning, **options)
    return _norm_of_gaps((curve.accuracy - curve.confidence).nan_to_num(), curve.count, norm)


def calibration_error_floor(
    input: Tensor,
    target: Tensor | None = None,
    *,
    bins: int = 15,
    norm: str = "l1",
    binning: str = "width",
    temperature: float | Tensor | None = None,
    from_logits: bool = True,
    ignore_index: int = -100,
    draws: int = 200,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The calibration error that these confidences would show on average if they were perfect.

    Finitely many predictions of confidence 0.8 are never right in exactly 80 % of cases. So whether each is right is drawn
    with its own confidence as probability, ``draws`` times, and the errors of the draws are averaged: an error near this
    floor is none.

    Args:
        target: Only says which rows are ignored; None for none.
        draws: How many; the floor is known to about a third of itself divided by √draws.
        generator: Of the random numbers, on ``input``'s device; torch's default one if None.
        input, bins, norm, binning, temperature, from_logits, ignore_index: As for :func:`calibration_error`.

    Returns:
        float64, 0-d.
    """
    op = "calibration_error_floor"
    _check_choice(op, "norm", norm, _NORMS)
    if draws < 1:
        raise ValueError(f"{op}: expected draws >= 1, got {draws}")
    confidence, _ = _predictions(op, input, target, temperature, from_logits, ignore_index)
    index = _bin_of(confidence, _edges(op, confidence, bins, binning))
    count = torch.bincount(index, minlength=bins)
    errors = torch.zeros((), dtype=torch.float64, device=confidence.device)
    for _ in range(draws):
        uniform = torch.rand(confidence.shape, generator=generator, dtype=torch.float64, device=confidence.device)
        excess = (uniform < confidence).double() - confidence
        gaps = torch.bincount(index, excess, minlength=bins) / count.clamp(min=1)
        errors += _norm_of_gaps(gaps, count, norm)
    return errors / draws


def brier_score(
    input: Tensor,
    target: Tensor,
    *,
    temperature: float | Tensor | None = None,
    from_logits: bool = True,
    ignore_index: int = -100,
) -> Tensor:
    """Brier score: the mean over rows of ``Σ_c (p_c − [c = target])²``, between 0 and 2.

    Arguments and errors are those of :func:`reliability_curve`. float64 for float64 input, else float32; differentiable in
    ``input`` and ``temperature``; NaN if every row is ignored. (For two classes some divide it by 2.)

    >>> brier_score(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor(0.5000)
    """
    op = "brier_score"
    _check_shapes(op, input, target)
    valid, classes = _classes(op, input, target, ignore_index)
    probs = _probabilities(op, input.masked_fill(~valid.unsqueeze(1), 0), temperature, from_logits)
    _check_confidence(op, probs.detach().amax(1), from_logits)
    certain = torch.ones_like(classes, dtype=probs.dtype).unsqueeze(1)
    errors = probs.scatter_add(1, classes.unsqueeze(1), -certain)
    scores = errors.square().sum(1).masked_fill(~valid, 0)
    return (scores.sum(dtype=torch.float64) / valid.sum()).to(probs.dtype)


def _predictions(
    op: str,
    input: Tensor,
    target: Tensor | None,
    temperature: float | Tensor | None,
    from_logits: bool,
    ignore_index: int,
) -> tuple[Tensor, Tensor | None]:
    """Confidence of each row that is not ignored, and whether its prediction is right: ``[rows]``, detached."""
    _check_shapes(op, input, target)
    if isinstance(temperature, Tensor):
        temperature = temperature.detach()
    confidence, predicted = _probabilities(op, input.detach(), temperature, from_logits).max(1)
    if target is None:
        confidence, is_right = confidence.flatten(), None
    else:
        valid, classes = _classes(op, input, target, ignore_index)
        confidence, is_right = confidence[valid], (predicted == classes)[valid]
    _check_confidence(op, confidence, from_logits)
    return confidence.clamp(max=1), is_right


def _check_confidence(op: str, confidence: Tensor, from_logits: bool) -> None:
    """``confidence``: the largest probability of each row."""
    is_probability = (confidence >= 0) & (confidence <= 1 + 1e-6)  # NaN is none
    if not bool(is_probability.all()):
        wanted = "logits with a softmax" if from_logits else "probabilities"
        raise ValueError(f"{op}: expected {wanted}, got a largest probability of {confidence[~is_probability][0]}")


def _check_shapes(op: str, input: Tensor, target: Tensor | None) -> None:
    if input.dim() < 2 or input.shape[1] == 0:
        raise ValueError(f"{op}: expected an input of shape [N, C, ...], got {list(input.shape)}")
    rows = input.shape[:1] + input.shape[2:]
    if target is not None and target.shape != rows:
        raise ValueError(
            f"{op}: expected a target of shape {list(rows)} for an input of shape {list(input.shape)}, got "
            f"{list(target.shape)}"
        )


def _probabilities(op: str, input: Tensor, temperature: float | Tensor | None, from_logits: bool) -> Tensor:
    """``[N, C, …]``, float64 for float64 input, else float32."""
    if not from_logits and temperature is not None:
        raise ValueError(f"{op}: expected logits beside a temperature, got from_logits=False")
    dtype = torch.float64 if input.dtype == torch.float64 else torch.float32
    return functional.softmax(input, 1, dtype, temperature=temperature) if from_logits else input.to(dtype)


def _classes(op: str, input: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Which rows count, and the class of each, 0 in the others."""
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise ValueError(f"{op}: expected class indices of an integer dtype as target, got {target.dtype}")
    target = target.long()  # in which an ignore_index below 0 is no class of a uint8
    valid = target != ignore_index
    classes = target.masked_fill(~valid, 0)
    is_class = (classes >= 0) & (classes < input.shape[1])
    if not bool(is_class.all()):
        wrong = classes[~is_class][0].item()
        raise IndexError(f"{op}: expected targets in [0, {input.shape[1]}) or ignore_index {ignore_index}, got {wrong}")
    return valid, classes


def _edges(op: str, confidence: Tensor, bins: int, binning: str) -> Tensor:
    """``[bins + 1]``, in the dtype of the confidences: 1/3 on either side is the same number then."""
    _check_choice(op, "binning", binning, _BINNINGS)
    if bins < 1:
        raise ValueError(f"{op}: expected bins >= 1, got {bins}")
    numbers = torch.arange(bins + 1, device=confidence.device)
    if binning == "width" or confidence.numel() == 0:
        return (numbers.double() / bins).to(confidence.dtype)
    # The largest of each bin's share of the sorted confidences.
    last = (numbers * confidence.numel() + bins - 1) // bins - 1
    edges = confidence.sort().values[last.clamp(min=0)]
    edges[0] = 0
    return edges


def _bin_of(confidence: Tensor, edges: Tensor) -> Tensor:
    return (torch.bucketize(confidence, edges) - 1).clamp(min=0)


def _norm_of_gaps(gaps: Tensor, count: Tensor, norm: str) -> Tensor:
    share = count.double() / count.sum()
    if norm == "l1":
        return (gaps.abs() * share).sum()
    if norm == "l2":
        return (gaps.square() * share).sum().sqrt()
    return gaps.abs().max() if count.sum() > 0 else gaps.new_full((), math.nan)


def _check_choice(op: str, name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        *first, last = (repr(choice) for choice in choices)
        raise ValueError(f"{op}: expected {name} {', '.join(first)} or {last}, got {value!r}")
