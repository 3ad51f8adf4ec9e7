import os

import pytest

from partnas.errors import PartnasError
from partnas.files import require_writable, require_writable_file


def test_what_can_be_written_or_made_passes_and_is_not_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, tmp_path / "a" / "b", "c"):
        require_writable(folder)
    require_writable_file(tmp_path / "a" / "roots.json")
    require_writable_file("roots.json")
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_a_folder_and_the_reverse(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "file/below", "link"):
        with pytest.raises(PartnasError, match="is no folder; choose another --out"):
            require_writable(tmp_path / name)
    with pytest.raises(PartnasError, match="is a folder; name a file with --out"):
        require_writable_file(tmp_path)


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(PartnasError, match="forbids it; choose another --out"):
        require_writable(tmp_path / "below")
