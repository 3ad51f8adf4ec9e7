"""Locks by which processes share the folder of an experiment. One that ends, however it does, lets go of its locks."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from partnas.errors import PartnasError

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock inside the block, waiting for it; the folder is made where it is missing.

    Raises:
        PartnasError: The folder cannot be made or written.
    """
    with _lock_file(folder) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """:func:`locked` without the wait; gives False where another process holds the lock."""
    with _lock_file(folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_mine = True
        except BlockingIOError:
            is_mine = False
        yield is_mine


def _lock_file(folder: Path) -> IO[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return open(folder / LOCK, "w")
    except OSError as error:
        raise PartnasError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from None
