"""Communication between the shards of a row: functional collectives, which compilers trace."""

from __future__ import annotations

import torch
import torch.distributed._functional_collectives as functional_collectives
from torch import Tensor


def all_gather(tensor: Tensor, ranks: int, group: str) -> Tensor:
    """``[ranks, …]``."""
    # As one dim: collectives take a 0-d tensor as one of another shape.
    flat = functional_collectives.all_gather_tensor(tensor.reshape(-1), 0, group)
    return functional_collectives.wait_tensor(flat).reshape(ranks, *tensor.shape)


def all_reduce(tensor: Tensor, group: str, operation: str = "sum") -> Tensor:
    return functional_collectives.wait_tensor(functional_collectives.all_reduce(tensor.contiguous(), operation, group))


class ToShards(torch.autograd.Function):
    """What all ranks hold alike, for shards to make something of: its gradient is the sum of theirs."""

    @staticmethod
    def forward(tensor: Tensor, group: str) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.group = inputs

    @staticmethod
    def backward(ctx, grad: Tensor):
        return SumOfShards.apply(grad, ctx.group), None


class SumOfShards(torch.autograd.Function):
    """The sum of what the shards hold, alike on all ranks."""

    @staticmethod
    def forward(tensor: Tensor, group: str) -> Tensor:
        return all_reduce(tensor, group)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.group = inputs

    @staticmethod
    def backward(ctx, grad: Tensor):
        return ToShards.apply(grad, ctx.group), None
