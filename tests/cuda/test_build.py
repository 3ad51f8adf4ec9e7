"""Every kernel file compiles for every architecture without a warning, spills nothing and has no local memory."""

import re

import pytest
from compiled import ARCHITECTURES, KERNELS, compile_all, find_nvcc

NVCC = find_nvcc()
pytestmark = pytest.mark.skipif(
    NVCC is None, reason="nvcc was not found; install the CUDA toolkit to compile csrc/cuda"
)


@pytest.fixture(scope="module")
def built():
    return compile_all(NVCC)


@pytest.mark.parametrize("name", [kernel.stem for kernel in KERNELS])
def test_compiles_without_warnings(built, name):
    if isinstance(built[name], AssertionError):
        pytest.fail(str(built[name]), pytrace=False)
    object_file, told = built[name]
    assert object_file.stat().st_size > 0
    kernels = re.findall(r"Compiling entry function '(\w+)' for 'sm_(\d+)'", told)
    assert len({kernel for kernel, _ in kernels}) * len(ARCHITECTURES) == len(kernels)
    assert all(int(number) in ARCHITECTURES for _, number in kernels)
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", told)
    assert len(frames) >= len(kernels)
    assert set(frames) <= {("0", "0", "0")}
