"""Volumes in every layout, and the float64 softmax that soft_argmax_3d is held to."""

import torch
from map_cases import moved

from partnas.ops import soft_argmax_3d

INF, NAN = float("inf"), float("nan")

# (B, P, D, H, W): a single row, plane or column, sizes that fill no vector, one voxel, rows longer than a chunk, more
# parts than a chunk keeps.
SHAPES = [
    (2, 3, 1, 5, 4),
    (1, 2, 5, 4, 1),
    (2, 3, 4, 1, 33),
    (2, 2, 3, 7, 17),
    (1, 2, 65, 3, 19),
    (3, 1, 1, 1, 1),
    (1, 1, 2, 3, 1500),
    (1, 2, 16, 16, 16),
    (1, 37, 5, 3, 2),
]


def in_box(volume, every=1):
    """The same values inside a larger tensor of NaN: whoever reads outside the view finds one."""
    box = volume.new_full([every * size + 2 for size in volume.shape], NAN)
    view = box[tuple(slice(1, every * size + 1, every) for size in volume.shape)]
    return view.copy_(volume)


def stored(volume, *order):
    """The same values with the dimensions in memory in this order."""
    return volume.permute(order).contiguous().permute([order.index(d) for d in range(5)])


LAYOUTS = {
    "5-D": lambda v: v,
    "4-D": lambda v: v.flatten(1, 2),
    "channels-last": lambda v: v.flatten(1, 2).contiguous(memory_format=torch.channels_last),
    "5-D channels-last": lambda v: stored(v, 0, 3, 4, 1, 2),
    "channels-last 3d": lambda v: v.contiguous(memory_format=torch.channels_last_3d),
    "columns inside": lambda v: stored(v, 0, 1, 2, 4, 3),
    "batch inside": lambda v: stored(v, 4, 3, 2, 1, 0),
    "cut out": in_box,
    "cut out of channels-last": lambda v: stored(in_box(stored(v, 0, 3, 4, 1, 2).permute(0, 3, 4, 1, 2)), 0, 1, 2, 3, 4)
    .permute(0, 3, 4, 1, 2),
    "every second": lambda v: in_box(v, every=2),
    "one sample for all": lambda v: v[:1].expand_as(v),
    "one plane for all": lambda v: v[:, :, :1].expand_as(v),
}  # fmt: skip


def logits(shape, dtype=torch.float64, scale=3.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def as_volume(heatmaps, parts):
    return heatmaps if heatmaps.dim() == 5 else heatmaps.unflatten(1, (parts, -1))


def coordinates(volume):
    depth, height, width = (torch.arange(size, dtype=torch.float64) for size in volume.shape[2:])
    return width, height[:, None], depth[:, None, None]


def probabilities(volume):
    """Softmax over the volume, in float64 and straight from its definition."""
    volume = volume.double()
    weight = (volume - volume.detach().amax((2, 3, 4), keepdim=True)).exp()
    return weight / weight.sum((2, 3, 4), keepdim=True)


def oracle(volume, order):
    probability = probabilities(volume[:, order])
    return torch.stack([(probability * c).sum((2, 3, 4)) for c in coordinates(volume)], -1)


def both(function, heatmaps, seed=1):
    """Output and gradient of ``heatmaps``, for one random gradient of the output."""
    leaf = heatmaps.detach().requires_grad_()
    output = function(leaf)
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
    (found,) = torch.autograd.grad(output, leaf, gradient)
    return output.detach(), found, gradient.double()


def without_softmax(volume):
    """The volume ``(B, 8, D, H, W)``, of torch or NumPy, without a softmax in all parts but the first and the last."""
    volume[:, 1] = -INF
    volume[:, 2, 0, 0, 0] = NAN
    volume[:, 3, -1, -1, -1] = NAN
    volume[:, 4, volume.shape[2] // 2, 3, 2] = INF
    volume[:, 5, 0, 0, 0] = INF
    volume[:, 5, 1, 0, 0] = NAN
    volume[:, 6] = INF
    return volume


def check_without_softmax(volume, memory_format, device="cpu"):
    """Parts of :func:`without_softmax` are NaN, as are their gradients, and the others are not."""
    heatmaps = volume.flatten(1, 2).contiguous(memory_format=memory_format).to(device)
    output, gradient, _ = both(lambda x: soft_argmax_3d(x, 8), heatmaps)
    assert output.isnan().all(-1).tolist() == [[False, True, True, True, True, True, True, False]]
    assert output[:, [0, 7]].isfinite().all()
    gradient = as_volume(gradient, 8)
    assert gradient[:, [0, 7]].isfinite().all()
    assert gradient[:, 1:7].isnan().all()


def worst(error, allowed):
    """The largest error over what is allowed; NaN where there is one."""
    return torch.cat([(error.abs() / allowed).flatten(), torch.zeros(1)]).max().item()


def check(heatmaps, parts, precision, order=None, device="cpu"):
    """Holds ``soft_argmax_3d`` and its gradient, computed on ``device``, to the float64 oracle.

    A coordinate may be wrong by ``precision`` roundings of the volume's extent. A gradient p * sum_k g_k (c_k - mean_k)
    has that error in each c_k - mean_k, an error of p by the rounding of its exponent or by its underflow, and the
    rounding of its dtype.
    """
    chosen = list(range(parts)) if order is None else order
    there = moved(heatmaps, device)
    output, gradient, given = (t.cpu() for t in both(lambda x: soft_argmax_3d(x, parts, order), there))
    assert torch.equal(there.cpu(), heatmaps)
    volume = as_volume(heatmaps, parts)
    expected, expected_gradient, _ = both(lambda x: oracle(as_volume(x, parts), chosen), heatmaps.double())

    assert output.dtype == (torch.float64 if heatmaps.dtype == torch.float64 else torch.float32)
    assert gradient.dtype == heatmaps.dtype
    assert gradient.shape == heatmaps.shape
    unit = torch.finfo(output.dtype).eps
    extents = torch.tensor(volume.shape[:1:-1], dtype=torch.float64)  # W, H, D
    assert worst(output - expected, precision * unit * extents) <= 1

    probability = probabilities(volume[:, chosen])
    depth_below_top = probability.log().neg().clamp(max=100)
    reach = (given.abs() * extents).sum(-1)[..., None, None, None]
    storage = torch.finfo(heatmaps.dtype)
    allowed = torch.zeros_like(volume, dtype=torch.float64)
    allowed[:, chosen] = precision * unit * probability * reach * (1 + depth_below_top)
    allowed[:, chosen] += torch.finfo(output.dtype).smallest_normal * reach
    allowed += storage.eps / 2 * as_volume(expected_gradient, parts).abs()
    allowed += storage.smallest_normal * (storage.eps if storage.bits == 16 else 1)
    assert worst(as_volume(gradient - expected_gradient, parts), allowed) <= 1


EXTREMES = {
    # Chunks that rise, by more than a float32 exponential spans from one to the next.
    "rising": lambda v: v.copy_(torch.linspace(-1e4, 1e4, v[0, 0].numel()).view(v.shape[2:])),
    "falling": lambda v: v.copy_(torch.linspace(1e4, -1e4, v[0, 0].numel()).view(v.shape[2:])),
    "rising within the headroom": lambda v: v.copy_(torch.linspace(-70, 70, v[0, 0].numel()).view(v.shape[2:])),
    "spread of 1e4": lambda v: v.mul_(2.5e3),
    "far above zero": lambda v: v.add_(3e4),
    "far below zero": lambda v: v.sub_(3e4),
    "one voxel": lambda v: v.fill_(-INF)[:, :, -1, 2, -2].fill_(-5.0),
    "only the last row": lambda v: v[:, :, :-1].fill_(-INF),
    "half without": lambda v: v.masked_fill_(v < 0, -INF),
    "the largest finite": lambda v: v[:, :, 3, 3, 3].fill_(6e4),
    "the smallest finite": lambda v: v.fill_(-6e4),
}
