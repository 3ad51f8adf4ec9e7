"""Batch norm of every branch that enters a node, weighted and summed in one pass.

With z the maps, m and v their statistics, r = 1 / sqrt(v + eps), g the gradient of the sum, zn the normalised map and
N = B*H*W, per channel:

    dL/dz_k = w_k r_k (g - mean(g) - zn_k mean(g zn_k))        dL/dw_k = sum over channels and positions of g zn_k

so the reductions that batch norm's backward needs anyway give the gradients of the weights, that is of the alphas. A
derived network's batch norms have a weight for each channel, and a shift: the sum over channels is then left out.
"""

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F

from partnas.ops.backend import library
from partnas.ops.maps import empty_map
from partnas.ops.namespaces import register


def norm_stats(maps: Sequence[torch.Tensor], synchronised: bool = False) -> torch.Tensor:
    """Batch statistics of maps, the step between producing maps and summing them.

    Args:
        maps: K tensors ``(B, C, H, W)``; B, H and W may differ between them.
        synchronised: Take the statistics over the maps of all ranks of the default process group; every rank must
            hold as many positions.

    Returns:
        ``(K, 2, C)`` float32 (float64 for float64 maps): mean and biased variance, zero for empty maps. No gradient
        flows through them: the backward of the operators that take them is batch norm's whole backward.
    """
    with torch.no_grad():
        operators = _operators(maps)
        measure = operators.norm_stats if operators else _measured
        statistics = measure(list(maps))  # [K, 2, C]
        return over_ranks(statistics) if synchronised else statistics


def norm_sum(
    maps: Sequence[torch.Tensor],
    statistics: torch.Tensor,
    weights: torch.Tensor,
    identities: Sequence[torch.Tensor] = (),
    identity_weights: torch.Tensor | None = None,
    *,
    shift: torch.Tensor | None = None,
    eps: float = 1e-5,
    fixed: bool = False,
    synchronised: bool = False,
) -> torch.Tensor:
    """Weighted sum of normalised maps and of identities: a node of a mixed cell (Eqs. 1 and 2 of the paper).

    ``sum_k weights[k] * (maps[k] - mean_k) / sqrt(variance_k + eps) + sum_l identity_weights[l] * identities[l]
    + shift``

    Args:
        maps: K tensors ``(B, C, H, W)``, float32, bfloat16, float16 or float64, any strides.
        statistics: ``(K, 2, C)``, from :func:`norm_stats` of these very maps.
        weights: ``(K,)``, or ``(K, C)``: one for each channel.
        identities: L tensors of the maps' shape, summed as they are (skip connections).
        identity_weights: ``(L,)``; may be left out when there are none.
        shift: ``(C,)``, added to every position.
        eps: Added to the variances.
        fixed: The statistics are no function of these maps (batch norm in evaluation mode).
        synchronised: The statistics are those of all ranks, and so are the means in the backward. Gradients of
            ``weights`` stay this rank's own share.

    Returns:
        ``(B, C, H, W)`` in the maps' dtype, channels-last; the reference keeps the strides of the first input.
        Accumulates in float32 at least.

    Raises:
        ValueError: There is neither a map nor an identity, the numbers of maps and weights differ, or statistics have
            another shape.
    """
    if not maps and not identities:
        raise ValueError("norm_sum: give at least one map or identity")
    if identity_weights is None:
        identity_weights = weights.new_zeros(0)
    if len(weights) != len(maps) or len(statistics) != len(maps) or len(identity_weights) != len(identities):
        raise ValueError("norm_sum: each map needs its statistics and weight, each identity its weight")
    channels = (*maps, *identities)[0].shape[1:2]
    if statistics.shape != (len(maps), 2, *channels):
        raise ValueError(f"norm_sum: statistics must be (K, 2, C), got {tuple(statistics.shape)}")
    operators = _operators((*maps, *identities), statistics, weights, identity_weights, shift)
    settings = _Settings(eps, fixed, synchronised and not fixed, len(maps), operators)
    if torch.is_grad_enabled():
        function = _KernelNormSum if operators else _NormSum
        return function.apply(settings, statistics, weights, identity_weights, shift, *maps, *identities)
    summed = functools.partial(_kernel_sum, operators) if operators else _summed
    return summed(eps, statistics, weights, identity_weights, shift, maps, identities)


def reference(
    maps: Sequence[torch.Tensor],
    statistics: torch.Tensor,
    weights: torch.Tensor,
    identities: Sequence[torch.Tensor] = (),
    identity_weights: torch.Tensor | None = None,
    eps: float = 1e-5,
    shift: torch.Tensor | None = None,
) -> torch.Tensor:
    """:func:`norm_sum` in plain PyTorch; differentiable through ``statistics`` where those come from
    :func:`reference_stats`."""
    total = 0
    for z, (mean, variance), weight in zip(maps, statistics, weights, strict=True):
        normalised = (z.to(mean.dtype) - mean[:, None, None]) * torch.rsqrt(variance + eps)[:, None, None]
        total = total + (weight[:, None, None] if weight.dim() else weight) * normalised
    for index, x in enumerate(identities):
        total = total + identity_weights[index] * x.to(statistics.dtype)
    if shift is not None:
        total = total + shift[:, None, None]
    return total.to((*maps, *identities)[0].dtype)


def reference_stats(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """:func:`norm_stats` in plain, differentiable PyTorch."""
    wide = [z.to(_accumulator(z)) for z in maps]
    return torch.stack([torch.stack([z.mean((0, 2, 3)), z.var((0, 2, 3), unbiased=False)]) for z in wide])


def flops(maps: int, elements: int) -> int:
    """What fvcore counts for :func:`norm_sum` of maps of ``elements`` numbers: batch norms in evaluation mode."""
    return 2 * maps * elements


def norm_backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    statistics: torch.Tensor,
    scale: torch.Tensor | None,
    eps: float,
    synchronised: bool,
    needs: Sequence[bool],
    fixed: bool = False,
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Backward of ``scale * (x - mean) / sqrt(variance + eps) + shift`` through the statistics of ``x``.

    Args:
        gradient, x: ``(B, C, H, W)``.
        statistics: ``(2, C)``.
        scale: ``(C,)`` or None for one.
        needs: Which of the three gradients to form.
        fixed: The statistics are no function of ``x``.

    Returns:
        Gradients of ``x``, ``scale`` and ``shift``, None for those not needed. Those of scale and shift are this
        rank's share.
    """
    mean, rstd = statistics[0], torch.rsqrt(statistics[1] + eps)
    if x.numel() == 0:
        return x.clone() if needs[0] else None, *(torch.zeros_like(mean) if n else None for n in needs[1:])
    if not synchronised:
        scale = torch.ones_like(mean) if scale is None else scale
        found = torch.ops.aten.native_batch_norm_backward(
            gradient, x, scale, *(statistics if fixed else (None, None)), mean, rstd, not fixed, eps, needs
        )
        return tuple(value if n else None for value, n in zip(found, needs, strict=True))
    normalised = (x - mean[:, None, None]) * rstd[:, None, None]
    sums = torch.stack([(gradient * normalised).sum((0, 2, 3)), gradient.sum((0, 2, 3))])  # [2, C]
    means = sums.clone()
    dist.all_reduce(means)
    means /= x.numel() // x.shape[1] * dist.get_world_size()
    inner = gradient - means[1][:, None, None] - normalised * means[0][:, None, None]
    factor = rstd if scale is None else rstd * scale
    input_gradient = (inner * factor[:, None, None]).to(x.dtype) if needs[0] else None
    return input_gradient, *(s if n else None for s, n in zip(sums, needs[1:], strict=True))


def over_ranks(statistics: torch.Tensor) -> torch.Tensor:
    """Statistics ``(K, 2, C)`` of this rank's maps to those of all ranks' maps, each of as many positions."""
    ranks = dist.get_world_size()
    mean = statistics[:, 0].clone()
    dist.all_reduce(mean)
    mean /= ranks
    variance = statistics[:, 1] + (statistics[:, 0] - mean) ** 2
    dist.all_reduce(variance)
    return torch.stack([mean, variance / ranks], 1)


class _Settings(NamedTuple):
    eps: float
    fixed: bool
    synchronised: bool
    count: int
    operators: ModuleType | None


class _NormSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, settings, statistics, weights, identity_weights, shift, *inputs):
        maps, identities = inputs[: settings.count], inputs[settings.count :]
        ctx.save_for_backward(statistics, weights, identity_weights, shift, *inputs)
        ctx.settings = settings
        return _summed(settings.eps, statistics, weights, identity_weights, shift, maps, identities)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        statistics, weights, identity_weights, shift, *inputs = ctx.saved_tensors
        settings = ctx.settings
        needs_weights, needs_identity_weights, needs_shift = ctx.needs_input_grad[2:5]
        needs = ctx.needs_input_grad[5:]
        # With a map's weights as its scale, batch norm's own gradients are those of the weighted branch.
        scales = _by_channel(weights, statistics)
        gradients: list[torch.Tensor | None] = []
        weight_gradients = []
        for k in range(settings.count):
            found = norm_backward(
                gradient,
                inputs[k],
                statistics[k],
                scales[k],
                settings.eps,
                settings.synchronised,
                [needs[k], needs_weights, False],
                settings.fixed,
            )
            gradients.append(found[0])
            if needs_weights:
                weight_gradients.append(found[1] if weights.dim() == 2 else found[1].sum())
        identity_weight_gradients = []
        for index, x in enumerate(inputs[settings.count :]):
            needed = needs[settings.count + index]
            gradients.append(gradient * identity_weights[index].to(gradient) if needed else None)
            if needs_identity_weights:
                identity_weight_gradients.append(_dot(gradient, x))
        return (
            None,
            None,
            _stacked(weight_gradients, weights) if needs_weights else None,
            _stacked(identity_weight_gradients, identity_weights) if needs_identity_weights else None,
            gradient.to(_accumulator(gradient)).sum((0, 2, 3)).to(shift.dtype) if needs_shift else None,
            *gradients,
        )


class _KernelNormSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, settings, statistics, weights, identity_weights, shift, *inputs):
        ctx.save_for_backward(statistics, weights, identity_weights, shift, *inputs)
        ctx.settings = settings
        maps, identities = inputs[: settings.count], inputs[settings.count :]
        return _kernel_sum(
            settings.operators, settings.eps, statistics, weights, identity_weights, shift, maps, identities
        )

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        statistics, weights, identity_weights, shift, *inputs = ctx.saved_tensors
        eps, fixed, synchronised, count, operators = ctx.settings
        maps, identities = inputs[:count], inputs[count:]
        needs_weights, needs_identity_weights, needs_shift = ctx.needs_input_grad[2:5]
        needs = ctx.needs_input_grad[5:]
        wanted = [k for k in range(count) if needs[k]]
        wanted_identities = [index for index in range(len(identities)) if needs[count + index]]
        weight_gradient = identity_weight_gradient = shift_gradient = None
        measured = maps if needs_weights or (wanted and not fixed) else []
        dotted = identities if needs_identity_weights else []
        sums, dots = statistics.new_zeros(1 + count, gradient.shape[1]), None
        if measured or dotted or needs_shift:
            found, dots = operators.norm_sum_reduce(gradient, measured, statistics[: len(measured)], dotted)
            sums[: len(found)] = found
        if needs_weights:
            weight_gradient = sums[1:] * torch.rsqrt(statistics[:, 1] + eps)
            weight_gradient = (weight_gradient if weights.dim() == 2 else weight_gradient.sum(1)).to(weights.dtype)
        if needs_identity_weights:
            identity_weight_gradient = dots.to(identity_weights.dtype) if dotted else torch.zeros_like(identity_weights)
        if needs_shift:
            shift_gradient = sums[0].to(shift.dtype)
        formed = [None] * len(inputs)
        if wanted or wanted_identities:
            gradients = operators.norm_sum_backward(
                gradient,
                maps,
                statistics,
                _by_channel(weights, statistics),
                torch.zeros_like(sums) if fixed else _means(sums, gradient, synchronised and bool(wanted)),
                _exact(identity_weights),
                wanted,
                wanted_identities,
                eps,
            )
            places = [*wanted, *(count + index for index in wanted_identities)]
            for index, value in zip(places, gradients, strict=True):
                formed[index] = value
        return None, None, weight_gradient, identity_weight_gradient, shift_gradient, *formed


def _operators(maps: Sequence[torch.Tensor], *others: torch.Tensor | None) -> ModuleType | None:
    """The operators that take the maps: none for float64, which is for gradient checks, or for mixed ones."""
    found = library("norm_sum", *maps, *others)
    served = maps[0].dtype != torch.float64 and all(z.dtype == maps[0].dtype for z in maps)
    return found if served else None


def _by_channel(weights: torch.Tensor, statistics: torch.Tensor) -> torch.Tensor:
    """The weights as ``(K, C)`` in the accumulator's dtype."""
    weights = weights.detach().to(statistics.dtype)
    return weights if weights.dim() == 2 else weights[:, None].expand(-1, statistics.shape[2]).contiguous()


def _exact(weights: torch.Tensor) -> torch.Tensor:
    weights = weights.detach()
    return weights if weights.dtype == torch.float64 else weights.float()


def _means(sums: torch.Tensor, gradient: torch.Tensor, synchronised: bool) -> torch.Tensor:
    count = max(1, gradient.numel() // max(1, gradient.shape[1]))
    if not synchronised:
        return sums / count
    total = sums.clone()
    dist.all_reduce(total)
    return total / (count * dist.get_world_size())


def _kernel_sum(operators, eps, statistics, weights, identity_weights, shift, maps, identities):
    weights, identity_weights = _by_channel(weights, statistics), _exact(identity_weights)
    shift = None if shift is None else _exact(shift)
    return operators.norm_sum(maps, statistics, weights, identities, identity_weights, shift, eps)


def _summed(eps, statistics, weights, identity_weights, shift, maps, identities):
    first = (*maps, *identities)[0]
    terms = [
        F.batch_norm(z.to(statistics.dtype), *measured, scale, torch.zeros_like(scale), eps=eps)
        for z, measured, scale in zip(maps, statistics, _by_channel(weights, statistics), strict=True)
    ]
    terms += [x * weight for x, weight in zip(identities, identity_weights.detach().to(statistics.dtype), strict=True)]
    if shift is not None:
        terms.append(shift.detach().to(statistics.dtype)[:, None, None])
    return functools.reduce(torch.add, terms).to(first.dtype)


def _measured(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack([_statistics(z) for z in maps])


def _statistics(z: torch.Tensor) -> torch.Tensor:
    accumulator = _accumulator(z)
    if z.numel() == 0:
        return z.new_zeros(2, z.shape[1], dtype=accumulator)
    return torch.stack(torch.batch_norm_update_stats(z.to(accumulator), None, None, 0.0))


def _accumulator(z: torch.Tensor) -> torch.dtype:
    return torch.float64 if z.dtype == torch.float64 else torch.float32


def _dot(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    accumulator = _accumulator(left)
    if left.is_contiguous(memory_format=torch.channels_last):
        left, right = left.permute(0, 2, 3, 1), right.permute(0, 2, 3, 1)
    return torch.dot(left.to(accumulator).reshape(-1), right.to(accumulator).reshape(-1))


def _stacked(values: list[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    return torch.stack(values).to(like.dtype) if values else torch.zeros_like(like)


def _fake_stats(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    return maps[0].new_empty(len(maps), 2, maps[0].shape[1], dtype=torch.float32)


def _fake(maps, statistics, weights, identities, identity_weights, shift, eps) -> torch.Tensor:
    return _like((*maps, *identities)[0])


def _fake_reduce(gradient, maps, statistics, identities) -> tuple[torch.Tensor, torch.Tensor]:
    sums = gradient.new_empty(1 + len(maps), gradient.shape[1], dtype=torch.float32)
    return sums, gradient.new_empty(len(identities), dtype=torch.float32)


def _fake_backward(
    gradient, maps, statistics, weights, means, identity_weights, wanted, wanted_identities, eps
) -> list[torch.Tensor]:
    return [_like(gradient) for _ in (*wanted, *wanted_identities)]


def _like(x: torch.Tensor) -> torch.Tensor:
    return empty_map(x, x.shape)


FAKES = {
    "norm_stats": _fake_stats,
    "norm_sum": _fake,
    "norm_sum_reduce": _fake_reduce,
    "norm_sum_backward": _fake_backward,
}
register("norm_sum", FAKES)
