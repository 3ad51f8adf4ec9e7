import sys
from pathlib import Path

import pytest

# The plain DARTS network that the benchmarks race is the one that the cells are held to.
sys.path.append(str(Path(__file__).parents[2] / "bench"))


@pytest.fixture(autouse=True)
def always_one_thread(one_thread):
    """On networks this small, threads only wait for each other."""
