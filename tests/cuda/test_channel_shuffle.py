"""The kernels of csrc/cuda/channel_shuffle.cu, run by the emulator, held to an index of the channels."""

import numpy as np
import pytest
from emulator.build import Host, Output, load, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")

DTYPES = ["uint8", "uint16", "float16", "float32", "float64", "complex128"]
SHAPES = [(2, 12, 35), (1, 12, 1), (3, 36, 33), (1, 60, 40), (2, 1, 5), (1, 576, 6), (3, 64, 16)]


@pytest.fixture(scope="module")
def kernels():
    return load("channel_shuffle")


def permutation(runs, seed=0):
    return np.random.default_rng(seed).permutation(runs).astype(np.int64)


def interleaved(runs, groups):
    return np.arange(runs).reshape(groups, -1).T.reshape(-1)


def numbers(shape, dtype, seed=0):
    """Random bytes; none that the fill of unwritten memory has."""
    size = np.dtype(dtype).itemsize
    return np.random.default_rng(seed).integers(0, 255, (*shape, size), np.uint8).view(dtype)[..., 0]


def check(kernels, x, order=None, groups=0, orders=None):
    """x [pixels, runs, elements of a run]."""
    pixels, runs, elements = x.shape
    expected = x[:, interleaved(runs, groups) if groups else order]
    (found,) = kernels.run(
        "channel_shuffle",
        x,
        Output(x.shape, x.dtype.name),
        pixels,
        runs,
        elements * x.itemsize,
        groups,
        None if groups else Host(np.asarray(order, np.int64)),
        orders=orders,
    )
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("layout", ["planes", "pixels"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_layout(kernels, dtype, layout):
    for batch, channels, pixels in SHAPES:
        for depth in (1, 3, 4):
            if channels % depth:
                continue
            runs = channels // depth
            shape = (batch, runs, depth * pixels) if layout == "planes" else (batch * pixels, runs, depth)
            x = numbers(shape, dtype)
            check(kernels, x, permutation(runs))
            for groups in (1, 2, 3, 4, runs):
                if runs % groups == 0:
                    check(kernels, x, groups=groups, orders=1)


def test_every_pixel_size(kernels):
    for channels in (*range(1, 40), 63, 64, 65, 191, 193):
        check(kernels, numbers((131, channels, 1), "uint8"), permutation(channels), orders=1)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_orders_longer_than_a_launch_takes(kernels, dtype):
    for runs in (959, 960, 961, 2048):
        for elements in (1, 5):
            check(kernels, numbers((3, runs, elements), dtype), permutation(runs), orders=1)
        check(kernels, numbers((3, runs, 1), dtype), groups=runs, orders=1)


def test_pixels_larger_than_a_tile(kernels):
    check(kernels, numbers((3, 6000, 1), "float32"), groups=4)
    check(kernels, numbers((2, 9, 5003), "uint8"), permutation(9))


def test_several_blocks(kernels):
    check(kernels, numbers((5, 6, 4096), "float32"), permutation(6))
    check(kernels, numbers((701, 64, 1), "float16"), permutation(64))
    check(kernels, numbers((701, 24, 1), "float32"), groups=4)


def test_nothing_to_move(kernels):
    for shape in ((0, 4, 3), (2, 4, 0)):
        check(kernels, numbers(shape, "float32"), permutation(4))


def test_runs_beyond_32_bits_are_refused(kernels):
    with pytest.raises(RuntimeError, match="error 1"):
        kernels.run("channel_shuffle", None, None, 1, 2, 1 << 36, 2, None)
