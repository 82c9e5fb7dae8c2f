"""What is measured on a CPU: each case is one operator on tensors of one shape, with all who do the same work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import softmax_ext

Function = Callable[[], object]
ops = torch.ops.softmax_ext
FP32, BF16 = torch.float32, torch.bfloat16
DTYPE_CODES = {torch.float32: 6, torch.bfloat16: 15}  # c10::ScalarType
COMPILED = "torch.compile"


@dataclass(frozen=True)
class Case:
    """One measurement. ``make(compiles)`` allocates its tensors and returns the functions of ours and of our peers."""

    group: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[bool], dict[str, Function]] = field(repr=False)
    #: What ours must reach against eager and against torch.compile; None where nothing is asked.
    bars: tuple[float | None, float | None] = (None, None)
    threads: int | None = None  # only with that many
    is_quick: bool = False

    @property
    def key(self) -> str:
        return f"{self.group} {'x'.join(map(str, self.shape))} {str(self.dtype).removeprefix('torch.')}"


def compiled(function: Callable) -> Callable:
    return torch.compile(function, dynamic=False, fullgraph=True)


def _with_peers(ours: Callable, eager: Callable, compiles: bool, *tensors: Tensor) -> dict[str, Function]:
    functions = {"ours": lambda: ours(*tensors), "eager": lambda: eager(*tensors)}
    if compiles:
        of_compiler = compiled(eager)
        functions[COMPILED] = lambda: of_compiler(*tensors)
    return functions


def normalization(name: str, group: str, shape: tuple[int, ...], dtype: torch.dtype, dim: int = -1, **options) -> Case:
    """softmax or log_softmax with a new result."""
    ours, theirs = getattr(ops, name), getattr(torch, name)

    def make(compiles: bool) -> dict[str, Function]:
        x = torch.randn(shape).to(dtype)
        return _with_peers(lambda x: ours(x, dim), lambda x: theirs(x, dim), compiles, x)

    return Case(f"{name}, {group}", shape, dtype, make, **options)


def normalization_out(name: str, group: str, shape: tuple[int, ...], dtype: torch.dtype, **options) -> Case:
    """The same into memory that is there."""
    ours, theirs = getattr(softmax_ext, name), getattr(torch, name)

    def make(compiles: bool) -> dict[str, Function]:
        x = torch.randn(shape).to(dtype)
        y = torch.empty_like(x)
        functions = {"ours": lambda: ours(x, -1, out=y), "eager": lambda: theirs(x, -1, out=y)}
        if compiles:
            of_compiler = compiled(lambda x, y: y.copy_(theirs(x, -1)))
            functions[COMPILED] = lambda: of_compiler(x, y)
        if name == "softmax":
            functions["x * c"] = lambda: torch.mul(x, 0.5, out=y)
        return functions

    return Case(f"{name}, {group}", shape, dtype, make, **options)


def softmax_backward(
    group: str, shape: tuple[int, ...], dtype: torch.dtype, *, has_out: bool = False, **options
) -> Case:
    def by_hand(grad: Tensor, y: Tensor) -> Tensor:
        grad, y = grad.float(), y.float()
        return (y * (grad - (grad * y).sum(-1, keepdim=True))).to(dtype)

    def make(compiles: bool) -> dict[str, Function]:
        y, grad = torch.softmax(torch.randn(shape), -1).to(dtype), torch.randn(shape).to(dtype)
        arguments = (grad, y, None, -1, 1.0, DTYPE_CODES[dtype])
        if has_out:
            result = torch.empty_like(y)
            return {
                "ours": lambda: ops._softmax_backward.out(*arguments, out=result),
                "eager": lambda: torch.ops.aten._softmax_backward_data.out(grad, y, -1, dtype, grad_input=result),
            }
        functions = {
            "ours": lambda: ops._softmax_backward(*arguments),
            "eager": lambda: torch.ops.aten._softmax_backward_data(grad, y, -1, dtype),
        }
        if compiles:
            of_compiler = compiled(by_hand)
            functions[COMPILED] = lambda: of_compiler(grad, y)
        return functions

    return Case(f"softmax backward, {group}", shape, dtype, make, **options)


def logsumexp(group: str, shape: tuple[int, int], dtype: torch.dtype, **options) -> Case:
    def make(compiles: bool) -> dict[str, Function]:
        x = torch.randn(shape).to(dtype)
        functions = _with_peers(lambda x: ops.logsumexp(x, -1), lambda x: torch.logsumexp(x, -1), compiles, x)
        functions["x.sum()"] = lambda: x.sum()
        return functions

    return Case(f"logsumexp, {group}", shape, dtype, make, **options)


def beside_plain(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, ours: Callable, plain: Callable, eager: Callable, **options
) -> Case:
    """An operator of ours beside a plainer one of ours on the same logits ("plain"), and beside what torch composes."""

    def make(compiles: bool) -> dict[str, Function]:
        x = torch.randn(shape).to(dtype)
        functions = _with_peers(ours, eager, compiles, x)
        functions["plain"] = lambda: plain(x)
        return functions

    return Case(name, shape, dtype, make, **options)


def entropy(group: str, shape: tuple[int, int], dtype: torch.dtype, **options) -> Case:
    def eager(x: Tensor) -> Tensor:
        log_probs = torch.log_softmax(x, -1)
        return -(log_probs.exp() * log_probs).sum(-1)

    return beside_plain(
        f"entropy, {group}",
        shape,
        dtype,
        lambda x: ops.entropy(x, -1),
        lambda x: ops.logsumexp(x, -1),
        eager,
        **options,
    )


def masked_softmax(group: str, shape: tuple[int, ...], dtype: torch.dtype, **options) -> Case:
    mask = torch.rand(shape) < 0.7
    mask[..., 0] = True
    return beside_plain(
        f"masked softmax, {group}",
        shape,
        dtype,
        lambda x: ops.masked_softmax(x, mask, -1),
        lambda x: ops.softmax(x, -1),
        lambda x: torch.softmax(x.masked_fill(~mask, float("-inf")), -1),
        **options,
    )


def causal_softmax(shape: tuple[int, ...], dtype: torch.dtype, **options) -> Case:
    later = torch.ones(shape[-2:], dtype=torch.bool).triu(1 + shape[-1] - shape[-2])
    return beside_plain(
        "causal softmax",
        shape,
        dtype,
        lambda x: ops.causal_softmax(x),
        lambda x: ops.softmax(x, -1),
        lambda x: torch.softmax(x.masked_fill(later, float("-inf")), -1),
        **options,
    )


def in_place(target: Tensor) -> Callable[[Tensor], object]:
    """A step that overwrites its logits by their gradient. The next one is on that gradient: other numbers, the same
    work."""

    def step(x: Tensor) -> object:
        logits = _Logits.apply(x)
        return torch.autograd.grad(softmax_ext.cross_entropy(logits, target, gradient="inplace"), logits)

    return step


class _Logits(torch.autograd.Function):
    """The memory of a leaf as the result of an operator, which may be overwritten."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.detach()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad


def cross_entropy(
    group: str,
    shape: tuple[int, int],
    dtype: torch.dtype,
    *,
    backward: bool,
    way: str = "recompute",
    of: str = "",
    **options,
) -> Case:
    """``of``: the option that the loss has, "smoothing", "weights" or "probabilities"."""

    def make(compiles: bool) -> dict[str, Function]:
        x = torch.randn(shape).to(dtype).requires_grad_(backward)
        target = torch.randint(shape[1], shape[:1])
        if of == "probabilities":
            target = torch.softmax(torch.randn(shape), 1).to(dtype)
        arguments = {
            "smoothing": {"label_smoothing": 0.1},
            "weights": {"weight": torch.rand(shape[1], dtype=dtype) + 0.5},
        }.get(of, {})
        theirs = partial(F.cross_entropy, **arguments)

        def step(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], object]:
            return lambda x: torch.autograd.grad(loss(x, target), x) if backward else loss(x, target)

        functions = {
            "ours": step(partial(softmax_ext.cross_entropy, gradient=way, **arguments)),
            "eager": step(theirs),
        }
        if way == "inplace":
            functions["ours"] = in_place(target)
        if compiles:
            functions[COMPILED] = step(compiled(theirs))
        result = {name: (lambda f=f: f(x)) for name, f in functions.items()}
        if not backward:
            result["x.sum()"] = lambda: x.sum()
        return result

    what = "cross-entropy forward and backward" if backward else "cross-entropy forward"
    if of:
        what += f" with {of}"
    if way != "recompute":
        what += ", gradient in forward" if way == "forward" else ", in place"
    return Case(f"{what}, {group}", shape, dtype, make, **options)


def linear_cross_entropy(shape: tuple[int, int, int], dtype: torch.dtype, **options) -> Case:
    """Rows × features × classes; gradients of the input and of the layer."""
    rows, features, classes = shape

    def make(compiles: bool) -> dict[str, Function]:
        x = torch.randn(rows, features).to(dtype).requires_grad_()
        weight = (0.05 * torch.randn(classes, features)).to(dtype).requires_grad_()
        target = torch.randint(classes, (rows,))

        def pair(x: Tensor, weight: Tensor, target: Tensor) -> Tensor:
            return F.cross_entropy(F.linear(x, weight), target)

        def step(loss: Callable[..., Tensor]) -> Function:
            return lambda: torch.autograd.grad(loss(x, weight, target), (x, weight))

        functions = {"ours": step(softmax_ext.linear_cross_entropy), "eager": step(pair)}
        if compiles:
            functions[COMPILED] = step(compiled(pair))
        return functions

    return Case("linear cross-entropy forward and backward", shape, dtype, make, **options)


def table() -> Iterator[Case]:
    """Shapes that people train and serve with, and what is asked of each."""
    for length in (2, 5, 10):
        yield normalization("softmax", "short", (65536, length), FP32, bars=(12, 2.2), is_quick=length == 10)
    for length in (16, 33, 64):
        yield normalization("softmax", "short", (65536, length), FP32, bars=(1.8, 2.0))
    yield normalization("softmax", "short", (8192, 128), FP32, bars=(1.8, 2.1))
    for shape in ((4096, 1000), (1024, 4096)):
        yield normalization("softmax", "medium", shape, FP32, bars=(1.3, 1.6), is_quick=shape[1] == 1000)
    for shape in ((16, 32000), (8, 128256)):
        yield normalization("softmax", "vocabulary in cache", shape, FP32, bars=(1.75, 2.4), is_quick=shape[0] == 16)
    for shape in ((1024, 32000), (256, 128256)):
        yield normalization("softmax", "vocabulary, new result", shape, FP32, bars=(2.3, 2.5))
        yield normalization_out("softmax", "vocabulary, out=", shape, FP32, bars=(1.1, 1.4), is_quick=shape[1] == 32000)
    yield normalization("softmax", "one row", (1, 32000), FP32, bars=(2.0, 2.8), threads=2)
    yield normalization("softmax", "one row", (1, 128256), FP32, bars=(2.8, 2.8), threads=2, is_quick=True)
    yield normalization("softmax", "attention scores, new result", (4, 12, 512, 512), FP32, bars=(2.8, 2.8))
    yield normalization_out("softmax", "attention scores, out=", (4, 12, 512, 512), FP32, bars=(1.6, 1.9))
    for length in (10, 16):
        yield normalization("softmax", "short", (65536, length), BF16, bars=(5, 2.2))
    for shape in ((65536, 64), (8192, 128), (4096, 1000)):
        yield normalization("softmax", "medium", shape, BF16, bars=(1.8, 2.1), is_quick=shape[1] == 1000)
    yield normalization("softmax", "medium", (1024, 4096), BF16, bars=(1.4, 1.6))
    yield normalization("softmax", "vocabulary in cache", (16, 32000), BF16, bars=(1.7, 2.2))
    yield normalization("softmax", "vocabulary, new result", (1024, 32000), BF16, bars=(2.1, 2.3))
    yield normalization("softmax", "one row", (1, 128256), BF16, bars=(2.8, 2.8), threads=2)

    yield normalization("log_softmax", "short", (65536, 10), FP32, bars=(8, 1.5))
    for shape in ((65536, 64), (8192, 128), (4096, 1000)):
        yield normalization("log_softmax", "medium", shape, FP32, bars=(1.45, 1.6), is_quick=shape[1] == 1000)
    yield normalization("log_softmax", "medium", (1024, 4096), FP32, bars=(1.25, 1.25))
    yield normalization("log_softmax", "vocabulary in cache", (16, 32000), FP32, bars=(1.6, 2.0))
    yield normalization("log_softmax", "vocabulary, new result", (1024, 32000), FP32, bars=(2.3, 2.4))
    yield normalization("log_softmax", "short", (8192, 128), BF16, bars=(1.35, 2.0))
    for shape in ((4096, 1000), (1024, 4096)):
        yield normalization("log_softmax", "medium", shape, BF16, bars=(1.6, 2.0))
    yield normalization("log_softmax", "vocabulary in cache", (16, 32000), BF16, bars=(1.6, 2.1))
    yield normalization("log_softmax", "vocabulary, new result", (1024, 32000), BF16, bars=(2.4, 2.7))

    for name in ("softmax", "log_softmax"):
        yield normalization(name, "dim 1", (64, 21, 4096), FP32, dim=1, bars=(1.25, 1.35), is_quick=name == "softmax")
        yield normalization(name, "dim 1", (1, 3072, 1024), FP32, dim=1, bars=(2.0, 1.45))
        yield normalization(name, "dim 1, new result", (32, 81, 8732), FP32, dim=1, bars=(1.9, 2.1))

    yield softmax_backward("short", (65536, 10), FP32, bars=(12, 1.4))
    yield softmax_backward("short", (65536, 16), FP32, bars=(1.4, 1.3))
    for shape in ((65536, 64), (4096, 1000), (16, 32000)):
        yield softmax_backward("in cache", shape, FP32, bars=(0.95, 0.95), is_quick=shape[1] == 1000)
    for shape in ((1024, 32000), (256, 128256), (4, 12, 512, 512)):
        yield softmax_backward("large, new result", shape, FP32, bars=(1.9, 2.0))
        yield softmax_backward("large, out=", shape, FP32, has_out=True, bars=(0.95, None))
    yield softmax_backward("in cache", (4096, 1000), BF16, bars=(0.95, 0.95))

    yield logsumexp("short", (65536, 10), FP32, bars=(1.6, 1.0))
    for shape in ((65536, 64), (4096, 1000), (1024, 4096)):
        yield logsumexp("medium", shape, FP32, bars=(2.8, 1.35), is_quick=shape[1] == 1000)
    yield logsumexp("vocabulary in cache", (16, 32000), FP32, bars=(3.8, 2.2))
    yield logsumexp("vocabulary", (1024, 32000), FP32, bars=(8, 1.6))

    for shape in ((65536, 10), (65536, 64), (4096, 1000), (16, 32000), (1024, 32000)):
        yield entropy("float32", shape, FP32, is_quick=shape[1] == 1000)
        yield masked_softmax("float32", shape, FP32, is_quick=shape[1] == 1000)
    for shape in ((4096, 1000), (16, 32000)):
        yield entropy("bfloat16", shape, BF16)
        yield masked_softmax("bfloat16", shape, BF16)
    for shape in ((4, 12, 512, 512), (8, 128, 128), (1, 4096, 4096)):
        yield causal_softmax(shape, FP32, is_quick=len(shape) == 4)

    yield cross_entropy("small", (8192, 100), FP32, backward=False, bars=(1.5, 1.6))
    for shape in ((4096, 1000), (1024, 4096)):
        yield cross_entropy("medium", shape, FP32, backward=False, bars=(2.2, 1.6), is_quick=shape[1] == 1000)
        yield cross_entropy("medium", shape, FP32, backward=True, bars=(2.4, 2.4), is_quick=shape[1] == 1000)
    for shape in ((2048, 32000), (256, 128256)):
        yield cross_entropy("vocabulary", shape, FP32, backward=False, bars=(5.0, 1.25))
        yield cross_entropy("vocabulary", shape, FP32, backward=True, bars=(4.5, 2.4))
    yield cross_entropy("medium", (4096, 1000), FP32, backward=True, way="forward", bars=(3.6, 3.6), is_quick=True)
    yield cross_entropy("medium", (1024, 4096), FP32, backward=True, way="forward", bars=(3.6, 3.6))
    for shape in ((2048, 32000), (256, 128256)):
        yield cross_entropy("vocabulary", shape, FP32, backward=True, way="forward", bars=(7.0, 3.7))
        yield cross_entropy("vocabulary", shape, FP32, backward=True, way="inplace", bars=(12, 6.5))
    yield cross_entropy("medium", (4096, 1000), BF16, backward=True, bars=(2.4, 2.8))
    yield cross_entropy("vocabulary", (256, 128256), BF16, backward=True, bars=(4.5, 2.9))
    yield cross_entropy("medium", (4096, 1000), FP32, backward=True, of="smoothing", bars=(3.3, 2.3), is_quick=True)
    yield cross_entropy("vocabulary", (2048, 32000), FP32, backward=True, of="smoothing", bars=(6.0, 2.6))
    yield cross_entropy("medium", (4096, 1000), FP32, backward=True, of="probabilities", bars=(2.5, 1.5))
    yield cross_entropy("medium", (4096, 1000), FP32, backward=True, of="weights")
    yield linear_cross_entropy((2048, 512, 32000), FP32, bars=(1.15, 1.0))
    yield linear_cross_entropy((1024, 768, 50257), FP32, bars=(1.15, 1.0))
