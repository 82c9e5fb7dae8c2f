"""The loss of rows whose classes are split over ranks, as one node of the graph of each rank."""

from __future__ import annotations

import torch
from torch import Tensor

from ._collectives import ToShards, all_gather
from ._formulas import Gradients, Options, Upstream, gradients, ignored_rows, rows_of
from ._merge import merge, statistics

_shard = torch.ops.softmax_ext._cross_entropy_shard.default
_shard_backward = torch.ops.softmax_ext._cross_entropy_shard_backward.default


class RowLosses(torch.autograd.Function):
    """Results of each row, alike on all ranks: ``(losses, log_sum, spread, target_weight, max, statistics)``.

    The loss, log Σ exp((x − max)/T), Σ q, the weight of the target (empty where there are no weights or no classes); and
    the maximum with what backward keeps, which are not differentiable: log-sum-exp is max/T + log_sum with a max that does
    not move.

    Forward gathers a few numbers of each row. In backward each rank has all it needs for the gradient of its own logits.
    Where that is differentiated again, what all ranks hold alike (the upstream gradients, log_sum and spread) goes
    through ``ToShards``: the terms of the second derivative that span shards are sums over ranks.
    """

    @staticmethod
    def forward(
        logits: Tensor, target: Tensor, weight: Tensor | None, temperature: Tensor | None, options: Options
    ) -> tuple[Tensor, ...]:
        parts = _shard(logits, target, *options.arguments(weight, temperature))
        return merged(parts, target, weight, rows_of(temperature, options.scale, logits, options.dim), options)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.options = inputs
        _, log_sum, spread, _, max, statistics = output
        ctx.mark_non_differentiable(max, statistics)
        ctx.save_for_backward(*tensors, log_sum, spread, max, statistics)

    @staticmethod
    def backward(ctx, of_losses, of_log_sum, of_spread, of_target_weight, *_):
        logits, target, weight, temperature, *kept, statistics = ctx.saved_tensors
        needed = ctx.needs_input_grad[:4]
        makes_graph = makes_graph_now()
        of_logits = None
        if needed[0] and not makes_graph:
            of_logits = gradient_of_shard(
                logits, target, weight, temperature, statistics, of_losses, of_log_sum, ctx.options
            )
            needed = (False, *needed[1:])
        if not any(needed):
            return of_logits, None, None, None, None
        upstream = Upstream(of_losses, of_log_sum, of_spread, of_target_weight)
        made = by_formula(logits, target, weight, temperature, kept, upstream, ctx.options, needed, makes_graph)
        return (made.logits if of_logits is None else of_logits), *made[1:], None


def row_losses(
    logits: Tensor, target: Tensor, weight: Tensor | None, temperature: Tensor | None, options: Options
) -> tuple[Tensor, ...]:
    """``(losses, log_sum, spread, target_weight, max)``; a temperature that is learned is all ranks'."""
    if temperature is not None and temperature.requires_grad:
        temperature = ToShards.apply(temperature, options.group)
    return RowLosses.apply(logits, target, weight, temperature, options)[:5]


def makes_graph_now() -> bool:
    """Whether backward is to be differentiated."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def merged(
    parts: Tensor, target: Tensor, weight: Tensor | None, scale: float | Tensor, options: Options
) -> tuple[Tensor, ...]:
    """The results of RowLosses from this rank's ``parts``: what communicates."""
    local_spread = parts[3]
    has_target_weight = weight is not None and not target.is_floating_point()
    if has_target_weight:
        parts = torch.cat([parts, _weight_of_targets(target, weight, options).unsqueeze(0)])
    gathered = all_gather(parts, options.ranks, options.group)
    rows = merge(gathered[:, :4], scale)
    ignored = ignored_rows(target, options)
    if ignored is not None:
        rows = type(rows)(*(value.masked_fill(ignored, 0) for value in rows))
    target_weight = gathered[:, 4].sum(0) if has_target_weight else parts.new_empty(0)
    kept = torch.cat([statistics(rows), (rows.spread - local_spread).unsqueeze(0)])
    return rows.losses, rows.log_sum, rows.spread, target_weight, rows.max, kept


def gradient_of_shard(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    temperature: Tensor | None,
    statistics: Tensor,
    of_losses: Tensor,
    of_log_sum: Tensor,
    options: Options,
) -> Tensor:
    """That of this rank's logits, by the kernel."""
    of_others = statistics[2]  # Σ q of the other shards
    return _shard_backward(
        of_losses,
        of_losses * of_others + of_log_sum,
        logits,
        target,
        statistics[:2],
        *options.arguments(weight, temperature),
    )


def by_formula(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    temperature: Tensor | None,
    kept: list[Tensor],
    upstream: Upstream,
    options: Options,
    needed: tuple[bool, ...],
    makes_graph: bool,
) -> Gradients:
    """``kept``: log_sum, spread and max."""
    log_sum, spread, max = kept
    alike = [upstream.losses, upstream.log_sum, upstream.spread, log_sum, spread]
    has_target_weight = upstream.target_weight.numel() > 0
    if has_target_weight:
        alike.append(upstream.target_weight)
    if makes_graph:
        alike = ToShards.apply(torch.stack(alike), options.group).unbind(0)
    of_losses, of_log_sum, of_spread, log_sum, spread, *last = (value.unsqueeze(options.dim) for value in alike)
    return gradients(
        logits,
        target,
        weight,
        temperature,
        max.unsqueeze(options.dim),
        log_sum,
        spread,
        Upstream(of_losses, of_log_sum, of_spread, last[0] if last else None),
        options,
        needed,
    )


def _weight_of_targets(target: Tensor, weight: Tensor, options: Options) -> Tensor:
    """Of those in this shard; else 0."""
    local = target.long() - options.first
    length = weight.shape[0]
    is_here = (local >= 0) & (local < length) & (target != options.ignore_index)
    if length == 0:
        return torch.zeros_like(local, dtype=weight.dtype)
    chosen = weight[local.masked_fill(~is_here, 0)]
    return chosen.masked_fill(~is_here, 0)
