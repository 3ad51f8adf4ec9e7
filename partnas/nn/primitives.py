"""The layers that cells are made of. Networks are channels-last; every layer takes and gives ``(B, C, H, W)``."""

import abc
import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from partnas.ops import native
from partnas.ops.depthwise_bank import depthwise_bank
from partnas.ops.maps import Maps, empty_map, every_second, parts_of
from partnas.ops.norm_sum import norm_stats, norm_sum
from partnas.ops.pointwise import factorised_reduction, pack, pointwise
from partnas.ops.pool_pair import avg_pool, max_pool
from partnas.ops.upsample import upsample

SEPARABLE = {"sep_conv_3x3": 3, "sep_conv_5x5": 5}
"""Kernel sizes of (ReLU, depthwise, pointwise, batch norm) twice."""

DILATED = {"dil_conv_3x3": 3, "dil_conv_5x5": 5}
"""Kernel sizes of (ReLU, depthwise with dilation 2, pointwise, batch norm)."""

POOLS = {"max_pool_3x3": max_pool, "avg_pool_3x3": avg_pool}
"""In the order of ``pool_pair``."""


class BatchNorm(nn.BatchNorm2d):
    """Batch norm whose arithmetic the operators do that read its map: nothing normalised is written for its own sake.

    Attributes:
        synchronised: Take batch statistics over all ranks in training mode.
    """

    def __init__(self, channels: int, searching: bool = False):
        """In the supernet (``searching``) without affine map and running statistics, in a derived network with both."""
        super().__init__(channels, affine=not searching, track_running_stats=not searching)
        self.synchronised = False

    def affine_map(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What it does in evaluation mode: scale and shift, each ``(C,)``."""
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return scale, self.bias - self.running_mean * scale

    @property
    def over_ranks(self) -> bool:
        """Whether the statistics of the batch are those of all ranks."""
        return self.synchronised and self.training

    @property
    def fixed(self) -> bool:
        """Whether the running statistics are used: in evaluation mode, where there are any."""
        return not self.training and self.track_running_stats

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return normalised_sum([x], [self])


def measured(maps: Sequence[torch.Tensor], norms: Sequence[BatchNorm]) -> torch.Tensor:
    """The statistics ``(K, 2, C)`` that batch norms of one mode normalise their maps with; in training mode the running
    ones follow."""
    if norms[0].fixed:
        return torch.stack([torch.stack([norm.running_mean, norm.running_var]) for norm in norms])
    synchronised = norms[0].over_ranks
    statistics = norm_stats(maps, synchronised)
    if norms[0].training and norms[0].track_running_stats:
        count = maps[0][:, :1].numel() * (dist.get_world_size() if synchronised else 1)
        means, variances = statistics.to(norms[0].running_mean.dtype).unbind(1)
        for norm, mean, variance in zip(norms, means, variances * (count / max(count - 1, 1)), strict=True):
            norm.num_batches_tracked.add_(1)
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance, norm.momentum)
    return statistics


def normalised_sum(
    maps: Sequence[torch.Tensor], norms: Sequence[BatchNorm], identities: Sequence[torch.Tensor] = ()
) -> torch.Tensor:
    """The sum of maps ``(B, C, H, W)``, each after its own batch norm, and of identities, in one pass."""
    statistics = measured(maps, norms)
    first = norms[0]
    return norm_sum(
        maps,
        statistics,
        torch.stack([norm.weight for norm in norms]) if first.affine else statistics.new_ones(len(maps)),
        identities,
        statistics.new_ones(len(identities)),
        shift=functools.reduce(torch.add, [norm.bias for norm in norms]) if first.affine else None,
        eps=first.eps,
        fixed=first.fixed,
        synchronised=first.over_ranks,
    )


def uniform_parameter(*shape: int, fan_in: int) -> nn.Parameter:
    """A weight drawn as PyTorch draws a convolution's: uniform within ``1 / sqrt(fan_in)``."""
    return nn.Parameter(torch.empty(shape).uniform_(-(fan_in**-0.5), fan_in**-0.5))


def even_and_odd(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the two convolutions of a factorised reduction read of a map, see ``every_second``."""
    return _EvenAndOdd.apply(x) if torch.is_grad_enabled() else (every_second(x, 0), every_second(x, 1))


class DepthwiseConv2d(nn.Module):
    """Batch norm of the map before where there is one, ReLU and one depthwise convolution, in one read.

    Attributes:
        weight: ``(C, k, k)``.
    """

    def __init__(self, channels: int, kernel_size: int, stride: int, dilation: int):
        super().__init__()
        self.stride, self.dilation = stride, dilation
        self.weight = uniform_parameter(channels, kernel_size, kernel_size, fan_in=kernel_size**2)

    def forward(self, x: torch.Tensor, norm: BatchNorm | None = None) -> torch.Tensor:
        options = {"dilations": [self.dilation], "stride": self.stride}
        if norm is not None and norm.fixed:
            scale, shift = norm.affine_map()
            options |= {"scale": scale, "shift": shift}
        elif norm is not None:
            options |= {"statistics": measured([x], [norm])[0], "scale": norm.weight, "shift": norm.bias}
            options |= {"eps": norm.eps, "synchronised": norm.over_ranks}
        return depthwise_bank(x, [self.weight], **options)[0]


class PackedWeights:
    """The weights of 1x1 convolutions of one shape as ``pointwise`` reads them. Those that a batch norm was folded into
    are packed at the first call without gradients, and again after they have changed; changes through ``.data`` or NumPy,
    which PyTorch does not count, are not noticed. Copies and pickles leave behind what is packed."""

    def __init__(self) -> None:
        self._kept: tuple[Any, ...] | None = None

    def __reduce__(self):
        return PackedWeights, ()

    def of(self, *layers: nn.Conv2d) -> dict[str, torch.Tensor | None]:
        """``weight`` ``(F, C_out, C_in)``, ``bias`` ``(F, C_out)``, and ``packed`` where there is such a thing."""
        state = _state_of(layers)
        if state is not None and self._kept is not None and self._kept[0] == state:
            return self._kept[1]
        weight, bias = _stacked(layers)
        found = {"weight": weight, "bias": bias}
        packed = None if state is None else pack(weight)
        if packed is not None:
            found["packed"] = packed
            # Their memory is held, so that no others come to lie at those addresses.
            self._kept = state, found, [tensor.detach() for layer in layers for tensor in (layer.weight, layer.bias)]
        return found


def _state_of(layers: Sequence[nn.Conv2d]) -> list[Any] | None:
    """What folded weights are known by, in this moment; None for weights that are not to be packed."""
    if layers[0].bias is None or torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return None
    tensors = [tensor for layer in layers for tensor in (layer.weight, layer.bias)]
    try:
        state = [(tensor.data_ptr(), tensor._version, tensor.dtype) for tensor in tensors]
    except RuntimeError:
        # Those of torch.export or vmap have no memory, and those of inference mode no version.
        return None
    return [*state, native.cpu_capability()]


def _stacked(layers: Sequence[nn.Conv2d]) -> tuple[torch.Tensor, torch.Tensor | None]:
    weights, biases = [layer.weight[:, :, 0, 0] for layer in layers], [layer.bias for layer in layers]
    if len(layers) == 1:
        return weights[0][None], None if biases[0] is None else biases[0][None]
    return torch.stack(weights), None if biases[0] is None else torch.stack(biases)


class Pointwise(nn.Conv2d):
    """1x1 convolution, after ReLU or not; without bias but where a batch norm was folded into it."""

    def __init__(self, channels_in: int, channels_out: int, relu: bool = False):
        super().__init__(channels_in, channels_out, 1, bias=False)
        self.relu = relu
        self._weights = PackedWeights()

    def forward(self, x: Maps, add: torch.Tensor | None = None) -> torch.Tensor:
        return pointwise(parts_of(x), relu=self.relu, add=() if add is None else [add], **self._weights.of(self))[0]


class Branch(nn.Module, abc.ABC):
    """Layers that end in a batch norm, which is left to who sums the branches of a node.

    Attributes:
        norm: That batch norm; None once it is folded into the layer before.
    """

    norm: BatchNorm | None

    @abc.abstractmethod
    def before_norm(self, x: Maps, add: torch.Tensor | None = None) -> torch.Tensor:
        """The map that ``norm`` normalises; where it is folded, the branch's result, to which ``add`` is added."""

    @abc.abstractmethod
    def fold(self) -> None:
        """Fold all batch norms, with their running statistics, into the convolutions before them."""

    def forward(self, x: Maps) -> torch.Tensor:
        found = self.before_norm(x)
        return found if self.norm is None else self.norm(found)


class SeparableConv(Branch):
    """(ReLU, depthwise, pointwise, batch norm) twice, the first at ``stride``."""

    def __init__(self, channels: int, kernel_size: int, stride: int):
        super().__init__()
        self.depthwise = DepthwiseConv2d(channels, kernel_size, stride, dilation=1)
        self.pointwise = Pointwise(channels, channels)
        self.norm_between: BatchNorm | None = BatchNorm(channels)
        self.depthwise_second = DepthwiseConv2d(channels, kernel_size, 1, dilation=1)
        self.pointwise_second = Pointwise(channels, channels)
        self.norm = BatchNorm(channels)

    def before_norm(self, x: torch.Tensor, add: torch.Tensor | None = None) -> torch.Tensor:
        halfway = self.pointwise(self.depthwise(x))
        return self.pointwise_second(self.depthwise_second(halfway, self.norm_between), add)

    def fold(self) -> None:
        fold(self.pointwise, *self.norm_between.affine_map())
        fold(self.pointwise_second, *self.norm.affine_map())
        self.norm_between = self.norm = None


class DilatedConv(Branch):
    """ReLU, depthwise convolution with dilation 2, pointwise convolution, batch norm."""

    def __init__(self, channels: int, kernel_size: int, stride: int):
        super().__init__()
        self.depthwise = DepthwiseConv2d(channels, kernel_size, stride, dilation=2)
        self.pointwise = Pointwise(channels, channels)
        self.norm = BatchNorm(channels)

    def before_norm(self, x: torch.Tensor, add: torch.Tensor | None = None) -> torch.Tensor:
        return self.pointwise(self.depthwise(x), add)

    def fold(self) -> None:
        fold(self.pointwise, *self.norm.affine_map())
        self.norm = None


class FactorisedReduction(Branch):
    """ReLU, then half of the channels from the even pixels and half from the odd ones, batch norm: DARTS' skip at
    stride 2. Sides are halved, rounding up."""

    def __init__(self, channels_in: int, channels_out: int, searching: bool):
        super().__init__()
        self.even = Pointwise(channels_in, channels_out // 2, relu=True)
        self.odd = Pointwise(channels_in, channels_out - channels_out // 2, relu=True)
        self.norm = BatchNorm(channels_out, searching)
        self._weights = PackedWeights()

    def before_norm(self, x: Maps, add: torch.Tensor | None = None) -> torch.Tensor:
        if not torch.is_grad_enabled() and self.even.out_channels == self.odd.out_channels:
            return factorised_reduction(parts_of(x), add=add, **self._weights.of(self.even, self.odd))
        even, odd = zip(*map(even_and_odd, parts_of(x)), strict=True)
        found = torch.cat([self.even(even), self.odd(odd)], 1)
        return found if add is None else found + add

    def fold(self) -> None:
        sizes = [self.even.out_channels, self.odd.out_channels]
        scales, shifts = (numbers.split(sizes) for numbers in self.norm.affine_map())
        fold(self.even, scales[0], shifts[0])
        fold(self.odd, scales[1], shifts[1])
        self.norm = None


class ReluConvNorm(Branch):
    """ReLU, 1x1 convolution, batch norm."""

    def __init__(self, channels_in: int, channels_out: int, searching: bool):
        super().__init__()
        self.pointwise = Pointwise(channels_in, channels_out, relu=True)
        self.norm = BatchNorm(channels_out, searching)

    def before_norm(self, x: Maps, add: torch.Tensor | None = None) -> torch.Tensor:
        return self.pointwise(x, add)

    def fold(self) -> None:
        fold(self.pointwise, *self.norm.affine_map())
        self.norm = None


class Pool(nn.Module):
    """3x3 max or average pool; the average leaves padding out of the count."""

    def __init__(self, name: str, stride: int):
        super().__init__()
        self.pool, self.stride = POOLS[name], stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(x, self.stride)


class Upsample(nn.Module):
    """Bilinear upsampling by 2 or 4."""

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return upsample(x, self.factor)


class Stem(nn.Sequential):
    """3x3 convolution of the image, batch norm."""

    def __init__(self, channels: int, searching: bool):
        super().__init__(
            nn.Conv2d(3, channels, 3, padding=1, bias=False),
            BatchNorm(channels, searching),
        )

    def fold(self) -> None:
        """Fold the batch norm into the convolution."""
        fold(self[0], *self[1].affine_map())
        self[1] = nn.Identity()


def fold(convolution: nn.Conv2d, scale: torch.Tensor, shift: torch.Tensor) -> None:
    """Make a convolution without bias do ``scale * x + shift``, each ``(C_out,)``, after itself."""
    with torch.no_grad():
        convolution.weight.mul_(scale[:, None, None, None])
        convolution.bias = nn.Parameter(shift.clone())


def preprocessing(channels_in: int, channels_out: int, factor: Fraction, searching: bool) -> nn.Module:
    """What brings an input to a cell's channels and resolution.

    A fusion cell upsamples last: the convolution and bilinear upsampling commute but for the batch statistics, and
    this order does the convolution at the low resolution.
    """
    if factor < 1:
        return FactorisedReduction(channels_in, channels_out, searching)
    layer = ReluConvNorm(channels_in, channels_out, searching)
    return layer if factor == 1 else nn.Sequential(layer, Upsample(int(factor)))


class _EvenAndOdd(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.shape = x.shape
        return every_second(x, 0), every_second(x, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, even: torch.Tensor, odd: torch.Tensor) -> torch.Tensor:
        height, width = ctx.shape[2:]
        gradient = empty_map(even, ctx.shape)
        gradient.zero_()
        gradient[:, :, ::2, ::2] = even
        gradient[:, :, 1::2, 1::2] = odd[:, :, : height // 2, : width // 2]
        return gradient
