import pytest
from small_set import write_set

from partnas.errors import PartnasError


@pytest.fixture
def small_set(tmp_path):
    return write_set(tmp_path / "set", subjects=(1, 5))


@pytest.fixture
def error_line():
    """``error_line(pattern, action)``: the action ends with an error of one line that the pattern finds, and is given."""

    def check(pattern, action):
        with pytest.raises(PartnasError, match=pattern) as caught:
            action()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return check
