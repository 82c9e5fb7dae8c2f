"""ONNX: how the operators are written in ONNX's standard ones, for :func:`torch.onnx.export`.

A translation takes the arguments of a primitive and returns its results (csrc/library.cpp): tensors as values of the graph
that is being made, all else as numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch

try:
    import onnx_ir
    from onnxscript import opset18 as op
except ImportError as error:
    raise ImportError(
        f"softmax_ext.onnx needs onnxscript ({error}). Run \"pip install 'softmax_ext[onnx]'\"."
    ) from None

Value: TypeAlias = Any  # onnxscript's, of a tensor in the graph
Type = onnx_ir.DataType

#: By the c10::ScalarType that primitives take as their dtype.
_TYPES = {5: Type.FLOAT16, 6: Type.FLOAT, 7: Type.DOUBLE, 15: Type.BFLOAT16}
_NONE, _MEAN = 0, 1  # of csrc/signatures.h's Reduction


def translation_table() -> dict[torch._ops.OpOverload, Callable]:
    """What makes :func:`torch.onnx.export` write this library's operators in standard ONNX, which runs without it.

    Returns:
        The ``custom_translation_table`` of ``torch.onnx.export(…, dynamo=True)``: a function for each primitive that
        ``softmax``, ``log_softmax``, ``logsumexp``, ``entropy``, ``masked_softmax``, ``causal_softmax``,
        ``cross_entropy``, ``cross_entropy_with_logsumexp`` and ``linear_cross_entropy`` are made of, with every option,
        every dtype and sizes that vary. ``sample`` is translated at the temperature 0, as ``ArgMax``. ONNX has no
        operator for its random numbers, and its export at another temperature raises: export the logits, and draw from
        those.

    Arithmetic is in float64 for float64, else in float32, as here. What depends on values is not checked: a target out
    of range is the runtime's error.

    >>> program = torch.onnx.export(
    ...     model, inputs, dynamo=True, custom_translation_table=translation_table()
    ... )  # doctest: +SKIP
    """
    table = {getattr(torch.ops.softmax_ext, name).default: translation for name, translation in _TRANSLATIONS.items()}
    return {**table, torch.ops.aten.randint.generator: _randint}


def _number(value: float, type: Type) -> Value:
    return op.Constant(value=onnx_ir.tensor(value, dtype=type))


def _empty(type: Type) -> Value:
    return op.ConstantOfShape(_ints(0), value=onnx_ir.tensor([0], dtype=type))


def _ints(*values: int) -> Value:
    return op.Constant(value_ints=list(values))


def _cast(value: Value, type: Type) -> Value:
    return op.Cast(value, to=int(type))


class _Rows:
    """Logits along ``dim``, in the dtype of the arithmetic, and their temperature: a tensor, or 1/T as ``scale``."""

    def __init__(
        self, logits: Value, temperature: Value | None, dim: int, scale: float, dtype: int | None = None
    ) -> None:
        self.is_scalar = len(logits.shape) == 0  # a row of one element: ONNX has no axis for it
        self.rank = max(1, len(logits.shape))
        self.dim = dim % self.rank
        self.result = Type(logits.dtype) if dtype is None else _TYPES[dtype]
        self.type = Type.DOUBLE if Type.DOUBLE in (Type(logits.dtype), self.result) else Type.FLOAT
        self.logits = _cast(op.Reshape(logits, _ints(1)) if self.is_scalar else logits, self.type)
        self.temperature = None if temperature is None else _cast(temperature, self.type)
        self.scale = scale

    def number(self, value: float) -> Value:
        return _number(value, self.type)

    def finished(self, value: Value, type: Type | None = None) -> Value:
        value = _cast(value, type or self.result)
        return op.Squeeze(value, _ints(0)) if self.is_scalar else value

    @property
    def is_scaled(self) -> bool:
        return self.temperature is not None or self.scale != 1

    def max(self) -> Value:
        return op.ReduceMax(self.logits, _ints(self.dim), keepdims=1)

    def scaled(self) -> Value:
        """What has the same softmax at the temperature 1: (x − max) / T, or x."""
        return self.over_temperature(op.Sub(self.logits, self.max())) if self.is_scaled else self.logits

    def over_temperature(self, distance: Value) -> Value:
        """Of the logits' distances from a number per row. At the limits of the temperature, 0 / 0 is 0, ∞ / ∞ is ∞."""
        is_fixed = op.Or(op.Equal(distance, self.number(0)), op.IsInf(distance))
        # No logit but an infinite one is infinitely far then, and NaN is NaN.
        at_infinity = op.Where(op.IsInf(self.logits), distance, op.Mul(self.logits, self.number(0)))
        if self.temperature is None:
            if self.scale == 0:
                return at_infinity
            divided = op.Mul(distance, self.number(self.scale))
            return op.Where(is_fixed, distance, divided) if math.isinf(self.scale) else divided
        divided = op.Where(is_fixed, distance, op.Div(distance, self.temperature))
        divided = op.Where(op.IsInf(self.temperature), at_infinity, divided)
        is_temperature = op.GreaterOrEqual(self.temperature, self.number(0))
        return op.Where(is_temperature, divided, self.number(math.nan))

    def logsumexp(self) -> Value:
        """Keeps ``dim``, with size 1."""
        if not self.is_scaled:
            return op.ReduceLogSumExp(self.logits, _ints(self.dim), keepdims=1)
        largest = self.max()
        # Infinite maxima stay in the sum, which then is infinite itself.
        shift = op.Where(op.IsInf(largest), self.number(0), largest)
        distance = self.over_temperature(op.Sub(self.logits, shift))
        total = op.ReduceLogSumExp(distance, _ints(self.dim), keepdims=1)
        if self.temperature is None:
            return op.Add(total, op.Mul(shift, self.number(self.scale)))
        return op.Add(total, op.Div(shift, self.temperature))

    def statistics(self) -> Value:
        """max and log Σ exp((x − max) / T) of each row, for backward."""
        largest = self.max()
        distance = self.over_temperature(op.Sub(self.logits, largest))
        logarithm = op.ReduceLogSumExp(distance, _ints(self.dim), keepdims=1)
        both = [op.Unsqueeze(self.squeezed(value), _ints(0)) for value in (largest, logarithm)]
        return op.Concat(*both, axis=0)

    def size(self) -> Value:
        """Of a row."""
        return _cast(op.Shape(self.logits, start=self.dim, end=self.dim + 1), self.type)

    def squeezed(self, value: Value) -> Value:
        return op.Squeeze(value, _ints(self.dim))

    def along_dim(self, vector: Value) -> Value:
        """One number per class, shaped to broadcast against the logits."""
        after = self.rank - 1 - self.dim
        return op.Unsqueeze(vector, _ints(*range(1, after + 1))) if after else vector


def _softmax(logits: Value, temperature: Value | None, dim: int, scale: float, dtype: int | None) -> Value:
    rows = _Rows(logits, temperature, dim, scale, dtype)
    return rows.finished(op.Softmax(rows.scaled(), axis=rows.dim))


def _log_softmax(logits: Value, temperature: Value | None, dim: int, scale: float, dtype: int | None) -> Value:
    rows = _Rows(logits, temperature, dim, scale, dtype)
    return rows.finished(op.LogSoftmax(rows.scaled(), axis=rows.dim))


def _logsumexp(logits: Value, temperature: Value | None, dim: int, scale: float, dtype: int | None) -> Value:
    rows = _Rows(logits, temperature, dim, scale, dtype)
    return rows.finished(rows.logsumexp())


def _masked_softmax(
    logits: Value,
    mask: Value | None,
    temperature: Value | None,
    dim: int,
    scale: float,
    dtype: int | None,
    is_causal: bool,
    empty_is_zero: bool,
) -> Value:
    rows = _Rows(logits, temperature, dim, scale, dtype)
    shape = op.Shape(rows.logits)
    keeps = op.Expand(_causal(shape) if is_causal else mask, shape)
    rows.logits = op.Where(keeps, rows.logits, rows.number(-math.inf))
    probs = op.Softmax(rows.scaled(), axis=rows.dim)
    if empty_is_zero:
        is_empty = op.Equal(rows.max(), rows.number(-math.inf))
        probs = op.Where(is_empty, rows.number(0), probs)
    return rows.finished(probs)


def _causal(shape: Value) -> Value:
    """Of [queries, keys]: a key is kept for each query from its own on, where the last two belong together."""
    zero, one = _number(0, Type.INT64), _number(1, Type.INT64)
    queries, keys = (op.Squeeze(op.Gather(shape, _ints(place))) for place in (-2, -1))
    last_key = op.Add(op.Range(zero, queries, one), op.Sub(keys, queries))
    return op.LessOrEqual(op.Range(zero, keys, one), op.Unsqueeze(last_key, _ints(1)))


def _entropy(logits: Value, temperature: Value | None, dim: int, scale: float) -> Value:
    rows = _Rows(logits, temperature, dim, scale)
    minus_log_probs = op.Neg(op.LogSoftmax(rows.scaled(), axis=rows.dim))
    terms = _weighted(op.Exp(op.Neg(minus_log_probs)), minus_log_probs, rows)
    return rows.finished(op.ReduceSum(terms, _ints(rows.dim), keepdims=1), rows.type)


def _weighted(weights: Value, minus_log_probs: Value, rows: _Rows) -> Value:
    """Their product, where a weight of 0 makes 0 of ∞ too."""
    counts_for_nothing = op.And(op.Equal(weights, rows.number(0)), op.IsInf(minus_log_probs))
    return op.Where(counts_for_nothing, rows.number(0), op.Mul(weights, minus_log_probs))


def _of_classes(
    rows: _Rows, target: Value, valid: Value, weight: Value | None, smoothing: float, minus_log_probs: Value
) -> tuple[Value, Value]:
    """The losses, and what each row counts in their mean."""
    index = op.Where(valid, target, _number(0, Type.INT64))
    of_class = rows.squeezed(op.GatherElements(minus_log_probs, op.Unsqueeze(index, _ints(rows.dim)), axis=rows.dim))
    counts = op.Expand(rows.number(1), op.Shape(index)) if weight is None else op.Gather(weight, index)
    losses = of_class if weight is None else _weighted(counts, of_class, rows)
    if smoothing > 0:
        of_all = minus_log_probs if weight is None else _weighted(rows.along_dim(weight), minus_log_probs, rows)
        spread = op.ReduceSum(op.Div(of_all, rows.along_dim(rows.size())), _ints(rows.dim), keepdims=0)
        losses = op.Add(_weighted(rows.number(1 - smoothing), losses, rows), op.Mul(spread, rows.number(smoothing)))
    return losses, op.Where(valid, counts, rows.number(0))


def _of_probabilities(
    rows: _Rows, target: Value, weight: Value | None, smoothing: float, minus_log_probs: Value
) -> tuple[Value, Value]:
    share = op.Div(rows.number(smoothing), rows.along_dim(rows.size()))
    weights = op.Add(op.Mul(target, rows.number(1 - smoothing)), share) if smoothing > 0 else target
    if weight is not None:
        weights = op.Mul(weights, rows.along_dim(weight))
    losses = op.ReduceSum(_weighted(weights, minus_log_probs, rows), _ints(rows.dim), keepdims=0)
    return losses, op.Expand(rows.number(1), op.Shape(losses))


def _cross_entropy(
    logits: Value,
    target: Value,
    dim: int,
    reduction: int,
    leading: int,
    ignore_index: int,
    weight: Value | None = None,
    temperature: Value | None = None,
    scale: float = 1.0,
    label_smoothing: float = 0.0,
    softcap: float = 0.0,
    z_loss: float = 0.0,
    has_logsumexp: bool = False,
) -> tuple[Value, ...]:
    rows = _Rows(logits, temperature, dim, scale)
    if softcap > 0:
        cap = rows.number(softcap)
        rows.logits = op.Mul(op.Tanh(op.Div(rows.logits, cap)), cap)
    minus_log_probs = op.Neg(op.LogSoftmax(rows.scaled(), axis=rows.dim))
    if Type(target.dtype).is_floating_point():
        valid = None
        losses, counts = _of_probabilities(rows, target, weight, label_smoothing, minus_log_probs)
    else:
        target = _cast(target, Type.INT64)
        valid = op.Not(op.Equal(target, _number(ignore_index, Type.INT64)))
        losses, counts = _of_classes(rows, target, valid, weight, label_smoothing, minus_log_probs)

    def of_valid(values: Value) -> Value:
        return values if valid is None else op.Where(valid, values, rows.number(0))

    logsumexp = rows.squeezed(rows.logsumexp()) if has_logsumexp or z_loss > 0 else None
    if z_loss > 0:
        losses = op.Add(losses, op.Mul(op.Mul(logsumexp, logsumexp), rows.number(z_loss)))
    losses = of_valid(losses)
    axes = _ints(*range(leading, rows.rank - 1))
    count = op.ReduceSum(counts, axes, keepdims=0, noop_with_empty_axes=1)
    if reduction != _NONE:
        losses = op.ReduceSum(losses, axes, keepdims=0, noop_with_empty_axes=1)
    if reduction == _MEAN:
        losses = op.Div(losses, count)
    logsumexp = of_valid(logsumexp) if has_logsumexp else _empty(rows.type)
    return losses, _cast(count, Type.DOUBLE), rows.statistics(), logsumexp


def _linear_cross_entropy(
    input: Value,
    linear_weight: Value,
    linear_bias: Value | None,
    target: Value,
    chunk: int,
    wanted: list[bool],
    reduction: int,
    *options: Any,
) -> tuple[Value, ...]:
    if any(wanted):
        raise NotImplementedError(
            "softmax_ext.onnx: expected linear_cross_entropy without gradients, got a graph that has those of its "
            "forward pass; export under torch.no_grad()"
        )
    logits = op.MatMul(input, op.Transpose(linear_weight, perm=[1, 0]))
    if linear_bias is not None:
        logits = op.Add(logits, linear_bias)
    logits.shape = onnx_ir.Shape([input.shape[0], linear_weight.shape[0]])  # else not known before the graph is made
    logits.dtype = input.dtype
    loss, count, statistics, _ = _cross_entropy(logits, target, 1, reduction, 0, *options)
    no_gradient = _empty(Type(input.dtype))
    return loss, count, statistics, no_gradient, no_gradient, no_gradient


def _randint(high: int, size: list[int], dtype: int | None = None, **options: Any) -> Value:
    """Draws the seed of sample, which torch has no translation for: else the error would be this operator's."""
    drawn = op.RandomUniform(dtype=int(Type.DOUBLE), low=0.0, high=float(high), shape=size)
    return _cast(op.Floor(drawn), Type.INT64 if dtype is None else Type(dtype))


def _sample(
    logits: Value,
    seed: Value,
    temperatures: Value | None,
    top_ks: Value | None,
    top_ps: Value | None,
    min_ps: Value | None,
    scale: float,
    top_k: int,
    top_p: float,
    min_p: float,
    num_samples: int,
) -> tuple[Value, Value]:
    if temperatures is not None or not math.isinf(scale):
        given = "that of a tensor" if temperatures is not None else f"{1 / scale if scale else math.inf:.6g}"
        raise NotImplementedError(
            f"softmax_ext.onnx: expected sample at the temperature 0, got {given}. It draws by Philox4x32-10, for which "
            "ONNX has no operator: export the logits and draw from those, or export it with temperature=0.0"
        )
    type = Type.DOUBLE if Type(logits.dtype) == Type.DOUBLE else Type.FLOAT
    largest = op.ArgMax(logits, axis=-1, keepdims=1)
    indices = op.Expand(largest, op.Concat(op.Shape(logits, end=-1), _ints(num_samples), axis=0))
    return indices, op.Expand(_number(0, type), op.Shape(indices))


_TRANSLATIONS = {
    translation.__name__: translation
    for translation in (
        _softmax,
        _log_softmax,
        _logsumexp,
        _masked_softmax,
        _entropy,
        _cross_entropy,
        _linear_cross_entropy,
        _sample,
    )
}
