"""Softmax over a part of the entries: each function is one call of ``torch.ops.softmax_ext``."""

from __future__ import annotations

import torch
from torch import Tensor

_ops = torch.ops.softmax_ext
_masked_softmax, _masked_softmax_float = _ops.masked_softmax.default, _ops.masked_softmax.float
_causal_softmax, _causal_softmax_float = _ops.causal_softmax.default, _ops.causal_softmax.float


def masked_softmax(
    input: Tensor,
    mask: Tensor,
    dim: int,
    dtype: torch.dtype | None = None,
    *,
    temperature: float | Tensor | None = None,
    empty: str = "nan",
) -> Tensor:
    """:func:`softmax` over the entries that ``mask`` keeps; the others have probability 0.

    Args:
        input: Logits of any shape; float64, float32, bfloat16 or float16 (or with ``dtype``, integer or bool).
        mask: True where an entry is kept, as in :mod:`torch.masked`; a bool tensor that broadcasts against ``input``.
            It is read beside the logits, and copied only where its bytes do not lie as the logits do.
        dim: The dimension along which probabilities add up to 1.
        dtype: The dtype of the result, as in :func:`softmax`; by default that of ``input``.
        temperature: As in :func:`softmax`.
        empty: What a row is that keeps no logit above −inf: ``"nan"``, or ``"zero"`` with gradient 0.

    Returns:
        A contiguous tensor of ``input``'s shape. What is left out plays no part and takes gradient 0, be it
        NaN or infinite. A row is NaN if a kept entry is NaN or +inf.

    Raises:
        IndexError: ``dim`` is out of range.
        ValueError: ``mask`` or ``temperature`` does not broadcast, ``temperature`` is a number below 0 or NaN, or
            ``empty`` is not one of the above.
        NotImplementedError: the dtype is not one of the above.
        RuntimeError: ``mask`` is not of dtype bool, or on another device.

    Differentiable in ``input`` and ``temperature``, to any order, forward and backward.

    >>> masked_softmax(torch.tensor([2.0, 1.0, 0.0]), torch.tensor([True, False, True]), dim=0)
    tensor([0.8808, 0.0000, 0.1192])
    """
    if temperature is None:
        return _masked_softmax(input, mask, dim, dtype, empty=empty)
    if isinstance(temperature, Tensor):
        return _masked_softmax(input, mask, dim, dtype, temperature=temperature, empty=empty)
    return _masked_softmax_float(input, mask, dim, dtype, temperature=temperature, empty=empty)


def causal_softmax(
    input: Tensor,
    dtype: torch.dtype | None = None,
    *,
    temperature: float | Tensor | None = None,
    empty: str = "zero",
) -> Tensor:
    """:func:`softmax` of attention scores over the last dim, where a query sees no later key.

    Args:
        input: Scores ``[…, queries, keys]``. The last query is at the last key, so that query i of q sees the keys up
            to i + k − q, as the lower-right bias of :func:`torch.nn.functional.scaled_dot_product_attention`.
        dtype: The dtype of the result, as in :func:`softmax`; by default that of ``input``.
        temperature: As in :func:`softmax`.
        empty: What a query yields that sees no key, as there are more queries than keys, or none above −inf:
            ``"zero"`` with gradient 0, or ``"nan"``.

    Returns:
        A contiguous tensor of ``input``'s shape, 0 at later keys, whose scores are not read.

    Raises:
        RuntimeError: ``input`` has fewer than two dims.

    Other errors are those of :func:`masked_softmax`, and so are the derivatives.

    >>> causal_softmax(torch.zeros(2, 3))
    tensor([[0.5000, 0.5000, 0.0000],
            [0.3333, 0.3333, 0.3333]])
    """
    if temperature is None:
        return _causal_softmax(input, dtype, empty=empty)
    if isinstance(temperature, Tensor):
        return _causal_softmax(input, dtype, temperature=temperature, empty=empty)
    return _causal_softmax_float(input, dtype, temperature=temperature, empty=empty)
