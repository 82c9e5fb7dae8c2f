"""What is measured on a GPU, by rows of a table: each case is one shape and dtype, with all who do the same work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

import softmax_ext
from benchmarks.gpu.timing import Function

try:
    from liger_kernel.ops.cross_entropy import LigerCrossEntropyFunction
    from liger_kernel.ops.softmax import LigerSoftmaxFunction
except ImportError:
    LigerCrossEntropyFunction = LigerSoftmaxFunction = None

ops = torch.ops.softmax_ext
DTYPE_CODES = {torch.float16: 5, torch.float32: 6, torch.bfloat16: 15}  # c10::ScalarType


@dataclass(frozen=True)
class Case:
    """One measurement. ``make`` allocates its tensors and returns the functions of ours and of our peers."""

    group: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    traffic: int  # bytes that must move
    make: Callable[[bool], dict[str, Function]] = field(repr=False)  # whether to compile peers
    compiles: bool = False
    is_cold: bool = True

    @property
    def key(self) -> str:
        shape = "x".join(map(str, self.shape))
        return f"{self.group} {shape} {str(self.dtype).removeprefix('torch.')}"


def compiled(function: Callable) -> Callable:
    return torch.compile(function, dynamic=False, fullgraph=True)


def normal(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=dtype)


def softmax(
    group: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    *,
    dim: int = -1,
    out: torch.dtype | None = None,
    temperature: float | None = None,
    compiles: bool = False,
    is_cold: bool = True,
) -> Case:
    def make(compile_peers: bool) -> dict[str, Function]:
        x = normal(shape, dtype)

        def torchs(x: Tensor) -> Tensor:
            return torch.softmax(x if temperature is None else x / temperature, dim, dtype=out)

        functions = {
            "ours": lambda: softmax_ext.softmax(x, dim, out, temperature=temperature),
            "eager": lambda: torchs(x),
        }
        if compile_peers:
            of_compiler = compiled(torchs)
            functions["torch.compile"] = lambda: of_compiler(x)
        if LigerSoftmaxFunction and dim == -1 and out is None and temperature is None and shape[-1] <= 65536:
            functions["Liger"] = lambda: LigerSoftmaxFunction.apply(x)
        return functions

    elements = torch.Size(shape).numel()
    traffic = elements * (dtype.itemsize + (out or dtype).itemsize)
    return Case(group, shape, dtype, traffic, make, compiles, is_cold)


def softmax_backward(
    group: str, shape: tuple[int, ...], dtype: torch.dtype, *, dim: int = -1, compiles: bool = False
) -> Case:
    def make(compile_peers: bool) -> dict[str, Function]:
        y = torch.softmax(normal(shape, dtype), dim)
        grad = normal(shape, dtype)

        def by_hand(grad: Tensor, y: Tensor) -> Tensor:
            grad, y = grad.float(), y.float()
            return (y * (grad - (grad * y).sum(dim, keepdim=True))).to(dtype)

        functions = {
            "ours": lambda: ops._softmax_backward(grad, y, None, dim, 1.0, DTYPE_CODES[dtype]),
            "eager": lambda: torch.ops.aten._softmax_backward_data(grad, y, dim, dtype),
        }
        if compile_peers:
            of_compiler = compiled(by_hand)
            functions["torch.compile"] = lambda: of_compiler(grad, y)
        if LigerSoftmaxFunction and dim == -1 and shape[-1] <= 65536:
            x = normal(shape, dtype).requires_grad_()
            of_liger = LigerSoftmaxFunction.apply(x)
            functions["Liger"] = lambda: torch.autograd.grad(of_liger, x, grad, retain_graph=True)
        return functions

    return Case(group, shape, dtype, 3 * torch.Size(shape).numel() * dtype.itemsize, make, compiles)


def cross_entropy(
    group: str, shape: tuple[int, int], dtype: torch.dtype, *, backward: bool, compiles: bool = False
) -> Case:
    def make(compile_peers: bool) -> dict[str, Function]:
        x = normal(shape, dtype).requires_grad_(backward)
        target = torch.randint(shape[1], shape[:1], device="cuda")

        def torchs(x: Tensor, target: Tensor) -> Tensor:
            return F.cross_entropy(x.float() if dtype.itemsize < 4 else x, target)

        def timed(function: Callable[..., Tensor]) -> Function:
            if backward:
                return lambda: torch.autograd.grad(function(x, target), x)
            return lambda: function(x, target)

        functions = {
            "ours": timed(softmax_ext.cross_entropy),
            "eager": timed(F.cross_entropy),
        }
        if compile_peers:
            functions["torch.compile"] = timed(compiled(torchs))
        if LigerCrossEntropyFunction and backward:  # it writes the gradient over the logits

            def ligers() -> Tensor:
                loss = LigerCrossEntropyFunction.apply(x, target, None, -100)[0]
                return torch.autograd.grad(loss, x)[0]

            functions["Liger"] = ligers
        return functions

    passes = 3 if backward else 1
    return Case(group, shape, dtype, passes * torch.Size(shape).numel() * dtype.itemsize, make, compiles)


def logsumexp(group: str, shape: tuple[int, int], dtype: torch.dtype, *, compiles: bool = False) -> Case:
    def make(compile_peers: bool) -> dict[str, Function]:
        x = normal(shape, dtype)

        def torchs(x: Tensor) -> Tensor:
            return torch.logsumexp(x, -1)

        functions = {"ours": lambda: softmax_ext.logsumexp(x, -1), "eager": lambda: torchs(x)}
        if compile_peers:
            of_compiler = compiled(torchs)
            functions["torch.compile"] = lambda: of_compiler(x)
        return functions

    return Case(group, shape, dtype, torch.Size(shape).numel() * dtype.itemsize, make, compiles)


FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
MIB = 1 << 20


def rows_of(length: int, dtype: torch.dtype, mib: int = 128) -> int:
    """So many rows that the input has ``mib`` MiB."""
    return max(1, mib * MIB // (length * dtype.itemsize))


def table() -> Iterator[Case]:
    """Every length class, dtype and kind of work."""
    for dtype in (FP32, BF16):
        for length in (2, 5, 10, 16, 31, 32):
            yield softmax("softmax, 2 to 32", (rows_of(length, dtype, 64), length), dtype, compiles=length in (5, 16))
        for length in (33, 64, 128, 256, 512, 640, 1000, 1024):
            yield softmax(
                "softmax, 33 to 1024", (rows_of(length, dtype), length), dtype, compiles=length in (128, 1024)
            )
        for length in (1280, 2048, 3072, 4096):
            yield softmax(
                "softmax, 1025 to 4096", (rows_of(length, dtype), length), dtype, compiles=length in (2048, 4096)
            )
        for length in (5120, 8192, 12672, 16384, 32000):
            yield softmax(
                "softmax, 4097 to 32k", (rows_of(length, dtype), length), dtype, compiles=length in (8192, 32000)
            )
        for length in (32768, 50304, 65536, 128256, 131072, 262144, 524288):
            yield softmax(
                "softmax, 32k to 512k",
                (rows_of(length, dtype, 512), length),
                dtype,
                compiles=length in (65536, 128256),
            )
        for length in (37, 127, 1001, 4095, 10001, 50257):
            yield softmax("softmax, odd", (rows_of(length, dtype), length), dtype, compiles=length in (1001, 50257))
        for length in (64, 256, 1024, 2048, 4096, 8192, 16384, 32000, 65536, 128256):
            yield softmax_backward(
                "softmax backward", (rows_of(length, dtype), length), dtype, compiles=length in (1024, 8192, 65536)
            )
        for shape in ((4096, 8192), (8192, 32000), (4096, 50257), (4096, 128256)):
            yield cross_entropy(
                "cross-entropy forward", shape, dtype, backward=False, compiles=shape[1] in (32000, 128256)
            )
            yield cross_entropy(
                "cross-entropy forward and backward",
                shape,
                dtype,
                backward=True,
                compiles=shape[1] in (32000, 128256),
            )
        for shape in ((1, 32768), (1, 131072), (1, MIB), (4, 131072), (16, 32768), (16, 131072), (16, MIB)):
            yield softmax("few rows", shape, dtype, compiles=shape in ((1, 131072), (16, 131072)))
        for shape in ((64, 21, 4096), (32, 81, 8732), (1, 3072, 1024), (16, 1000, 1024), (8, 128, 16384)):
            yield softmax("dim 1 of 3", shape, dtype, dim=1, compiles=shape[1] == 81)
            yield softmax_backward("dim 1 of 3, backward", shape, dtype, dim=1, compiles=shape[1] == 81)
        for length in (128, 1024, 8192, 32000):
            yield softmax(
                "temperature", (rows_of(length, dtype), length), dtype, temperature=0.7, compiles=length == 8192
            )
        for length in (1024, 32000):
            yield logsumexp("logsumexp", (rows_of(length, dtype, 256), length), dtype, compiles=True)
        yield softmax("in the L2 cache", (1024, 4096), dtype, is_cold=False)
    for length in (1024, 4096, 32000):
        yield softmax("bfloat16 to float32", (rows_of(length, BF16), length), BF16, out=FP32, compiles=length == 4096)


def grid() -> Iterator[Case]:
    """The public grid: 4096 rows of 256 to 12672 elements."""
    for dtype in (FP16, BF16, FP32):
        for length in range(256, 12673, 128):
            yield softmax("grid, forward", (4096, length), dtype)
            yield softmax_backward("grid, backward", (4096, length), dtype)
