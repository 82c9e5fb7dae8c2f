"""The operators as documented Python functions: each is one call of ``torch.ops.softmax_ext``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_ops = torch.ops.softmax_ext
_softmax, _softmax_float = _ops.softmax.default, _ops.softmax.float
_softmax_out, _softmax_float_out = _ops.softmax.out, _ops.softmax.float_out
_log_softmax, _log_softmax_float = _ops.log_softmax.default, _ops.log_softmax.float
_log_softmax_out, _log_softmax_float_out = _ops.log_softmax.out, _ops.log_softmax.float_out
_logsumexp, _logsumexp_float = _ops.logsumexp.default, _ops.logsumexp.float
_entropy, _entropy_float = _ops.entropy.default, _ops.entropy.float
_cross_entropy, _cross_entropy_float = _ops.cross_entropy.default, _ops.cross_entropy.float
_cross_entropy_with_logsumexp = _ops.cross_entropy_with_logsumexp.default
_cross_entropy_with_logsumexp_float = _ops.cross_entropy_with_logsumexp.float
_linear_cross_entropy, _linear_cross_entropy_float = _ops.linear_cross_entropy.default, _ops.linear_cross_entropy.float

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


def entropy(
    input: Tensor,
    dim: int,
    *,
    temperature: float | Tensor | None = None,
    base: float = math.e,
) -> Tensor:
    """The entropy ``−Σ p log p`` of ``p = softmax(input / T)`` along ``dim``, in one read of ``input``.

    Args:
        input: Logits of any shape; float64, float32, bfloat16 or float16.
        dim: The dimension of the probabilities, which the result has not.
        temperature: As in :func:`softmax`.
        base: Of the logarithm: e for nats, 2 for bits.

    Returns:
        float64 for float64 logits, else float32: from 0, for one sure class, to ``log(n)``, for n alike. It keeps its
        relative accuracy near both. 0 over no element, NaN for a row that has no softmax.

    Raises:
        IndexError: ``dim`` is out of range.
        ValueError: ``temperature`` is a number below 0 or NaN, or does not broadcast; ``base`` is not above 0 and finite,
            or is 1.
        NotImplementedError: the dtype is not one of the above.

    The gradient is ``−p (log p + H) / T``. Differentiable to any order, forward and backward.

    >>> entropy(torch.tensor([0.0, 0.0, 0.0, 0.0]), dim=0, base=2)
    tensor(2.)
    """
    options = {} if base is math.e else {"base": base}  # less to convert
    if temperature is None:
        return _entropy(input, dim, **options)
    if isinstance(temperature, Tensor):
        return _entropy(input, dim, temperature=temperature, **options)
    return _entropy_float(input, dim, temperature=temperature, **options)


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
        target: Class indices ``[N]``, ``[N, …]`` or ``[]`` in ``[0, C)`` or ``ignore_index``; int64, int32 or uint8. Or
            probabilities of ``input``'s shape, of a floating-point dtype, taken in that of the loss; their gradient is
            made too.
        weight: One number per class, ``[C]``; of any floating-point dtype. Differentiable.
        size_average, reduce: Deprecated in torch; they choose ``reduction`` as there.
        ignore_index: Rows with this target have loss 0 and gradient 0, whatever their logits are. Beside
            probabilities it must be negative, and is not used.
        reduction: ``"mean"`` over the rows that are not ignored, each counted by its class's weight (with
            probabilities: over all rows); ``"sum"``, or ``"none"`` for one loss per row.
        label_smoothing: e in [0, 1]: the share of the target that is spread over all classes.
        temperature: T. A number, or a tensor that broadcasts against ``input`` with size 1 in the dim of the classes; a
            tensor is differentiable. As for :func:`softmax`.
        softcap: s > 0: logits become ``s · tanh(x/s)`` first, before the temperature.
        z_loss: z ≥ 0: ``z · lse²`` is added to the loss of each row that is not ignored, with lse its log-sum-exp,
            whatever its class weighs (a mean divides it as the rest). It keeps logits from drifting. Not at a
            temperature of 0.
        empty: What the mean is where every row is ignored or weighs nothing, or there is none: ``"nan"`` as in torch,
            or ``"zero"``.
        gradient: How backward has the gradient of the logits, if they require one.

            - ``"recompute"`` keeps ``input`` and two numbers per row, and makes it from those. The least work where
              only the loss is wanted, and the only way that takes no memory in the forward pass.
            - ``"forward"`` makes it in the forward pass, into a tensor of its own that is kept beside ``input``;
              backward then scales it, or hands it out as it is where the upstream gradient is 1 (on a GPU without
              waiting for that number). A third less work, at a time when the logits are in the cache.
            - ``"inplace"`` does the same over the logits, which hold the gradient from then on: the least memory
              there is. For logits that nothing else needs, such as the output of a linear layer: take nothing from them
              after this call, neither another loss nor an accuracy. What needed them for backward before it raises
              (``relu`` and ``tanh`` need their output), as does a second backward, forward mode, ``create_graph`` and
              ``torch.func``; ``input`` must not be a leaf, a view of one, one of several views (``chunk``), nor made in
              the same scripted function. Logits that require no gradient are left alone; under :func:`torch.compile` it
              is ``"forward"``.

            Which to take: ``"inplace"`` where nothing else needs the logits, else ``"recompute"``; ``"forward"`` where
            rows are of a few thousand classes. On two cores of a Zen 5, forward and backward of 256 × 128256 in float32
            take less than half as long in place as by the other two, and of 4096 × 1000 two thirds as long by
            ``"forward"`` as by ``"recompute"`` (``python -m benchmarks.cpu --only "cross-entropy forward and
            backward"``; benchmarks/cpu/results).

            Both round the gradient of a mean to ``input``'s dtype before the upstream gradient scales it: with float16
            logits and a loss that is scaled up, ``"recompute"`` keeps what they lose below 6e-8. Where the target, the
            weights or the temperature require a gradient, which is made from the logits, ``"inplace"`` is
            ``"forward"``.

    Returns:
        float64 for float64 logits, else float32. (That of torch has the dtype of the logits.)

    Raises:
        IndexError: a target is neither a class nor ``ignore_index`` (CPU; on CUDA an assertion of the device).
        ValueError: the batch sizes differ, or an option is not one of the above.
        NotImplementedError: the dtype of ``input`` or ``weight`` is not one of the above.
        RuntimeError: ``label_smoothing`` is out of range, or other shapes or dtypes do not match the above.

    Whatever the options, the loss is made in one pass, without memory of the logits' size but for their gradient. (A
    copy of probabilities that are not in the dtype of the loss, and the gradients of probabilities, weights and a
    temperature, forward mode and higher orders take some.) A class of
    probability or weight 0 adds nothing even where its logit is −inf (torch: NaN).

    >>> cross_entropy(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0]))
    tensor(0.4076)
    >>> cross_entropy(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0.5, 0.5, 0.0]]))
    tensor(0.9076)
    """
    reduction = _reduction("cross_entropy", reduction, size_average, reduce)
    if temperature is None and softcap is None and z_loss == 0 and empty == "nan" and gradient == "recompute":
        return _cross_entropy(input, target, weight, reduction, ignore_index, label_smoothing)  # less to convert
    arguments = (input, target, weight, reduction, ignore_index, label_smoothing, temperature)
    if temperature is None or isinstance(temperature, Tensor):
        return _cross_entropy(*arguments, softcap, z_loss, empty, gradient)
    return _cross_entropy_float(*arguments, softcap, z_loss, empty, gradient)


def cross_entropy_with_logsumexp(
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
    z_loss: float = 0,
    empty: str = "nan",
) -> tuple[Tensor, Tensor]:
    """:func:`cross_entropy`, and the log-sum-exp of each row's logits, as softcap and temperature leave them.

    Returns:
        The loss, and the log-sum-exp ``[N, …]`` in the loss's dtype, 0 in ignored rows. Both are differentiable.

    >>> cross_entropy_with_logsumexp(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([0]))
    (tensor(0.4076), tensor([2.4076]))
    """
    reduction = _reduction("cross_entropy_with_logsumexp", reduction, size_average, reduce)
    arguments = (input, target, weight, reduction, ignore_index, label_smoothing, temperature)
    if temperature is None or isinstance(temperature, Tensor):
        return _cross_entropy_with_logsumexp(*arguments, softcap, z_loss, empty)
    return _cross_entropy_with_logsumexp_float(*arguments, softcap, z_loss, empty)


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    temperature: float | Tensor | None = None,
    softcap: float | None = None,
    z_loss: float = 0,
    empty: str = "nan",
    gradient: str = "forward",
    chunk: int | None = None,
) -> Tensor:
    """:func:`cross_entropy` of the logits ``linear(input, linear_weight, linear_bias)``, of which only ``chunk`` rows are
    there at a time.

    A valid call of :func:`torch.nn.functional.linear_cross_entropy` (torch 2.13 and later) means the same here, but for
    its ``options``. The products are ATen's, in the dtype of the layer; under autocast in that of autocast.

    Args:
        input: ``[…, features]``; float64, float32, bfloat16 or float16.
        linear_weight: ``[C, features]``, of ``input``'s dtype. Or ``[C, d1, …, features]`` for an ``input``
            ``[N, features]`` and a target with the dims d1, … behind N; the logits are made as a whole then.
        target: Class indices ``[…]`` or probabilities ``[…, C]``, as in :func:`cross_entropy`.
        linear_bias: ``[C]`` (or ``[C, d1, …]``), of ``input``'s dtype.
        weight, reduction, label_smoothing, softcap, z_loss, empty: As in :func:`cross_entropy`.
        ignore_index: As in :func:`cross_entropy`; −100 if None.
        temperature: A number, or a tensor of one element or of ``[N, 1]`` for an ``input`` ``[N, features]``.
        gradient: How backward has the gradients of the layer.

            - ``"forward"`` makes them in the forward pass, chunk by chunk: three matrix products in all, as without this
              function. With ``reduction="none"`` it is ``"recompute"``.
            - ``"recompute"`` makes each chunk of logits again: a fourth product, and nothing kept but 8 bytes a row.
        chunk: Rows of logits at a time. By default so many that they take the memory of ``input``, or 16 Mi elements
            where that is more.

    Returns:
        A scalar, or for ``reduction="none"`` ``[…]``; float64 for float64 input, else float32.

    Errors are those of :func:`cross_entropy`, and RuntimeError where shapes or dtypes of the layer do not match.

    All of autograd works: forward mode, ``create_graph`` and :mod:`torch.func`, and gradients of the target, the weights
    and the temperature; these take the memory of all logits. The input of an ignored row must be finite: it goes into
    the product that makes the layer's gradient.

    >>> x, w = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    >>> linear_cross_entropy(x, w, torch.tensor([0]))
    tensor(0.4076)
    """
    code = _reduction("linear_cross_entropy", reduction, None, None)
    arguments = (input, linear_weight, target, linear_bias, weight, code, ignore_index, label_smoothing, temperature)
    if temperature is None or isinstance(temperature, Tensor):
        return _linear_cross_entropy(*arguments, softcap, z_loss, empty, gradient, chunk)
    return _linear_cross_entropy_float(*arguments, softcap, z_loss, empty, gradient, chunk)


def causal_lm_loss(
    logits: Tensor | Any,
    labels: Tensor,
    num_items_in_batch: int | Tensor | None = None,
    *,
    ignore_index: int = -100,
    temperature: float | Tensor | None = None,
    empty: str = "nan",
    **options: Any,
) -> Tensor:
    """The loss of a causal language model: the logits at each position against the label of the next one.

    The labels are shifted, and padded with ``ignore_index``; the logits are read where they are. It is what
    ``transformers.Trainer`` takes as ``compute_loss_func``; :func:`functools.partial` gives it options.

    Args:
        logits: ``[…, length, vocabulary]``; or what a model returned, with those as its ``logits``.
        labels: ``[…, length]``: int64, int32 or uint8, those of the positions themselves.
        num_items_in_batch: What the sum of the losses is divided by, such as the labels of all batches that gradients
            are accumulated over (``labels[…, 1:]`` that are not ignored); by those of this one if None. A tensor is
            not waited for.
        ignore_index: Labels that count for nothing.
        temperature: As for :func:`cross_entropy`; or a tensor of the labels' shape, one for the logits at each position
            (it is not shifted).
        empty: As for :func:`cross_entropy`, also where ``num_items_in_batch`` is 0.
        options: The others of :func:`cross_entropy`, but for ``reduction``. With ``num_items_in_batch``, a gradient
            that ``gradient=`` makes in the forward pass is scaled in backward.

    Returns:
        The loss, float64 for float64 logits, else float32.

    Raises:
        TypeError: ``logits`` is neither a tensor nor has one, or ``labels`` is not one of the above dtypes.
        ValueError: ``labels`` is not of the shape of ``logits`` without its last dim, or ``temperature`` does not
            broadcast.

    >>> logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [0.0, 0.0]]])
    >>> causal_lm_loss(logits, torch.tensor([[1, 0, 1]]))
    tensor(0.2201)
    """
    logits = _logits_of(logits)
    if not isinstance(labels, Tensor) or labels.dtype not in (torch.int64, torch.int32, torch.uint8):
        given = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"causal_lm_loss: expected labels of dtype int64, int32 or uint8, got {given}")
    if logits.dim() < 2:
        raise ValueError(
            f"causal_lm_loss: expected logits of shape [..., length, vocabulary], got {list(logits.shape)}"
        )
    if labels.shape != logits.shape[:-1]:
        raise ValueError(
            f"causal_lm_loss: expected labels of shape {list(logits.shape[:-1])} for logits of shape "
            f"{list(logits.shape)}, got {list(labels.shape)}"
        )
    following = torch.nn.functional.pad(labels.long(), (0, 1), value=ignore_index)[..., 1:]
    loss = cross_entropy(
        logits.reshape(-1, logits.shape[-1]),
        following.reshape(-1).to(logits.device),
        ignore_index=ignore_index,
        reduction="mean" if num_items_in_batch is None else "sum",
        temperature=_temperature_of_rows(temperature, labels.shape),
        empty=empty,
        **options,
    )
    if num_items_in_batch is None:
        return loss
    if isinstance(num_items_in_batch, Tensor):
        items = num_items_in_batch.to(loss)
        return loss / (items.masked_fill(items == 0, 1) if empty == "zero" else items)
    return loss / (1 if num_items_in_batch == 0 and empty == "zero" else num_items_in_batch)


def _logits_of(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise TypeError(
            "causal_lm_loss: expected logits as a tensor, or a model's output that holds them as its logits, got "
            f"{type(output).__name__}"
        )
    return logits


def _temperature_of_rows(temperature: float | Tensor | None, positions: torch.Size) -> float | Tensor | None:
    """That of all positions in one dim, for logits whose positions are in one dim."""
    if not isinstance(temperature, Tensor) or temperature.dim() == 0:
        return temperature
    of_logits = temperature.unsqueeze(-1) if temperature.shape == positions else temperature
    sizes = zip(reversed(of_logits.shape), (1, *reversed(positions)), strict=False)
    if of_logits.dim() > len(positions) + 1 or any(size not in (1, wanted) for size, wanted in sizes):
        raise ValueError(
            f"causal_lm_loss: expected a temperature of the labels' shape {list(positions)}, or that broadcasts against "
            f"{[*positions, 1]}, got {list(temperature.shape)}"
        )
    return of_logits.expand(*positions, 1).reshape(-1, 1)


def _reduction(name: str, reduction: str, size_average: bool | None, reduce: bool | None) -> int:
    if size_average is not None or reduce is not None:
        reduction = torch.nn._reduction.legacy_get_string(size_average, reduce)
    if reduction not in _REDUCTIONS:
        raise ValueError(f"{name}: expected reduction 'none', 'mean' or 'sum', got {reduction!r}")
    return _REDUCTIONS[reduction]
