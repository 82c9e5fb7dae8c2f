"""What is measured of sampling: one token a row, beside the ways that torch has of drawing it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import softmax_ext
from benchmarks.cpu.cases import FP32, Case, Function, compiled


def multinomial(x: Tensor) -> Tensor:
    return torch.multinomial(torch.softmax(x, -1), 1)


def inverse_cdf(x: Tensor) -> Tensor:
    """The fastest way with what torch has."""
    sums = torch.softmax(x, -1).cumsum(-1)
    return torch.searchsorted(sums, torch.rand((*x.shape[:-1], 1)) * sums[..., -1:], right=True)


def top_k_50(x: Tensor) -> Tensor:
    logits, tokens = torch.topk(x, 50, -1)
    return tokens.gather(-1, multinomial(logits))


def top_p_90(x: Tensor) -> Tensor:
    logits, tokens = torch.sort(x, -1, descending=True)
    probs = torch.softmax(logits, -1)
    probs = probs.masked_fill(probs.cumsum(-1) - probs >= 0.9, 0)
    return tokens.gather(-1, torch.multinomial(probs, 1))


def sample(
    group: str, shape: tuple[int, int], theirs: Callable[[Tensor], Tensor], deviation: float = 1.0, **options
) -> Case:
    """Options of the case, and those of softmax_ext.sample: top_k, top_p."""
    filters = {name: options.pop(name) for name in ("top_k", "top_p") if name in options}

    def make(compiles: bool) -> dict[str, Function]:
        x = torch.randn(shape) * deviation
        functions = {"ours": lambda: softmax_ext.sample(x, **filters), "eager": lambda: theirs(x)}
        if compiles:
            of_compiler = compiled(theirs)
            functions["torch.compile"] = lambda: of_compiler(x)
        return functions

    return Case(f"sample, {group}", shape, FP32, make, **options)


def table() -> Iterator[Case]:
    for shape in ((1, 32000), (1, 128256), (16, 32000), (16, 128256), (64, 32000)):
        yield sample("softmax, cumsum, searchsorted", shape, inverse_cdf, bars=(5, 6), is_quick=shape == (16, 32000))
    for shape in ((1, 32000), (1, 128256)):
        yield sample("softmax, multinomial", shape, multinomial, bars=(40, None))
    for shape in ((1, 32000), (1, 128256), (16, 32000)):
        yield sample("top-k 50", shape, top_k_50, bars=(10, 11), top_k=50, is_quick=shape == (1, 128256))
    for name, deviation in (("peaked", 4.0), ("middle", 1.5), ("flat", 0.1)):
        yield sample(f"top-p 0.9, {name}", (1, 128256), top_p_90, deviation, bars=(60, 60), top_p=0.9)
