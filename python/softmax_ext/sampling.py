"""Sampling from logits."""

from __future__ import annotations

import torch
from torch import Tensor

_numbers, _tensors = torch.ops.softmax_ext.sample.default, torch.ops.softmax_ext.sample.tensors


def sample(
    logits: Tensor,
    *,
    temperature: float | Tensor | None = None,
    top_k: int | Tensor = 0,
    top_p: float | Tensor = 1,  # an int: the compilers would trace a float default as a variable
    min_p: float | Tensor = 0,
    num_samples: int = 1,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws tokens from ``softmax(logits / T)`` along the last dim, filtered, without sorting or storing probabilities.

    The filters apply in this order: temperature, ``top_k``, ``top_p`` of what that keeps, ``min_p``. Each keeps the
    logits above a threshold, so equal logits are kept or left out together, and the order of the tokens plays no part.
    Each option is a number, or a tensor that broadcasts over the rows, ``logits.shape[:-1]``.

    Args:
        logits: ``[…, V]``; float64, float32, bfloat16 or float16. −inf is never drawn.
        temperature: T. 0 takes the largest logit, the first of several; infinity draws evenly from all that is not −inf.
        top_k: Keeps the k largest logits, and what equals the smallest of them. Off at 0 and below, and from V on.
        top_p: Keeps the most probable tokens, as few as together have at least this probability, the one that crosses
            it included (Holtzman et al. 2020, arXiv:1904.09751). Off from 1 on; 0 leaves the most probable.
        min_p: Keeps tokens of at least this share of the largest probability (Nguyen et al. 2024, arXiv:2407.01082).
            Off at 0 and below.
        num_samples: How many are drawn from each row, independently: a token may come more than once.
        generator: Where the seed is drawn from; torch's own for the device by default.
        seed: Instead of a generator. An int or a 0-d tensor: the random numbers of a row are then those of (seed, index
            of the row). One for each row, of shape ``logits.shape[:-1]``: those of (seed of the row, 0), and a row
            yields the same tokens wherever it stands.

    Returns:
        Indices (int64) and their log-probabilities after filtering (float64 for float64 logits, else float32), both
        ``[…, num_samples]``. Neither is differentiable.

    Raises:
        ValueError: an option is NaN or out of its range, or does not broadcast; a generator and a seed are given; on
            the CPU, an option of a row is.
        NotImplementedError: the dtype is not one of the above.
        RuntimeError: the logits are 0-d or of no token, or a tensor is of a wrong dtype or on another device; on the CPU,
            a row has a NaN or +inf, or no finite logit; the message names it. CUDA waits for nothing: the indices of
            such a row are −1.

    Random numbers are Philox4x32-10's; an index is found by inverting the distribution function at a uniform of 53 bits
    (a token of a probability below 1e-16 may be out of reach). A row's tokens depend on its logits and its seed, not on
    the rows beside it nor on the number of threads, and are the same on CPU and CUDA but for a uniform within rounding
    of a step of the function.

    >>> logits = torch.tensor([3.0, 2.5, 1.8, 1.2])
    >>> sample(logits, temperature=0.0)
    (tensor([0]), tensor([0.]))
    """
    if isinstance(seed, int):
        seed = torch.full((), (seed + 2**63) % 2**64 - 2**63, dtype=torch.int64, device=logits.device)
    has_tensors = (  # no loop: it would be a tenth of a short call
        isinstance(temperature, Tensor)
        or isinstance(top_k, Tensor)
        or isinstance(top_p, Tensor)
        or isinstance(min_p, Tensor)
    )
    if not has_tensors:
        temperature = 1.0 if temperature is None else temperature
        return _numbers(logits, temperature, top_k, top_p, min_p, num_samples, generator, seed)
    options = (temperature, top_k, top_p, min_p)
    dtypes = (torch.float64, torch.int64, torch.float64, torch.float64)
    temperature, top_k, top_p, min_p = (
        option
        if option is None or isinstance(option, Tensor)
        else torch.full((), option, dtype=dtype, device=logits.device)
        for option, dtype in zip(options, dtypes, strict=True)
    )
    return _tensors(logits, temperature, top_k, top_p, min_p, num_samples, generator, seed)


class SamplingProcessor:
    """Draws the next token in Hugging Face's ``generate``, as a logits processor.

    It leaves the score 0 for the token that it draws and −inf for all others, so that ``do_sample=False`` takes that
    one; a row without a token to draw is −inf alone. Its arguments are the keyword arguments of :func:`sample`, but for
    ``num_samples`` and ``seed``: a sequence of steps is repeated by a generator.

    >>> generator = torch.Generator().manual_seed(0)
    >>> processor = SamplingProcessor(temperature=0.7, top_p=0.9, generator=generator)
    >>> model.generate(**inputs, do_sample=False, logits_processor=[processor])  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        temperature: float | Tensor | None = None,
        top_k: int | Tensor = 0,
        top_p: float | Tensor = 1,
        min_p: float | Tensor = 0,
        generator: torch.Generator | None = None,
    ):
        self._options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        self._generator = generator

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        tokens, _ = sample(scores, generator=self._generator, **self._options)
        drawn = torch.where(tokens < 0, -torch.inf, 0.0).to(scores.dtype)  # CUDA has −1 where there is no token
        return torch.full_like(scores, -torch.inf).scatter_(-1, tokens.clamp(min=0), drawn)
