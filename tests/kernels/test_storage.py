"""Kernels compute in float32: maps that it does not hold are refused, rather than rounded."""

import importlib

import pytest
import torch

from partnas.errors import PartnasError
from partnas.ops import namespaces, soft_argmax_3d, use_backend
from partnas.ops.depthwise_bank import depthwise_bank
from partnas.ops.norm_sum import norm_stats, norm_sum
from partnas.ops.pool_pair import avg_pool, max_pool, pool_pair
from partnas.ops.upsample import upsample

REFUSED = "dtype must be float32, bfloat16, float16 or float64, got "
STATISTICS, WEIGHTS, NONE = torch.zeros(1, 2, 3), torch.ones(1, 3), torch.ones(0)
FILTER = ([torch.ones(3, 3, 3)], [1], 1, None, None, None, 0.0, True)

# Of each operator, its functions and how they are called on a map.
CALLS = {
    "upsample": {
        "upsample": lambda f, x: f(x, 2),
        "upsample_backward": lambda f, x: f(x, 2),
    },
    "pool_pair": {
        "pool_pair": lambda f, x: f(x, 1),
        "pool_pair_backward": lambda f, x: f(x, x, x, 1),
        "pool": lambda f, x: f(x, True, 1),
        "pool_backward": lambda f, x: f(x, x, False, 1),
    },
    "norm_sum": {
        "norm_stats": lambda f, x: f([x.float(), x]),
        "norm_sum": lambda f, x: f([x], STATISTICS, WEIGHTS, [], NONE, None, 0.0),
        "norm_sum_reduce": lambda f, x: f(x, [x], STATISTICS, []),
        "norm_sum_backward": lambda f, x: f(x, [x], STATISTICS, WEIGHTS, torch.ones(2, 3), NONE, [0], [], 0.0),
    },
    "depthwise_bank": {
        "depthwise_bank": lambda f, x: f(x, *FILTER),
        "depthwise_bank_backward": lambda f, x: f([x], x, *FILTER, [1, 0, 0, 1], False),
    },
    "soft_argmax_3d": {
        "soft_argmax_3d": lambda f, x: f(x[None], [0]),
        "soft_argmax_3d_backward": lambda f, x: f(torch.ones(1, 1, 3), x[None], torch.ones(1, 1, 5), [0]),
    },
}


@pytest.mark.filterwarnings("ignore:Casting complex values")
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int32, torch.int64, torch.complex64], ids=str)
@pytest.mark.parametrize("operator", CALLS)
def test_other_dtypes_are_refused(operator, dtype):
    assert list(CALLS[operator]) == namespaces.functions(operator)
    kernels = importlib.import_module(f"partnas.kernels.{operator}")
    for name, call in CALLS[operator].items():
        with pytest.raises(PartnasError, match=REFUSED + str(dtype)):
            call(getattr(kernels, name), torch.ones(1, 3, 4, 4, dtype=dtype))


@pytest.mark.parametrize("operator", CALLS)
def test_float64_is_for_the_reference(operator):
    kernels = importlib.import_module(f"partnas.kernels.{operator}")
    for name, call in CALLS[operator].items():
        with pytest.raises(PartnasError, match="float64 maps are left to the reference"):
            call(getattr(kernels, name), torch.ones(1, 3, 4, 4, dtype=torch.float64))


@pytest.mark.parametrize(
    ("call", "dtype"),
    [
        (max_pool, torch.int64),
        (avg_pool, torch.int32),
        (pool_pair, torch.int32),
        (lambda x: upsample(x, 2), torch.bool),
        (lambda x: upsample(x, 4), torch.int64),
        (lambda x: depthwise_bank(x, [torch.ones(3, 3, 3, device=x.device)], dilations=[1]), torch.int32),
        (lambda x: norm_stats([x]), torch.int64),
        (lambda x: norm_sum([x], *(t.to(x.device) for t in (STATISTICS, WEIGHTS))), torch.complex64),
    ],
)
def test_the_public_operators_refuse_them(device, call, dtype):
    x = torch.ones(1, 3, 4, 4, dtype=dtype, device=device)
    with use_backend("triton"), pytest.raises(PartnasError, match=REFUSED + str(dtype)):
        call(x)


def test_soft_argmax_3d_refuses_them_before_any_backend(device):
    heatmaps = torch.ones(1, 3, 4, 4, dtype=torch.int64, device=device)
    with use_backend("triton"), pytest.raises(PartnasError, match="int64; use float32, bfloat16, float16 or float64"):
        soft_argmax_3d(heatmaps, 3)
