"""Row losses of a linear layer whose classes are split over ranks, of which a chunk of rows is there at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from ._collectives import ToShards
from ._formulas import Options, Upstream, rows_of
from ._rows import _shard, by_formula, gradient_of_shard, makes_graph_now, merged


class LinearRowLosses(torch.autograd.Function):
    """Results as those of :class:`RowLosses`, for logits ``input · linear_weightᵀ + linear_bias``.

    All chunks come before the one all-gather, and backward makes the logits of each again: a fourth product.
    """

    @staticmethod
    def forward(
        input: Tensor,
        linear_weight: Tensor,
        linear_bias: Tensor | None,
        target: Tensor,
        weight: Tensor | None,
        temperature: Tensor | None,
        options: Options,
        chunk: int,
    ) -> tuple[Tensor, ...]:
        parts = [
            _shard(
                torch.nn.functional.linear(input[rows], linear_weight, linear_bias),
                target[rows],
                *options.arguments(weight, _of_rows(temperature, rows)),
            )
            for rows in _chunks(input, chunk)
        ]
        like = input.new_empty(()).expand(input.shape[0], 1)
        return merged(torch.cat(parts, 1), target, weight, rows_of(temperature, options.scale, like, 1), options)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.options, ctx.chunk = inputs
        _, log_sum, spread, _, max, statistics = output
        ctx.mark_non_differentiable(max, statistics)
        ctx.save_for_backward(*tensors, log_sum, spread, max, statistics)

    @staticmethod
    def backward(ctx, of_losses, of_log_sum, of_spread, of_target_weight, *_):
        input, linear_weight, linear_bias, target, weight, temperature, *kept, statistics = ctx.saved_tensors
        options, needed = ctx.options, ctx.needs_input_grad[:6]
        makes_graph = makes_graph_now()
        results = [None] * 6
        if any(needed[:3]) and not makes_graph:
            results[:3] = _gradients_of_layer(
                input, linear_weight, linear_bias, needed, ctx.chunk,
                lambda logits, rows: gradient_of_shard(
                    logits, target[rows], weight, _of_rows(temperature, rows), statistics[:, rows],
                    of_losses[rows], of_log_sum[rows], options,
                ),
            )  # fmt: skip
        of_layer = makes_graph and any(needed[:3])
        if of_layer or any(needed[3:]):
            # These take the memory of this rank's logits.
            logits = torch.nn.functional.linear(input, linear_weight, linear_bias)
            upstream = Upstream(of_losses, of_log_sum, of_spread, of_target_weight)
            made = by_formula(
                logits, target, weight, temperature, kept, upstream, options, (of_layer, *needed[3:]), makes_graph
            )
            results[3:] = made[1:]
            if of_layer:
                results[0] = made.logits @ linear_weight if needed[0] else None
                results[1] = made.logits.T @ input if needed[1] else None
                results[2] = made.logits.sum(0) if needed[2] else None
        return *results, None, None


def linear_row_losses(
    input: Tensor,
    linear_weight: Tensor,
    linear_bias: Tensor | None,
    target: Tensor,
    weight: Tensor | None,
    temperature: Tensor | None,
    options: Options,
    chunk: int,
) -> tuple[Tensor, ...]:
    """``(losses, log_sum, spread, target_weight, max)``; the input and a learned temperature are all ranks'."""
    if input.requires_grad:
        input = ToShards.apply(input, options.group)
    if temperature is not None and temperature.requires_grad:
        temperature = ToShards.apply(temperature, options.group)
    return LinearRowLosses.apply(input, linear_weight, linear_bias, target, weight, temperature, options, chunk)[:5]


def _chunks(input: Tensor, chunk: int) -> list[slice]:
    return [slice(first, first + chunk) for first in range(0, max(input.shape[0], 1), chunk)]


def _of_rows(temperature: Tensor | None, rows: slice) -> Tensor | None:
    is_of_rows = temperature is not None and temperature.dim() == 2 and temperature.shape[0] > 1
    return temperature[rows] if is_of_rows else temperature


def _gradients_of_layer(input, linear_weight, linear_bias, needed, chunk, gradient_of) -> list[Tensor | None]:
    of_input = torch.empty_like(input) if needed[0] else None
    # Sums over chunks of 16-bit gradients keep more digits.
    wide = torch.promote_types(input.dtype, torch.float32)
    of_weight = torch.zeros_like(linear_weight, dtype=wide) if needed[1] else None
    of_bias = torch.zeros_like(linear_bias, dtype=wide) if needed[2] else None
    for rows in _chunks(input, chunk):
        x = input[rows]
        of_logits = gradient_of(torch.nn.functional.linear(x, linear_weight, linear_bias), rows)
        if needed[0]:
            of_input[rows] = of_logits @ linear_weight
        if needed[1]:
            of_weight += of_logits.T @ x
        if needed[2]:
            of_bias += of_logits.sum(0)
    return [
        of_input,
        None if of_weight is None else of_weight.to(linear_weight.dtype),
        None if of_bias is None else of_bias.to(linear_bias.dtype),
    ]
