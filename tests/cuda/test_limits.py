"""The largest sizes that launchers take are those that the bindings ask for, and say in a line where they are exceeded."""

import pytest
from emulator.build import ROOT, load, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")

ROW = 1 << 30


# Batch, channels, height, width, stride.
@pytest.mark.parametrize("shape", [[1, 4, 2, ROW // 4, 1], [1, 1, ROW, 1, 2], [9, 1, ROW, ROW, 1]])
def test_a_pool_of_the_largest_sizes_fits(shape):
    assert load("pool_pair").ask("pool_fits", shape)


@pytest.mark.parametrize("shape", [[1, 4, 2, ROW // 4 + 1, 1], [1, 1, ROW + 1, 1, 2], [1, 1, 1, ROW + 1, 1]])
def test_a_pool_beyond_them_is_refused(shape):
    kernels = load("pool_pair")
    assert not kernels.ask("pool_fits", shape)
    for name, arguments in (("pool_pair", 5), ("pool_pair_backward", 4)):
        with pytest.raises(RuntimeError, match="error 1"):
            kernels.run(name, "float32", shape, *[None] * arguments)
    with pytest.raises(RuntimeError, match="error 1"):
        kernels.run("pool", "float32", shape, True, None, None)


# Batch, height, width, channels, factor.
@pytest.mark.parametrize(
    "shape", [(1, 1, ROW // 4 - 1, 2, 2), (1, ROW // 4 - 1, 1, 1, 4), (ROW // 8, 6, 1, 1, 2), (5, 4, 3, 0, 2)]
)
def test_an_upsampling_of_the_largest_sizes_fits(shape):
    assert load("upsample").ask("upsample_fits", *shape)


@pytest.mark.parametrize("shape", [(1, 1, ROW // 4, 2, 2), (1, ROW // 4, 1, 1, 4), (ROW // 8, 7, 1, 1, 2)])
def test_an_upsampling_beyond_them_is_refused(shape):
    kernels = load("upsample")
    assert not kernels.ask("upsample_fits", *shape)
    for name in ("upsample", "upsample_backward"):
        with pytest.raises(RuntimeError, match="error 1"):
            kernels.run(name, "float32", None, *shape, None)


# Runs, and bytes of each.
@pytest.mark.parametrize("shape", [(2 * ROW - 1025, 16), (1, 2 * ROW - 1025), (1, 16 * (2 * ROW - 1025))])
def test_a_shuffle_of_the_largest_sizes_fits(shape):
    assert load("channel_shuffle").ask("channel_shuffle_fits", None, None, *shape)


@pytest.mark.parametrize("shape", [(2 * ROW - 1024, 16), (1, 2 * ROW - 1), (1, 16 * (2 * ROW - 1024))])
def test_a_shuffle_beyond_them_is_refused(shape):
    kernels = load("channel_shuffle")
    assert not kernels.ask("channel_shuffle_fits", None, None, *shape)
    with pytest.raises(RuntimeError, match="error 1"):
        kernels.run("channel_shuffle", None, None, 1, *shape, 1, None)


@pytest.mark.parametrize(
    ("operator", "asks"),
    [("pool_pair", "pool_fits"), ("upsample", "upsample_fits"), ("channel_shuffle", "channel_shuffle_fits")],
)
def test_the_binding_says_the_limit(operator, asks):
    binding = (ROOT / f"csrc/bindings/cuda/{operator}.cpp").read_text()
    _, asked, rest = binding.partition(f"STD_TORCH_CHECK({asks}(")
    assert asked
    assert "are for the reference" in rest.partition(";")[0]
