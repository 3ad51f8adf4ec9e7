import json
import os

# Products that repeat to the bit need it, and it is read once.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest
import torch
from gpu_cases import BACKENDS, DEVICE, HERE, served

from partnas.ops import use_backend


@pytest.fixture(autouse=True)
def on_a_gpu():
    """Without a GPU these tests have nothing to say, unless ``PARTNAS_GPU_TESTS_ON=cpu`` tries them out."""
    if not HERE:
        pytest.skip("no GPU")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(autouse=True)
def filled_memory(on_a_gpu):
    """Fresh memory is NaN (or the largest integer), so that an output that nobody wrote is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=BACKENDS)
def backend(request):
    """The name of the backend in use."""
    if HERE and not served(request.param, DEVICE):
        pytest.skip(f"{request.param} is not there")
    with use_backend(request.param):
        yield request.param


def pytest_runtest_logreport(report):
    """A line of JSON for each test as it ends, into the file that ``scripts/gpu_check`` names."""
    path = os.environ.get("PARTNAS_GPU_REPORT")
    if (
        not path
        or (report.when != "call" and report.outcome == "passed")
        or (report.when == "teardown" and report.passed)
    ):
        return
    message = ""
    if report.failed:
        told = [line[1:].strip() for line in report.longreprtext.splitlines() if line.startswith("E ")]
        message = " / ".join(told[:3])[:500]
    row = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 2), "message": message}
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")
