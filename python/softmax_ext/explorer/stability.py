"""exp(z) / Σ exp(z) as written, beside the operator, in each dtype: where the first breaks, and what the second keeps."""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

import softmax_ext
from softmax_ext.explorer.distribution import FIVE_LETTERS
from softmax_ext.explorer.query import DTYPES, Classes, Query

MAX_OFFSET = 1000.0
MAP_STEP = 1.0
#: A probability that is further off has been changed for every reader: half a percentage point.
VISIBLE = 5e-3


def stability(query: Query) -> dict[str, Any]:
    """Both formulas step by step, on the logits plus an offset as numbers of the dtype."""
    classes = query.classes(FIVE_LETTERS)
    dtype_name = query.choice("dtype", list(DTYPES))
    dtype = DTYPES[dtype_name]
    offset = query.number("offset", 0.0, -MAX_OFFSET, MAX_OFFSET)

    logits = _shifted_logits(classes, torch.tensor([offset], dtype=torch.float64), dtype)[0]
    expected = _expected(classes)
    exponentials = logits.exp()
    total = exponentials.sum()
    naive = exponentials / total
    maximum = logits.max()
    distances = logits - maximum
    stable_exponentials = distances.exp()
    stable = softmax_ext.softmax(logits, 0)
    errors = {name: _error(probs, expected).item() for name, probs in (("naive", naive), ("stable", stable))}
    spacing = _spacing(maximum.item(), dtype)
    return {
        "labels": classes.labels,
        "logits": classes.logits,
        "offset": offset,
        "dtype": dtype_name,
        "expected": expected.tolist(),
        "shifted_logits": logits.tolist(),
        "largest_number": torch.finfo(dtype).max,
        "largest_exponent": math.log(torch.finfo(dtype).max),
        "spacing": spacing,
        "naive": {
            "exponentials": exponentials.tolist(),
            "total": total.item(),
            "probabilities": naive.tolist(),
            "error": errors["naive"],
            "status": _status(errors["naive"]),
            "cause": _cause(errors["naive"], exponentials, total),
        },
        "stable": {
            "maximum": maximum.item(),
            "distances": distances.tolist(),
            "exponentials": stable_exponentials.tolist(),
            "total": stable_exponentials.sum().item(),
            "probabilities": stable.tolist(),
            "error": errors["stable"],
            "status": _status(errors["stable"]),
            "cause": "" if errors["stable"] <= VISIBLE else "rounded logits",
        },
    }


def stability_map(query: Query) -> dict[str, Any]:
    """For each dtype and formula, the ranges of offsets with one status."""
    classes = query.classes(FIVE_LETTERS)
    return {"dtypes": _map(tuple(classes.labels), tuple(classes.logits)), "max_offset": MAX_OFFSET}


@lru_cache(maxsize=64)
def _map(labels: tuple[str, ...], logits: tuple[float, ...]) -> list[dict[str, Any]]:
    classes = Classes(list(labels), list(logits))
    offsets = torch.arange(-MAX_OFFSET, MAX_OFFSET + MAP_STEP, MAP_STEP, dtype=torch.float64)
    expected = _expected(classes)
    rows = []
    for name, dtype in DTYPES.items():
        shifted = _shifted_logits(classes, offsets, dtype)
        exponentials = shifted.exp()
        naive = exponentials / exponentials.sum(1, keepdim=True)
        stable = softmax_ext.softmax(shifted, 1)
        rows.append(
            {
                "dtype": name,
                "naive": _spans(offsets, _error(naive, expected)),
                "stable": _spans(offsets, _error(stable, expected)),
            }
        )
    return rows


def _shifted_logits(classes: Classes, offsets: Tensor, dtype: torch.dtype) -> Tensor:
    """``[offsets, classes]``, rounded once: what a model that computes in ``dtype`` would hand on."""
    return (classes.tensor(torch.float64) + offsets.unsqueeze(1)).to(dtype)


def _expected(classes: Classes) -> Tensor:
    return softmax_ext.softmax(classes.tensor(torch.float64), 0)


def _error(probs: Tensor, expected: Tensor) -> Tensor:
    """The largest difference in a row, NaN where there is one."""
    return (probs.double() - expected).abs().amax(-1)


def _status(error: float) -> str:
    return "nan" if math.isnan(error) else "right" if error <= VISIBLE else "off"


def _cause(error: float, exponentials: Tensor, total: Tensor) -> str:
    if exponentials.isinf().any() or total.isinf():
        return "overflow"
    if total == 0:
        return "underflow to 0"
    if error <= VISIBLE:
        return ""
    return "underflow" if (exponentials < torch.finfo(exponentials.dtype).tiny).any() else "rounded logits"


def _spacing(value: float, dtype: torch.dtype) -> float:
    """The distance from ``value`` to the next number of ``dtype``."""
    here = torch.tensor(abs(value), dtype=dtype)
    return (torch.nextafter(here, torch.tensor(math.inf, dtype=dtype)).double() - here.double()).item()


def _spans(offsets: Tensor, errors: Tensor) -> list[dict[str, Any]]:
    spans: list[dict[str, Any]] = []
    for offset, error in zip(offsets.tolist(), errors.tolist(), strict=True):
        status = _status(error)
        if not spans or spans[-1]["status"] != status:
            spans.append({"from": offset, "to": offset, "status": status})
        spans[-1]["to"] = offset
    return spans
