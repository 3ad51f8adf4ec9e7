"""Depthwise filters and the 1x1 convolutions that follow them: every convolution of the search space is made of these."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from partnas.ops import depthwise_bank, pointwise


def depthwise_pointwise(
    sources: Sequence[torch.Tensor],
    filters: Sequence[torch.Tensor],
    weight: torch.Tensor,
    *,
    dilations: Sequence[int],
    stride: int = 1,
    statistics: torch.Tensor | None = None,
    eps: float = 1e-5,
    synchronised: bool = False,
    recompute: bool = True,
) -> list[torch.Tensor]:
    """``weight[f] @ filters[f](relu(source))`` for every filter f: :func:`depthwise_bank`, then :func:`pointwise`.

    Args:
        sources: S tensors ``(B, C, H, W)`` of one shape. The filters are dealt out to them evenly, in order.
        filters: F depthwise filters ``(C, k, k)``, F a multiple of S.
        weight: ``(F, C_out, C)``.
        dilations, stride, eps, synchronised: See :func:`depthwise_bank`.
        statistics: ``(S, 2, C)``: normalise each source with its own before ReLU.
        recompute: Form the filtered maps anew in backward, and only where the weight's gradient needs them, rather than
            keep them: F maps less for one more read of the sources.

    Returns:
        F maps ``(B, C_out, ceil(H / stride), ceil(W / stride))``, channels-last.

    Raises:
        ValueError: The filters do not divide among the sources, or differ in number from dilations or weights.
    """
    if not sources or len(filters) % len(sources) or not len(filters) == len(dilations) == len(weight):
        raise ValueError(
            f"depthwise_pointwise: {len(sources)} sources, {len(filters)} filters, {len(dilations)} dilations and "
            f"{len(weight)} matrices do not match"
        )
    plan = _Plan(tuple(dilations), stride, eps, synchronised, recompute, len(sources))
    if torch.is_grad_enabled():
        return list(_DepthwisePointwise.apply(plan, statistics, weight, *sources, *filters))
    return pointwise.forward(_filtered(plan, statistics, sources, filters), weight)


class _Plan(NamedTuple):
    dilations: tuple[int, ...]
    stride: int
    eps: float
    synchronised: bool
    recompute: bool
    sources: int

    def share(self, source: int) -> slice:
        """The filters of a source."""
        size = len(self.dilations) // self.sources
        return slice(source * size, (source + 1) * size)

    def settings(
        self, source: int, x: torch.Tensor, filters: Sequence[torch.Tensor], statistics: torch.Tensor | None
    ) -> depthwise_bank.Settings:
        dilations = self.dilations[self.share(source)]
        return depthwise_bank.settings_for(
            x, filters, dilations, self.stride, self.eps, True, self.synchronised, statistics
        )


class _DepthwisePointwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, plan, statistics, weight, *tensors):
        sources, filters = tensors[: plan.sources], tensors[plan.sources :]
        maps = _filtered(plan, statistics, sources, filters)
        ctx.plan = plan
        kept = maps if ctx.needs_input_grad[2] and not plan.recompute else ()
        ctx.save_for_backward(statistics, weight, *tensors, *kept)
        return tuple(pointwise.forward(maps, weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        plan, count = ctx.plan, len(ctx.plan.dilations)
        statistics, weight, *tensors = ctx.saved_tensors
        sources, filters = tensors[: plan.sources], tensors[plan.sources : plan.sources + count]
        maps = tensors[plan.sources + count :]
        needs_weight = ctx.needs_input_grad[2]
        needs_sources = ctx.needs_input_grad[3 : 3 + plan.sources]
        needs_filters = ctx.needs_input_grad[3 + plan.sources :]
        if needs_weight and plan.recompute:
            maps = _filtered(plan, statistics, sources, filters)
        needs_maps = [
            needs_sources[source] or any(needs_filters[plan.share(source)])
            for source in range(plan.sources)
            for _ in range(count // plan.sources)
        ]
        map_gradients, weight_gradient = pointwise.backward(gradients, maps, weight, False, needs_maps, needs_weight)
        del maps
        source_gradients, filter_gradients = [], []
        for source, x in enumerate(sources):
            own = plan.share(source)
            needs = [needs_sources[source], False, False, *needs_filters[own]]
            found = [None] * len(needs)
            if any(needs):
                measured = None if statistics is None else statistics[source]
                found = depthwise_bank.backward(
                    plan.settings(source, x, filters[own], measured),
                    map_gradients[own],
                    x,
                    measured,
                    None,
                    None,
                    filters[own],
                    needs,
                )
            source_gradients.append(found[0])
            filter_gradients += found[3:]
        return None, None, weight_gradient, *source_gradients, *filter_gradients


def _filtered(plan, statistics, sources, filters):
    maps = []
    for source, x in enumerate(sources):
        own = filters[plan.share(source)]
        measured = None if statistics is None else statistics[source]
        maps += depthwise_bank.forward(plan.settings(source, x, own, measured), x, measured, None, None, own)
    return maps
