"""The views of one distribution: logits and a temperature to probabilities, entropy and the loss of a class."""

import math
from typing import Any

import torch
from torch import Tensor

import softmax_ext
from softmax_ext.explorer.query import DTYPES, Classes, Query

FIVE_ANIMALS = Classes(["cat", "dog", "bird", "fish", "fox"], [2.20, 1.70, 0.80, -0.10, -1.40])
FIVE_LETTERS = Classes(["a", "b", "c", "d", "e"], [2.0, 1.2, 0.6, -0.3, -1.1])

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0
SWEEP_POINTS = 241

#: Names of H/Hmax, each up to its bound.
REGIMES = [
    (0.05, "near one-hot"),
    (0.5, "sharp"),
    (0.85, "typical"),
    (0.98, "flat"),
    (math.inf, "near uniform"),
]


def explorer(query: Query) -> dict[str, Any]:
    """A distribution, and the loss and its gradient if ``target`` is the true class."""
    classes = query.classes(FIVE_ANIMALS)
    numbers = _distribution(query, classes)
    # −1 stands for the most probable class, whichever that is.
    target = query.integer("target", -1, -1, len(classes.labels) - 1)
    logits = classes.tensor(DTYPES[numbers["dtype"]]).requires_grad_()
    loss = softmax_ext.cross_entropy(
        logits, torch.tensor(numbers["argmax"] if target < 0 else target), temperature=numbers["temperature"]
    )
    (gradient,) = torch.autograd.grad(loss, logits)
    return numbers | {"target": target, "loss": loss.item(), "gradient": gradient.tolist()}


def temperature(query: Query) -> dict[str, Any]:
    """A distribution, and how far between one-hot and uniform it is."""
    return _distribution(query, query.classes(FIVE_LETTERS))


def sweep(query: Query) -> dict[str, Any]:
    """Entropy at many temperatures, evenly spaced on a logarithmic axis."""
    classes = query.classes(FIVE_LETTERS)
    dtype = DTYPES[query.choice("dtype", list(DTYPES))]
    exponents = torch.linspace(
        math.log10(MIN_TEMPERATURE), math.log10(MAX_TEMPERATURE), SWEEP_POINTS, dtype=torch.float64
    )
    temperatures = 10**exponents
    logits = classes.tensor(dtype).expand(SWEEP_POINTS, -1)
    return {
        "temperatures": temperatures.tolist(),
        "entropy": entropy_in_bits(logits, temperatures.unsqueeze(1)).tolist(),
        "max_entropy": math.log2(len(classes.labels)),
        "regimes": [{"up_to": min(bound, 1.0), "name": name} for bound, name in REGIMES],
    }


def entropy_in_bits(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Of ``softmax(logits / temperature)`` along the last dim, in float64."""
    return softmax_ext.entropy(logits.double(), -1, temperature=temperature, base=2)


def _distribution(query: Query, classes: Classes) -> dict[str, Any]:
    dtype = query.choice("dtype", list(DTYPES))
    temperature = query.number("temperature", 1.0, MIN_TEMPERATURE, MAX_TEMPERATURE)
    logits = classes.tensor(DTYPES[dtype])
    probs = softmax_ext.softmax(logits, 0, temperature=temperature)
    entropy = entropy_in_bits(logits, temperature).item()
    max_entropy = math.log2(len(classes.labels))
    # One class has no entropy, whatever its logit: it is one-hot and uniform at once.
    share = entropy / max_entropy if max_entropy else math.nan
    return {
        "labels": classes.labels,
        "logits": classes.logits,
        "temperature": temperature,
        "dtype": dtype,
        "probabilities": probs.tolist(),
        "argmax": int(probs.argmax()),
        "total": probs.double().sum().item(),
        "logsumexp": softmax_ext.logsumexp(logits, 0, temperature=temperature).item(),
        "entropy": entropy,
        "max_entropy": max_entropy,
        "entropy_share": share,
        "regime": next((name for bound, name in REGIMES if share <= bound), "one class"),
    }
