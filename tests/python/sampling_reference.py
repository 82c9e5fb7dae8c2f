"""Sampling by its definition, in float64, with sorted rows: what tests of ``sample`` compare with."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def philox4x32(counter: list[np.ndarray], key: list[np.ndarray]) -> list[np.ndarray]:
    """Philox4x32-10 of Salmon et al. 2011, on 32-bit words in arrays of uint64."""
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        first, second = counter[0] * np.uint64(0xD2511F53), counter[2] * np.uint64(0xCD9E8D57)
        counter = [
            (second >> np.uint64(32)) ^ counter[1] ^ key[0],
            second & low,
            (first >> np.uint64(32)) ^ counter[3] ^ key[1],
            first & low,
        ]
        key = [(key[0] + np.uint64(0x9E3779B9)) & low, (key[1] + np.uint64(0xBB67AE85)) & low]
    return counter


def uniforms(seed: Tensor | int, row: Tensor | int, sample: Tensor | int = 0) -> Tensor:
    """In [0, 1), of 53 bits, for seeds, rows and samples that broadcast."""
    words = []
    for number in np.broadcast_arrays(*(np.asarray(n, dtype=np.int64) for n in (sample, row, seed))):
        bits = number.view(np.uint64) if number.ndim else np.uint64(int(number) % 2**64)
        words += [bits & np.uint64(0xFFFFFFFF), bits >> np.uint64(32)]
    first, second, *_ = philox4x32(words[:4], words[4:])
    return torch.from_numpy(np.atleast_1d(((second << np.uint64(32) | first) >> np.uint64(11)) * 2.0**-53))


def weights(logits: Tensor, temperature: Tensor | float = 1.0) -> Tensor:
    """exp((x − max) / T) of rows, in float64."""
    logits = logits.double()
    temperature = torch.as_tensor(temperature, dtype=torch.float64)[..., None]
    distance = logits - logits.amax(-1, keepdim=True)
    scaled = torch.where(distance == 0, 0.0, distance / temperature)
    return torch.where(logits == -math.inf, 0.0, scaled.exp())


def kept(
    logits: Tensor,
    temperature: Tensor | float = 1.0,
    top_k: Tensor | int = 0,
    top_p: Tensor | float = 1.0,
    min_p: Tensor | float = 0.0,
) -> Tensor:
    """Which tokens of rows the filters keep; options are numbers, or one for each row."""
    logits = logits.double()
    length = logits.shape[-1]
    mass = weights(logits, temperature)
    top_k, top_p, min_p = (torch.as_tensor(option)[..., None] for option in (top_k, top_p, min_p))
    descending, order = logits.sort(-1, descending=True)
    k = torch.where((top_k > 0) & (top_k < length), top_k, length).expand(*logits.shape[:-1], 1)
    is_kept = logits >= descending.gather(-1, k - 1)
    sorted_mass = (mass * is_kept).gather(-1, order)
    reached = sorted_mass.cumsum(-1)
    # The first place at which the mass is reached; the last one if rounding leaves it out of reach.
    is_enough = reached >= top_p.double() * reached[..., -1:]
    is_enough[..., -1] = True
    crossing = descending.gather(-1, is_enough.to(torch.uint8).argmax(-1, keepdim=True))
    is_kept &= (logits >= crossing) | (top_p >= 1)
    return is_kept & ((mass >= min_p.double()) | (min_p <= 0)) & (mass > 0)


def inverse_cdf(probs: Tensor, uniform: Tensor) -> Tensor:
    """For rows of weights, the first token at which their running sum exceeds the uniform's share of the total."""
    sums = probs.double().cumsum(-1)
    return torch.searchsorted(sums, uniform[..., None] * sums[..., -1:], right=True).squeeze(-1)


def distance_to_step(probs: Tensor, uniform: Tensor) -> Tensor:
    """How far a uniform is from the nearest step of the distribution function of its row."""
    sums = probs.double().cumsum(-1)
    steps = sums / sums[..., -1:]
    place = torch.searchsorted(steps, uniform[..., None]).clamp(max=steps.shape[-1] - 1)
    around = torch.cat([steps.gather(-1, place), steps.gather(-1, (place - 1).clamp(min=0))], -1)
    return (around - uniform[..., None]).abs().amin(-1)
