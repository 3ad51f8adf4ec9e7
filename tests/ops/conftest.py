import pytest
import torch
from native_cpu import IMPLEMENTATIONS, implementation


@pytest.fixture
def filled_memory():
    """Fresh memory is NaN (or the largest integer), so that an output that nobody wrote is seen."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def one_thread():
    """Small work is slower on many threads; a test that is about threads sets them, and they are put back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=IMPLEMENTATIONS)
def served_by(request):
    """Goes through all implementations that this machine can run; the name of the one in use."""
    with implementation(request.param):
        yield request.param
