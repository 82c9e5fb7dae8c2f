"""Reads a view's settings from the query of its address, where each has a default."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

Choice = TypeVar("Choice", bound=str)

MAX_CLASSES = 12
MAX_LABEL = 24
MAX_LOGIT = 1000.0
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class QueryError(ValueError):
    """A setting is not what it should be; the message names it, what was expected and what came."""


@dataclass(frozen=True)
class Classes:
    labels: list[str]
    logits: list[float]

    def tensor(self, dtype: torch.dtype) -> Tensor:
        return torch.tensor(self.logits, dtype=torch.float64).to(dtype)


class Query:
    """The pairs of a query string. Whatever a view has not read by its end is an error: most often a misspelling."""

    def __init__(self, pairs: Iterable[tuple[str, str]]):
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    def number(self, name: str, default: float, low: float, high: float) -> float:
        text = self._last(name)
        if text is None:
            return default
        value = _float(text)
        if not low <= value <= high:
            raise QueryError(f"{name}: expected a number from {low:g} to {high:g}, got {text!r}")
        return value

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        text = self._last(name)
        if text is None:
            return default
        value = _float(text)
        if not (low <= value <= high and value.is_integer()):
            raise QueryError(f"{name}: expected a whole number from {low} to {high}, got {text!r}")
        return int(value)

    def choice(self, name: str, choices: Sequence[Choice]) -> Choice:
        """One of ``choices``, of which the first is the default."""
        text = self._last(name)
        if text is None:
            return choices[0]
        if text not in choices:
            raise QueryError(f"{name}: expected {', '.join(choices)}, got {text!r}")
        return choices[choices.index(text)]

    def classes(self, default: Classes) -> Classes:
        """``class=label:logit``, once per class."""
        texts = self._values.pop("class", [])
        if not texts:
            return default
        if len(texts) > MAX_CLASSES:
            raise QueryError(f"class: expected at most {MAX_CLASSES} classes, got {len(texts)}")
        labels, logits = [], []
        for text in texts:
            label, _, number = text.rpartition(":")
            logit = _float(number)
            if not abs(logit) <= MAX_LOGIT or len(label) > MAX_LABEL:
                raise QueryError(
                    f"class: expected label:logit, a label of at most {MAX_LABEL} characters and a number from "
                    f"{-MAX_LOGIT:g} to {MAX_LOGIT:g}, got {text!r}"
                )
            labels.append(label)
            logits.append(logit)
        return Classes(labels, logits)

    def refuse_the_rest(self) -> None:
        if self._values:
            raise QueryError(f"unknown setting: {', '.join(self._values)}")

    def _last(self, name: str) -> str | None:
        return self._values.pop(name, [None])[-1]


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
