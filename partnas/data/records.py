"""JSON lists of objects as typed columns, with one line on the first entry that does not fit."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from partnas.errors import PartnasError

SHOWN = 60


def read_json(path: Path) -> Any:
    """A JSON file's content.

    Raises:
        PartnasError: The file is missing, or not JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise PartnasError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise PartnasError(f"{path}: broken JSON ({str(error)[:80]}); copy the file again") from None


def entry(path: Path, record: Any, field: str, where: str) -> Any:
    """``record[field]``; ``where`` names the record in the message."""
    if not isinstance(record, dict):
        raise PartnasError(f"{path}: {where} is a {type(record).__name__}, not an object; copy the file again")
    if field not in record:
        raise PartnasError(f"{path}: {where}: field {field!r} is missing; copy the file again")
    return record[field]


def numbers(path: Path, values: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    """``values`` as finite float64 of ``shape``."""
    array = _as_numbers(values, shape)
    if array is None:
        shown = f" {str(values)[:SHOWN]}" if len(shape) == 1 else ""
        raise PartnasError(f"{path}: {where}{shown} is not {_described(shape)}; mend the annotation")
    if not np.isfinite(array).all():
        raise PartnasError(f"{path}: {where} holds a value that is not finite; mend or remove the annotation")
    return array


class Records:
    """A list of JSON objects of one kind, read column by column.

    Args:
        path: The file, for messages.
        content: The file's object.
        name: The field of ``content`` that holds the list.
        kind: What one of them is called in messages.
    """

    def __init__(self, path: Path, content: Any, name: str, kind: str):
        rows = entry(path, content, name, "the file")
        if not isinstance(rows, list):
            raise PartnasError(f"{path}: field {name!r} is a {type(rows).__name__}, not a list; copy the file again")
        self.path, self.kind, self.rows = path, kind, rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: np.ndarray) -> "Records":
        """The records at ``indices``, in that order."""
        chosen = object.__new__(Records)
        chosen.path, chosen.kind = self.path, self.kind
        chosen.rows = [self.rows[index] for index in indices.tolist()]
        return chosen

    def named(self, index: int) -> str:
        """What to call the record at ``index`` in a message: by its id where it has one."""
        row = self.rows[index]
        number = row.get("id") if isinstance(row, dict) else None
        return f"{self.kind} {number}" if number is not None else f"{self.kind} at place {index}"

    def integers(self, field: str, least: int = 0) -> np.ndarray:
        """A column of whole numbers of at least ``least``, ``(N,)`` int64."""
        values = self._values(field)
        array = _tried(values)
        if array is None or array.ndim != 1 or array.dtype.kind not in "iu" or (array < least).any():
            for index, value in enumerate(values):
                if type(value) is not int or not least <= value < 2**63:
                    raise self._wrong(index, field, value, f"a whole number of at least {least}")
        return np.array(values, dtype=np.int64)

    def strings(self, field: str) -> list[str]:
        """A column of texts that are not empty."""
        values = self._values(field)
        for index, value in enumerate(values):
            if not isinstance(value, str) or not value:
                raise self._wrong(index, field, value, "a text")
        return values

    def numbers(self, field: str, shape: tuple[int, ...]) -> np.ndarray:
        """A column of finite arrays of ``shape``, ``(N, *shape)`` float64."""
        values = self._values(field)
        array = _as_numbers(values, (len(values), *shape)) if values else np.empty((0, *shape))
        if array is None or not np.isfinite(array).all():
            for index, value in enumerate(values):
                numbers(self.path, value, shape, f"{self.named(index)}: {field}")
        return array

    def _values(self, field: str) -> list[Any]:
        try:
            return [row[field] for row in self.rows]
        except (KeyError, TypeError, IndexError):
            return [entry(self.path, row, field, self.named(index)) for index, row in enumerate(self.rows)]

    def _wrong(self, index: int, field: str, value: Any, wanted: str) -> PartnasError:
        return PartnasError(
            f"{self.path}: {self.named(index)}: {field} {str(value)[:SHOWN]!r} is not {wanted}; mend the annotation"
        )


def require_unique(path: Path, values: np.ndarray, what: str) -> None:
    """Raise where a number stands twice in ``values``."""
    found, counts = np.unique(values, return_counts=True)
    if len(found) < len(values):
        raise PartnasError(f"{path}: {what} {found[counts > 1][0]} stands twice; ids are unique across subjects")


def _tried(values: Sequence[Any]) -> np.ndarray | None:
    try:
        return np.array(values)
    except (ValueError, OverflowError):
        return None


def _as_numbers(values: Any, shape: tuple[int, ...]) -> np.ndarray | None:
    array = _tried(values)
    return (
        array.astype(np.float64) if array is not None and array.dtype.kind in "biuf" and array.shape == shape else None
    )


def _described(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) + " numbers"
