"""The kernels of csrc/cuda/upsample.cu, run by the emulator, held to the interpolation matrix in float64."""

import numpy as np
import pytest
from emulator.build import Output, from_storage, load, missing, to_storage

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")

EPSILON = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}
# (B, H, W, C)
SHAPES = [
    (2, 7, 9, 3),
    (1, 1, 1, 1),
    (1, 3, 70, 16),
    (2, 5, 4, 18),
    (1, 9, 2, 33),
    (1, 8, 3, 128),
    (1, 1, 5, 8),
    (1, 2203, 1, 1),
]


@pytest.fixture(scope="module")
def kernels():
    return load("upsample")


def matrix(size, factor):
    """[factor * size, size]: bilinear, align_corners=False."""
    result = np.zeros((factor * size, size))
    for position in range(factor * size):
        place = max((position + 0.5) / factor - 0.5, 0)
        first = int(place)
        result[position, first] += 1 - (place - first)
        result[position, min(first + 1, size - 1)] += place - first
    return result


def stored(shape, storage, seed=0):
    numbers = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    memory = to_storage(numbers, storage)
    return memory, from_storage(memory, storage).astype(np.float64)


def close(found, expected, storage, reach):
    """Within a few float32 roundings of the numbers that are summed, and one of the storage."""
    error = np.abs(from_storage(found, storage).astype(np.float64) - expected)
    return (error <= 8 * EPSILON["float32"] * reach + EPSILON[storage] / 2 * np.abs(expected)).all()


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("storage", EPSILON)
def test_forward(kernels, storage, factor):
    for batch, height, width, channels in SHAPES:
        x, values = stored((batch, height, width, channels), storage)
        output = Output((batch, factor * height, factor * width, channels), storage)
        (found,) = kernels.run("upsample", storage, x, batch, height, width, channels, factor, output)
        rows, columns = matrix(height, factor), matrix(width, factor)
        expected = np.einsum("yi,xj,bijc->byxc", rows, columns, values)
        assert close(found, expected, storage, np.einsum("yi,xj,bijc->byxc", rows, columns, np.abs(values)))


def check_backward(kernels, shape, storage, factor, orders=None):
    batch, height, width, channels = shape
    g, values = stored((batch, factor * height, factor * width, channels), storage)
    output = Output(shape, storage)
    (found,) = kernels.run(
        "upsample_backward", storage, g, batch, height, width, channels, factor, output, orders=orders
    )
    rows, columns = matrix(height, factor), matrix(width, factor)
    expected = np.einsum("yi,xj,byxc->bijc", rows, columns, values, optimize=True)
    reach = np.einsum("yi,xj,byxc->bijc", rows, columns, np.abs(values), optimize=True)
    assert close(found, expected, storage, reach)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("storage", EPSILON)
def test_backward(kernels, storage, factor):
    for shape in SHAPES:
        check_backward(kernels, shape, storage, factor)


# Several slices of the channels, in strips of the shortest length, of the longest and of one between.
@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize(
    ("shape", "storage"),
    [
        ((2, 5, 7, 264), "float32"),
        ((1, 4, 3, 1056), "bfloat16"),
        ((1, 33, 1, 4225), "float32"),
        ((1, 70, 1, 4225), "float16"),
    ],
)
def test_backward_of_many_channels(kernels, shape, storage, factor):
    check_backward(kernels, shape, storage, factor, orders=1)


def test_a_constant_stays_one(kernels):
    x = np.full((1, 3, 4, 8), 0.1, np.float32)
    (found,) = kernels.run("upsample", "float32", x, 1, 3, 4, 8, 4, Output((1, 12, 16, 8), "float32"))
    assert (found == np.float32(0.1)).all()


def test_nothing_to_do_and_nothing_that_it_does(kernels):
    empty = np.zeros((0, 3, 4, 8), np.float32)
    for name in ("upsample", "upsample_backward"):
        kernels.run(name, "float32", empty, 0, 3, 4, 8, 2, Output((0,), "float32"))
        for storage, factor in (("float32", 3), ("float64", 2)):
            with pytest.raises(RuntimeError, match="error 1"):
                kernels.run(name, storage, None, 1, 3, 4, 8, factor, None)
