"""1x1 convolutions of many maps, each with its own matrix."""

import functools
import math
from collections.abc import Sequence

import torch

from partnas.ops.backend import library, one_device
from partnas.ops.maps import empty_map, every_second, whole
from partnas.ops.namespaces import register

_HAS_BFLOAT16_UNITS = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()

MOST_CHANNELS = {
    # The widest that cells read as one: the four nodes of a fusion cell.
    torch.float32: 1152,
    # Where the CPU multiplies bfloat16 itself, the library does so at twice the speed of float32; elsewhere it crawls,
    # as it does in float16.
    torch.bfloat16: 16 if _HAS_BFLOAT16_UNITS else math.inf,
    torch.float16: math.inf,
}
"""Channels, in and out, up to which the native kernels are used: that far they are as fast as the library or faster,
but for matrices of 512 and more over a few hundred pixels (``bench/bench_pointwise.py``)."""

SMALL_MATRIX, FEW_PIXELS = 256, 1024
"""A float32 matrix of more channels, over fewer pixels, costs more to pack than the native product then gains. With a
backward pass it gains enough."""


def pointwise(
    maps: Sequence[torch.Tensor],
    weight: torch.Tensor,
    relu: bool = False,
    *,
    bias: torch.Tensor | None = None,
    add: Sequence[torch.Tensor] = (),
    packed: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """1x1 convolutions of many maps at once: ``weight[f] @ maps[f] + bias[f] + add[f]`` at every pixel. Several maps in
    a row may be read as one, as though they were concatenated: the nodes of a cell.

    The native backend serves maps of up to ``MOST_CHANNELS`` channels in all dtypes but float64, where no gradients are
    recorded only such as are worth packing for; everything else is left to the matrix products of the library.

    Args:
        maps: F * K tensors ``(B, C_in / K, H, W)`` of one shape and dtype, float32, bfloat16, float16 or float64, any
            strides: K for each matrix. One tensor may come several times.
        weight: ``(F, C_out, C_in)``.
        relu: Clip the maps at zero first; the clipped maps are not kept.
        bias: ``(F, C_out)``.
        add: F maps like the results, to be added to them; or none.
        packed: What :func:`pack` gave of the weight; read where no gradients are recorded.

    Returns:
        F maps ``(B, C_out, H, W)`` in the maps' dtype, channels-last. Accumulates in float32 at least.

    Raises:
        ValueError: The maps do not divide among the matrices, or these and the maps to add differ in number.
    """
    if len(maps) != len(weight) and (not maps or not len(weight) or len(maps) % len(weight)):
        raise ValueError(f"pointwise: {len(maps)} maps do not divide among {len(weight)} matrices")
    if add and len(add) != len(weight):
        raise ValueError(f"pointwise: {len(weight)} matrices but {len(add)} maps to add")
    if torch.is_grad_enabled():
        if add or bias is not None:
            one_device("pointwise", weight, bias, *add)
        return _plus(_Pointwise.apply(relu, weight, *maps), bias, add)
    return _infer(maps, weight, relu, bias, add, packed, reduces=False)


def factorised_reduction(
    maps: Sequence[torch.Tensor],
    weight: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    add: torch.Tensor | None = None,
    packed: torch.Tensor | None = None,
) -> torch.Tensor:
    """ReLU, and two 1x1 convolutions, of the even pixels and of the odd ones (``partnas.ops.maps.every_second``), whose
    results are one map: DARTS' skip at stride 2. Where no gradients are recorded the maps are read where they lie.

    Args:
        maps: Read as one map ``(B, C_in, H, W)``, see :func:`pointwise`.
        weight: ``(2, C_out / 2, C_in)``.
        bias: ``(2, C_out / 2)``.
        add: A map like the result, to be added to it.
        packed: What :func:`pack` gave of the weight.

    Returns:
        ``(B, C_out, ceil(H / 2), ceil(W / 2))`` in the maps' dtype, channels-last.

    Raises:
        ValueError: There are not two matrices.
    """
    if len(weight) != 2:
        raise ValueError(
            f"factorised_reduction: {len(weight)} matrices; give one for the even pixels and one for the odd"
        )
    others = [] if add is None else [add]
    if torch.is_grad_enabled():
        return _reduction(pointwise, maps, weight, True, bias, others)[0]
    return _infer(maps, weight, True, bias, others, packed, reduces=True)[0]


def _infer(maps, weight, relu, bias, add, packed, reduces):
    is_ready = packed is not None and len(maps) > 0 and maps[0].dtype == weight.dtype
    operators = operators_for(maps, weight, bias, add, at_any_width=is_ready)
    if not operators or not (is_ready or _is_worth_packing(maps[0], weight)):
        if reduces:
            return _reduction(reference, maps, weight, relu, bias, add)
        return reference(maps, weight, relu, bias, add)
    bias = None if bias is None else bias.float().contiguous()
    if not is_ready:
        weight, packed = weight.float(), None
    return operators.pointwise(maps, weight, relu, bias, add, reduces, packed)


def pack(weight: torch.Tensor) -> torch.Tensor | None:
    """The matrices ``(F, C_out, C_in)`` as the native kernels read them, for many calls without gradients on maps of
    the weight's dtype: packing a large one takes longer than its product with few pixels, and once that is spared the
    kernels are the faster ones at any width in float32. None where the library is, or no native backend serves.

    Float32 kernels of another instruction set than that of this moment take no notice of it; others raise.
    """
    operators = library("pointwise", weight)
    if not operators or (weight.dtype != torch.float32 and not _is_narrow(weight, weight.dtype)):
        return None
    return operators.pack_pointwise(weight.detach().float())


def forward(maps: Sequence[torch.Tensor], weight: torch.Tensor, relu: bool = False) -> list[torch.Tensor]:
    """:func:`pointwise` outside autograd, where a backward pass follows."""
    operators = operators_for(maps, weight)
    if not operators:
        return reference(maps, weight, relu)
    return operators.pointwise(maps, weight.detach().float(), relu, None, ())


def backward(
    gradients: Sequence[torch.Tensor],
    maps: Sequence[torch.Tensor],
    weight: torch.Tensor,
    relu: bool,
    needs_maps: Sequence[bool],
    needs_weight: bool,
) -> tuple[list[torch.Tensor | None], torch.Tensor | None]:
    """Gradients of each map and of the weight, None for those not needed, from those of the results. The maps may be
    left out where neither the weight's is needed nor ReLU was taken."""
    each = _each(needs_maps, gradients)
    if each > 1:
        gradients = [gradient for gradient in gradients for _ in range(each)]
        weight = weight.unflatten(2, (each, -1)).transpose(1, 2).flatten(0, 1)  # [F * K, C_out, C_in / K]
    operators = operators_for(gradients, weight)
    backward_of = functools.partial(_kernel_backward, operators) if operators else _reference_backward
    map_gradients, weight_gradient = backward_of(gradients, maps, weight, relu, needs_maps, needs_weight)
    if each > 1 and needs_weight:
        weight_gradient = weight_gradient.unflatten(0, (-1, each)).transpose(1, 2).flatten(2)
    return map_gradients, weight_gradient


def reference(
    maps: Sequence[torch.Tensor],
    weight: torch.Tensor,
    relu: bool = False,
    bias: torch.Tensor | None = None,
    add: Sequence[torch.Tensor] = (),
) -> list[torch.Tensor]:
    """:func:`pointwise` in plain PyTorch: a product of the library for each map."""
    if relu:
        maps = [torch.relu(x) for x in maps]
    each = _each(maps, weight)
    found = []
    for f, matrix in enumerate(weight.unbind(0)):
        parts = maps[f * each : (f + 1) * each]
        start = [_as_rows(add[f])] if add else []
        start += [] if bias is None else [bias[f].to(parts[0].dtype)]
        found.append(_as_map(_product(parts, matrix.to(parts[0].dtype), *start), parts[0]))
    return found


def _reduction(products, maps, weight, relu, bias, add):
    halves = [every_second(x, first) for first in (0, 1) for x in maps]
    found = torch.cat(products(halves, weight, relu, bias=bias), 1)
    return [found + add[0] if add else found]


def _product(parts, matrix, start=None, bias=None):
    """The rows of one result, on top of ``start``, rows or a bias, and then of ``bias``."""
    if parts[0].dtype.itemsize < 4:
        # Partial sums would be rounded to the dtype.
        parts = [whole(parts)]
    first, *others = zip(map(_as_rows, parts), matrix.t().chunk(len(parts)), strict=True)
    rows = torch.mm(*first) if start is None else torch.addmm(start, *first)
    for factors in others:
        # fvcore counts addmm, and not addmm_.
        rows = torch.addmm(rows, *factors, out=None if torch.is_grad_enabled() else rows)
    return rows if bias is None else rows.add_(bias)


def flops(shape: Sequence[int], weight_shape: Sequence[int]) -> int:
    """Multiply-adds of :func:`pointwise` on maps of ``shape``, of any number of channels, with a weight of
    ``weight_shape``."""
    batch, _, height, width = shape
    count, channels_out, channels_in = weight_shape
    return count * channels_out * channels_in * batch * height * width


class _Pointwise(torch.autograd.Function):
    """Keeps the maps only where the weight needs a gradient, or ReLU was taken of them."""

    @staticmethod
    def forward(ctx, relu, weight, *maps):
        ctx.relu = relu
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weight, *(maps if relu or ctx.needs_input_grad[1] else ()))
        return tuple(forward(maps, weight, relu))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        weight, *maps = ctx.saved_tensors
        _, needs_weight, *needs_maps = ctx.needs_input_grad
        read = [f for f, gradient in enumerate(gradients) if gradient is not None]
        if not read:
            return (None,) * len(ctx.needs_input_grad)
        all_read = len(read) == len(gradients)
        each = _each(needs_maps, gradients)
        sources = [f * each + k for f in read for k in range(each)]
        map_gradients, weight_gradient = backward(
            [gradients[f] for f in read],
            [maps[i] for i in sources] if maps else [],
            weight if all_read else torch.stack([weight[f] for f in read]),
            ctx.relu,
            [needs_maps[i] for i in sources],
            needs_weight,
        )
        if needs_weight and not all_read:
            part, weight_gradient = weight_gradient, torch.zeros_like(weight)
            for f, value in zip(read, part, strict=True):
                weight_gradient[f] = value
        found = dict(zip(sources, map_gradients, strict=True))
        return None, weight_gradient, *(found.get(i) for i in range(len(needs_maps)))


def operators_for(maps, weight, bias=None, add=(), at_any_width=False):
    """The operators that take the maps; None for the reference."""
    if not maps:
        return None
    found, dtype = library("pointwise", *maps, weight, bias, *add), maps[0].dtype
    served = all(x.dtype == dtype for x in maps) and (at_any_width or _is_narrow(weight, dtype))
    return found if served else None


def _is_narrow(weight, dtype):
    return max(weight.shape[1:]) <= MOST_CHANNELS.get(dtype, 0)


def _is_worth_packing(x, weight):
    pixels = x.shape[0] * x.shape[2] * x.shape[3]
    return x.dtype != torch.float32 or max(weight.shape[1:]) <= SMALL_MATRIX or pixels >= FEW_PIXELS


def _each(maps, matrices):
    """How many of the maps each matrix reads as one."""
    return len(maps) // max(1, len(matrices))


def _plus(maps, bias, add):
    if bias is not None:
        maps = [z + b[:, None, None].to(z.dtype) for z, b in zip(maps, bias, strict=True)]
    if add:
        maps = [z + other for z, other in zip(maps, add, strict=True)]
    return list(maps)


def _kernel_backward(operators, gradients, maps, weight, relu, needs_maps, needs_weight):
    needs = [*needs_maps, needs_weight]
    found = operators.pointwise_backward(gradients, maps, weight.detach().float(), relu, needs)
    weight_gradient = found.pop().to(weight.dtype) if needs_weight else None
    found = iter(found)
    return [next(found) if need else None for need in needs_maps], weight_gradient


def _reference_backward(gradients, maps, weight, relu, needs_maps, needs_weight):
    map_gradients = []
    weight_gradient = torch.empty_like(weight) if needs_weight else None
    for f, gradient in enumerate(gradients):
        rows = _as_rows(gradient)
        found = _as_map(rows @ weight[f].to(rows.dtype), gradient) if needs_maps[f] else None
        if relu and needs_maps[f]:
            found = torch.ops.aten.threshold_backward(found, maps[f], 0)
        map_gradients.append(found)
        if needs_weight:
            x = torch.relu(maps[f]) if relu else maps[f]
            weight_gradient[f] = rows.t() @ _as_rows(x)
    return map_gradients, weight_gradient


def _as_rows(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _as_map(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    batch, _, height, width = like.shape
    return rows.view(batch, height, width, rows.shape[1]).permute(0, 3, 1, 2)


def _fake(maps, weight, relu, bias, add, reduces=False, packed=None):
    count, channels, _ = weight.shape
    if not reduces:
        return [_empty(x, channels) for x in maps[:count]]
    batch, _, height, width = maps[0].shape
    return [empty_map(maps[0], (batch, count * channels, -(-height // 2), -(-width // 2)))]


def _fake_pack(weight):
    # The room that a matrix takes depends on the instruction set of the CPU that packs it.
    return weight.new_empty(torch.library.get_ctx().new_dynamic_size())


def _fake_backward(gradients, maps, weight, relu, needs):
    found = [_empty(g, weight.shape[2]) for g, need in zip(gradients, needs, strict=False) if need]
    return [*found, weight.new_empty(weight.shape)] if needs[-1] else found


def _empty(like, channels):
    return empty_map(like, (len(like), channels, *like.shape[2:]))


register("pointwise", {"pack_pointwise": _fake_pack, "pointwise": _fake, "pointwise_backward": _fake_backward})
