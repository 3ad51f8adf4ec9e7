"""Maps of every shape and stride, and the bound that plain PyTorch's own error gives."""

import contextlib
import ctypes

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch.utils._python_dispatch import TorchDispatchMode

from partnas.ops import fvcore_handles, native, use_backend
from partnas.ops.backend import AVAILABLE

SHAPES = [
    (1, 1, 1, 1),
    (3, 3, 7, 9),
    (1, 16, 3, 130),
    (3, 17, 2, 5),
    (1, 64, 7, 9),
    (1, 576, 2, 5),
    (3, 16, 1, 1),
    (2, 130, 4, 3),
    (2, 2100, 2, 2),
    (2, 16, 65, 97),
]
EMPTY = [(0, 16, 7, 9), (2, 16, 0, 9)]
LAYOUTS = ["channels_last", "contiguous", "sliced", "expanded"]
POISON = 1e38
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def backends(operator):
    """Parameters for a ``backend`` fixture: the reference, and what else serves the operator on a CPU."""
    there = native.loaded() and "cpu" in AVAILABLE[operator]
    return ["reference", pytest.param("native", marks=pytest.mark.skipif(not there, reason="not built"))]


@contextlib.contextmanager
def running_on(backend):
    with use_backend(backend):
        yield backend


only_native = pytest.mark.skipif(not native.loaded(), reason="not built")


def counted(function, *arguments):
    """fvcore's count of a function of tensors."""

    class Counted(torch.nn.Module):
        def forward(self, *inputs):
            return function(*inputs)

    analysis = FlopCountAnalysis(Counted(), arguments).set_op_handle(**fvcore_handles())
    with torch.no_grad():
        return analysis.unsupported_ops_warnings(False).tracer_warnings("none").total()


def random_map(shape, dtype=torch.float32, layout="channels_last", seed=0):
    """Normal numbers in one of ``LAYOUTS``; an expanded map repeats one row down the map."""
    generator = torch.Generator().manual_seed(seed)
    batch, channels, height, width = shape
    if layout == "expanded":
        return torch.randn(batch, channels, 1, width, generator=generator).to(dtype).expand(shape)
    if layout == "sliced":
        wide = torch.randn(batch, channels + 2, 2 * height, width + 1, generator=generator).to(dtype)
        return wide[:, 1:-1, ::2, 1:]
    x = torch.randn(shape, generator=generator).to(dtype)
    return x.to(memory_format=torch.channels_last) if layout == "channels_last" else x


def moved(x, device):
    """A copy of ``x`` on a device, with its strides."""
    every = x.untyped_storage().nbytes() // x.element_size()
    return x.as_strided((every,), (1,), 0).to(device, copy=True).as_strided(x.shape, x.stride(), x.storage_offset())


def assert_as_exact_as(actual, exact, plain, scale=0.0, factor=4.0):
    """Hold ``actual`` to ``exact`` (float64) within a small factor of the error of ``plain``.

    Args:
        plain: What plain PyTorch makes of the same inputs, in float32 rounded to the dtype of ``actual``.
        scale: Size of the terms that were added, where they cancel; one rounding of it is always allowed.
    """
    assert actual.shape == exact.shape
    assert actual.dtype == plain.dtype
    if exact.numel() == 0:
        return
    assert torch.isfinite(actual).all()
    size = max(exact.abs().max().item(), scale)
    unavoidable = max(torch.finfo(actual.dtype).eps, 1e-15) * size
    allowed = factor * max((plain.double() - exact).abs().max().item(), unavoidable)
    error = (actual.double() - exact).abs().max().item()
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"


class Allocations(TorchDispatchMode):
    """Names of the operators called, and the number of new tensors of ``elements`` numbers that they gave."""

    def __init__(self, elements):
        super().__init__()
        self.elements, self.count, self.names, self._kept = elements, 0, [], []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        results = function(*arguments, **(keywords or {}))
        self.names.append(function._schema.name)
        inputs = {t.data_ptr() for t in _tensors((arguments, keywords or {}))}
        for result in _tensors(results):
            if result.numel() == self.elements and result.data_ptr() not in inputs:
                self.count += 1
                # An address must not come back while it is compared. The tensor itself would look shared.
                self._kept.append(result.untyped_storage())
        return results


def _tensors(tree):
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


@contextlib.contextmanager
def poisoned_memory():
    """Inside, memory that PyTorch allocates comes full of numbers of at least ``POISON`` (glibc's M_PERTURB)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not mallopt(-6, 0x80):
        pytest.skip("the C library cannot fill new memory")
    try:
        for elements in (512, 1 << 20):
            assert (torch.empty(elements) >= POISON).all(), "an unwritten output would not be seen"
        yield
    finally:
        mallopt(-6, 0)
