"""Models of the operators, as exporters take them: a new entry in the table of operators is a part of them by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from operators import OPERATORS, Case, random_logits, random_temperature
from torch import Tensor

import softmax_ext


class OfCases(torch.nn.Module):
    """Calls of one operator, of all its options."""

    def __init__(self, cases: Iterable[Case]) -> None:
        super().__init__()
        self.cases = tuple(cases)

    def inputs(self, dtype: torch.dtype = torch.float64) -> tuple[list[tuple[Tensor, ...]]]:
        return ([case.inputs(dtype) for case in self.cases],)

    def forward(self, inputs: list[tuple[Tensor, ...]]) -> list[Tensor]:
        return [case.ours(*tensors) for case, tensors in zip(self.cases, inputs, strict=True)]

    def reference(self, inputs: list[tuple[Tensor, ...]]) -> list[Tensor]:
        return [case.reference(*tensors) for case, tensors in zip(self.cases, inputs, strict=True)]


class OfRows(torch.nn.Module):
    """A call whose tensors all have rows in their first dim."""

    def __init__(self, name: str, function: Callable, inputs: Callable[[int], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.name, self.function, self.inputs = name, function, inputs
        self.arity = len(inputs(2))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        result = self.function(*tensors)
        return result if isinstance(result, tuple) else (result,)


CLASSES = 5


def logits(rows: int) -> tuple[Tensor, ...]:
    return (random_logits((rows, CLASSES)),)


def with_temperature(rows: int) -> tuple[Tensor, ...]:
    return *logits(rows), random_temperature((rows, 1))


def with_target(rows: int) -> tuple[Tensor, ...]:
    return *logits(rows), torch.randint(CLASSES, (rows,))


def with_probabilities(rows: int) -> tuple[Tensor, ...]:
    return *logits(rows), torch.softmax(*logits(rows), 1)


def with_seed(rows: int) -> tuple[Tensor, ...]:
    return *logits(rows), torch.arange(rows)


LINEAR_WEIGHT = torch.sin(torch.arange(3.0 * CLASSES, dtype=torch.float64)).reshape(CLASSES, 3)
CLASS_WEIGHTS = torch.tensor([1.5, 0.5, 2.0, 0.25, 1.0], dtype=torch.float64)


def every_option(x: Tensor, target: Tensor) -> Tensor:
    return softmax_ext.cross_entropy(
        x,
        target,
        weight=CLASS_WEIGHTS.to(x.dtype),
        label_smoothing=0.2,
        temperature=0.7,
        softcap=2.0,
        z_loss=0.1,
        ignore_index=1,
        reduction="none",
    )


#: What rows are a part of: every operator of the table along its last dim, and what is not in the table.
MODELS = [
    OfRows(operator.name, operator.ours, logits) for operator in OPERATORS if operator.name != "cross_entropy"
] + [
    *(
        OfRows(f"{operator.name}, temperatures", operator.ours, with_temperature)
        for operator in OPERATORS
        if operator.has_temperature
    ),
    OfRows("cross_entropy", softmax_ext.cross_entropy, with_target),
    OfRows("cross_entropy, options", every_option, with_target),
    OfRows("cross_entropy, probabilities", softmax_ext.cross_entropy, with_probabilities),
    OfRows("cross_entropy_with_logsumexp", softmax_ext.cross_entropy_with_logsumexp, with_target),
    OfRows(
        "linear_cross_entropy",
        lambda x, target: softmax_ext.linear_cross_entropy(x[:, :3], LINEAR_WEIGHT.to(x.dtype), target),
        with_target,
    ),
    OfRows(
        "sample",
        lambda x, seed: softmax_ext.sample(x, temperature=0.7, top_p=0.9, num_samples=3, seed=seed),
        with_seed,
    ),
]


def name_of_model(model: OfRows) -> str:
    return model.name
