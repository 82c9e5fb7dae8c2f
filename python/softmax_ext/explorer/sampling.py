"""The view of sampling: draws beside what the filtered distribution makes one expect."""

from typing import Any

import torch
from torch import Tensor

import softmax_ext
from softmax_ext.explorer.distribution import MAX_TEMPERATURE, MIN_TEMPERATURE, entropy_in_bits
from softmax_ext.explorer.query import Query

TOKENS = ["the", "a", "cat", "dog", "sat", "ran", "slept", "<eos>"]
LOGITS = [3.0, 2.5, 1.8, 1.2, 0.9, 0.6, 0.2, -0.4]

MAX_DRAWS = 10_000
MAX_SEED = 2**31 - 1


def sampling(query: Query) -> dict[str, Any]:
    """Counts of each token, its probability before the filters and after, and how many ways are left to go on."""
    temperature = query.number("temperature", 1.0, MIN_TEMPERATURE, MAX_TEMPERATURE)
    top_k = query.integer("top_k", 0, 0, len(TOKENS))
    top_p = query.number("top_p", 1.0, 0.0, 1.0)
    min_p = query.number("min_p", 0.0, 0.0, 1.0)
    draws = query.integer("draws", 200, 1, MAX_DRAWS)
    seed = query.integer("seed", 0, 0, MAX_SEED)

    logits = torch.tensor(LOGITS, dtype=torch.float64)
    drawn, _ = softmax_ext.sample(
        logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, num_samples=draws, seed=seed
    )
    kept = kept_tokens(logits, temperature, top_k, top_p, min_p)
    counts = torch.bincount(drawn, minlength=len(TOKENS))
    return {
        "tokens": TOKENS,
        "logits": LOGITS,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "draws": draws,
        "seed": seed,
        "probabilities": softmax_ext.softmax(logits, 0, temperature=temperature).tolist(),
        "filtered_probabilities": _probs(logits, kept, temperature).tolist(),
        "kept": kept.tolist(),
        "counts": counts.tolist(),
        "distinct": int((counts > 0).sum()),
        "entropy": entropy_in_bits(logits.masked_fill(~kept, -torch.inf), temperature).item(),
    }


def kept_tokens(logits: Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> Tensor:
    """Which tokens the filters leave, by their definitions; :func:`softmax_ext.sample` draws without making this list.

    Args:
        logits: ``[V]``, float64.

    Returns:
        bool, ``[V]``.
    """
    kept = torch.ones_like(logits, dtype=torch.bool)
    if 0 < top_k < len(logits):
        kept &= logits >= logits.topk(top_k).values[-1]
    if top_p < 1:
        descending = _probs(logits, kept, temperature).sort(descending=True).values
        crossing = int((descending.cumsum(0) < top_p).sum())
        kept &= _probs(logits, kept, temperature) >= descending[min(crossing, int(kept.sum()) - 1)]
    probs = _probs(logits, kept, temperature)
    return kept & (probs >= min_p * probs.max())


def _probs(logits: Tensor, kept: Tensor, temperature: float) -> Tensor:
    return softmax_ext.softmax(logits.masked_fill(~kept, -torch.inf), 0, temperature=temperature)
