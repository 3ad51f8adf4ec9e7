"""Where the GPU tests run, on which backends, and how exact results must be."""

import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "bench"))

from backends import served

ON_CPU = os.environ.get("PARTNAS_GPU_TESTS_ON") == "cpu"
"""Whether the tests run on CPU tensors, to try out the tests themselves."""

DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() and not ON_CPU else torch.device("cpu")

HERE = ON_CPU or DEVICE.type == "cuda"
BACKENDS = ("native", "triton")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = [
    (1, 1, 1, 1),
    (3, 3, 7, 9),
    (1, 16, 3, 130),
    (2, 18, 7, 9),
    (2, 33, 5, 6),
    (2, 128, 7, 9),
    (3, 16, 1, 1),
    (1, 16, 33, 65),
]
EMPTY = (0, 16, 7, 9)
LAYOUTS = ("channels_last", "contiguous", "sliced", "expanded")

only_on_a_gpu = pytest.mark.skipif(DEVICE.type != "cuda", reason="no GPU")


def needs(backend: str, *operators: str) -> None:
    """Skip the test where ``backend`` does not run all of ``operators``."""
    missing = set(operators) - set(served(backend, DEVICE))
    if missing:
        pytest.skip(f"{backend} has no {', '.join(sorted(missing))} on {DEVICE}")


def namespace(backend: str, operator: str):
    """The namespace of ``torch.ops`` with the functions of ``operator``."""
    if backend == "native":
        return torch.ops.partnas
    from partnas.ops import namespaces

    return namespaces.triton(operator)


def numbers(shape, dtype=torch.float32, layout="channels_last", seed=0):
    """Normal numbers on the CPU in one of ``LAYOUTS``; an expanded map repeats one row down the map."""
    generator = torch.Generator().manual_seed(seed)
    if len(shape) != 4 or layout == "contiguous":
        return torch.randn(shape, generator=generator).to(dtype)
    batch, channels, height, width = shape
    if layout == "expanded":
        return torch.randn(batch, channels, 1, width, generator=generator).to(dtype).expand(shape)
    if layout == "sliced":
        wide = torch.randn(batch, channels + 2, 2 * height, width + 1, generator=generator).to(dtype)
        return wide[:, 1:-1, ::2, 1:]
    return torch.randn(shape, generator=generator).to(dtype).contiguous(memory_format=torch.channels_last)


def on_device(x: torch.Tensor) -> torch.Tensor:
    """The tensor on the device, with its strides and its place in memory: slices stay unaligned."""
    if x.numel() == 0:
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=DEVICE)
    extent = 1 + sum((size - 1) * step for size, step in zip(x.shape, x.stride(), strict=True))
    offset = x.storage_offset()
    memory = x.detach().as_strided((offset + extent,), (1,), 0).to(DEVICE, copy=True)
    return memory.as_strided(x.shape, x.stride(), offset)


def leaves_of(tensors, dtype=None, device=None):
    """Leaves that need gradients: on the device as they are, or in another dtype where told."""
    found = []
    for x in tensors:
        x = x.detach().to(dtype) if dtype else on_device(x.detach())
        found.append(x.requires_grad_())
    return found


def results(function, leaves, upstream):
    """What ``function(*leaves)`` gives, and the gradients of all leaves; ``upstream``: those of its first results."""
    outputs = function(*leaves)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    given = [g.to(out.device, out.dtype) if g.device != out.device or g.dtype != out.dtype else g
             for g, out in zip(upstream, outputs, strict=False)]  # fmt: skip
    gradients = torch.autograd.grad(outputs[: len(given)], leaves, given, allow_unused=True)
    return [out.detach() for out in outputs], list(gradients)


def check(ours, reference, tensors, upstream, scales=None):
    """Hold ours, on the device, to the reference in float64, within 4 times the error of the reference in float32.

    Args:
        ours, reference: Functions of ``tensors``.
        tensors: On the CPU, floating point, each of which gets a gradient.
        upstream: Gradients of the results, on the CPU; on the device they keep their strides.
        scales: Sizes of the terms that were added where they cancel, for results and then gradients; one rounding of
            them is always allowed.
    """
    given = [on_device(g) for g in upstream]
    found, gradients = results(ours, leaves_of(tensors), given)
    again, gradients_again = results(ours, leaves_of(tensors), given)
    exact, exact_gradients = results(reference, leaves_of(tensors, torch.float64), upstream)
    plain, plain_gradients = results(reference, leaves_of(tensors, torch.float32), upstream)
    places = [f"result {i}" for i in range(len(found))] + [f"gradient {i}" for i in range(len(gradients))]
    scales = scales or [0.0] * len(places)
    rows = zip(places, found + gradients, again + gradients_again, exact + exact_gradients,
               plain + plain_gradients, scales, strict=True)  # fmt: skip
    for place, mine, repeated, right, usual, scale in rows:
        if right is None:
            continue
        assert mine is not None, f"{place} is missing"
        assert same_bits(mine, repeated), f"{place} differs from run to run"
        assert_as_exact_as(mine, right, usual, scale, place)


def same_bits(left, right):
    if left is None or right is None:
        return left is right
    return left.dtype == right.dtype and torch.equal(left.nan_to_num(), right.nan_to_num())


def assert_as_exact_as(mine, right, usual, scale=0.0, place="result"):
    assert mine.shape == right.shape, place
    if right.numel() == 0:
        return
    mine = mine.cpu()
    assert torch.isfinite(mine).all(), f"{place} has numbers that nobody wrote"
    size = max(right.abs().max().item(), scale)
    rounded = usual.to(mine.dtype).double()
    unavoidable = max(torch.finfo(mine.dtype).eps, torch.finfo(torch.float32).eps) * size
    allowed = 4 * max((rounded - right).abs().max().item(), unavoidable)
    error = (mine.double() - right).abs().max().item()
    assert error <= allowed, f"{place}: error {error:.3g}, allowed {allowed:.3g}"
