"""The kernels of csrc/cuda/norm_sum.cu, run by the emulator, held to the definition in float64."""

import numpy as np
import pytest
from emulator.build import Host, Output, Scratch, from_storage, load, missing, to_storage

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")

STORAGES = ["float32", "bfloat16", "float16"]
EPSILON = {"float32": 2.0**-23, "bfloat16": 2.0**-8, "float16": 2.0**-10}
EPS = 1e-5

# (rows, C): single numbers, channels in whole vectors and not, several slices of them, several segments of rows.
SHAPES = [(1, 1), (63, 3), (390, 16), (35, 18), (7, 33), (130, 128), (5, 152), (4, 2100), (9, 576)]


@pytest.fixture(scope="module")
def kernels():
    return load("norm_sum")


def numbers(shape, storage="float32", seed=0):
    """Normal numbers as they are stored, and the same in float64."""
    stored = to_storage(np.random.default_rng(seed).standard_normal(shape).astype(np.float32), storage)
    return stored, from_storage(stored, storage).astype(np.float64)


def several(count, shape, storage="float32", seed=0):
    both = [numbers(shape, storage, seed + i) for i in range(count)]
    return [stored for stored, _ in both], [exact for _, exact in both]


def moments(maps):
    return np.array([[z.mean(0), z.var(0)] for z in maps]).reshape(len(maps), 2, -1)


def stats(kernels, maps, storage):
    rows = Host(np.array([len(z) for z in maps], np.int64))
    channels = maps[0].shape[1]
    floats = kernels.ask("norm_stats_scratch", storage, rows, len(maps), channels)
    (found,) = kernels.run(
        "norm_stats",
        storage,
        maps,
        rows,
        len(maps),
        channels,
        Scratch(4 * floats),
        Output((len(maps), 2, channels), "float32"),
    )
    return found


def assert_close(found, exact, storage="float32", scale=0.0, factor=4):
    assert found.shape == exact.shape
    size = max(np.abs(exact).max(initial=0), scale)
    error = np.abs(found.astype(np.float64) - exact).max(initial=0)
    assert error <= factor * EPSILON[storage] * size, f"error {error:.3g} of numbers up to {size:.3g}"


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("shape", SHAPES)
def test_statistics(kernels, shape, storage):
    stored, exact = several(2, shape, storage)
    assert_close(stats(kernels, stored, storage), moments(exact))


@pytest.mark.parametrize("channels", [16, 3])
def test_statistics_of_maps_of_several_sizes(kernels, channels):
    rows = [5, 0, 1300, 1, 64]
    stored, exact = zip(*[numbers((n, channels), seed=n) for n in rows], strict=True)
    found = stats(kernels, list(stored), "float32")
    for n, z, mine in zip(rows, exact, found, strict=True):
        assert_close(mine, np.array([z.mean(0), z.var(0)]) if n else np.zeros((2, channels)), scale=1)


def test_statistics_of_as_many_maps_as_there_may_be(kernels):
    stored, exact = several(120, (3, 8), "bfloat16")
    assert_close(stats(kernels, stored, "bfloat16"), moments(exact))


@pytest.mark.parametrize("shape", [(2000, 17), (63, 64), (1500, 16)])
@pytest.mark.parametrize("outlier", [False, True])
def test_large_mean_and_small_variance(kernels, shape, outlier):
    z = (1e3 + numbers(shape, seed=3)[1]).astype(np.float32)
    if outlier:
        z[0] = -1e3
    found, exact = stats(kernels, [z], "float32")[0], moments([z.astype(np.float64)])[0]
    assert (np.abs(found - exact) <= 2e-6 * np.abs(exact)).all()


@pytest.mark.parametrize("value", [0.0, 0.1, 1e3 + 0.1, -1e6])
def test_constant_maps_have_no_variance(kernels, value):
    z = np.full((1500, 16), value, np.float32)
    mean, variance = stats(kernels, [z], "float32")[0]
    assert (mean == z[0]).all()
    assert (variance == 0).all()


def test_nan_and_infinity_stay_in_their_channel(kernels):
    z, _ = numbers((300, 16))
    z[7, 3], z[200, 5], z[0, 9] = np.nan, np.inf, -np.inf
    found = stats(kernels, [z], "float32")[0]
    spoilt = ~np.isfinite(found)
    assert np.flatnonzero(spoilt.all(0)).tolist() == [3, 5, 9]
    assert np.flatnonzero(spoilt.any(0)).tolist() == [3, 5, 9]
    output = run_sum(kernels, [z], found[None], np.ones((1, 16), np.float32), [], None)
    assert np.flatnonzero(np.isnan(output).all(0)).tolist() == [3, 5, 9]
    assert np.flatnonzero(np.isnan(output).any(0)).tolist() == [3, 5, 9]


class Case:
    """Maps with their statistics and weights, identities, a shift and a gradient."""

    def __init__(self, shape, maps, identities, storage="float32", seed=0):
        self.shape, self.storage = shape, storage
        channels = shape[1]
        generator = np.random.default_rng(100 + seed)
        self.maps, self.exact_maps = several(maps, shape, storage, seed)
        self.identities, self.exact_identities = several(identities, shape, storage, seed + 50)
        self.gradient, self.exact_gradient = numbers(shape, storage, seed + 99)
        self.weights = generator.standard_normal((maps, channels)).astype(np.float32)
        self.identity_weights = generator.standard_normal(identities).astype(np.float32)
        self.shift = generator.standard_normal(channels).astype(np.float32)
        self.statistics = np.empty((maps, 2, channels), np.float32)
        self.statistics[:, 0] = generator.standard_normal((maps, channels))
        self.statistics[:, 1] = generator.uniform(0.2, 2, (maps, channels))
        self.means = generator.standard_normal((1 + maps, channels)).astype(np.float32)

    def normalised(self, k):
        mean, variance = self.statistics[k].astype(np.float64)
        return (self.exact_maps[k] - mean) / np.sqrt(variance + EPS)


def run_sum(kernels, maps, statistics, weights, identities, identity_weights, shift=None, storage="float32"):
    rows, channels = (*maps, *identities)[0].shape
    (found,) = kernels.run(
        "norm_sum",
        storage,
        [*maps, *identities],
        len(maps),
        len(identities),
        statistics,
        weights,
        identity_weights,
        shift,
        rows,
        channels,
        EPS,
        Output((rows, channels), storage),
    )
    return from_storage(found, storage)


def check_sum(kernels, case, with_shift):
    exact = np.zeros(case.shape) + (case.shift if with_shift else 0)
    for k in range(len(case.maps)):
        exact = exact + case.weights[k] * case.normalised(k)
    for x, weight in zip(case.exact_identities, case.identity_weights, strict=True):
        exact = exact + float(weight) * x
    found = run_sum(
        kernels,
        case.maps,
        case.statistics,
        case.weights,
        case.identities,
        case.identity_weights,
        case.shift if with_shift else None,
        case.storage,
    )
    assert_close(found, exact, case.storage)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("shape", SHAPES)
def test_sum(kernels, shape, storage):
    check_sum(kernels, Case(shape, 3, 1, storage), with_shift=shape[1] % 2 == 0)


# Up to the number that makes slices narrower, and the most there may be.
@pytest.mark.parametrize(("maps", "identities"), [(1, 0), (0, 2), (24, 5), (60, 1), (115, 5)])
@pytest.mark.parametrize("shape", [(20, 144), (20, 33)])
def test_sum_of_so_many(kernels, maps, identities, shape):
    check_sum(kernels, Case(shape, maps, identities, "float32"), with_shift=False)


def check_reduce(kernels, case, measured=True):
    rows, channels = case.shape
    maps = case.maps if measured else []
    floats = kernels.ask("norm_sum_reduce_scratch", case.storage, len(maps), len(case.identities), rows, channels)
    sums, dots = kernels.run(
        "norm_sum_reduce",
        case.storage,
        case.gradient,
        [*maps, *case.identities],
        len(maps),
        len(case.identities),
        case.statistics[: len(maps)],
        rows,
        channels,
        Scratch(4 * floats),
        Output((1 + len(maps), channels), "float32"),
        Output((len(case.identities),), "float32"),
    )
    g = case.exact_gradient
    centred = [z - case.statistics[k, 0] for k, z in enumerate(case.exact_maps[: len(maps)])]
    assert_close(sums, np.array([g.sum(0), *((g * z).sum(0) for z in centred)]), scale=max(rows, 1) ** 0.5)
    exact = np.array([(g * x).sum() for x in case.exact_identities])
    assert_close(dots, exact, scale=max(rows * channels, 1) ** 0.5)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("shape", [*SHAPES, (0, 16)])
def test_reduce(kernels, shape, storage):
    check_reduce(kernels, Case(shape, 2, 1, storage))


@pytest.mark.parametrize(("maps", "identities"), [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 7), (9, 0), (24, 5)])
@pytest.mark.parametrize("shape", [(300, 16), (30, 33), (20, 144)])
def test_reduce_of_so_many(kernels, maps, identities, shape):
    check_reduce(kernels, Case(shape, maps, identities, "bfloat16"))


def test_reduce_of_identities_alone_beside_maps(kernels):
    check_reduce(kernels, Case((33, 16), 3, 2), measured=False)


def check_backward(kernels, case, wanted, wanted_identities):
    rows, channels = case.shape
    outputs = [Output(case.shape, case.storage) for _ in (*wanted, *wanted_identities)]
    found = kernels.run(
        "norm_sum_backward",
        case.storage,
        case.gradient,
        [case.maps[k] for k in wanted],
        Host(np.array(wanted, np.int64)),
        len(wanted),
        Host(np.array(wanted_identities, np.int64)),
        len(wanted_identities),
        case.statistics,
        case.weights,
        case.means,
        case.identity_weights,
        rows,
        channels,
        EPS,
        outputs,
    )
    assert len(found) == len(outputs)
    g = case.exact_gradient
    for k, mine in zip(wanted, found, strict=False):
        rstd = 1 / np.sqrt(case.statistics[k, 1].astype(np.float64) + EPS)
        centred = case.exact_maps[k] - case.statistics[k, 0]
        exact = case.weights[k] * rstd * (g - case.means[0] - centred * rstd**2 * case.means[1 + k])
        assert_close(from_storage(mine, case.storage), exact, case.storage)
    for index, mine in zip(wanted_identities, found[len(wanted) :], strict=True):
        assert_close(from_storage(mine, case.storage), float(case.identity_weights[index]) * g, case.storage)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("shape", SHAPES)
def test_backward(kernels, shape, storage):
    check_backward(kernels, Case(shape, 3, 2, storage), [2, 0], [1])


@pytest.mark.parametrize(("maps", "identities"), [(1, 0), (0, 2), (24, 5), (60, 0), (118, 2)])
@pytest.mark.parametrize("shape", [(20, 144), (20, 33)])
def test_backward_of_so_many(kernels, maps, identities, shape):
    check_backward(kernels, Case(shape, maps, identities), list(range(maps)), list(range(identities)))


def test_empty_maps_and_nothing_wanted(kernels):
    case = Case((0, 16), 2, 1)
    check_sum(kernels, case, with_shift=False)
    check_backward(kernels, case, [1], [0])
    check_backward(kernels, Case((3, 16), 2, 1), [], [])


# More rows and slices than blocks are launched for: each takes several tiles, and the last of them is not full.
@pytest.mark.parametrize("shape", [(34000, 48), (2300, 520)])
def test_several_tiles_to_a_block(kernels, shape, monkeypatch):
    case = Case(shape, 2, 1, "bfloat16")
    monkeypatch.setattr(kernels._machine, "orders", 1)
    assert_close(stats(kernels, case.maps, "bfloat16"), moments(case.exact_maps))
    check_sum(kernels, case, with_shift=True)
    check_reduce(kernels, case)
    check_backward(kernels, case, [0, 1], [0])
