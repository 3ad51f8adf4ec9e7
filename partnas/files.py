"""Files and folders that are written whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from partnas.errors import PartnasError


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call ``write`` on a temporary name beside ``path``, flush it to the disk, and rename it to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def require_writable(folder: Path) -> None:
    """See, before long work, that a folder can be written, or made and then written.

    Raises:
        PartnasError: It, or the nearest that exists of the folders above it, is none or is not to be written.
    """
    folder = Path(folder).absolute()
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not nearest.is_dir():
        raise PartnasError(f"{folder}: cannot be written, as {nearest} is no folder; choose another --out")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PartnasError(f"{folder}: cannot be written, as {nearest} forbids it; choose another --out")


def require_writable_file(path: Path) -> None:
    """See, before long work, that a file can be written; see :func:`require_writable`.

    Raises:
        PartnasError: It cannot, or it is a folder.
    """
    if Path(path).is_dir():
        raise PartnasError(f"{path}: is a folder; name a file with --out")
    require_writable(Path(path).parent)


def require_free(path: Path) -> None:
    """Raises PartnasError where ``path`` is neither free nor an empty folder."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise PartnasError(f"{path}: exists and is not an empty folder; give another name or remove it")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the name ``path`` when the block ends, and goes where the block fails.

    Raises:
        PartnasError: ``path`` exists and is not an empty folder, or cannot be written.
    """
    require_free(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise PartnasError(f"{path}: cannot be written ({error.strerror}); give another place") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            path.rmdir()
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
