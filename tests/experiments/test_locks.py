import threading

import pytest

from partnas.errors import PartnasError
from partnas.experiments.locks import claimed, locked


def test_what_is_held_cannot_be_claimed_until_it_is_let_go(tmp_path):
    with claimed(tmp_path / "run") as mine, claimed(tmp_path / "run") as theirs, claimed(tmp_path / "other") as free:
        assert (mine, theirs, free) == (True, False, True)
    with claimed(tmp_path / "run") as mine:
        assert mine


def test_a_held_lock_is_waited_for(tmp_path):
    order, begun = [], threading.Event()

    def wait_for_it():
        begun.set()
        with locked(tmp_path):
            order.append("second")

    thread = threading.Thread(target=wait_for_it)
    with locked(tmp_path):
        thread.start()
        begun.wait()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.parametrize("lock", [locked, claimed])
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, lock):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        PartnasError, match=r"file/run: cannot be written \(Not a directory\); choose another"
    ) as caught:
        lock(tmp_path / "file" / "run").__enter__()
    assert "\n" not in str(caught.value)
