"""All depthwise filters that read one source, in one read of it."""

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F

from partnas.ops.backend import library
from partnas.ops.maps import channels_last, empty_map
from partnas.ops.namespaces import register
from partnas.ops.norm_sum import norm_backward


def depthwise_bank(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    *,
    dilations: Sequence[int],
    stride: int = 1,
    statistics: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    eps: float = 1e-5,
    relu: bool = True,
    synchronised: bool = False,
) -> list[torch.Tensor]:
    """Depthwise convolutions of one source: ``filter_f(relu(scale * normalise(x) + shift))`` for every filter f.

    Each filter is padded with zeros so that at stride 1 the size stays: by ``dilation * (k - 1) // 2``. The native
    backend serves the filters of the search space (k 3 or 5, dilation and stride 1 or 2) in all dtypes but float64;
    everything else is left to the reference.

    Args:
        x: ``(B, C, H, W)``, float32, bfloat16, float16 or float64, any strides.
        weights: F filters ``(C, k, k)``, k odd (3 or 5 in the search space).
        dilations: 1 or 2 for each filter.
        stride: 1 or 2, the same for all.
        statistics: ``(2, C)``, mean and biased variance of this very ``x`` (see ``norm_stats``): normalise with them
            first. The backward is batch norm's whole one, through the statistics.
        scale, shift: ``(C,)``, an affine map of each channel after that.
        eps: Added to the variance.
        relu: Clip at zero before the filters.
        synchronised: The statistics are those of all ranks, and so are the means in the backward.

    Returns:
        F maps ``(B, C, ceil(H / stride), ceil(W / stride))`` in x's dtype, channels-last. Accumulates in float32 at
        least.

    Raises:
        ValueError: The filters and dilations differ in number, or one of scale and shift is missing.
    """
    if len(weights) != len(dilations):
        raise ValueError(f"depthwise_bank: {len(weights)} filters but {len(dilations)} dilations")
    if (scale is None) != (shift is None):
        raise ValueError("depthwise_bank: give both of scale and shift, or neither")
    settings = settings_for(x, weights, dilations, stride, eps, relu, synchronised, statistics, scale, shift)
    if torch.is_grad_enabled():
        return list(_DepthwiseBank.apply(settings, x, statistics, scale, shift, *weights))
    return forward(settings, x, statistics, scale, shift, weights)


def reference(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    *,
    dilations: Sequence[int],
    stride: int = 1,
    statistics: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    eps: float = 1e-5,
    relu: bool = True,
) -> list[torch.Tensor]:
    """:func:`depthwise_bank` in plain PyTorch; differentiable through ``statistics`` where those are."""
    if statistics is not None:
        mean, variance = statistics
        x = (x - mean[:, None, None]) * torch.rsqrt(variance + eps)[:, None, None]
    if scale is not None:
        x = x * scale[:, None, None] + shift[:, None, None]
    if relu:
        x = torch.relu(x)
    maps = []
    for weight, dilation in zip(weights, dilations, strict=True):
        padding = dilation * (weight.shape[-1] // 2)
        maps.append(F.conv2d(x, weight[:, None], None, stride, padding, dilation, groups=len(weight)))
    return maps


def flops(shape: Sequence[int], sizes: Sequence[int], stride: int = 1, normed: int = 0) -> int:
    """Multiply-adds of :func:`depthwise_bank` on a source of ``shape`` with filters of the sides ``sizes``, and what
    fvcore counts for a batch norm in evaluation mode: ``normed`` an element, 2 with an affine map and 1 without."""
    batch, channels, height, width = shape
    positions = -(-height // stride) * -(-width // stride)
    return batch * channels * (positions * sum(size * size for size in sizes) + normed * height * width)


class Settings(NamedTuple):
    """What :func:`forward` and :func:`backward` are told beside tensors; ``operators``: those that serve the filters,
    or None for the reference."""

    dilations: tuple[int, ...]
    stride: int
    eps: float
    relu: bool
    synchronised: bool
    operators: ModuleType | None


def settings_for(x, weights, dilations, stride=1, eps=1e-5, relu=True, synchronised=False, *others) -> Settings:
    """The settings for filters of ``x``; the arguments are those of :func:`depthwise_bank`, ``others`` its further
    tensors."""
    operators = _operators(x, weights, dilations, stride, others)
    return Settings(tuple(dilations), stride, eps, relu, synchronised, operators)


def forward(settings: Settings, x, statistics, scale, shift, weights) -> list[torch.Tensor]:
    """:func:`depthwise_bank` outside autograd."""
    dilations, stride, eps, relu, *_ = settings
    if not settings.operators:
        return _filtered(_read(x, statistics, scale, shift, eps, relu), weights, dilations, stride)
    weights, (statistics, scale, shift) = _wide(weights), _wide((statistics, scale, shift))
    return settings.operators.depthwise_bank(x, weights, dilations, stride, statistics, scale, shift, eps, relu)


def backward(
    settings: Settings, gradients, x, statistics, scale, shift, weights, needs: Sequence[bool]
) -> list[torch.Tensor | None]:
    """Gradients of x, scale, shift and each weight, None for those not needed, from those of the maps."""
    backward_of = _kernel_backward if settings.operators else _reference_backward
    return backward_of(settings, gradients, x, statistics, scale, shift, weights, needs)


class _DepthwiseBank(torch.autograd.Function):
    """Keeps x alone and reads it again in backward."""

    @staticmethod
    def forward(ctx, settings, x, statistics, scale, shift, *weights):
        ctx.settings = settings
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, statistics, scale, shift, *weights)
        return tuple(forward(settings, x, statistics, scale, shift, weights))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        x, statistics, scale, shift, *weights = ctx.saved_tensors
        _, needs_x, _, *needs_rest = ctx.needs_input_grad
        read = [f for f, gradient in enumerate(gradients) if gradient is not None]
        settings = ctx.settings._replace(dilations=tuple(ctx.settings.dilations[f] for f in read))
        needs = [needs_x, *needs_rest[:2], *(needs_rest[2 + f] for f in read)]
        found = backward(
            settings, [gradients[f] for f in read], x, statistics, scale, shift, [weights[f] for f in read], needs
        )
        weight_gradients = dict(zip(read, found[3:], strict=True))
        return None, found[0], None, *found[1:3], *(weight_gradients.get(f) for f in range(len(weights)))


def _operators(x, weights, dilations, stride, others):
    found = library("depthwise_bank", x, *weights, *others)
    served = (
        x.dtype != torch.float64
        and stride in (1, 2)
        and all(weight.shape[-1] in (3, 5) for weight in weights)
        and all(dilation in (1, 2) for dilation in dilations)
    )
    return found if served else None


def _kernel_backward(settings, gradients, x, statistics, scale, shift, weights, needs):
    dilations, stride, eps, relu, synchronised, _ = settings
    over_ranks = synchronised and statistics is not None
    asked = [any(needs[:3]), False, False, *needs[3:]] if over_ranks else needs
    wide = _wide((statistics, scale, shift))
    found = iter(
        settings.operators.depthwise_bank_backward(
            gradients, x, _wide(weights), dilations, stride, *wide, eps, relu, asked, over_ranks
        )
    )
    found = [next(found) if need else None for need in asked]
    if over_ranks and asked[0]:
        found[:3] = norm_backward(found[0], x, wide[0], wide[1], eps, True, needs[:3])
    return [
        None if gradient is None else gradient.to(value.dtype)
        for gradient, value in zip(found, (x, scale, shift, *weights), strict=True)
    ]


def _wide(tensors):
    return [None if t is None else t.float() for t in tensors]


def _reference_backward(settings, gradients, x, statistics, scale, shift, weights, needs):
    dilations, stride, eps, relu, synchronised, _ = settings
    value = _read(x, statistics, scale, shift, eps, relu)
    needs_value = any(needs[:3])
    gradient, weight_gradients = _filtered_backward(
        value, weights, dilations, stride, gradients, needs_value, needs[3:]
    )
    found = (None, None, None)
    if needs_value:
        if relu:
            gradient = torch.ops.aten.threshold_backward(gradient, value, 0)
        found = _read_backward(gradient, x, statistics, scale, eps, synchronised, needs[:3])
    return [*found, *weight_gradients]


def _read(x, statistics, scale, shift, eps, relu):
    x = channels_last(x)
    if statistics is None and scale is not None:
        statistics, eps = torch.stack([torch.zeros_like(scale), torch.ones_like(scale)]), 0.0
    if statistics is None or x.numel() == 0:
        return torch.relu(x) if relu else x
    scale, shift = (None if t is None else t.to(statistics.dtype) for t in (scale, shift))
    x = F.batch_norm(x, *statistics, scale, shift, training=False, eps=eps)
    return x.relu_() if relu else x


def _read_backward(gradient, x, statistics, scale, eps, synchronised, needs):
    if statistics is not None:
        wide = None if scale is None else scale.to(statistics.dtype)
        found = norm_backward(gradient, x, statistics, wide, eps, synchronised, needs)
        return found[0], *(None if t is None else t.to(scale.dtype) for t in found[1:])
    if scale is None:
        return gradient, None, None
    return (
        gradient * scale[:, None, None].to(gradient.dtype) if needs[0] else None,
        (gradient * x).sum((0, 2, 3)).to(scale.dtype) if needs[1] else None,
        gradient.sum((0, 2, 3)).to(scale.dtype) if needs[2] else None,
    )


def _filtered(x, weights, dilations, stride):
    if x.numel() == 0:
        batch, channels, height, width = x.shape
        return [x.new_empty(batch, channels, -(-height // stride), -(-width // stride)) for _ in weights]
    sources = _Sources(x, stride)
    maps = []
    for weight, dilation in zip(weights, dilations, strict=True):
        source, dilation, step = sources.of(dilation)
        taps, padding = _live_taps(weight, source, dilation)
        maps.append(F.conv2d(source, taps, None, step, padding, dilation, groups=len(weight)))
    return maps


def _filtered_backward(x, weights, dilations, stride, gradients, needs_x, needs_weights):
    if x.numel() == 0:
        return torch.zeros_like(x), [
            torch.zeros_like(w) if n else None for w, n in zip(weights, needs_weights, strict=True)
        ]
    sources = _Sources(x, stride)
    weight_gradients = []
    for weight, dilation, gradient, needs_weight in zip(weights, dilations, gradients, needs_weights, strict=True):
        gradient = channels_last(gradient)
        source, dilation, step = sources.of(dilation)
        taps, padding = _live_taps(weight, source, dilation)
        if needs_x:
            sources.add_gradient(source, _source_gradient(gradient, source, taps, padding, dilation, step))
        weight_gradients.append(
            _weight_gradient(gradient, source, weight, taps, padding, dilation, step) if needs_weight else None
        )
    return sources.gradient() if needs_x else None, weight_gradients


class _Sources:
    """What the filters of a bank read: all of x, or every second pixel.

    At stride 2 a filter of dilation 2 touches only every second row and column. On those it is a filter of dilation 1
    and stride 1, for which the library is many times faster.
    """

    def __init__(self, x: torch.Tensor, stride: int):
        self._x, self._stride = x, stride
        self._every_second: torch.Tensor | None = None
        self._gradients: dict[int, torch.Tensor] = {}

    def of(self, dilation: int) -> tuple[torch.Tensor, int, int]:
        """The source, dilation and stride to run a filter with."""
        if self._stride == 1 or dilation % self._stride:
            return self._x, dilation, self._stride
        if self._every_second is None:
            picked = self._x[:, :, :: self._stride, :: self._stride]
            self._every_second = channels_last(picked)
        return self._every_second, dilation // self._stride, 1

    def add_gradient(self, source: torch.Tensor, gradient: torch.Tensor) -> None:
        key = id(source)
        if key in self._gradients:
            self._gradients[key].add_(gradient)
        else:
            self._gradients[key] = gradient

    def gradient(self) -> torch.Tensor:
        total = self._gradients.get(id(self._x))
        if self._every_second is not None:
            total = torch.zeros_like(self._x) if total is None else total
            total[:, :, :: self._stride, :: self._stride] += self._gradients[id(self._every_second)]
        return torch.zeros_like(self._x) if total is None else total


def _live_taps(weight: torch.Tensor, x: torch.Tensor, dilation: int) -> tuple[torch.Tensor, tuple[int, int]]:
    """The taps that can meet a pixel, as ``(C, 1, kh, kw)``, and their padding: on maps smaller than the filter the
    others see only padding, and the library is slow on them."""
    radius = weight.shape[-1] // 2
    rows, columns = (min(radius, (side - 1) // dilation) for side in x.shape[2:])
    taps = weight[:, None, radius - rows : radius + rows + 1, radius - columns : radius + columns + 1]
    return taps.to(x.dtype), (dilation * rows, dilation * columns)


def _source_gradient(gradient, source, taps, padding, dilation, stride):
    if stride == 1:
        # The library is slow in the transposed form where the filter is dilated; the mirrored filter is the same.
        return F.conv2d(gradient, taps.flip(2, 3), None, 1, padding, dilation, groups=len(taps))
    return _library_backward(gradient, source, taps, padding, dilation, stride, [True, False, False])[0]


def _weight_gradient(gradient, source, weight, taps, padding, dilation, stride):
    height, width = source.shape[2:]
    if stride == 1 and dilation == 2 and 2 * max(padding) >= min(height, width):
        gradient, source = _phases(gradient), _phases(source)
        padding, dilation = tuple(side // 2 for side in padding), 1
    if dilation > 1 and gradient.dtype == torch.bfloat16:
        # PyTorch 2.13 leaves this gradient partly unwritten in channels-last.
        gradient, source, taps = gradient.float(), source.float(), taps.float()
    found = _library_backward(gradient, source, taps, padding, dilation, stride, [False, True, False])[1]
    if taps.shape[2:] == weight.shape[1:]:
        return found[:, 0].to(weight.dtype)
    whole = torch.zeros_like(weight)
    top, left = ((full - live) // 2 for full, live in zip(weight.shape[1:], taps.shape[2:], strict=True))
    whole[:, top : top + taps.shape[2], left : left + taps.shape[3]] = found[:, 0]
    return whole


def _library_backward(gradient, source, taps, padding, dilation, stride, needs):
    return torch.ops.aten.convolution_backward(
        gradient, source, taps, None, [stride] * 2, padding, [dilation] * 2, False, [0, 0], len(taps), needs
    )


def _phases(x: torch.Tensor) -> torch.Tensor:
    """The four images of every second pixel, as a batch: on them dilation 2 is dilation 1."""
    x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
    batch, channels, height, width = x.shape
    split = x.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(3, 5, 0, 1, 2, 4)
    split = split.reshape(4 * batch, channels, height // 2, width // 2)
    return channels_last(split)


def _fake(x, weights, dilations, stride, statistics, scale, shift, eps, relu):
    batch, channels, height, width = x.shape
    size = (batch, channels, -(-height // stride), -(-width // stride))
    return [empty_map(x, size) for _ in weights]


def _fake_backward(gradients, x, weights, dilations, stride, statistics, scale, shift, eps, relu, needs, before_norm):
    found = [empty_map(x, x.shape)] if needs[0] else []
    found += [x.new_empty(x.shape[1], dtype=torch.float32) for need in needs[1:3] if need]
    return found + [weight.new_empty(weight.shape) for weight, need in zip(weights, needs[3:], strict=True) if need]


register("depthwise_bank", {"depthwise_bank": _fake, "depthwise_bank_backward": _fake_backward})
