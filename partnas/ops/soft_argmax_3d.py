"""Soft-argmax over a volume: the expected voxel of a softmax, without ever forming the softmax."""

from collections.abc import Sequence

import torch

from partnas.errors import PartnasError
from partnas.ops import backend, native
from partnas.ops.namespaces import register

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def soft_argmax_3d(heatmaps: torch.Tensor, parts: int, order: Sequence[int] | None = None) -> torch.Tensor:
    """Expected coordinates of each part under the softmax of its volume (paper, Eq. 2 and section 3.2).

    Args:
        heatmaps: logits, (B, parts * D, H, W) with a part's D depth channels in a run, or (B, parts, D, H, W); float32,
            bfloat16, float16 or float64, any strides. Contiguous and channels-last memory is read as it lies.
        parts: number of parts in the volume.
        order: output part p is volume part ``order[p]``; at most ``parts`` indices, none twice. A part that is left out
            gets zero gradient. Default: all parts as they are.

    Returns:
        (B, P_out, 3): x along W, y along H, z along D, in voxels; float32, or float64 for float64 heatmaps. A part
        whose logits are all -inf, or have NaN or +inf among them, is NaN, as softmax is.

    Raises:
        PartnasError: ``parts`` is below 1, the channels are no multiple of it, the volume is empty, the dtype is none
            of the above, ``order`` has an index outside the volume or one that repeats, or the chosen backend is not
            there.
    """
    volume = _as_volume(heatmaps, parts)
    order = _checked_order(order, parts)
    operators = backend.library("soft_argmax_3d", volume)
    if operators and (volume.dtype != torch.float64 or (volume.is_cpu and operators is torch.ops.partnas)):
        return native.apply(operators.soft_argmax_3d.default, volume, order)[0]
    return reference(volume, parts, order)


def reference(heatmaps: torch.Tensor, parts: int, order: Sequence[int] | None = None) -> torch.Tensor:
    """:func:`soft_argmax_3d` in plain PyTorch: softmax over the volume, then its marginal sums."""
    volume = _as_volume(heatmaps, parts)
    order = _checked_order(order, parts)
    if order != list(range(parts)):
        volume = volume[:, order]  # [B, P_out, D, H, W]
    if volume.dtype != torch.float64:
        volume = volume.float()
    probability = volume.flatten(2).softmax(-1).view(volume.shape)
    marginals = (probability.sum((2, 3)), probability.sum((2, 4)), probability.sum((3, 4)))  # [B, P_out, W], H, D
    return torch.stack([(m * torch.arange(m.shape[-1], dtype=m.dtype, device=m.device)).sum(-1) for m in marginals], -1)


def flops(volume_shape: Sequence[int]) -> int:
    """Operations of the forward pass on (B, P, D, H, W): an exponential and a multiply-add for every voxel.

    The sums over rows and planes add less than 1 / W of that and are left out.
    """
    batch, parts, depth, height, width = volume_shape
    return 2 * batch * parts * depth * height * width


def _as_volume(heatmaps: torch.Tensor, parts: int) -> torch.Tensor:
    shape = tuple(heatmaps.shape)
    if heatmaps.dtype not in DTYPES:
        raise PartnasError(f"soft_argmax_3d: heatmaps are {heatmaps.dtype}; use float32, bfloat16, float16 or float64")
    if parts < 1:
        raise PartnasError(f"soft_argmax_3d: parts is {parts}; it must be at least 1")
    if heatmaps.dim() == 4:
        if shape[1] % parts:
            raise PartnasError(
                f"soft_argmax_3d: {shape[1]} channels do not divide into {parts} parts of equal depth; "
                "heatmaps must be (B, parts * D, H, W)"
            )
        heatmaps = heatmaps.view(shape[0], parts, shape[1] // parts, *shape[2:])
    elif heatmaps.dim() != 5 or shape[1] != parts:
        raise PartnasError(
            f"soft_argmax_3d: heatmaps of shape {shape} are neither (B, {parts} * D, H, W) nor (B, {parts}, D, H, W)"
        )
    if 0 in heatmaps.shape[2:]:
        raise PartnasError(
            f"soft_argmax_3d: heatmaps of shape {shape} have an empty volume; D, H and W must be at least 1"
        )
    return heatmaps


def _checked_order(order: Sequence[int] | None, parts: int) -> list[int]:
    if order is None:
        return list(range(parts))
    order = [int(part) for part in order]
    outside = [part for part in order if not 0 <= part < parts]
    if outside:
        raise PartnasError(f"soft_argmax_3d: order names part {outside[0]}; the volume has parts 0 to {parts - 1}")
    if len(set(order)) != len(order):
        raise PartnasError(f"soft_argmax_3d: order {order} repeats a part; name each at most once")
    return order


def _is_channels_last(volume: torch.Tensor) -> bool:
    # Mirrors the choice of csrc/bindings/soft_argmax_3d.cpp, which decides the strides of the gradient.
    depth, width = volume.shape[2], volume.shape[4]
    rows = volume.stride(4) == 1 or width == 1
    columns = volume.stride(2) == 1 or depth == 1
    return columns and (not rows or depth > width)


def _fake(volume: torch.Tensor, order: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    dtype = torch.float64 if volume.dtype == torch.float64 else torch.float32
    shape = (volume.shape[0], len(order))
    return volume.new_empty((*shape, 3), dtype=dtype), volume.new_empty((*shape, 5), dtype=dtype)


def _fake_backward(
    gradient: torch.Tensor, volume: torch.Tensor, statistics: torch.Tensor, order: Sequence[int]
) -> torch.Tensor:
    if not _is_channels_last(volume):
        return volume.new_empty(volume.shape)
    batch, parts, depth, height, width = volume.shape
    return volume.new_empty((batch, height, width, parts, depth)).permute(0, 3, 4, 1, 2)


def _setup_context(ctx, inputs, output) -> None:
    volume, ctx.order = inputs
    statistics = output[1]
    ctx.mark_non_differentiable(statistics)
    ctx.save_for_backward(volume, statistics)


def _setup_double_context(ctx, inputs, output) -> None:
    gradient, volume, _, ctx.order = inputs
    ctx.save_for_backward(gradient, volume)


def _double_backward(ctx, second: torch.Tensor):
    # Rare, so through the reference. The statistics have no gradient of their own: they are functions of the volume.
    with torch.enable_grad():
        gradient, volume = (saved.detach().requires_grad_() for saved in ctx.saved_tensors)
        output = reference(volume, volume.shape[1], ctx.order)
        (first,) = torch.autograd.grad(output, volume, gradient, create_graph=True)
        by_gradient, by_volume = torch.autograd.grad(first, (gradient, volume), second)
    return by_gradient, by_volume, None, None


def _autograd(operators):
    def backward(ctx, gradient: torch.Tensor, _):
        volume, statistics = ctx.saved_tensors
        return operators.soft_argmax_3d_backward(gradient, volume, statistics, ctx.order), None

    return {
        "soft_argmax_3d": (backward, _setup_context),
        "soft_argmax_3d_backward": (_double_backward, _setup_double_context),
    }


register("soft_argmax_3d", {"soft_argmax_3d": _fake, "soft_argmax_3d_backward": _fake_backward}, _autograd)
