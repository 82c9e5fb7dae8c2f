"""The operators as documented Python functions: each is one call of ``torch.ops.softmax_ext``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_ops = torch.ops.softmax_ext
_softmax, _softmax_float = _ops.softmax.default, _ops.softmax.float
_softmax_out, _softmax_float_out = _ops.softmax.out, _ops.softmax.float_out
_log_softmax, _log_softmax_float = _ops.log_softmax.default, _ops.log_softmax.float
_log_softmax_out, _log_softmax_float_out = _ops.log_softmax.out, _ops.log_softmax.float_out
_logsumexp, _logsumexp_float = _ops.logsumexp.default, _ops.logsumexp.float
_cross_entropy = _ops.cross_entropy.default

_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}


def softmax(
    input: Tensor,
    dim: int,
    dtype: torch.dtype | None = None,
    *,
    temperature: float | Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Probabilities ``exp(x/T) / Σ exp(x/T)`` along ``dim``.

    Args:
        input: Logits of any shape; float64, float32, bfloat16 or float16 (any real dtype if ``dtype`` is given).
        dim: The dimension along which probabilities add up to 1.
        dtype: Dtype of the result, as in :func:`torch.softmax`. The conversion is part of the same pass over the data.
            Arithmetic is in float64 where the input or the result is, else in float32.
        temperature: T. A number, or a tensor that broadcasts against ``input`` with size 1 in ``dim`` (one for all,
            one per row, a parameter); a tensor is differentiable. 0 gives the uniform distribution over the maxima,
            infinity that over all logits that are not −inf; gradients are 0 there.
        out: Where to write the result, of the result's dtype; resized if it has another shape. It may be ``input``
            itself. Not for use with autograd, as in torch.

    Returns:
        A contiguous tensor of ``input``'s shape. A row that holds NaN or +inf, or nothing but −inf, is NaN, as in
        torch; so is a row under a negative or NaN temperature given as a tensor.

    Raises:
        IndexError: ``dim`` is out of range.
        ValueError: ``temperature`` is a number below 0 or NaN, or does not broadcast.
        NotImplementedError: the dtype is not one of the above.
        RuntimeError: ``out`` has another dtype, overlaps ``input`` in part, or an argument requires a gradient beside
            it.

    The row is shifted by its maximum before it is divided by T: logits further apart than the largest number of the
    arithmetic's dtype count as infinitely far apart. T counts as 0 below the inverse of that number (3e-39 in float32).
    Differentiable to any order, forward and backward.

    >>> softmax(torch.tensor([2.0, 1.0, 0.0]), dim=0)
    tensor([0.6652, 0.2447, 0.0900])
    >>> softmax(torch.tensor([2.0, 1.0, 0.0]), dim=0, temperature=0.5)
    tensor([0.8668, 0.1173, 0.0159])
    """
    if out is not None:
        if temperature is None or isinstance(temperature, Tensor):
            return _softmax_out(input, dim, dtype, temperature=temperature, out=out)
        return _softmax_float_out(input, dim, dtype, temperature=temperature, out=out)
    if temperature is None:
        return _softmax(input, dim, dtype)
    if isinstance(temperature, Tensor):
        return _softmax(input, dim, dtype, temperature=temperature)
    return _softmax_float(input, dim, dtype, temperature=temperature)


def log_softmax(
    input: Tensor,
    dim: int,
    dtype: torch.dtype | None = None,
    *,
    temperature: float | Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Log-probabilities ``x/T − log Σ exp(x/T)`` along ``dim``, in nats.

    Arguments, result and errors are those of :func:`softmax`. Accurate where a probability is close to 1, and finite
    where :func:`softmax` underflows.

    >>> log_softmax(torch.tensor([2.0, 1.0, 0.0]), dim=0)
    tensor([-0.4076, -1.4076, -2.4076])
    """
    if out is not None:
        if temperature is None or isinstance(temperature, Tensor):
            return _log_softmax_out(input, dim, dtype, temperature=temperature, out=out)
        return _log_softmax_float_out(input, dim, dtype, temperature=temperature, out=out)
    if temperature is None:
        return _log_softmax(input, dim, dtype)
    if isinstance(temperature, Tensor):
        return _log_softmax(input, dim, dtype, temperature=temperature)
    return _log_softmax_float(input, dim, dtype, temperature=temperature)


def logsumexp(
    input: Tensor,
    dim: int | Sequence[int],
    keepdim: bool = False,
    *,
    temperature: float | Tensor | None = None,
) -> Tensor:
    """``log Σ exp(x/T)`` over ``dim``, in one read of ``input``.

    Args:
        input: Any shape; float64, float32, bfloat16 or float16; integers are converted to the default dtype.
        dim: One or several dimensions; an empty tuple means all.
        keepdim: Whether the result keeps the reduced dimensions, with size 1.
        temperature: T > 0 (in float32 above 3e-39, whose inverse is a number): a number, or a tensor that broadcasts
            against ``input`` with size 1 in every reduced dimension. A tensor is differentiable.

    Returns:
        −inf over no element or over −inf alone, +inf with a +inf, NaN with a NaN. The gradient of a row of −inf alone
        is 0 (torch: NaN).

    Raises:
        IndexError: a dim is out of range.
        ValueError: ``temperature`` is a number that is not above 0.

    >>> logsumexp(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), dim=1)
    tensor([2.3133, 0.6931])
    """
    if temperature is None:
        return _logsumexp(input, dim, keepdim)
    if isinstance(temperature, Tensor):
        return _logsumexp(input, dim, keepdim, temperature=temperature)
    return _logsumexp_float(input, dim, keepdim, temperature=temperature)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    temperature: float | Tensor | None = None,
    softcap: float | None = None,
    z_loss: float = 0,  # an int: the compilers would trace a float default as a variable
    empty: str = "nan",
    gradient: str = "recompute",
) -> Tensor:
    """Negative log-likelihood of ``target`` under ``softmax(input)``, in nats, without storing probabilities.

    A valid call of :func:`torch.nn.functional.cross_entropy` means the same here.

    Args:
        input: Logits ``[N, C]``, ``[N, C, …]`` or, for one sample, ``[C]``; float64, float32, bfloat16 or float16.
        target: Class indices ``[N]``, ``[N, …]`` or ``[]`` in ``[0, C)`` or ``ignore_index``; int64, int32 or uint8.
        ignore_index: Rows with this target have loss 0 and gradient 0, whatever their logits are.
        size_average, reduce: Deprecated in torch; they choose ``reduction`` as there.
        reduction: ``"mean"`` over the rows that are not ignored, ``"sum"``, or ``"none"`` for one loss per row.
        gradient: How backward has the gradient of the logits, if they require one.

            - ``"recompute"`` keeps ``input`` and two numbers per row, and makes it from those. The least work where
              only the loss is wanted, and the only way that takes no memory in the forward pass.
            - ``"forward"`` makes it in the forward pass, into a tensor of its own that is kept beside ``input``;
              backward then scales it, or hands it out as it is where the upstream gradient is 1 (on a GPU without
              waiting for that number). A third less work, at a time when the logits are in the cache.
            - ``"inplace"`` does the same over the logits, which hold the gradient from then on: the least memory
              there is. For logits that nothing else needs, such as the output of a linear layer. Whoever does need
              them for backward raises, as does a second backward, forward mode, ``create_graph`` and ``torch.func``;
              ``input`` must not be a leaf. Under :func:`torch.compile` it is ``"forward"``.
        weight, label_smoothing, temperature, softcap, z_loss, empty: Not implemented yet; only their defaults are
            accepted.

    Returns:
        float64 for float64 logits, else float32 (torch: the dtype of the logits). The mean over no row is NaN, with
        gradient 0.

    Raises:
        IndexError: a target is neither a class nor ``ignore_index`` (CPU).
        ValueError: the batch sizes differ, or ``reduction`` or ``gradient`` is unknown.
        RuntimeError: other shapes or dtypes do not match the above.
        NotImplementedError: an option that is not implemented yet.

    >>> cross_entropy(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0]))
    tensor(0.4076)
    """
    options = {
        "temperature": (temperature, None),
        "softcap": (softcap, None),
        "z_loss": (z_loss, 0),
        "empty": (empty, "nan"),
    }
    for name, (value, default) in options.items():
        if value is not default and value != default:
            raise NotImplementedError(f"cross_entropy: {name} is not implemented yet")
    if size_average is not None or reduce is not None:
        reduction = torch.nn._reduction.legacy_get_string(size_average, reduce)
    if reduction not in _REDUCTIONS:
        raise ValueError(f"cross_entropy: expected reduction 'none', 'mean' or 'sum', got {reduction!r}")
    return _cross_entropy(input, target, weight, _REDUCTIONS[reduction], ignore_index, label_smoothing, gradient)
