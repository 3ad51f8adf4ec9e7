"""The emulator itself: what CUDA defines comes out right, and what it forbids is caught.

``python tests/emulator/test_emulator.py`` prints the faults that it catches, and in which words.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from emulator.build import (
    HERE,
    Host,
    Output,
    Scratch,
    address_sanitizer,
    from_bfloat16,
    load_file,
    machine,
    missing,
    to_bfloat16,
)

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


def kernels(sanitizer=None):
    return load_file(HERE / "kernels.cu", HERE / "kernels.h", sanitizer)


def numbers(count, seed=0):
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def run(name, *arguments, sanitizer=None):
    return kernels(sanitizer).run(name, *arguments)


def f32(*shape):
    return Output(shape, "float32")


FAULTS = {
    "a barrier is missing after shared memory is written": (
        lambda: run("reverse", numbers(256), f32(256), 256, False),
        r"reverse_kernel<128>, block \(0, 0, 0\), thread .*race: .*tile.*no barrier between \(kernels.cu:\d+\)",
    ),
    "a barrier is missing before shared memory is written again": (
        lambda: run("rotate", numbers(96), f32(96), 5, False),
        "race: writes tile",
    ),
    "the same in dynamic shared memory": (
        lambda: run("reverse_dynamic", numbers(64), f32(64), 64, False),
        "race: .*dynamic shared memory",
    ),
    "__syncwarp is missing": (lambda: run("reverse_warp", numbers(64), f32(64), False), "race: .*tile"),
    "the result depends on which thread goes first, and nothing else is looked at": (
        lambda: run("reverse", numbers(256), f32(256), 256, False, sanitizer="none"),
        "not written|output 0 depends on the order in which threads run",
    ),
    "the same between a read and the next write": (
        lambda: run("rotate", numbers(96), f32(96), 5, False, sanitizer="none"),
        "output 0 depends on the order in which threads run",
    ),
    "threads add to one address without an atomic": (
        lambda: run("histogram", np.arange(99, dtype=np.int32) % 4, Output((4,), "int32"), 99, 4, False),
        "race: .*argument 1",
    ),
    "a block reads what another wrote in the same launch": (lambda: run("between_blocks", f32(4)), "another block"),
    "a read past the end of a buffer": (
        lambda: run("neighbours", numbers(100), f32(100), 100, 1),
        r"thread \(35, 0, 0\): out of bounds: reads 4 bytes 0 past the end of argument 0 \(400 bytes\)|"
        r"out of bounds: reads 4 bytes at 400 of argument 0 \(400 bytes\)",
    ),
    "a read before a buffer": (
        lambda: run("neighbours", numbers(100), f32(100), 100, -3),
        "reads 4 bytes 12 before the start of argument 0",
    ),
    "a write past the end of a buffer": (
        lambda: run("write_past", f32(9), 9, 1),
        r"out of bounds: writes 4 bytes at 36 of argument 0 \(36 bytes\)",
    ),
    "a write far from every buffer": (lambda: run("write_past", f32(9), 9, 5_000_000), "out of bounds: writes"),
    "an index outside of a shared array": (lambda: run("index_past", f32(1), 24, True), "out of bounds: index 24"),
    "an index outside of a thread's own array": (
        lambda: run("index_past", f32(1), -1, False),
        "out of bounds: index -1",
    ),
    "a 16-byte vector at an address that 16 does not divide": (
        lambda: run("read_misaligned", numbers(8), f32(4), 1),
        "misaligned",
    ),
    "a barrier that some threads never reach": (
        lambda: run("divergent", f32(128), 64, 0),
        r"divergent_kernel, block \(0, 0, 0\): divergent barrier: 40 of 64 threads \(thread \(0, 0, 0\) to thread "
        r"\(39, 0, 0\)\) wait at the barrier of kernels.cu:\d+; 24 of 64 threads .* have returned",
    ),
    "two barriers in two branches": (lambda: run("divergent", f32(128), 64, 1), "divergent barrier: it waits at"),
    "a warp barrier that two of its lanes pass by": (
        lambda: run("divergent", f32(128), 64, 2),
        "60 of 64 threads .* wait at the warp operation of kernels.cu:.* for lanes ffffffff; 4 of 64",
    ),
    "a shuffle whose mask names a lane that has returned": (
        lambda: run("divergent", f32(128), 64, 3),
        "names lanes that are not there: 5",
    ),
    "a shuffle by a lane that its mask leaves out": (
        lambda: run("divergent", f32(128), 64, 4),
        "leaves out lane 16, which calls",
    ),
    "a shuffle whose mask names lanes beyond the block": (
        lambda: run("divergent", f32(96), 48, 5),
        "names lanes that are not there: 16 17 .* 31",
    ),
    "a shuffle from a lane that its mask leaves out": (
        lambda: run("shuffles", np.arange(32, dtype=np.int32), Output((128,), "int32"), 32, 32, 0xFFFFFFF7),
        "reads lane 3, which its mask leaves out",
    ),
    "cp.async without its wait": (
        lambda: run("staged", numbers(512), f32(512), 4, False, True),
        "come from memory that was not",
    ),
    "cp.async with its wait, without the barrier": (
        lambda: run("staged", numbers(512), f32(512), 4, True, False),
        "race: .*tile",
    ),
    "an output that is not written whole": (
        lambda: run("half_written", f32(64), 64, 60),
        r"4 of 64 numbers were not written.* \(60\)",
    ),
    "the host reads device memory": (
        lambda: run("read_on_host", numbers(1), f32(1)),
        "host code: reads 4 bytes of argument 0, which is in the device's memory",
    ),
    "a kernel reads host memory": (
        lambda: run("gather", [numbers(8), numbers(8)], f32(2, 8), 2, 8, True),
        "reads 8 bytes of argument 0, which is in the host's memory",
    ),
    "an input that is written": (lambda: run("write_past", numbers(9), 9, 0), "argument 0, an input, has changed"),
    "a block of more than 1024 threads": (lambda: run("too_large", 1025, 0), "error 9"),
    "more shared memory than a multiprocessor has": (lambda: run("too_large", 32, 233_000), "error 9"),
    "the address sanitizer: a write past the end of a buffer": (
        lambda: under_address_sanitizer("write_past", "Output((9,), 'float32'), 9, 1"),
        "AddressSanitizer: use-after-poison.*write_past_kernel.*kernels.cu",
    ),
    "the address sanitizer: past the end of a shared array": (
        lambda: under_address_sanitizer("index_past", "Output((1,), 'float32'), 24, True"),
        "AddressSanitizer: global-buffer-overflow.*index_past_kernel.*kernels.cu",
    ),
    "the address sanitizer: past the end of a thread's own array": (
        lambda: under_address_sanitizer("index_past", "Output((1,), 'float32'), 24, False"),
        "AddressSanitizer: stack-buffer-overflow.*index_past_kernel.*kernels.cu",
    ),
}
"""What the emulator catches: how it is provoked, and what is said of it."""


def under_address_sanitizer(name, arguments):
    code = (
        "from emulator.build import HERE, Output, load_file\n"
        f"print(load_file(HERE / 'kernels.cu', HERE / 'kernels.h').run({name!r}, {arguments}))"
    )
    environment = {**os.environ, **address_sanitizer(), "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    if process.returncode:
        raise RuntimeError(" ".join(process.stderr.split()))
    return process.stdout


@pytest.mark.parametrize("fault", FAULTS)
def test_caught(fault):
    provoke, words = FAULTS[fault]
    with pytest.raises((machine().Fault, AssertionError, RuntimeError), match=words):
        provoke()


def test_the_address_sanitizer_lets_a_right_kernel_pass():
    assert "1." in under_address_sanitizer("write_past", "Output((9,), 'float32'), 9, 0")


def test_after_a_fault_the_next_launch_is_right():
    x = numbers(64)
    with pytest.raises(machine().Fault):
        run("reverse_dynamic", x, f32(64), 64, False)
    (y,) = run("reverse_dynamic", x, f32(64), 64, True)
    np.testing.assert_array_equal(y, x[::-1])


@pytest.mark.parametrize("sanitizer", ["own", "none"])
def test_shared_memory_and_barriers(sanitizer):
    x = numbers(1024)
    (y,) = run("reverse", x, f32(1024), 1024, True, sanitizer=sanitizer)
    np.testing.assert_array_equal(y, x.reshape(8, 128)[:, ::-1].ravel())
    (y,) = run("reverse_warp", x[:64], f32(64), True, sanitizer=sanitizer)
    np.testing.assert_array_equal(y, x[:64].reshape(2, 32)[:, ::-1].ravel())
    (y,) = run("rotate", x[:96], f32(96), 5, True, sanitizer=sanitizer)
    np.testing.assert_array_equal(y, np.roll(x[:96], -5))


@pytest.mark.parametrize("n", [1, 31, 256, 5000])
def test_a_reduction_of_a_block(n):
    x = numbers(n)
    (y,) = run("sum", x, f32(1), n)
    np.testing.assert_allclose(y[0], x.astype(np.float64).sum(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("width", [32, 16, 8])
def test_shuffles(width):
    x = np.arange(64, dtype=np.int32) + 100
    (y,) = run("shuffles", x, Output((4, 64), "int32"), 64, width, 0xFFFFFFFF)
    parts = x.reshape(-1, width)
    up, down = parts.copy(), parts.copy()
    up[:, 1:], down[:, :-1] = parts[:, :-1], parts[:, 1:]
    swapped = parts.reshape(-1, width // 2, 2)[:, :, ::-1]
    expected = [np.broadcast_to(parts[:, 3:4], parts.shape), up, down, swapped]
    np.testing.assert_array_equal(y, np.stack([each.reshape(-1) for each in expected]))


def test_a_shuffle_among_some_lanes():
    x = np.arange(32, dtype=np.int32)
    (y,) = run("shuffles", x, Output((4, 32), "int32"), 32, 8, 0xFFFF)
    assert (y[:, 16:] == -2).all()
    np.testing.assert_array_equal(y[0, :16], np.repeat([3, 11], 8))


def test_halves_of_a_warp_go_their_own_ways():
    x = numbers(32)
    (y,) = run("halves", x, f32(32))
    np.testing.assert_allclose(y[:16], x[:16].sum(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(y[16:], 16 * x[16:].sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mask", [0xFFFFFFFF, 0x0F0F0F0F])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_votes(mask, share):
    x = (np.random.default_rng(3).random(32) < share).astype(np.int32)
    (y,) = run("votes", x, Output((3, 32), "int32", whole=False), mask)
    lanes = np.array([mask >> i & 1 for i in range(32)], bool)
    ballot = sum(1 << int(i) for i in np.flatnonzero(x.astype(bool) & lanes))
    # All bits set is what unwritten memory holds, too: hence not whole.
    assert set(y[0, lanes].view(np.uint32)) == {ballot}
    assert set(y[1, lanes]) == {int(x[lanes].any())}
    assert set(y[2, lanes]) == {int(x[lanes].all())}


def test_votes_of_a_block():
    x = (np.arange(100) % 3 == 0).astype(np.int32)
    (y,) = run("block_votes", x, Output((3, 100), "int32"), 100)
    assert (y == np.array([[34], [1], [0]])).all()


def test_atomics():
    x = np.random.default_rng(1).integers(0, 7, 1000).astype(np.int32)
    (y,) = run("histogram", x, Output((7,), "int32"), 1000, 7, True)
    np.testing.assert_array_equal(y, np.bincount(x, minlength=7))


def test_asynchronous_copies():
    x = numbers(512)
    (y,) = run("staged", x, f32(4, 128), 4, True, True)
    expected = x.reshape(4, 128).copy()
    expected[1:, 124:] = 0  # what is not inside
    np.testing.assert_array_equal(y, expected)


def test_blocks_and_threads_have_their_indices():
    (y,) = run("grid_of", Output((5 * 3 * 2 * 24,), "int32"), 5, 2)
    np.testing.assert_array_equal(y, np.arange(len(y)))


def test_lists_of_maps():
    maps = [numbers(10, seed) for seed in range(3)]
    (y,) = run("gather", maps, f32(3, 10), 3, 10, False)
    np.testing.assert_array_equal(y, np.stack(maps))


def test_structures_and_functions_that_launch_nothing():
    x = numbers(15).reshape(3, 5)
    (y,) = run("transpose", [3, 5], x, f32(5, 3))
    np.testing.assert_array_equal(y, x.T)
    assert kernels().ask("transpose_scratch", [3, 5], 0.2) == 3


def test_a_host_array_is_read_by_the_host():
    (y,) = run("read_on_host", Host(np.array([4], np.float32)), Output((6,), "float32", whole=False))
    np.testing.assert_array_equal(y, [1, 1, 1, 2, np.nan, np.nan])


def test_scratch_need_not_be_written():
    assert run("write_past", Scratch(400), 9, 20) == ()


def test_an_empty_grid_is_refused():
    with pytest.raises(RuntimeError, match="error 9"):
        run("grid_of", Output((0,), "int32"), 0, 2)


def test_the_facts_of_a_file():
    assert kernels().facts == [("reverse_kernel<128>", 128, 0, 32, 0)]


HALVES = np.arange(1 << 16, dtype=np.uint16)


def test_float16_to_float32_is_exact_for_every_number():
    halves = HALVES.view(np.float16)
    (y,) = run("convert", halves, Output((1 << 16,), "float32", whole=False), 1 << 16, "float16", "float32")
    np.testing.assert_array_equal(y, halves.astype(np.float32))


def test_bfloat16_to_float32_is_exact_for_every_number():
    (y,) = run("convert", HALVES, Output((1 << 16,), "float32", whole=False), 1 << 16, "bfloat16", "float32")
    np.testing.assert_array_equal(y, from_bfloat16(HALVES))


def test_float32_is_rounded_to_the_nearest():
    rng = np.random.default_rng(2)
    x = rng.integers(0, 1 << 32, 1 << 17, dtype=np.uint64).astype(np.uint32).view(np.float32)
    # Exactly half-way between two halves, and next to it.
    ties = HALVES.view(np.float16).astype(np.float32)[:-1]
    with np.errstate(all="ignore"):
        ties = (ties + HALVES.view(np.float16).astype(np.float32)[1:]) / 2
        x = np.concatenate([x, ties, np.nextafter(ties, np.float32(np.inf)), 6e-5 * numbers(1 << 12)]).astype(
            np.float32
        )
        expected = x.astype(np.float16)
    (y,) = run("convert", x, Output(x.shape, "float16"), len(x), "float32", "float16")
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(np.signbit(y[~np.isnan(y)]), np.signbit(expected[~np.isnan(y)]))

    (y,) = run("convert", x, Output(x.shape, "bfloat16"), len(x), "float32", "bfloat16")
    np.testing.assert_array_equal(y, to_bfloat16(x))
    torch = pytest.importorskip("torch")
    numeric = ~np.isnan(x)
    theirs = torch.from_numpy(x).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(y[numeric], theirs[numeric])


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "float16"])
def test_vectors_of_16_bytes(storage):
    x = numbers(1024)
    x = {"float32": x, "float16": x.astype(np.float16), "bfloat16": to_bfloat16(x)}[storage]
    (y,) = run("copy_vectors", x, Output(x.shape, storage), 1024, storage)
    np.testing.assert_array_equal(y, x)


if __name__ == "__main__":
    for name, (provoke, _) in FAULTS.items():
        try:
            provoke()
            said = "NOT CAUGHT"
        except Exception as error:
            said = str(error)
        print(f"{name}\n    {said if len(said) < 300 else said[:300] + ' ...'}")
