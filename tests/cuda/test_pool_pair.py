"""The kernels of csrc/cuda/pool_pair.cu, run by the emulator, held to the definition in float64."""

import numpy as np
import pytest
from emulator.build import Output, Scratch, from_storage, load, missing, to_storage

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")

STORAGES = ["float32", "bfloat16", "float16"]
EPSILON = {"float32": 2.0**-23, "bfloat16": 2.0**-8, "float16": 2.0**-10}

# (B, H, W, C): one pixel, one row, one column; images narrower than a block and wider, so that winners come from a
# neighbouring block; channels in whole vectors and not, several slices of them.
SHAPES = [
    (1, 1, 1, 1),
    (3, 7, 9, 3),
    (1, 1, 6, 33),
    (2, 6, 1, 5),
    (3, 1, 1, 16),
    (2, 2, 5, 18),
    (5, 4, 4, 16),
    (1, 5, 131, 16),
    (1, 4, 70, 32),
    (1, 3, 40, 64),
    (1, 9, 14, 130),
    (2, 5, 6, 136),
]


@pytest.fixture(scope="module")
def kernels():
    return load("pool_pair")


def numbers(shape, storage="float32", seed=0):
    """Normal numbers as they are stored, and the same in float64."""
    return stored(np.random.default_rng(seed).standard_normal(shape).astype(np.float32), storage)


def stored(values, storage):
    memory = to_storage(values, storage)
    return memory, from_storage(memory, storage).astype(np.float64)


def windows(x, stride):
    """For each window its place, and its pixels: first row, last row, first column, last column."""
    _, height, width, _ = x.shape
    for top in range(0, height, stride):
        for left in range(0, width, stride):
            rows = slice(max(top - 1, 0), min(top + 2, height))
            columns = slice(max(left - 1, 0), min(left + 2, width))
            yield top // stride, left // stride, rows, columns


def pools(x, stride):
    batch, height, width, channels = x.shape
    largest = np.empty((batch, -(-height // stride), -(-width // stride), channels))
    average = np.empty_like(largest)
    with np.errstate(invalid="ignore"):
        for row, column, rows, columns in windows(x, stride):
            window = x[:, rows, columns].reshape(batch, -1, channels)
            largest[:, row, column] = window.max(1)
            average[:, row, column] = window.mean(1)
    return largest, average


def gradient_of(x, max_gradient, avg_gradient, stride):
    """Of equal numbers the first is the largest, and the last NaN is, as in PyTorch."""
    batch, _, _, channels = x.shape
    result = np.zeros(x.shape)
    for row, column, rows, columns in windows(x, stride):
        window = x[:, rows, columns]
        wide = window.shape[2]
        taps = window.reshape(batch, -1, channels)
        winner, best = np.zeros((batch, channels), int), taps[:, 0].copy()
        for tap in range(1, taps.shape[1]):
            better = (taps[:, tap] > best) | np.isnan(taps[:, tap])
            winner[better] = tap
            best = np.where(better, taps[:, tap], best)
        for tap in range(taps.shape[1]):
            place = result[:, rows.start + tap // wide, columns.start + tap % wide]
            if max_gradient is not None:
                place += np.where(winner == tap, max_gradient[:, row, column], 0)
            if avg_gradient is not None:
                place += avg_gradient[:, row, column] / taps.shape[1]
    return result


def shape_of(x, stride):
    batch, height, width, channels = x.shape
    return [batch, channels, height, width, stride]


def output_of(x, stride):
    batch, height, width, channels = x.shape
    return batch, -(-height // stride), -(-width // stride), channels


def pair(kernels, x, storage, stride, orders=None):
    shape, channels = shape_of(x, stride), x.shape[3]
    floats = kernels.ask("pool_pair_scratch", storage, shape)
    largest, average, statistics = kernels.run(
        "pool_pair",
        storage,
        shape,
        x,
        Scratch(4 * floats),
        Output(output_of(x, stride), storage),
        Output(output_of(x, stride), storage),
        Output((2, 2, channels), "float32"),
        orders=orders,
    )
    return from_storage(largest, storage), from_storage(average, storage), statistics


def alone(kernels, x, storage, takes_max, stride, orders=None):
    output = Output(output_of(x, stride), storage)
    (found,) = kernels.run("pool", storage, shape_of(x, stride), takes_max, x, output, orders=orders)
    return from_storage(found, storage)


def backward(kernels, max_gradient, avg_gradient, x, storage, stride, shape=None, orders=None):
    shape = x.shape if x is not None else shape
    whole = [shape[0], shape[3], shape[1], shape[2], stride]
    output = Output(shape, storage)
    (found,) = kernels.run("pool_pair_backward", storage, whole, max_gradient, avg_gradient, x, output, orders=orders)
    return from_storage(found, storage)


def assert_close(found, exact, storage, scale=0.0, factor=4):
    assert found.shape == exact.shape
    size = max(np.abs(exact).max(initial=0), scale)
    error = np.abs(found.astype(np.float64) - exact).max(initial=0)
    assert error <= factor * EPSILON[storage] * size, f"error {error:.3g} of numbers up to {size:.3g}"


def check(kernels, shape, storage, stride, orders=None):
    x, exact = numbers(shape, storage)
    largest, average = pools(exact, stride)
    found_largest, found_average, statistics = pair(kernels, x, storage, stride, orders)
    assert np.array_equal(found_largest, largest)
    assert_close(found_average, average, storage, scale=np.abs(exact).max())
    maps = [m.reshape(-1, shape[3]).astype(np.float64) for m in (found_largest, found_average)]
    assert_close(statistics, np.array([[m.mean(0), m.var(0)] for m in maps]), "float32")
    for takes_max, paired in ((True, found_largest), (False, found_average)):
        assert np.array_equal(alone(kernels, x, storage, takes_max, stride, orders), paired)

    max_gradient, exact_max = numbers(output_of(x, stride), storage, 1)
    avg_gradient, exact_avg = numbers(output_of(x, stride), storage, 2)
    scale = np.abs(exact_max).max() + np.abs(exact_avg).max()
    found = backward(kernels, max_gradient, avg_gradient, x, storage, stride, orders=orders)
    assert_close(found, gradient_of(exact, exact_max, exact_avg, stride), storage, scale=scale)
    found = backward(kernels, max_gradient, None, x, storage, stride, orders=orders)
    assert_close(found, gradient_of(exact, exact_max, None, stride), storage, scale=scale)
    found = backward(kernels, None, avg_gradient, None, storage, stride, shape, orders)
    assert_close(found, gradient_of(exact, None, exact_avg, stride), storage, scale=scale)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_maps_statistics_and_gradients(kernels, shape, stride):
    check(kernels, shape, "float32", stride)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("storage", ["bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(3, 7, 9, 3), (5, 4, 4, 16), (1, 3, 150, 16), (1, 3, 40, 64), (2, 5, 6, 136)])
def test_halves(kernels, shape, storage, stride):
    check(kernels, shape, storage, stride)


# Longer than a strip, which ends in an odd row or an even one.
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("height", [33, 66, 71])
def test_several_strips(kernels, height, stride):
    check(kernels, (1, height, 3, 8), "float32", stride)


# So many slices of the channels that a few long strips give every multiprocessor enough to do.
@pytest.mark.parametrize(("shape", "stride"), [((1, 71, 1, 4225), 1), ((1, 71, 1, 4225), 2), ((1, 140, 2, 2113), 2)])
def test_long_strips_of_many_channels(kernels, shape, stride):
    check(kernels, shape, "float32", stride, orders=1)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(2, 7, 9, 17), (1, 5, 131, 16)])
@pytest.mark.parametrize("storage", ["float32", "bfloat16"])
@pytest.mark.parametrize("levels", [1, 2, 4])
def test_the_first_of_equal_values_gets_the_gradient(kernels, shape, storage, stride, levels):
    x, exact = stored(np.random.default_rng(levels).integers(levels, size=shape).astype(np.float32), storage)
    # Small integers add up without rounding.
    gradient, exact_gradient = stored(numbers(output_of(x, stride))[1].round().astype(np.float32), storage)
    found = backward(kernels, gradient, None, x, storage, stride)
    assert np.array_equal(found, gradient_of(exact, exact_gradient, None, stride))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(2, 7, 9, 17), (1, 5, 60, 32)])
@pytest.mark.parametrize("storage", STORAGES)
def test_nan_and_infinity_as_pytorch(kernels, shape, storage, stride):
    values = numbers(shape)[1].astype(np.float32)
    kind = np.random.default_rng(1).integers(12, size=shape)
    for number, value in enumerate((np.nan, np.inf, -np.inf)):
        values[kind == number] = value
    values[..., 1] = -np.inf
    # No window has only that one: the maxima are finite.
    values[..., 2] = numbers(shape[:3])[1]
    values[0, 0, 0, 2] = -np.inf
    x, exact = stored(values, storage)
    largest, average = pools(exact, stride)
    found_largest, found_average, statistics = pair(kernels, x, storage, stride)
    np.testing.assert_array_equal(found_largest, largest)
    np.testing.assert_allclose(found_average, average, rtol=4 * EPSILON[storage], atol=4 * EPSILON[storage])
    for pool, found in zip((found_largest, found_average), statistics, strict=True):
        pixels = pool.reshape(-1, shape[3]).astype(np.float64)
        finite = np.isfinite(pixels).all(0)
        assert finite[2] == (pool is found_largest)
        assert not np.isfinite(found[:, ~finite]).any()
        assert_close(found[:, finite], np.array([pixels[:, finite].mean(0), pixels[:, finite].var(0)]), "float32")
    gradient, exact_gradient = stored(numbers(output_of(x, stride))[1].round().astype(np.float32), storage)
    found = backward(kernels, gradient, None, x, storage, stride)
    assert np.array_equal(found, gradient_of(exact, exact_gradient, None, stride))


@pytest.mark.parametrize("stride", [1, 2])
def test_infinite_gradients_stay_where_they_belong(kernels, stride):
    x, exact = numbers((2, 6, 9, 16))
    gradient, exact_gradient = numbers(output_of(x, stride), seed=1)
    gradient[0, 1, 1, 3] = exact_gradient[0, 1, 1, 3] = np.inf
    for pair_of in ((gradient, None), (None, gradient)):
        exact_pair = [None if g is None else exact_gradient for g in pair_of]
        found = backward(kernels, *pair_of, x, "float32", stride)
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(found, gradient_of(exact, *exact_pair, stride), rtol=1e-5, atol=1e-6)


def test_empty(kernels):
    x = np.empty((0, 7, 9, 16), np.float32)
    largest, average, statistics = pair(kernels, x, "float32", 1)
    assert largest.size == average.size == 0
    assert not statistics.any()
    assert alone(kernels, x, "float32", True, 2).size == 0
    assert backward(kernels, x, x, x, "float32", 1).size == 0


# More tiles than blocks that measure: each takes several, not all as many.
def test_several_tiles_to_a_block(kernels, monkeypatch):
    monkeypatch.setattr(kernels._machine, "orders", 1)
    x, exact = numbers((2400, 2, 2, 112 * 8), "bfloat16")
    largest, average, statistics = pair(kernels, x, "bfloat16", 1)
    maps = [m.reshape(-1, x.shape[3]).astype(np.float64) for m in (largest, average)]
    assert np.array_equal(maps[0], np.repeat(exact.max((1, 2)), 4, 0))
    assert_close(statistics, np.array([[m.mean(0), m.var(0)] for m in maps]), "float32")
