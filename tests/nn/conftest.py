import pytest


@pytest.fixture(autouse=True)
def always_one_thread(one_thread):
    """On networks this small, threads only wait for each other."""
