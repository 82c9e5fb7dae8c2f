"""The view of sampling: draws beside what the filtered distribution makes one expect."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import softmax_ext
from softmax_ext.explorer.distribution import MAX_TEMPERATURE, MIN_TEMPERATURE, entropy_in_bits
from softmax_ext.explorer.query import Query

MAX_DRAWS = 10_000
MAX_SEED = 2**31 - 1
#: Of a large vocabulary, so many of the most probable tokens are shown, and the others as one.
SHOWN_TOKENS = 15


@dataclass(frozen=True)
class NextToken:
    """A language model's logits for what follows a prompt."""

    source: str
    prompt: str
    tokens: list[str]
    logits: Tensor  # [V], float64

    @staticmethod
    def load(path: Path) -> "NextToken":
        """From a file of ``torch.save``: a dict of ``source``, ``prompt``, ``tokens`` and ``logits``, as the fields here.

        Raises:
            ValueError: the file holds something else.
        """
        saved = torch.load(path, weights_only=True, map_location="cpu")
        fields = {"source": str, "prompt": str, "tokens": list, "logits": Tensor}
        if not isinstance(saved, dict) or any(not isinstance(saved.get(name), kind) for name, kind in fields.items()):
            raise ValueError(f"{path}: expected a dict of {', '.join(fields)}")
        next_token = NextToken(**{name: saved[name] for name in fields})
        if next_token.logits.shape != (len(next_token.tokens),):
            raise ValueError(
                f"{path}: expected one logit for each of {len(next_token.tokens)} tokens, got a tensor of shape "
                f"{list(next_token.logits.shape)}"
            )
        return NextToken(saved["source"], saved["prompt"], saved["tokens"], saved["logits"].double())


EIGHT_WORDS = NextToken(
    "eight words",
    "",
    ["the", "a", "cat", "dog", "sat", "ran", "slept", "<eos>"],
    torch.tensor([3.0, 2.5, 1.8, 1.2, 0.9, 0.6, 0.2, -0.4], dtype=torch.float64, device="cpu"),
)


def sampling(query: Query, sources: Mapping[str, NextToken]) -> dict[str, Any]:
    """Counts of each token, its probability before the filters and after, and how many ways are left to go on.

    ``sources`` are the logits to choose from, by the value of ``data``; the first is the default.
    """
    data = query.choice("data", list(sources))
    source = sources[data]
    logits = source.logits
    temperature = query.number("temperature", 1.0, MIN_TEMPERATURE, MAX_TEMPERATURE)
    top_k = query.integer("top_k", 0, 0, len(logits))
    top_p = query.number("top_p", 1.0, 0.0, 1.0)
    min_p = query.number("min_p", 0.0, 0.0, 1.0)
    draws = query.integer("draws", 200, 1, MAX_DRAWS)
    seed = query.integer("seed", 0, 0, MAX_SEED)

    drawn, _ = softmax_ext.sample(
        logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, num_samples=draws, seed=seed
    )
    counts = torch.bincount(drawn, minlength=len(logits))
    kept = kept_tokens(logits, temperature, top_k, top_p, min_p)
    everything = torch.ones_like(kept)
    columns = {
        "probabilities": _probs(logits, everything, temperature),
        "filtered_probabilities": _probs(logits, kept, temperature),
        "counts": counts,
    }
    shown = logits.argsort(descending=True, stable=True)[:SHOWN_TOKENS]
    others = everything.scatter(0, shown, False)
    return {
        "data": data,
        "sources": {name: {"source": one.source, "prompt": one.prompt} for name, one in sources.items()},
        "vocabulary": len(logits),
        "tokens": [source.tokens[index] for index in shown.tolist()],
        "logits": logits[shown].tolist(),
        "kept": kept[shown].tolist(),
        **{name: column[shown].tolist() for name, column in columns.items()},
        "others": {name: column[others].sum().item() for name, column in columns.items()}
        | {"tokens": int(others.sum()), "kept": int(kept[others].sum())},
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "draws": draws,
        "seed": seed,
        "kept_tokens": int(kept.sum()),
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
        probs = _probs(logits, kept, temperature)
        descending = probs.sort(descending=True).values
        crossing = int((descending.cumsum(0) < top_p).sum())
        kept &= probs >= descending[min(crossing, int(kept.sum()) - 1)]
    probs = _probs(logits, kept, temperature)
    return kept & (probs >= min_p * probs.max())


def _probs(logits: Tensor, kept: Tensor, temperature: float) -> Tensor:
    return softmax_ext.softmax(logits.masked_fill(~kept, -torch.inf), 0, temperature=temperature)
