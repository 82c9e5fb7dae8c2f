"""The operators in float64, written to be obvious. Tests and benchmarks compare with these."""

import math

import numpy as np
import torch
from torch import Tensor


def softmax(logits: Tensor, dim: int, temperature: float | Tensor = 1.0) -> Tensor:
    return log_softmax(logits, dim, temperature).exp()


def softmax_in_long_double(logits: np.ndarray) -> np.ndarray:
    """Over the last axis of finite float64 logits, for what float64 itself is measured against."""
    exponentials = np.exp(logits.astype(np.longdouble) - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def logsumexp_in_long_double(logits: np.ndarray) -> np.ndarray:
    """As :func:`softmax_in_long_double`."""
    top = logits.max(-1, keepdims=True).astype(np.longdouble)
    return (np.log(np.exp(logits - top).sum(-1, keepdims=True)) + top).squeeze(-1)


def log_softmax(logits: Tensor, dim: int, temperature: float | Tensor = 1.0) -> Tensor:
    """NaN where softmax is undefined; both limits of the temperature are taken."""
    x = logits.double()
    if x.dim() == 0:
        return log_softmax(x.unsqueeze(0), 0, temperature).squeeze(0)
    if x.shape[dim] == 0:
        return x.clone()
    t = torch.as_tensor(temperature, dtype=torch.float64)
    top = x.amax(dim, keepdim=True)
    undefined = x.isnan().any(dim, keepdim=True) | top.isinf() | ~(t >= 0)
    shifted = x - top
    scaled = torch.where(t == 0, torch.where(shifted == 0, 0.0, -math.inf), shifted / t)
    scaled = torch.where((t == math.inf) & (x != -math.inf), 0.0, scaled).masked_fill(x == -math.inf, -math.inf)
    others = scaled.exp().sum(dim, keepdim=True) - 1  # the maximum's own exponential is 1
    few = (scaled.exp() * (scaled != 0)).sum(dim, keepdim=True) + ((scaled == 0).sum(dim, keepdim=True) - 1)
    log_sum = torch.log1p(torch.where(others < 0.5, few, others))
    return (scaled - log_sum).masked_fill(undefined, math.nan)


def logsumexp(logits: Tensor, dim: int | tuple[int, ...], temperature: float = 1.0) -> Tensor:
    return torch.logsumexp(logits.double() / temperature, dim)


def cross_entropy_rows(logits: Tensor, target: Tensor, ignore_index: int = -100) -> Tensor:
    """One loss per row; classes in dim 1. Ignored rows are 0, whatever they hold."""
    log_probs = log_softmax(logits, 1)
    ignored = target == ignore_index
    picked = log_probs.gather(1, target.long().masked_fill(ignored, 0).unsqueeze(1)).squeeze(1)
    return torch.where(ignored, 0.0, -picked)
