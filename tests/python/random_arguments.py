"""Random arguments for the operators of softmax_ext, by the names and types of their schemas; see argument_fuzz.py."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
ODD_DTYPES = (torch.int64, torch.int32, torch.uint8, torch.int16, torch.bool, torch.complex64, torch.float8_e4m3fn)
ODD_INTEGERS = (-(2**63), 2**63 - 1, -(2**31), 2**31, 2**40, -101, 17)
ODD_NUMBERS = (math.nan, math.inf, -math.inf, -1.0, -0.0, 1e-310, 1e308, 5e-324)


class World:
    """Sizes, a dtype and a dim that the arguments of one call have in common, so that most calls make sense."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.shape = tuple(rng.choice([0, 1, 2, 3, 5, 8, 17]) for _ in range(rng.choice([0, 1, 2, 2, 2, 3])))
        if self.shape and rng.random() < 0.2:
            at = rng.randrange(len(self.shape))
            self.shape = tuple(rng.choice([129, 600, 4097]) if i == at else n for i, n in enumerate(self.shape))
        dims = max(1, len(self.shape))
        self.dim = min(1, dims - 1) if rng.random() < 0.5 else rng.randrange(dims)
        self.dtype = rng.choice(FLOATS)
        self.lane = torch.float64 if self.dtype == torch.float64 else torch.float32
        self.classes = self.shape[self.dim] if self.shape else 1
        self.of_rows = self.shape[: self.dim] + self.shape[self.dim + 1 :]
        self.kept = tuple(1 if i == self.dim else n for i, n in enumerate(self.shape))
        self.features = rng.choice([1, 4])
        self.reduction = rng.choice([0, 1, 2])

    def floats(self, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        x = torch.randn(shape) * self.rng.choice([1.0, 30.0])
        if x.numel() and self.rng.random() < 0.1:
            x.view(-1)[:: self.rng.choice([1, 3])] = self.rng.choice([math.inf, -math.inf, math.nan])
        return x.to(dtype or self.dtype)

    def integers(self, shape: tuple[int, ...], below: int) -> Tensor:
        target = torch.randint(max(1, below), shape)
        if target.numel() and self.rng.random() < 0.3:
            target.view(-1)[self.rng.randrange(target.numel())] = self.rng.choice([-100, -1, below, 2**40])
        return target.to(self.rng.choice([torch.int64, torch.int64, torch.int32, torch.uint8]))

    def tensor(self, name: str, operator: str) -> Tensor:
        """What an argument of that name may be."""

        def positive(shape: tuple[int, ...]) -> Tensor:
            return torch.rand(shape) + 0.5

        if name == "target":
            return (
                self.floats(self.shape).abs() if self.rng.random() < 0.2 else self.integers(self.of_rows, self.classes)
            )
        if name == "mask":
            return torch.rand(self.rng.choice([self.shape, self.kept, self.shape[-1:], ()])) < 0.6
        if name in ("temperature", "temperatures"):
            return positive(self.rng.choice([self.kept, (), self.kept[-1:], self.of_rows])).to(
                self.rng.choice([self.lane, torch.float64])
            )
        if name == "weight":
            return positive(self.rng.choice([(self.classes,), self.of_rows]))
        if name in ("top_k", "top_ks"):
            return torch.randint(-1, self.classes + 2, self.rng.choice([self.shape[:-1], ()]))
        if name in ("top_p", "top_ps", "min_p", "min_ps"):
            return torch.rand(self.rng.choice([self.shape[:-1], ()]), dtype=torch.float64)
        if name == "seed":
            return torch.randint(2**40, self.rng.choice([self.shape[:-1], ()]))
        if name == "linear_weight":
            return self.floats((self.classes, self.features))
        if name == "linear_bias":
            return self.floats((self.classes,))
        if name == "input":
            return self.floats((*self.of_rows, self.features))
        if name == "count":
            return torch.tensor(float(max(1, math.prod(self.of_rows))), dtype=torch.float64)
        if name == "statistics":
            return self.floats((2, *self.of_rows), self.lane)
        if name == "grad_logsumexp":
            return self.floats(self.of_rows, self.lane)
        if name == "grad" and "cross_entropy" in operator:
            return self.floats(self.of_rows if self.reduction == 0 else (), self.lane)
        if name == "grad" and "_softmax" not in operator:
            return self.floats(self.kept, self.lane if "entropy" in operator else self.dtype)
        if name == "output":
            return torch.softmax(self.floats(self.shape, torch.float32), self.dim).to(self.dtype)
        return self.floats(self.shape)

    def odd_tensor(self) -> Tensor:
        shape = self.rng.choice([(), (0,), (1,), (2, 3), self.shape, self.of_rows, (1,) * 5, (3, 0, 2)])
        x = torch.ones(shape, dtype=self.rng.choice((*ODD_DTYPES, *FLOATS)))
        kind = self.rng.randrange(8)
        if kind == 0:
            return x.to("meta")
        if kind == 1 and x.dtype in FLOATS:
            return x.to_sparse()
        if kind == 2:
            return x.expand(self.rng.choice([2, 3]), *x.shape)
        if kind == 3:
            return torch._efficientzerotensor(shape, dtype=self.rng.choice(FLOATS))
        if kind == 4 and x.dtype == torch.complex64:
            return x.conj()
        if kind == 5:
            return torch._neg_view(x.float())
        if kind == 6:
            return torch.ones(2 * sum(shape) + 1).as_strided(shape, [self.rng.choice([0, 1, 2]) for _ in shape])
        return x

    def argument(self, operator: str, name: str, type_: str, odd: bool):
        rng = self.rng
        if type_.startswith("Optional["):
            return None if rng.random() < 0.4 else self.argument(operator, name, type_[9:-1], odd)
        if type_ == "Tensor":
            if odd:
                x = self.odd_tensor()
                # torch's fallback for negated views asserts where an operator of another library writes to one.
                return x.resolve_neg() if name == "out" and x.is_neg() else x
            x = self.tensor(name, operator)
            may_require_grad = x.is_floating_point() and name not in ("out", "gradient") and "into" not in operator
            return x.requires_grad_() if may_require_grad and rng.random() < 0.3 else x
        if type_ == "int":
            if odd:
                return rng.choice(ODD_INTEGERS)
            if name == "dim":
                return self.dim - rng.choice([0, max(1, len(self.shape))])
            if name == "dtype":
                return rng.choice([5, 6, 7, 15])
            sensible = {
                "reduction": (self.reduction,),
                "ignore_index": (-100, 0),
                "leading": (0, 0, 1),
                "chunk": (1, 2, 64),
            }
            return rng.choice(sensible.get(name, (1, 2, 3)))
        if type_ == "float":
            sensible = {"label_smoothing": (0.0, 0.1), "softcap": (0.0, 3.0), "z_loss": (0.0, 0.1), "base": (2.0, 10.0)}
            return rng.choice(ODD_NUMBERS) if odd else rng.choice(sensible.get(name, (1.0, 0.5)))
        if type_ == "bool":
            return rng.random() < 0.5
        if type_ == "str":
            if odd:
                return rng.choice(["", "none", "NaN", "\0", "x" * 1000])
            return rng.choice(["recompute", "forward", "inplace"] if name == "gradient" else ["nan", "zero"])
        if type_ == "List[int]":
            dims = range(-len(self.shape), len(self.shape))
            return [rng.choice(ODD_INTEGERS)] if odd else rng.sample(dims, rng.randint(0, min(2, len(self.shape))))
        if type_ == "List[bool]":
            return [rng.random() < 0.5 for _ in range(2 if odd else 3)]
        if type_ == "Generator":
            return torch.Generator()
        raise AssertionError(f"argument_fuzz: expected a type that it has arguments for, got {type_} for {name}")


def call_arguments(overload, rng: random.Random) -> dict:
    world = World(rng)
    share_of_odd = rng.choice([0.0, 0.0, 0.05, 0.3])
    arguments = {}
    for argument in overload._schema.arguments:
        if argument.has_default_value() and rng.random() < 0.6:
            continue
        type_ = str(argument.type)
        if (
            argument.name == "dtype"
            and argument.real_type.kind() != "IntType"
            and "ScalarType" in str(argument.real_type)
        ):
            given = rng.choice([None, *FLOATS, *ODD_DTYPES[:2]])
        else:
            given = world.argument(str(overload), argument.name, type_, rng.random() < share_of_odd)
        arguments[argument.name] = given
    return arguments
