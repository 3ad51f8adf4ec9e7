"""Depthwise filters and the 1x1 convolutions that follow them: every convolution of the search space is made of these."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from partnas.ops import depthwise_bank, pointwise
from partnas.ops.maps import empty_map
from partnas.ops.namespaces import register

MOST_CHANNELS = 64
"""Channels, in and out, up to which the native kernels keep the filtered maps in the caches. With more of them the
matrices, and not the memory, take the time."""


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

    Where the native backend serves both and the maps have up to ``MOST_CHANNELS`` channels, what the filters give stays
    in the caches, here and where it is formed anew in backward.

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
    return _forward(plan, statistics, weight, sources, filters)


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

    def arguments(self, source: int, filters: Sequence[torch.Tensor], weight: torch.Tensor, statistics):
        """What the native operators are told of a source, beside itself."""
        own = self.share(source)
        measured = None if statistics is None else statistics[source].float()
        wide = [each.detach().float() for each in filters[own]]
        return wide, weight.detach()[own].float(), self.dilations[own], self.stride, measured, self.eps


class _DepthwisePointwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, plan, statistics, weight, *tensors):
        sources, filters = tensors[: plan.sources], tensors[plan.sources :]
        ctx.plan = plan
        if plan.recompute or not ctx.needs_input_grad[2]:
            ctx.save_for_backward(statistics, weight, *tensors)
            return tuple(_forward(plan, statistics, weight, sources, filters))
        maps = _filtered(plan, statistics, sources, filters)
        ctx.save_for_backward(statistics, weight, *tensors, *maps)
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
        needs_maps = [
            needs_sources[source] or any(needs_filters[plan.share(source)])
            for source in range(plan.sources)
            for _ in range(count // plan.sources)
        ]
        if needs_weight and plan.recompute:
            map_gradients, weight_gradient = _backward(
                plan, statistics, weight, sources, filters, gradients, needs_maps
            )
        else:
            map_gradients, weight_gradient = pointwise.backward(
                gradients, maps, weight, False, needs_maps, needs_weight
            )
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


def _forward(plan, statistics, weight, sources, filters):
    operators = _operators(plan, statistics, weight, sources, filters)
    if not operators:
        return pointwise.forward(_filtered(plan, statistics, sources, filters), weight)
    maps = []
    for source, x in enumerate(sources):
        maps += operators.depthwise_pointwise(x, *plan.arguments(source, filters, weight, statistics))
    return maps


def _backward(plan, statistics, weight, sources, filters, gradients, needs_maps):
    """Gradients of the filtered maps, which are formed anew, and of the weight."""
    operators = _operators(plan, statistics, weight, sources, filters)
    if not operators:
        maps = _filtered(plan, statistics, sources, filters)
        return pointwise.backward(gradients, maps, weight, False, needs_maps, True)
    map_gradients, weight_gradients = [], []
    for source, x in enumerate(sources):
        own, of = plan.share(source), plan.arguments(source, filters, weight, statistics)
        *found, weight_gradient = operators.depthwise_pointwise_backward(gradients[own], x, *of, needs_maps[own])
        map_gradients += [found.pop(0) if need else None for need in needs_maps[own]]
        weight_gradients.append(weight_gradient)
    return map_gradients, torch.cat(weight_gradients).to(weight.dtype)


def _operators(plan, statistics, weight, sources, filters):
    """The operators that do both at once, or None."""
    if max(weight.shape[1:]) > MOST_CHANNELS:
        return None
    settings = plan.settings(0, sources[0], filters, statistics)
    served = pointwise.operators_for(sources, weight)
    return served if settings.operators is served else None


def _filtered(plan, statistics, sources, filters):
    maps = []
    for source, x in enumerate(sources):
        own = filters[plan.share(source)]
        measured = None if statistics is None else statistics[source]
        maps += depthwise_bank.forward(plan.settings(source, x, own, measured), x, measured, None, None, own)
    return maps


def _fake(x, filters, weight, dilations, stride, statistics, eps):
    return [_empty_map(x, weight.shape[1], stride) for _ in filters]


def _fake_backward(gradients, x, filters, weight, dilations, stride, statistics, eps, needs):
    return [*(_empty_map(x, x.shape[1], stride) for need in needs if need), weight.new_empty(weight.shape)]


def _empty_map(x, channels, stride):
    return empty_map(x, (len(x), channels, *(-(-side // stride) for side in x.shape[2:])))


register("depthwise_pointwise", {"depthwise_pointwise": _fake, "depthwise_pointwise_backward": _fake_backward})
