"""Hypothesis strategies of logits, masks, targets and temperatures: shapes, strides, dtypes and values.

Values come from torch's generator at a seed that is drawn, so that an example stays a few numbers whatever its size.
"""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

INF, NAN = math.inf, math.nan

#: On both sides of what the CPU does at once: transposed rows, batches, spans, blocks, chunks.
BOUNDS = (4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 8192)
ELEMENTS = 30_000

dtypes = st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16])
lengths = st.one_of(
    st.integers(0, 20),
    st.integers(21, 700),
    st.builds(lambda bound, step: bound + step, st.sampled_from(BOUNDS), st.integers(-1, 1)),
)
seeds = st.integers(0, 2**31)


def lane(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def normal(draw: DrawFn, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(draw(seeds)))


def uniform(draw: DrawFn, shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(draw(seeds)))


@st.composite
def shapes(draw: DrawFn, min_dims: int = 0, at: int | None = None) -> tuple[tuple[int, ...], int]:
    """A shape, and a dim (``at``, or any) that may be long, of a tensor of no more than ELEMENTS."""
    dims = draw(st.integers(min_dims, 4))
    if dims == 0:
        return (), draw(st.sampled_from([-1, 0]))
    dim = draw(st.integers(0, dims - 1)) if at is None else at % dims
    length = draw(lengths)
    left = max(1, ELEMENTS // max(1, length))
    shape = [1] * dims
    for other in range(dims):
        if other != dim:
            shape[other] = draw(st.integers(0, 70 if left >= 70 else min(left, 5)))
            left //= max(1, shape[other])
    shape[dim] = length
    return tuple(shape), draw(st.sampled_from([dim, dim - dims])) if at is None else at


@st.composite
def layouts(draw: DrawFn, values: Tensor) -> Tensor:
    """``values`` as a tensor of other strides; where elements share memory, with some of them repeated."""
    layout = draw(st.sampled_from(["contiguous", "offset", "sliced", "permuted", "inside", "expanded", "windows"]))
    if layout == "contiguous" or values.dim() == 0:
        return values
    dim = draw(st.integers(0, values.dim() - 1))
    if layout == "offset":
        offset = draw(st.integers(1, 17))
        return values.new_empty(values.numel() + offset)[offset:].view_as(values).copy_(values)
    if layout == "sliced":
        step = draw(st.integers(2, 3))
        memory = values.repeat_interleave(step, dim)
        memory = torch.where(torch.arange(memory.shape[dim]) % step == 0, memory.movedim(dim, -1), NAN)
        return memory.movedim(-1, dim).narrow(dim, 0, values.shape[dim] * step)[
            (slice(None),) * dim + (slice(0, None, step),)
        ]
    if layout == "permuted":
        order = draw(st.permutations(range(values.dim())))
        inverse = sorted(range(values.dim()), key=order.__getitem__)
        return values.permute(order).contiguous().permute(inverse)
    if layout == "inside":
        before, after = draw(st.integers(0, 5)), draw(st.integers(0, 5))
        shape = list(values.shape)
        shape[dim] += before + after
        return values.new_full(shape, NAN).narrow(dim, before, values.shape[dim]).copy_(values)
    if layout == "expanded":
        return values.narrow(dim, 0, min(1, values.shape[dim])).expand(values.shape)
    strides = [draw(st.integers(0, 3)) for _ in values.shape]
    extent = 1 + sum(stride * max(0, size - 1) for stride, size in zip(strides, values.shape, strict=True))
    flat = values.flatten()
    return (flat.repeat(-(-extent // flat.numel()))[:extent] if flat.numel() else flat.new_empty(extent)).as_strided(
        values.shape, strides
    )


@st.composite
def logits(draw: DrawFn, shape: tuple[int, ...], specials: tuple[float, ...] = (-INF, INF, NAN)) -> Tensor:
    """Normal at several widths and offsets, equal, tied, peaked; some with values that are not finite."""
    kind = draw(st.sampled_from(["normal", "normal", "equal", "tied", "peaked", "shifted"]))
    x = normal(draw, shape) * draw(st.sampled_from([0.1, 1.0, 8.0, 30.0]))
    if kind == "equal":
        x = torch.full_like(x, draw(st.integers(-50, 50)))
    elif kind == "tied":
        x = x.round()
    elif kind == "peaked" and x.numel():
        x.view(-1)[draw(st.integers(0, x.numel() - 1))] += draw(st.sampled_from([20.0, 88.0, 104.0, 745.0]))
    elif kind == "shifted":
        x += draw(st.sampled_from([1e3, -1e4]))
    x = x.to(draw(dtypes))
    special = draw(st.sampled_from([None, None, *specials])) if specials else None
    if special is not None:
        share = draw(st.sampled_from([0.01, 0.5, 1.0]))
        x = x.where(uniform(draw, shape) >= share, special)
    return draw(layouts(x))


def broadcast_shape(draw: DrawFn, shape: tuple[int, ...], ones: tuple[int, ...] = ()) -> tuple[int, ...]:
    """One that broadcasts against ``shape``, of size 1 in the dims ``ones``."""
    ones = {dim % len(shape) for dim in ones} if shape else set()
    sizes = [1 if dim in ones or draw(st.booleans()) else size for dim, size in enumerate(shape)]
    first = draw(st.integers(0, len(sizes)))
    return tuple(sizes[first:] if all(size == 1 for size in sizes[:first]) else sizes)


@st.composite
def temperatures(
    draw: DrawFn, shape: tuple[int, ...], dims: tuple[int, ...], dtype: torch.dtype
) -> float | Tensor | None:
    """None, a number, or a tensor in the dtype of the arithmetic that has size 1 in ``dims``; all between 0.05 and 20."""
    kind = draw(st.sampled_from(["none", "number", "tensor"]))
    if kind == "none":
        return None
    if kind == "number":
        return draw(st.sampled_from([0.05, 0.7, 1.0, 1.7, 20.0]))
    of_rows = 0.05 * 400 ** uniform(draw, broadcast_shape(draw, shape, dims))
    return draw(layouts(of_rows.to(lane(dtype))))


@st.composite
def masks(draw: DrawFn, shape: tuple[int, ...]) -> Tensor:
    share = draw(st.sampled_from([0.0, 0.1, 0.5, 0.97, 1.0]))
    mask = uniform(draw, broadcast_shape(draw, shape)) < share
    return mask if mask.dim() == 0 else draw(masks_in_memory(mask))


@st.composite
def masks_in_memory(draw: DrawFn, mask: Tensor) -> Tensor:
    dim = draw(st.integers(0, mask.dim() - 1))
    return draw(
        st.sampled_from(
            [
                mask,
                mask.transpose(0, dim).contiguous().transpose(0, dim),
                torch.stack([mask, ~mask], -1)[..., 0],
                torch.cat([~mask, mask], dim).narrow(dim, mask.shape[dim], mask.shape[dim]),
            ]
        )
    )


@st.composite
def losses(draw: DrawFn, allow_probabilities: bool = True) -> tuple[Tensor, Tensor, dict]:
    """Logits, target and options of a cross-entropy; no class of weight 0, and no row that has no loss."""
    shape, _ = draw(
        shapes(1, at=1).filter(lambda drawn: len(drawn[0]) > 1) | shapes(1, at=0).map(lambda d: (d[0][:1], 0))
    )
    dim = 0 if len(shape) == 1 else 1
    shape = tuple(max(1, size) if i == dim else size for i, size in enumerate(shape))
    classes, of_rows = shape[dim], shape[:dim] + shape[dim + 1 :]
    x = draw(logits(shape, specials=()))
    options = {
        "reduction": draw(st.sampled_from(["mean", "sum", "none"])),
        "label_smoothing": draw(st.sampled_from([0.0, 0.0, 0.1, 1.0])),
        "softcap": draw(st.sampled_from([None, None, 15.0])),
        "z_loss": draw(st.sampled_from([0.0, 0.0, 1e-3])),
        "empty": draw(st.sampled_from(["nan", "zero"])),
        "temperature": draw(temperatures(shape, (dim,), x.dtype)),
    }
    if draw(st.booleans()):
        weight = 0.1 + uniform(draw, (classes,))
        options["weight"] = draw(layouts(weight.to(draw(st.sampled_from([torch.float64, lane(x.dtype)])))))
    if allow_probabilities and draw(st.integers(0, 3)) == 0:
        return x, draw(layouts(torch.softmax(normal(draw, shape), dim).to(draw(dtypes)))), options
    dtype = draw(st.sampled_from([torch.int64, torch.int32, torch.uint8]))
    target = (uniform(draw, of_rows) * min(classes, 255)).to(dtype)
    options["ignore_index"] = draw(st.sampled_from([-100, 1, 3]))
    if dtype != torch.uint8:
        share = draw(st.sampled_from([0.0, 0.3, 1.0]))
        target = target.where(uniform(draw, of_rows) >= share, options["ignore_index"])
    if target.dim():
        target = target.t().contiguous().t() if target.dim() == 2 else torch.stack([target, target], -1)[..., 0]
    return x, target, options
