"""The kernels of csrc/cuda/soft_argmax_3d.cu, run by the emulator, held to the definition in float64."""

import numpy as np
import pytest
from emulator.build import Host, Output, Scratch, from_storage, load, missing, to_storage
from volume_cases import without_softmax

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")

STORAGES = ["float32", "bfloat16", "float16"]
INF, NAN = np.inf, np.nan
PLANES, CHANNELS_LAST = "BPDHW", "BHWPD"

# (B, P, D, H, W): one voxel, rows of whole vectors and not, rows longer than a block, more parts than a block or a
# launch takes, several segments.
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 3, 7, 9, 5),
    (2, 2, 3, 7, 17),
    (1, 3, 8, 5, 16),
    (3, 18, 16, 3, 8),
    (1, 2, 2, 3, 1500),
    (1, 37, 32, 3, 2),
    (1, 300, 2, 2, 3),
]


@pytest.fixture(scope="module")
def kernels():
    return load("soft_argmax_3d")


class Laid:
    """A volume [B, P, D, H, W] in memory: its dimensions in an order, cut out of NaN or not, some read repeatedly."""

    def __init__(self, volume, storage, layout=PLANES, margin=0, repeat=()):
        axes = ["BPDHW".index(name) for name in layout]
        values = np.ascontiguousarray(volume.transpose(axes))
        box = np.full([size + margin for size in values.shape], NAN, np.float32)
        box[tuple(slice(0, size) for size in values.shape)] = values
        self.memory = to_storage(box, storage)
        steps = np.array(self.memory.strides) // self.memory.itemsize
        strides = {name: int(step) for name, step in zip(layout, steps, strict=True)}
        for name in repeat:
            strides[name] = 0
            volume = np.repeat(
                volume.take([0], "BPDHW".index(name)), volume.shape["BPDHW".index(name)], "BPDHW".index(name)
            )
        self.values = from_storage(to_storage(volume.astype(np.float32), storage), storage).astype(np.float64)
        self.storage, self.channels_last = storage, layout == CHANNELS_LAST
        batch, parts = volume.shape[:2]
        walked = "HWD" if self.channels_last else "DHW"
        sizes = dict(zip("BPDHW", volume.shape, strict=True))
        self.shape = np.array(
            [batch, parts, *(sizes[name] for name in walked), *(strides[name] for name in ("B", "P", *walked[:2]))],
            np.int64,
        )
        self.dense = np.array(self.dense_shape(sizes, walked, layout), np.int64)
        self.layout = layout

    @staticmethod
    def dense_shape(sizes, walked, layout):
        strides, step = {}, 1
        for name in reversed(layout):
            strides[name], step = step, step * sizes[name]
        return [*(sizes[n] for n in ("B", "P", *walked)), *(strides[n] for n in ("B", "P", *walked[:2]))]


def logits(shape, scale=3.0, seed=0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def forward(kernels, laid, order=None):
    """xyz and statistics [B, P_out, 5]."""
    order = np.arange(laid.shape[1]) if order is None else np.asarray(order, np.int64)
    batch, parts = int(laid.shape[0]), len(order)
    floats = kernels.ask("soft_argmax_3d_scratch", laid.storage, laid.memory, Host(laid.shape), parts)
    return kernels.run(
        "soft_argmax_3d",
        laid.storage,
        laid.memory,
        Host(laid.shape),
        Host(order),
        parts,
        laid.channels_last,
        Scratch(4 * floats),
        Output((batch, parts, 3), "float32", whole=False),
        Output((batch, parts, 5), "float32", whole=False),
    )


def backward(kernels, laid, gradient, statistics, order=None):
    order = np.arange(laid.shape[1]) if order is None else np.asarray(order, np.int64)
    sizes = dict(zip("BPDHW", laid.values.shape, strict=True))
    (found,) = kernels.run(
        "soft_argmax_3d_backward",
        laid.storage,
        gradient,
        laid.memory,
        Host(laid.shape),
        statistics,
        Host(order),
        len(order),
        laid.channels_last,
        Output(tuple(sizes[name] for name in laid.layout), laid.storage, whole=bool(np.isfinite(statistics).all())),
        Host(laid.dense),
    )
    found = from_storage(found, laid.storage).astype(np.float64)
    return found.transpose([laid.layout.index(name) for name in "BPDHW"])


def probabilities(volume):
    with np.errstate(invalid="ignore"):
        weight = np.exp(volume - volume.max((2, 3, 4), keepdims=True))
        return weight / weight.sum((2, 3, 4), keepdims=True)


def coordinates(shape):
    depth, height, width = (np.arange(size, dtype=np.float64) for size in shape[2:])
    return width, height[:, None], depth[:, None, None]


SMALLEST = {"float32": 2.0**-126, "bfloat16": 2.0**-133, "float16": 2.0**-24}
EPSILON = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}


def check(kernels, laid, order=None, precision=8.0):
    """A coordinate may be wrong by ``precision`` roundings of the volume's extent; a gradient p * sum_k g_k (c_k -
    mean_k) by as much in each c_k - mean_k, by the rounding of the exponent of p or its underflow, and by the rounding
    of its storage."""
    chosen = list(range(laid.shape[1])) if order is None else list(order)
    xyz, statistics = forward(kernels, laid, order)
    assert np.array_equal(xyz, statistics[..., 2:])
    picked = laid.values[:, chosen]
    p, c = probabilities(picked), coordinates(laid.values.shape)
    expected = np.stack([(p * axis).sum((2, 3, 4)) for axis in c], -1)
    unit, extents = EPSILON["float32"], np.array(laid.values.shape[:1:-1], np.float64)
    assert (np.abs(xyz - expected) <= precision * unit * extents).all()

    given = np.random.default_rng(1).standard_normal(xyz.shape).astype(np.float32)
    found = backward(kernels, laid, given, statistics, order)
    wanted = np.zeros(laid.values.shape)
    slope = sum(
        given[..., k, None, None, None].astype(np.float64) * (c[k] - expected[..., k, None, None, None])
        for k in range(3)
    )
    wanted[:, chosen] = p * slope
    reach = (np.abs(given) * extents).sum(-1)[..., None, None, None]
    allowed = np.zeros(laid.values.shape)
    with np.errstate(divide="ignore"):
        allowed[:, chosen] = precision * unit * p * reach * (1 + np.minimum(-np.log(p), 100)) + 2.0**-126 * reach
    allowed += EPSILON[laid.storage] / 2 * np.abs(wanted) + SMALLEST[laid.storage]
    assert (np.abs(found - wanted) <= allowed).all()
    absent = [part for part in range(laid.shape[1]) if part not in chosen]
    assert (found[:, absent] == 0).all()
    return xyz


@pytest.mark.parametrize("layout", [PLANES, CHANNELS_LAST])
@pytest.mark.parametrize("storage", STORAGES)
def test_values_and_gradients(kernels, storage, layout):
    for shape in SHAPES:
        check(kernels, Laid(logits(shape), storage, layout))


@pytest.mark.parametrize("layout", [PLANES, CHANNELS_LAST])
def test_volumes_that_several_blocks_share(kernels, layout):
    laid = Laid(logits((1, 2, 24, 20, 24)), "bfloat16", layout)
    assert kernels.ask("soft_argmax_3d_scratch", "bfloat16", laid.memory, Host(laid.shape), 2) > 2 * 5
    check(kernels, laid)


@pytest.mark.parametrize("layout", [PLANES, CHANNELS_LAST])
@pytest.mark.parametrize("storage", STORAGES)
def test_cut_out_of_memory_that_must_not_be_read(kernels, storage, layout):
    for margin in (1, 8):
        check(kernels, Laid(logits((2, 3, 8, 4, 8)), storage, layout, margin))


@pytest.mark.parametrize("repeat", ["B", "P", "H", "BH"])
def test_memory_that_is_read_again_and_again(kernels, repeat):
    for layout in (PLANES, CHANNELS_LAST):
        check(kernels, Laid(logits((2, 3, 8, 4, 8)), "float32", layout, repeat=repeat))


@pytest.mark.parametrize("order", [[3, 0, 2, 1], [2], [4, 1], [1, 2, 3, 4, 0], []], ids=str)
def test_order_picks_parts(kernels, order):
    for layout in (PLANES, CHANNELS_LAST):
        volume = logits((2, 5, 6, 7, 8))
        absent = [part for part in range(5) if part not in order]
        volume[:, absent] = np.random.default_rng(2).choice([NAN, INF, -INF], volume[:, absent].shape)
        if order:
            check(kernels, Laid(volume, "float32", layout), np.array(order, np.int64))


EXTREMES = {
    "rising": lambda v: np.linspace(-1e4, 1e4, v[0, 0].size).reshape(v.shape[2:]),
    "falling": lambda v: np.linspace(1e4, -1e4, v[0, 0].size).reshape(v.shape[2:]),
    "rising within the headroom": lambda v: np.linspace(-70, 70, v[0, 0].size).reshape(v.shape[2:]),
    "spread of 1e4": lambda v: v * 2.5e3,
    "far above zero": lambda v: v + 3e4,
    "far below zero": lambda v: v - 3e4,
    "half without": lambda v: np.where(v < 0, -INF, v),
    "one voxel": lambda v: np.where(np.arange(v.size).reshape(v.shape) % v[0, 0].size == 77, -5.0, -INF),
    "the smallest finite": lambda v: -6e4,
}


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("extreme", EXTREMES)
def test_extreme_logits(kernels, extreme, storage):
    volume = logits((1, 2, 8, 9, 16))
    volume[:] = EXTREMES[extreme](volume)
    for layout in (PLANES, CHANNELS_LAST):
        assert np.isfinite(check(kernels, Laid(volume, storage, layout))).all()


def test_logits_at_the_ends_of_float32(kernels):
    top = np.finfo(np.float32).max
    volume = np.full((1, 3, 4, 5, 6), -top, np.float32)
    volume[0, 1, 3, 2, 1] = top
    volume[0, 2, :, :, 3:] = -INF
    for layout in (PLANES, CHANNELS_LAST):
        xyz, _ = forward(kernels, Laid(volume, "float32", layout))
        assert np.allclose(xyz, [[[2.5, 2.0, 1.5], [1.0, 2.0, 3.0], [1.0, 2.0, 1.5]]], rtol=1e-6)


@pytest.mark.parametrize("layout", [PLANES, CHANNELS_LAST])
@pytest.mark.parametrize("storage", STORAGES)
def test_a_part_that_has_no_softmax_is_nan_and_the_others_are_not(kernels, storage, layout):
    laid = Laid(without_softmax(logits((1, 8, 8, 9, 16))), storage, layout)
    xyz, statistics = forward(kernels, laid)
    assert np.isnan(xyz).all(-1).tolist() == [[False, True, True, True, True, True, True, False]]
    assert np.isfinite(xyz[:, [0, 7]]).all()
    gradient = backward(kernels, laid, np.ones(xyz.shape, np.float32), statistics)
    assert np.isfinite(gradient[:, [0, 7]]).all()
    assert np.isnan(gradient[:, 1:7]).all()


def test_the_reference_leaves_a_sum_of_one(kernels):
    _, statistics = forward(kernels, Laid(logits((2, 3, 8, 8, 8), scale=20), "float32"))
    assert np.abs(statistics[..., 1] - 1).max() < 1e-5


def test_by_hand(kernels):
    volume = np.full((1, 1, 3, 4, 5), -INF, np.float32)
    volume[0, 0, 2, 1, 4] = 7
    for layout in (PLANES, CHANNELS_LAST):
        assert forward(kernels, Laid(volume, "float32", layout))[0].tolist() == [[[4, 1, 2]]]


def test_an_empty_batch_launches_nothing(kernels):
    laid = Laid(logits((1, 2, 3, 4, 5)), "float32")
    laid.shape[0] = 0
    xyz, statistics = forward(kernels, laid)
    assert xyz.size == statistics.size == 0


def test_float64_is_refused(kernels):
    laid = Laid(logits((1, 2, 3, 4, 5)), "float32")
    laid.storage = "float64"
    with pytest.raises(RuntimeError, match="error 1"):
        forward(kernels, laid)
