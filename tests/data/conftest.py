import pytest
from small_set import write_set


@pytest.fixture
def small_set(tmp_path):
    return write_set(tmp_path / "set", subjects=(1, 5))
