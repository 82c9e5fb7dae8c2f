"""Error bounds, computed from the dtypes. u is the unit roundoff, d = (max − x)/T the distance from a row's maximum."""

import torch
from torch import Tensor


def unit(dtype: torch.dtype) -> float:
    """The unit roundoff u: half the distance from 1 to the next number."""
    return torch.finfo(dtype).eps / 2


def ulp(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance between neighbours of ``dtype`` at ``values`` (float64), down to the subnormal ones."""
    info = torch.finfo(dtype)
    exponent = torch.frexp(values.abs().clamp(min=info.tiny)).exponent.double()
    return torch.exp2(exponent - 1) * info.eps


def assert_within(actual: Tensor, expected: Tensor, bound: Tensor, what: str = "") -> None:
    """Every element is within its bound of ``expected`` (float64); NaN and infinity match exactly."""
    actual = actual.double()
    special = ~expected.isfinite()
    assert torch.equal(actual[special].nan_to_num(nan=7e300), expected[special].nan_to_num(nan=7e300)), what
    error = (actual - expected).abs()[~special]
    excess = error / torch.broadcast_to(bound, expected.shape)[~special].clamp(min=5e-324)
    assert not error.isnan().any(), f"{what}: NaN where {expected[~special][error.isnan()][:3]} was expected"
    assert excess.numel() == 0 or excess.max() <= 1, f"{what}: error is {excess.max():.2f} × its bound"


def softmax_bound(probs: Tensor, distance: Tensor, dtype: torch.dtype, length: int) -> Tensor:
    """Of each probability: relative (6 or 8)·u·(1+d), and 1 ULP for what is subnormal.

    In float64 twice that, as the float64 reference has an error of the same size.
    """
    factor = 16 if dtype == torch.float64 else 8 if length <= 128 else 6
    distance = distance.clamp(max=1e4)  # beyond, the probability is 0
    relative = factor * unit(dtype) * (1 + distance) * probs
    return torch.where(probs < torch.finfo(dtype).tiny, relative + ulp(probs, dtype), relative)


def log_softmax_bound(log_probs: Tensor, distance: Tensor, dtype: torch.dtype) -> Tensor:
    """4 ULP of max(|out|, |max − x|, 1)."""
    largest = torch.maximum(log_probs.abs(), distance.abs()).clamp(min=1.0)
    return 4 * ulp(largest.nan_to_num(posinf=torch.finfo(dtype).max), dtype)


def logsumexp_bound(result: Tensor, top: Tensor, dtype: torch.dtype) -> Tensor:
    """2 ULP of max(|lse|, |max|, 1)."""
    return 2 * ulp(torch.maximum(result.abs(), top.abs()).clamp(min=1.0).nan_to_num(posinf=1.0), dtype)


def assert_nearly_all_correctly_rounded(actual: Tensor, expected: Tensor, share: float = 0.9995) -> None:
    """16-bit results: the rounded float64 result for at least ``share`` of the elements, else a neighbour of it.

    Three elements may always miss it: in a small sample a share of 0.05 % is less than one element.
    """
    rounded = expected.to(actual.dtype)
    same = (actual == rounded) | (actual.isnan() & rounded.isnan())
    misses = (~same).sum().item()
    assert misses <= max(3, (1 - share) * same.numel()), f"{misses} of {same.numel()} are not correctly rounded"
    infinity = torch.full_like(rounded, float("inf"))
    neighbour = (actual == torch.nextafter(rounded, infinity)) | (actual == torch.nextafter(rounded, -infinity))
    assert (same | neighbour).all(), "an element is further than one neighbour from the correctly rounded result"
