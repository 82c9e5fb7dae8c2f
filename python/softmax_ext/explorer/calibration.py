"""The view of calibration: how often a classifier is right when it says how sure it is, before and after a temperature."""

from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import softmax_ext
from softmax_ext.explorer.query import Query

#: ``logits`` (float16, ``[documents, classes]``) and ``labels`` of 20 Newsgroups' test documents, in random order, by the
#: classifier of examples/newsgroups, which wrote them.
HELD_OUT = Path(__file__).parent / "data" / "newsgroups.pt"
#: A third, as in the demo, of whose documents these are the same.
FIT_DOCUMENTS = 2_509

BINS = 15
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.2, 10.0
SWEEP_POINTS = 121


class Split(NamedTuple):
    logits: Tensor
    labels: Tensor


def calibration(query: Query) -> dict[str, Any]:
    """Reliability at temperature 1 and at another, by default the one that was fitted on documents not shown."""
    _, shown = held_out()
    fit = fitted()
    temperature = query.number("temperature", float(f"{fit.temperature:.3g}"), MIN_TEMPERATURE, MAX_TEMPERATURE)
    return {
        "temperature": temperature,
        "fitted_temperature": fit.temperature,
        "documents": len(shown.labels),
        "fit_documents": FIT_DOCUMENTS,
        "classes": shown.logits.shape[1],
        "floor": floor(),
        "before": reliability(1.0),
        "after": reliability(temperature),
    }


def calibration_sweep(query: Query) -> dict[str, Any]:
    """Calibration error and loss at many temperatures, evenly spaced on a logarithmic axis."""
    return _sweep()


@cache
def held_out() -> tuple[Split, Split]:
    """The documents to fit a temperature on, and those to show."""
    saved = torch.load(HELD_OUT, weights_only=True, map_location="cpu")
    # Arithmetic is in float32 for 16-bit logits; converted once, they need not be at every step of a slider.
    logits, labels = saved["logits"].float(), saved["labels"].long()
    return Split(logits[:FIT_DOCUMENTS], labels[:FIT_DOCUMENTS]), Split(logits[FIT_DOCUMENTS:], labels[FIT_DOCUMENTS:])


@cache
def fitted() -> "softmax_ext.TemperatureFit":
    to_fit, _ = held_out()
    return softmax_ext.fit_temperature(*to_fit)


@cache
def floor() -> float:
    """The calibration error that as many documents would show if every probability were right."""
    _, shown = held_out()
    generator = torch.Generator().manual_seed(0)
    error = softmax_ext.calibration_error_floor(
        *shown, bins=BINS, temperature=fitted().temperature, generator=generator
    )
    return error.item()


@lru_cache(maxsize=256)
def reliability(temperature: float) -> dict[str, Any]:
    _, shown = held_out()
    curve = softmax_ext.reliability_curve(*shown, bins=BINS, temperature=temperature)
    right = (curve.accuracy * curve.count).nansum()
    sure = (curve.confidence * curve.count).nansum()
    return {
        "edges": curve.edges.tolist(),
        "bin_confidence": curve.confidence.tolist(),
        "bin_accuracy": curve.accuracy.tolist(),
        "bin_count": curve.count.tolist(),
        "accuracy": (right / curve.count.sum()).item(),
        "confidence": (sure / curve.count.sum()).item(),
        "ece": softmax_ext.calibration_error(*shown, bins=BINS, temperature=temperature).item(),
        "nll": softmax_ext.cross_entropy(*shown, temperature=temperature).item(),
        "brier": softmax_ext.brier_score(*shown, temperature=temperature).item(),
    }


@cache
def _sweep() -> dict[str, Any]:
    low, high = torch.tensor([MIN_TEMPERATURE, MAX_TEMPERATURE], dtype=torch.float64).log10()
    temperatures = torch.logspace(low, high, SWEEP_POINTS, dtype=torch.float64).tolist()
    _, shown = held_out()
    return {
        "temperatures": temperatures,
        "ece": [softmax_ext.calibration_error(*shown, bins=BINS, temperature=t).item() for t in temperatures],
        "nll": [softmax_ext.cross_entropy(*shown, temperature=t).item() for t in temperatures],
    }
