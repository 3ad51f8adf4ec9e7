"""Triton kernels run on the GPU where there is one, and in Triton's interpreter elsewhere."""

import importlib.util
import os
import sys

import numpy as np
import pytest
import torch

if importlib.util.find_spec("triton") is None:
    collect_ignore_glob = ["test_*.py"]
elif not torch.cuda.is_available():
    # Read where a kernel is decorated, Triton's own among them: for a whole process, before the import.
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError("tests/kernels: something has imported triton already; set TRITON_INTERPRET=1 outside")
    os.environ["TRITON_INTERPRET"] = "1"
    import triton.language as tl
    from triton.runtime import interpreter

    convert_float = interpreter._convert_float

    def rounding_convert_float(values, source, target, mode):
        """The interpreter's own cuts float32 off to bfloat16 where every GPU rounds."""
        if (source, target) != (tl.float32, tl.bfloat16):
            return convert_float(values, source, target, mode)
        rounded = torch.from_numpy(np.ascontiguousarray(values).view(np.float32)).bfloat16()
        return rounded.view(torch.int16).numpy().view(np.uint16).reshape(values.shape)

    interpreter._convert_float = rounding_convert_float


@pytest.fixture
def device():
    """Where kernels run."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def filled_memory():
    """Fresh memory is NaN (or the largest integer), so that an output that nobody wrote is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
