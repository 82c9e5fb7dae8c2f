"""The table of operators that the integration tests run over: a new operator is one more entry in OPERATORS.

A case is one call of a public operator: it makes its own inputs and knows what torch's functions give for them. A
primitive case is one call of a primitive, for what is checked on primitives alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import softmax_ext

ops = torch.ops.softmax_ext

#: Two float64 evaluations of one derivative differ by their rounding, some 1e-15 of terms near 1; a wrong term shows at
#: 1e-3 or more. This is far from both.
CLOSE = {"rtol": 1e-9, "atol": 1e-9}

#: c10::ScalarType, as primitives take it.
DTYPE_CODES = {torch.float16: 5, torch.float32: 6, torch.float64: 7, torch.bfloat16: 15}

REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}


def lane_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the arithmetic, of temperatures and of what there is one of per row."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def random_logits(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(dtype)


def random_temperature(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """Between 0.5 and 1.5: at 0 there is no derivative to compare with."""
    return (torch.rand(shape, dtype=torch.float64) + 0.5).to(dtype)


@dataclass(frozen=True)
class Operator:
    name: str
    function: Callable[..., Tensor]
    #: torch's equivalent, of logits that were divided by the temperature.
    torch_function: Callable[..., Tensor]
    has_temperature: bool
    takes_scalars: bool
    #: From logits, the positional arguments with which either function works along their last dim.
    along_last: Callable[[Tensor], tuple]
    #: Name, shape of the logits, arguments, and possibly a temperature: a number, or the shape of a tensor.
    cases: tuple[tuple, ...]
    primitives: tuple[PrimitiveCase, ...]
    #: Of the first primitive, from logits and a tensor temperature.
    primitive_arguments: Callable[..., tuple] = lambda logits, temperature: (logits, temperature, 1, 1.0, None)

    @property
    def forward_and_backward(self) -> list[str]:
        """The primitives that a call along the last dim and its gradient reach: the first two in the table."""
        return list(dict.fromkeys(str(case.overload) for case in self.primitives))[:2]

    def ours(self, logits: Tensor, temperature: float | Tensor | None = None) -> Tensor:
        """Along the last dim, as :meth:`reference`."""
        options = {} if temperature is None else {"temperature": temperature}
        return self.function(*self.along_last(logits), **options)

    def reference(self, logits: Tensor, temperature: float | Tensor | None = None) -> Tensor:
        logits = logits if temperature is None else logits / temperature
        return self.torch_function(*self.along_last(logits))


@dataclass(frozen=True)
class Case:
    operator: Operator
    name: str
    shape: tuple[int, ...]
    arguments: dict
    temperature: float | tuple[int, ...] | None = None

    def __str__(self) -> str:
        return f"{self.operator.name}: {self.name}"

    def inputs(self, dtype: torch.dtype = torch.float64, requires_grad: bool = False) -> tuple[Tensor, ...]:
        """What the call is differentiable in: the logits and, where it is a tensor, the temperature."""
        logits = random_logits(self.shape, dtype).requires_grad_(requires_grad)
        if not isinstance(self.temperature, tuple):
            return (logits,)
        return logits, random_temperature(self.temperature, lane_dtype(dtype)).requires_grad_(requires_grad)

    def ours(self, logits: Tensor, temperature: Tensor | None = None) -> Tensor:
        return self.operator.function(logits, **self.arguments, **self._options(temperature))

    def reference(self, logits: Tensor, temperature: Tensor | None = None) -> Tensor:
        divisor = self._options(temperature).get("temperature", 1.0)
        return self.operator.torch_function(logits / divisor, **self.arguments)

    def overload_call(self, logits: Tensor, temperature: Tensor | None = None) -> tuple:
        """The same call of the dispatcher's operator: overload, positional arguments, keyword arguments."""
        arguments = {**self.arguments, **self._options(temperature)}
        if "reduction" in arguments:
            arguments["reduction"] = REDUCTIONS[arguments["reduction"]]
        if self.operator.name == "cross_entropy" and isinstance(self.temperature, float):
            defaults = {"weight": None, "reduction": 1, "ignore_index": -100, "label_smoothing": 0.0}
            arguments = {**defaults, **arguments}  # it comes after these in the schema, and has no default there
        packet = getattr(ops, self.operator.name)
        return packet.float if isinstance(self.temperature, float) else packet.default, (logits,), arguments

    def of_flat(self, function: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        """``function`` (ours or the reference) of all inputs laid end to end, as :func:`flat` does."""
        shapes = [self.shape] + ([self.temperature] if isinstance(self.temperature, tuple) else [])

        def of_flat(vector: Tensor) -> Tensor:
            parts = vector.split([torch.Size(shape).numel() for shape in shapes])
            return function(*(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)))

        return of_flat

    def _options(self, temperature: Tensor | None) -> dict:
        value = self.temperature if isinstance(self.temperature, float) else temperature
        return {} if value is None else {"temperature": value}


@dataclass(frozen=True)
class PrimitiveCase:
    overload: torch._ops.OpOverload
    name: str
    #: In the schema's order, for logits of a dtype.
    arguments: Callable[[torch.dtype], tuple]
    #: Which of them take gradients.
    differentiable: tuple[int, ...]
    #: The same values as a function whose partial derivatives are those that the primitive claims, if it is not itself.
    function: Callable[..., Tensor] | None = None

    def __str__(self) -> str:
        return f"{self.overload.name().split('::')[1]}: {self.name}"

    def call(self, dtype: torch.dtype = torch.float64, requires_grad: bool = False) -> tuple:
        arguments = self.arguments(dtype)
        for index in self.differentiable:
            arguments[index].requires_grad_(requires_grad)
        return arguments

    def of_differentiable(self) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
        """The primitive as a function of those arguments alone, and their values, in float64."""
        arguments = self.call(requires_grad=True)

        def of_differentiable(*values: Tensor) -> Tensor:
            full = list(arguments)
            for index, value in zip(self.differentiable, values, strict=True):
                full[index] = value
            return (self.function or self.overload)(*full)

        return of_differentiable, tuple(arguments[index] for index in self.differentiable)


def flat(inputs: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in inputs])


def cubed_sum(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A scalar whose derivatives of every order depend on every output."""
    return lambda *inputs: (function(*inputs) ** 3).sum()


def value_and_gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The value, and the gradients of the sum of its cubes, by a graph of their own."""
    inputs = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    value = function(*inputs)
    return value, *torch.autograd.grad((value**3).sum(), inputs)


NORMALIZED_CASES = (
    ("0-d", (), {"dim": 0}),
    ("0-d with a tensor temperature", (), {"dim": -1}, ()),
    ("one row with a number", (5,), {"dim": 0}, 0.7),
    ("rows", (3, 5), {"dim": -1}),
    ("columns", (4, 3), {"dim": 0}),
    ("middle dim", (2, 3, 4), {"dim": 1}),
    ("middle dim with a number", (2, 3, 4), {"dim": 1}, 1.7),
    ("one temperature", (3, 4), {"dim": -1}, ()),
    ("one temperature of one element", (3, 4), {"dim": 1}, (1,)),
    ("temperature per row", (3, 4), {"dim": 1}, (3, 1)),
    ("temperature per row of the middle dim", (2, 3, 4), {"dim": -2}, (2, 1, 4)),
    ("temperature that the batch shares", (2, 3, 4), {"dim": 2}, (3, 1)),
    ("no row", (0, 3), {"dim": 1}, (0, 1)),
    ("rows of no element", (3, 0), {"dim": 1}),
)

LOGSUMEXP_CASES = (
    ("0-d", (), {"dim": 0}),
    ("0-d with a tensor temperature", (), {"dim": -1}, ()),
    ("one row with a number", (5,), {"dim": 0}, 0.7),
    ("rows", (3, 5), {"dim": -1}),
    ("rows with keepdim", (3, 5), {"dim": -1, "keepdim": True}),
    ("middle dim with a number", (2, 3, 4), {"dim": 1}, 1.7),
    ("two dims", (2, 3, 4), {"dim": (0, 2)}),
    ("two dims with a number and keepdim", (2, 3, 4), {"dim": (-1, 1), "keepdim": True}, 0.6),
    ("two dims with a temperature per row", (2, 3, 4), {"dim": (0, 2)}, (1, 3, 1)),
    ("all dims", (2, 3), {"dim": ()}),
    ("one temperature", (3, 4), {"dim": -1}, ()),
    ("temperature per row", (3, 4), {"dim": 1}, (3, 1)),
    ("temperature per row of the middle dim", (2, 3, 4), {"dim": -2, "keepdim": True}, (2, 1, 4)),
    ("no row", (0, 3), {"dim": 1}, (0, 1)),
)

SOME_IGNORED = torch.tensor([2, -100, 0, 3])
IMAGES = {"target": torch.tensor([[[1, 2], [0, 0]], [[-1, 1], [2, -1]]]), "ignore_index": -1}

CLASS_WEIGHTS = torch.tensor([1.5, 0.5, 2.0, 0.25, 1.0], dtype=torch.float64)
PROBS = torch.softmax(torch.arange(15.0, dtype=torch.float64).reshape(3, 5).sin(), 1)

CROSS_ENTROPY_CASES = (
    ("unbatched", (5,), {"target": torch.tensor(3)}),
    ("unbatched with a target of one element", (5,), {"target": torch.tensor([3]), "reduction": "none"}),
    ("mean", (3, 5), {"target": torch.tensor([4, 0, 2])}),
    ("losses for an int32 target", (3, 5), {"target": torch.tensor([4, 0, 2]).int(), "reduction": "none"}),
    ("mean with an ignored row", (4, 5), {"target": SOME_IGNORED}),
    ("sum with an ignored row", (4, 5), {"target": SOME_IGNORED, "reduction": "sum"}),
    ("losses with an ignored row", (4, 5), {"target": SOME_IGNORED, "reduction": "none"}),
    ("mean with an ignored class", (3, 4), {"target": torch.tensor([1, 0, 2]), "ignore_index": 1}),
    ("mean of images", (2, 3, 2, 2), IMAGES),
    ("losses of images", (2, 3, 2, 2), {**IMAGES, "reduction": "none"}),
    ("no row", (0, 3), {"target": torch.empty(0).long(), "reduction": "none"}),
    ("mean over no row that is 0", (2, 3), {"target": torch.tensor([-100, -100]), "empty": "zero"}),
    ("weights", (4, 5), {"target": SOME_IGNORED, "weight": CLASS_WEIGHTS}),
    ("losses with weights of images", (2, 3, 2, 2), {**IMAGES, "weight": CLASS_WEIGHTS[:3], "reduction": "none"}),
    ("smoothing", (4, 5), {"target": SOME_IGNORED, "label_smoothing": 0.1}),
    ("smoothing with weights", (4, 5), {"target": SOME_IGNORED, "label_smoothing": 0.3, "weight": CLASS_WEIGHTS}),
    ("probabilities", (3, 5), {"target": PROBS}),
    (
        "smoothed probabilities with weights",
        (3, 5),
        {"target": PROBS, "label_smoothing": 0.3, "weight": CLASS_WEIGHTS, "reduction": "sum"},
    ),
    ("probabilities of one sample", (5,), {"target": PROBS[0]}),
    ("softcap", (4, 5), {"target": SOME_IGNORED, "softcap": 1.5}),
    ("z-loss", (4, 5), {"target": SOME_IGNORED, "z_loss": 0.1}),
    ("z-loss with weights", (4, 5), {"target": SOME_IGNORED, "z_loss": 0.1, "weight": CLASS_WEIGHTS}),
    ("temperature", (4, 5), {"target": SOME_IGNORED}, 0.7),
    ("temperature per row", (4, 5), {"target": SOME_IGNORED}, (4, 1)),
    (
        "every option but softcap",  # which is applied before a temperature
        (4, 5),
        {
            "target": SOME_IGNORED,
            "weight": CLASS_WEIGHTS,
            "label_smoothing": 0.2,
            "z_loss": 0.3,
            "reduction": "none",
        },
        (1, 1),
    ),
)


MASK_OF_ROWS = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 1, 0], [1, 1, 1, 1, 1]]).bool()
MASK_OF_COLUMNS = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 0, 0], [1, 1, 1]]).bool()
MASK_THAT_IS_EMPTY = torch.tensor([[0, 0, 0, 0], [1, 1, 0, 1], [0, 0, 0, 0]]).bool()

MASKED_CASES = (
    ("0-d", (), {"mask": torch.tensor(True), "dim": 0}),
    ("0-d that is left out", (), {"mask": torch.tensor(False), "dim": 0, "empty": "zero"}, ()),
    ("one row with a number", (5,), {"mask": MASK_OF_ROWS[0], "dim": 0}, 0.7),
    ("rows", (3, 5), {"mask": MASK_OF_ROWS, "dim": -1}),
    ("columns", (4, 3), {"mask": MASK_OF_COLUMNS, "dim": 0}),
    ("one mask for all rows", (3, 5), {"mask": MASK_OF_ROWS[0], "dim": 1}),
    ("one element for each row", (3, 5), {"mask": torch.tensor([[True], [False], [True]]), "dim": 1, "empty": "zero"}),
    ("middle dim, batch shares the mask", (2, 4, 3), {"mask": MASK_OF_COLUMNS, "dim": 1}),
    ("empty rows that are 0", (3, 4), {"mask": MASK_THAT_IS_EMPTY, "dim": 1, "empty": "zero"}),
    ("empty rows that are 0, with a temperature", (3, 4), {"mask": MASK_THAT_IS_EMPTY, "dim": 1, "empty": "zero"}, ()),
    ("temperature per row", (3, 5), {"mask": MASK_OF_ROWS, "dim": 1}, (3, 1)),
    ("temperature per row of the middle dim", (2, 4, 3), {"mask": MASK_OF_COLUMNS, "dim": -2}, (2, 1, 3)),
    ("no row", (0, 3), {"mask": torch.tensor([True, False, True]), "dim": 1}, (0, 1)),
    ("rows of no element", (3, 0), {"mask": torch.empty(3, 0).bool(), "dim": 1}),
)

CAUSAL_CASES = (
    ("as many queries as keys", (4, 4), {}),
    ("more keys", (2, 3, 5), {}, 0.7),
    ("more queries", (5, 3), {}),
    ("temperature per query", (2, 3, 4), {}, (3, 1)),
    ("one temperature, more queries", (4, 2), {}, ()),
    ("no key", (3, 0), {}),
)

ENTROPY_CASES = (
    ("0-d", (), {"dim": 0}),
    ("0-d with a tensor temperature", (), {"dim": -1}, ()),
    ("one row with a number", (5,), {"dim": 0}, 0.7),
    ("rows", (3, 5), {"dim": -1}),
    ("rows in bits", (3, 5), {"dim": -1, "base": 2.0}),
    ("middle dim with a number, in bits", (2, 3, 4), {"dim": 1, "base": 2.0}, 1.7),
    ("one temperature", (3, 4), {"dim": -1}, ()),
    ("temperature per row", (3, 4), {"dim": 1}, (3, 1)),
    ("temperature per row of the middle dim", (2, 3, 4), {"dim": -2}, (2, 1, 4)),
    ("no row", (0, 3), {"dim": 1}, (0, 1)),
    ("rows of no element", (3, 0), {"dim": 1}),
)


def torch_masked_softmax(input: Tensor, mask: Tensor, dim: int, empty: str = "nan") -> Tensor:
    """With "zero" the derivatives of rows that keep nothing are 0 too."""
    masked = input.masked_fill(~mask, -math.inf)
    if empty == "nan":
        return torch.softmax(masked, dim)
    is_kept = mask.expand(input.shape).any(dim, keepdim=True) if input.dim() else mask
    return torch.softmax(torch.where(is_kept, masked, 0), dim) * is_kept


def causal_mask(queries: int, keys: int) -> Tensor:
    return torch.arange(keys) <= torch.arange(queries)[:, None] + (keys - queries)


def torch_causal_softmax(input: Tensor, empty: str = "zero") -> Tensor:
    return torch_masked_softmax(input, causal_mask(*input.shape[-2:]).to(input.device), -1, empty)


def some_columns(logits: Tensor) -> Tensor:
    """A mask for all rows, which leaves out every third column."""
    if logits.dim() == 0:
        return torch.ones((), dtype=torch.bool, device=logits.device)
    return torch.arange(logits.shape[-1], device=logits.device) % 3 != 1


def torch_entropy(input: Tensor, dim: int, base: float = math.e) -> Tensor:
    log_probs = torch.log_softmax(input, dim)
    terms = log_probs.masked_fill(log_probs == -math.inf, 0) * log_probs.exp()
    nats = -terms.sum(dim)
    return nats if base == math.e else nats / math.log(base)  # vmap over no sample cannot divide by a number


def torch_logsumexp(input: Tensor, dim: int | tuple[int, ...], keepdim: bool = False) -> Tensor:
    """torch 2.11's own fails for the empty tuple, which is documented to mean all dims."""
    return torch.logsumexp(input, tuple(range(input.dim())) if dim == () else dim, keepdim)


def torch_cross_entropy(
    input: Tensor,
    target: Tensor,
    *arguments,
    softcap: float | None = None,
    z_loss: float = 0.0,
    empty: str = "nan",
    **options,
) -> Tensor:
    """With the options that torch has not. Its own takes no int32 target, no weights of another dtype and, for one
    sample, cannot go backward from a target of one element."""
    if not target.is_floating_point():
        target = target.long().squeeze() if input.dim() == 1 else target.long()
    else:
        target = target.to(input.dtype)
    if "weight" in options:
        options["weight"] = options["weight"].to(input.dtype)
    if softcap is not None:
        input = softcap * (input / softcap).tanh()
    if not z_loss and empty == "nan":
        return F.cross_entropy(input, target, *arguments, **options)
    reduction = options.pop("reduction", "mean")
    valid = target != options.get("ignore_index", -100)
    rows = F.cross_entropy(input, target, *arguments, **options, reduction="none")
    rows = rows + z_loss * torch.logsumexp(input, 1).square() * valid
    if reduction == "none":
        return rows
    weights = options["weight"][target * valid] if "weight" in options else torch.ones_like(rows)
    total = (weights * valid).sum()
    if empty == "zero" and not valid.any():
        return rows.sum()
    return rows.sum() / total if reduction == "mean" else rows.sum()


def classes_along_last(logits: Tensor) -> tuple:
    """Logits with their last dim where cross-entropy has its classes, a target for them, and reduction "none"."""
    rows, classes = logits.shape[:-1], logits.shape[-1]
    target = (torch.arange(rows.numel()) % classes).reshape(rows)
    logits = logits if logits.dim() == 1 else logits.movedim(-1, 1)
    return logits, target, None, None, -100, None, "none"


def normalized_primitives(name: str) -> tuple[PrimitiveCase, ...]:
    """Of softmax and log_softmax; their backwards are functions of any output, normalized or not."""
    forward, backward = getattr(ops, f"_{name}").default, getattr(ops, f"_{name}_backward").default
    return (
        PrimitiveCase(forward, "scale", lambda dtype: (random_logits((3, 5), dtype), None, -1, 0.7, None), (0,)),
        PrimitiveCase(
            forward,
            "temperature, float64 result",
            lambda dtype: (
                random_logits((2, 3, 4), dtype),
                random_temperature((2, 1, 4)),
                1,
                1.0,
                DTYPE_CODES[torch.float64],
            ),
            (0, 1),
        ),
        PrimitiveCase(
            forward, "transposed", lambda dtype: (random_logits((5, 3), dtype).t(), None, 1, 1.0, None), (0,)
        ),
        PrimitiveCase(
            backward,
            "scale",
            lambda dtype: (
                random_logits((3, 5), dtype),
                -random_temperature((3, 5), dtype),
                None,
                -1,
                0.7,
                DTYPE_CODES[dtype],
            ),
            (0, 1),
        ),
        PrimitiveCase(
            backward,
            "temperature, float64 result",
            lambda dtype: (
                random_logits((2, 3, 4), dtype),
                -random_temperature((2, 3, 4), dtype),
                random_temperature((3, 1)),
                2,
                1.0,
                DTYPE_CODES[torch.float64],
            ),
            (0, 1, 2),
        ),
        PrimitiveCase(
            backward,
            "transposed",
            lambda dtype: (
                random_logits((5, 3), dtype).t(),
                -random_temperature((3, 5), dtype),
                random_temperature((), lane_dtype(dtype)),
                0,
                1.0,
                DTYPE_CODES[dtype],
            ),
            (0, 1, 2),
        ),
    )


LOGSUMEXP_PRIMITIVES = (
    PrimitiveCase(
        ops._logsumexp.default, "scale", lambda dtype: (random_logits((3, 5), dtype), None, -1, 0.7, None), (0,)
    ),
    PrimitiveCase(
        ops._logsumexp.default,
        "temperature, float64 result",
        lambda dtype: (
            random_logits((2, 3, 4), dtype),
            random_temperature((2, 1, 4)),
            1,
            1.0,
            DTYPE_CODES[torch.float64],
        ),
        (0, 1),
    ),
    PrimitiveCase(
        ops._logsumexp_backward.default,
        "scale",
        lambda dtype: (random_logits((3, 1), dtype), random_logits((3, 5), dtype), None, -1, 0.7),
        (0, 1),
    ),
    PrimitiveCase(
        ops._logsumexp_backward.default,
        "temperature, transposed",
        lambda dtype: (
            random_logits((1, 3), dtype),
            random_logits((3, 4), dtype).t(),
            random_temperature((3,), lane_dtype(dtype)),
            0,
            1.0,
        ),
        (0, 1, 2),
    ),
)


NONE, MEAN, SUM = 0, 1, 2


def cross_entropy_backward_arguments(
    shape: tuple[int, ...], target: Tensor, dtype: torch.dtype, reduction: int = NONE, leading: int = 0
) -> tuple:
    logits = random_logits(shape, dtype)
    loss, count, statistics, _ = ops._cross_entropy(logits, target, 1, reduction, leading, -100)
    return random_logits(loss.shape, lane_dtype(dtype)), logits, target, count, statistics, 1, reduction, -100


def cross_entropy_gradient(grad, logits, target, count, statistics, dim, reduction, ignore_index) -> Tensor:
    """``_cross_entropy_backward`` with its row statistics as the functions of the logits that they are: its derivative
    for the logits is the total one."""
    _, _, statistics, _ = ops._cross_entropy(logits.detach(), target, dim, reduction, count.dim(), ignore_index)
    return ops._cross_entropy_backward(grad, logits, target, count, statistics, dim, reduction, ignore_index)


# (name, shape, target, dim, reduction, leading)
LOSS_CASES = (
    ("rows", (4, 5), SOME_IGNORED, 1, NONE, 0),
    ("mean", (4, 5), SOME_IGNORED, 1, MEAN, 0),
    ("sums with a leading dim", (2, 5, 2), SOME_IGNORED.view(2, 2), 1, SUM, 1),
    ("means with a leading dim", (2, 5, 2), SOME_IGNORED.view(2, 2), 1, MEAN, 1),
)


def options_of_losses(dtype: torch.dtype) -> tuple:
    """weight, temperature, scale, label_smoothing, softcap and z_loss, for rows of 5 classes."""
    lane = lane_dtype(dtype)
    return random_temperature((5,), lane), random_temperature((4, 1), lane), 1.0, 0.1, 4.0, 0.1


def some_probabilities(dtype: torch.dtype) -> Tensor:
    return torch.softmax(random_logits((4, 5)), 1).to(lane_dtype(dtype))


#: (name, target, reduction, which arguments have a gradient): the kernels make none of the weights' sum.
OPTION_CASES = (
    ("sums with all options", lambda dtype: SOME_IGNORED, SUM, (0, 6, 7)),
    ("means with all options", lambda dtype: SOME_IGNORED, MEAN, (0, 7)),
    ("rows of probabilities with all options", some_probabilities, NONE, (0, 1, 6, 7)),
    ("means of probabilities with all options", some_probabilities, MEAN, (0, 1, 7)),
)


def option_cases(name: str) -> tuple[PrimitiveCase, ...]:
    overload = getattr(ops, name).default
    return tuple(
        PrimitiveCase(
            overload,
            case,
            lambda dtype, target=target, reduction=reduction: (
                random_logits((4, 5), dtype),
                target(dtype),
                1,
                reduction,
                0,
                -100,
                *options_of_losses(dtype),
            ),
            differentiable,
            function=lambda *arguments: overload(*arguments)[0],
        )
        for case, target, reduction, differentiable in OPTION_CASES
    )


def log_sum_exp_too(*arguments) -> Tensor:
    loss, _, _, logsumexp = ops._cross_entropy(*arguments)
    return loss + logsumexp.sin()


def backward_with_options(target: Callable, reduction: int) -> Callable:
    def arguments(dtype: torch.dtype) -> tuple:
        logits, options = random_logits((4, 5), dtype), options_of_losses(dtype)
        classes = target(dtype)
        loss, count, statistics, lse = ops._cross_entropy(logits, classes, 1, reduction, 0, -100, *options, True)
        grad, of_lse = random_logits(loss.shape, loss.dtype), random_logits(lse.shape, lse.dtype)
        return grad, logits, classes, count, statistics, 1, reduction, -100, *options, of_lse

    return arguments


def backward_of_all(grad, logits, target, count, statistics, dim, reduction, ignore_index, *options) -> Tensor:
    """As :func:`cross_entropy_gradient`."""
    *of_loss, grad_logsumexp = options
    inputs = (t.detach() if isinstance(t, Tensor) else t for t in (logits, target, *of_loss))
    logits_, target_, *of_loss_ = inputs
    _, _, statistics, _ = ops._cross_entropy(
        logits_, target_, dim, reduction, count.dim(), ignore_index, *of_loss_, False
    )
    return ops._cross_entropy_backward(
        grad, logits, target, count, statistics, dim, reduction, ignore_index, *of_loss, grad_logsumexp
    )


def loss_cases(name: str) -> tuple[PrimitiveCase, ...]:
    overload = getattr(ops, name).default
    return tuple(
        PrimitiveCase(
            overload,
            case,
            lambda dtype, shape=shape, arguments=arguments: (random_logits(shape, dtype), *arguments, -100),
            (0,),
            function=lambda *arguments: overload(*arguments)[0],
        )
        for case, shape, *arguments in LOSS_CASES
    )


CROSS_ENTROPY_PRIMITIVES = (
    *loss_cases("_cross_entropy"),
    PrimitiveCase(
        ops._cross_entropy.default,
        "classes in dim 0, transposed",
        lambda dtype: (random_logits((4, 5), dtype).t(), SOME_IGNORED, 0, MEAN, 0, -100),
        (0,),
        function=lambda *arguments: ops._cross_entropy(*arguments)[0],
    ),
    *(
        PrimitiveCase(
            ops._cross_entropy_backward.default,
            case,
            lambda dtype, shape=shape, target=target, rest=rest: cross_entropy_backward_arguments(
                shape, target, dtype, *rest
            ),
            (0, 1),
            function=cross_entropy_gradient,
        )
        for case, shape, target, _, *rest in LOSS_CASES
    ),
    *loss_cases("_cross_entropy_with_gradient"),
    *option_cases("_cross_entropy"),
    *option_cases("_cross_entropy_with_gradient"),
    PrimitiveCase(
        ops._cross_entropy.default,
        "log-sum-exps with all options",
        lambda dtype: (random_logits((4, 5), dtype), SOME_IGNORED, 1, NONE, 0, -100, *options_of_losses(dtype), True),
        (0, 6, 7),
        function=log_sum_exp_too,
    ),
    *(
        PrimitiveCase(
            ops._cross_entropy_backward.default,
            case,
            backward_with_options(target, reduction),
            # The logits, what the loss differentiates by, and both upstream gradients.
            (*({0: 1, 1: 2, 6: 8, 7: 9}[i] for i in differentiable), 0, 14),
            function=backward_of_all,
        )
        for case, target, reduction, differentiable in OPTION_CASES
    ),
)

SOFTMAX_PRIMITIVES = normalized_primitives("softmax")
SOFTMAX_BACKWARD = SOFTMAX_PRIMITIVES[3:4]

MASKED_PRIMITIVES = (
    PrimitiveCase(
        ops._masked_softmax.default,
        "scale",
        lambda dtype: (random_logits((3, 5), dtype), MASK_OF_ROWS, None, -1, 0.7, None, False, False),
        (0,),
    ),
    PrimitiveCase(
        ops._masked_softmax.default,
        "temperature, float64 result",
        lambda dtype: (
            random_logits((2, 4, 3), dtype),
            MASK_OF_COLUMNS,
            random_temperature((2, 1, 3)),
            1,
            1.0,
            DTYPE_CODES[torch.float64],
            False,
            True,
        ),
        (0, 2),
    ),
    *SOFTMAX_BACKWARD,
)

CAUSAL_PRIMITIVES = (
    PrimitiveCase(
        ops._masked_softmax.default,
        "causal, temperature",
        lambda dtype: (
            random_logits((2, 3, 2), dtype),
            None,
            random_temperature((2, 1, 1), lane_dtype(dtype)),
            -1,
            1.0,
            None,
            True,
            True,
        ),
        (0, 2),
    ),
    *SOFTMAX_BACKWARD,
)

ENTROPY_PRIMITIVES = (
    PrimitiveCase(ops._entropy.default, "scale", lambda dtype: (random_logits((3, 5), dtype), None, -1, 0.7), (0,)),
    PrimitiveCase(
        ops._entropy.default,
        "temperature, transposed",
        lambda dtype: (random_logits((5, 3), dtype).t(), random_temperature((3, 1), lane_dtype(dtype)), 1, 1.0),
        (0, 1),
    ),
    PrimitiveCase(
        ops._entropy_backward.default,
        "scale",
        lambda dtype: (random_logits((3, 1), lane_dtype(dtype)), random_logits((3, 5), dtype), None, -1, 0.7),
        (0, 1),
    ),
    PrimitiveCase(
        ops._entropy_backward.default,
        "temperature, transposed",
        lambda dtype: (
            random_logits((1, 3), lane_dtype(dtype)),
            random_logits((3, 4), dtype).t(),
            random_temperature((3,), lane_dtype(dtype)),
            0,
            1.0,
        ),
        (0, 1, 2),
    ),
)

OPERATORS = (
    Operator(
        "softmax",
        softmax_ext.softmax,
        torch.softmax,
        has_temperature=True,
        takes_scalars=True,
        along_last=lambda logits: (logits, -1),
        cases=NORMALIZED_CASES,
        primitives=SOFTMAX_PRIMITIVES,
    ),
    Operator(
        "log_softmax",
        softmax_ext.log_softmax,
        torch.log_softmax,
        has_temperature=True,
        takes_scalars=True,
        along_last=lambda logits: (logits, -1),
        cases=NORMALIZED_CASES,
        primitives=normalized_primitives("log_softmax"),
    ),
    Operator(
        "logsumexp",
        softmax_ext.logsumexp,
        torch_logsumexp,
        has_temperature=True,
        takes_scalars=True,
        along_last=lambda logits: (logits, -1),
        cases=LOGSUMEXP_CASES,
        primitives=LOGSUMEXP_PRIMITIVES,
    ),
    Operator(
        "cross_entropy",
        softmax_ext.cross_entropy,
        torch_cross_entropy,
        has_temperature=False,
        takes_scalars=False,
        along_last=classes_along_last,
        cases=CROSS_ENTROPY_CASES,
        primitives=CROSS_ENTROPY_PRIMITIVES,
    ),
    Operator(
        "masked_softmax",
        softmax_ext.masked_softmax,
        torch_masked_softmax,
        has_temperature=True,
        takes_scalars=True,
        along_last=lambda logits: (logits, some_columns(logits), -1),
        cases=MASKED_CASES,
        primitives=MASKED_PRIMITIVES,
        primitive_arguments=lambda logits, temperature: (
            *(logits, some_columns(logits), temperature, 1, 1.0),
            *(None, False, False),
        ),
    ),
    Operator(
        "causal_softmax",
        softmax_ext.causal_softmax,
        torch_causal_softmax,
        has_temperature=True,
        takes_scalars=False,
        # One row is the scores of one query.
        along_last=lambda logits: (torch.atleast_2d(logits),),
        cases=CAUSAL_CASES,
        primitives=CAUSAL_PRIMITIVES,
        primitive_arguments=lambda logits, temperature: (logits, None, temperature, 1, 1.0, None, True, True),
    ),
    Operator(
        "entropy",
        softmax_ext.entropy,
        torch_entropy,
        has_temperature=True,
        takes_scalars=True,
        along_last=lambda logits: (logits, -1),
        cases=ENTROPY_CASES,
        primitives=ENTROPY_PRIMITIVES,
        primitive_arguments=lambda logits, temperature: (logits, temperature, 1, 1.0),
    ),
)

CASES = [Case(operator, *case) for operator in OPERATORS for case in operator.cases]
PRIMITIVE_CASES = list(dict.fromkeys(case for operator in OPERATORS for case in operator.primitives))

# What writes to an argument: test_out.py and test_gradient_ways.py.
WITH_OUTPUT = [
    f"softmax_ext::{name}"
    for of in ("softmax", "log_softmax")
    for name in (f"{of}.out", f"{of}.float_out", f"_{of}_into", f"_{of}_backward.out", f"_{of}_backward_into")
] + ["softmax_ext::_cross_entropy_in_place", "softmax_ext::_scale_gradient"]
# What is tested by its own files alone: test_cross_entropy_options.py, test_shards.py, test_linear_cross_entropy.py, test_sample.py,
# test_sample_integration.py, test_temperature_fit.py.
OTHERS = [
    "softmax_ext::_class_indices",
    "softmax_ext::_cross_entropy_shard",
    "softmax_ext::_cross_entropy_shard_backward",
    "softmax_ext::cross_entropy_with_logsumexp",
    "softmax_ext::cross_entropy_with_logsumexp.float",
    "softmax_ext::_linear_cross_entropy",
    "softmax_ext::_linear_cross_entropy_backward",
    "softmax_ext::linear_cross_entropy",
    "softmax_ext::linear_cross_entropy.float",
    "softmax_ext::_sample",
    "softmax_ext::sample",
    "softmax_ext::sample.tensors",
    "softmax_ext::_temperature_statistics",
    "softmax_ext::fit_temperature",
]
# What says how the library was built: softmax_ext.info().
FACTS = ["softmax_ext::_cpu_level", "softmax_ext::_cuda_architectures"]


def name_of(parameter: object) -> str:
    """For pytest's ``ids``."""
    return parameter.name if isinstance(parameter, Operator) else str(parameter)
