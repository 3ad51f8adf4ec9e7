"""JSON lists of objects as typed columns: one line on the first entry that does not fit, or all such left out.

A file of a million annotations holds gigabytes as Python objects. Here its lists are cut into raw entries first, which
are decoded a few thousand at a time; only the columns stay.
"""

import codecs
import gc
import json
import mmap
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from tqdm import tqdm

from partnas.errors import PartnasError

SHOWN = 60
BATCH = 4096
"""Entries that are Python objects at any one time."""

FLAGS = (0, 1, 2)
"""What COCO says of a joint: not labelled, labelled and hidden, labelled and seen. True and false are among them."""

NOT_FINITE = {b"NaN": b"9e999", b"Infinity": b"9e999", b"-Infinity": b"-9e999"}
"""What Python writes though JSON lacks it, as numbers beyond float64: valid JSON, and read as infinite."""


def read_json(path: Path) -> Any:
    """A JSON file's content; ``NaN`` and ``Infinity`` are read as Python writes them.

    Raises:
        PartnasError: The file is missing, or not JSON.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        with _uncollected():
            return msgspec.json.decode(content)
    except (ValueError, RecursionError):
        pass
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise PartnasError(f"{path}: broken JSON ({str(error)[:80]}); copy the file again") from None


def read_lists(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Sequence[Any]]:
    """Lists of a JSON file's top-level object, their entries not decoded yet where the file is sound; see :class:`Table`.

    Returns:
        A list for each name; empty for one of ``optional`` that the file lacks.

    Raises:
        PartnasError: The file is missing or not JSON, or a list is missing or none.
    """
    fields = [(name, list[msgspec.Raw]) for name in required]
    fields += [(name, list[msgspec.Raw], msgspec.field(default_factory=list)) for name in optional]
    decoder = msgspec.json.Decoder(msgspec.defstruct("Lists", fields))
    try:
        with open(path, "rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # lives as long as the raw entries do
    except OSError as error:
        raise _unreadable(path, error) from None
    except ValueError:  # an empty file
        content = b""
    for spelling in (memoryview, _strict):
        try:
            with _uncollected():
                lists = decoder.decode(spelling(content))
            return {name: getattr(lists, name) for name in (*required, *optional)}
        except (ValueError, RecursionError):
            pass
    whole = read_json(path)
    found = {name: entry(path, whole, name, "the file") for name in required}
    found |= {name: whole.get(name, []) for name in optional}
    for name, rows in found.items():
        if not isinstance(rows, list):
            raise PartnasError(f"{path}: field {name!r} is a {type(rows).__name__}, not a list; copy the file again")
    return found


def decoded(rows: Sequence[Any]) -> list[Any]:
    """Entries as Python objects, whether they are raw or not."""
    if not rows or not isinstance(rows[0], msgspec.Raw):
        return list(rows)
    content = b"[" + b",".join(rows) + b"]"
    try:
        return msgspec.json.decode(content)
    except ValueError:
        return json.loads(content)


def entry(path: Path, record: Any, field: str, where: str) -> Any:
    """``record[field]``; ``where`` names the record in the message."""
    if not isinstance(record, dict):
        raise PartnasError(f"{path}: {where} is a {type(record).__name__}, not an object; copy the file again")
    if field not in record:
        raise PartnasError(f"{path}: {where}: field {field!r} is missing; copy the file again")
    return record[field]


def numbers(path: Path, value: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    """``value`` as finite float64 of ``shape``."""
    kind = Numbers(shape)
    array = kind.column([value])
    if array is None:
        raise PartnasError(f"{path}: {where} {kind.fault(value)}; mend or remove it")
    return array[0]


class Column(Protocol):
    """What the values of one field must be."""

    default: float | None
    """What the array holds where an entry lacks the field; None where the field is required."""

    def column(self, values: list[Any]) -> np.ndarray | None:
        """The values as an array; None where one of them does not fit."""

    def fault(self, value: Any) -> str:
        """What is wrong with a value that does not fit."""

    def filler(self) -> Any:
        """A value that fits."""


@dataclass(frozen=True)
class Numbers:
    """Finite numbers of one shape, nested or in one flat list; of dtype bool 0, 1 or 2."""

    shape: tuple[int, ...] = ()
    dtype: type = np.float64
    default: float | None = None

    def column(self, values: list[Any]) -> np.ndarray | None:
        shape = (len(values), *self.shape)
        if not values:
            return np.empty(shape, self.dtype)
        array = _tried(values)
        if array is None or array.dtype.kind not in "biuf" or array.shape not in (shape, (len(values), self._size())):
            return None
        return self._cast(array).reshape(shape) if self._is_finite(array) and self._is_flag(array) else None

    def fault(self, value: Any) -> str:
        array = _tried([value])
        if array is not None and array.dtype.kind == "f" and not self._is_finite(array):
            return "holds a value that is not finite"
        if array is not None and array.dtype.kind in "biuf" and not self._is_flag(array):
            return "holds a flag that is none of 0, 1 and 2"
        shown = f"{repr(value)[:SHOWN]} " if len(self.shape) < 2 else ""
        return f"{shown}is not {' x '.join(map(str, self.shape))} numbers" if self.shape else f"{shown}is not a number"

    def filler(self) -> Any:
        return np.zeros(self.shape).tolist()

    def _is_finite(self, array: np.ndarray) -> bool:
        return bool(np.isfinite(array).all() and np.isfinite(self._cast(array)).all())

    def _is_flag(self, array: np.ndarray) -> bool:
        """Whether booleans can stand for it."""
        return self.dtype is not np.bool_ or bool(np.isin(array, FLAGS).all())

    def _cast(self, array: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return array.astype(self.dtype)

    def _size(self) -> int:
        return int(np.prod(self.shape))


@dataclass(frozen=True)
class Whole:
    """Whole numbers of at least ``least``, int64."""

    least: int = 0
    default: int | None = None

    def column(self, values: list[Any]) -> np.ndarray | None:
        array = _tried(values)
        if array is None or array.ndim != 1 or array.dtype.kind not in "iu" or (array < self.least).any():
            return None if values else np.empty(0, np.int64)
        if bool in map(type, values):  # NumPy makes numbers of them where numbers stand beside them
            return None
        return None if (array > np.iinfo(np.int64).max).any() else array.astype(np.int64)

    def fault(self, value: Any) -> str:
        return f"{str(value)[:SHOWN]!r} is not a whole number of at least {self.least} in 64 bits"

    def filler(self) -> Any:
        return self.least


@dataclass(frozen=True)
class Text:
    """Texts that are not empty, as UTF-8 bytes."""

    default: None = None

    def column(self, values: list[Any]) -> np.ndarray | None:
        if not all(isinstance(value, str) and value for value in values):
            return None
        try:
            return np.array([value.encode() for value in values], dtype=np.bytes_)
        except UnicodeEncodeError:
            return None

    def fault(self, value: Any) -> str:
        return f"{str(value)[:SHOWN]!r} is not a text"

    def filler(self) -> Any:
        return "-"


Rule = tuple[str, Callable[[np.ndarray], np.ndarray]]
"""A field, and a test of its column for entries that are not wanted."""


@dataclass
class Table:
    """Entries of one kind, as columns.

    Attributes:
        path: The file, for messages.
        kind: What one entry is called in messages.
        columns: By field, over the entries that are left.
        skip_broken: List and leave out a broken entry instead of raising.
        key: The field by which messages name an entry.
        places: ``(N,)`` where the entries that are left stand in the file's list.
        faults: By place in the file's list, one line on each entry that was left out as broken.
        left_out: How many sound entries a rule of the set leaves out, by reason.
    """

    path: Path
    kind: str
    columns: dict[str, np.ndarray]
    skip_broken: bool = False
    key: str = "id"
    places: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    faults: dict[int, str] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        path: Path,
        rows: Sequence[Any],
        kind: str,
        columns: Mapping[str, Column],
        skip_broken: bool = False,
        leave_out: Mapping[str, Rule] | None = None,
        key: str = "id",
    ) -> "Table":
        """Read a list of objects.

        Args:
            path: The file that it comes from.
            rows: Objects, or their raw JSON.
            kind: What one of them is called in messages.
            columns: The fields to read.
            skip_broken: List and leave out a broken entry instead of raising.
            leave_out: By reason, a field and a test of its column: entries that pass are not wanted, and their other
                fields are not looked at.
            key: The field by which messages name an entry.

        Raises:
            PartnasError: An entry is broken, and ``skip_broken`` is off.
        """
        table = cls(path, kind, {}, skip_broken, key)
        with _uncollected():
            batches = [
                table._read_batch(start, part, columns, leave_out or {}) for start, part in _batches(rows, path.name)
            ]
        batches = batches or [table._read_batch(0, [], columns, leave_out or {})]
        for name in columns:
            table.columns[name] = np.concatenate([batch.pop(name) for _, batch in batches])
        table.places = np.concatenate([places for places, _ in batches])
        return table

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, field: str) -> np.ndarray:
        return self.columns[field]

    @property
    def skipped(self) -> list[str]:
        """One line on each broken entry, in the file's order."""
        return [self.faults[place] for place in sorted(self.faults)]

    def named(self, index: int) -> str:
        """What to call an entry in a message."""
        if self.key in self.columns:
            return f"{self.kind} {_shown_id(self.columns[self.key][index])}"
        return f"{self.kind} at place {self.places[index]}"

    def keep(self, chosen: np.ndarray, reason: str = "") -> None:
        """Keep the entries that ``chosen`` (a mask) names; count the others under ``reason`` where one is given."""
        if reason and not chosen.all():
            self.left_out[reason] = self.left_out.get(reason, 0) + int((~chosen).sum())
        self.columns = {name: values[chosen] for name, values in self.columns.items()}
        self.places = self.places[chosen]

    def require(self, good: np.ndarray, fault: Callable[[int], str], fatal: bool = True) -> None:
        """Raise for the first entry that is not ``good`` (a mask); with ``skip_broken``, list and leave out all such.

        Args:
            good: ``(N,)`` bool.
            fault: From an entry's index to what is wrong with it, and the fix.
            fatal: Whether there is anything to raise; if not, such entries are listed and left out always.
        """
        if good.all():
            return
        for index in np.flatnonzero(~good).tolist():
            self._broken(self.places[index], f"{self.path}: {self.named(index)}: {fault(index)}", fatal)
        self.keep(good)

    def require_unique(self) -> None:
        """Require that no id stands twice; the first of each is good."""
        values = self.columns["id"]
        first = np.zeros(len(values), bool)
        first[np.unique(values, return_index=True)[1]] = True
        self.require(first, lambda index: f"id {values[index]} stands twice; give each its own")

    def join(self, other: "Table", field: str, column: str) -> None:
        """Add ``column``, the index in ``other`` of the entry whose id ``field`` holds."""
        ids, wanted = other["id"], self.columns[field]
        order = np.argsort(ids)
        place = np.minimum(np.searchsorted(ids[order], wanted), max(len(ids) - 1, 0))
        found = ids[order][place] == wanted if len(ids) else np.zeros(len(wanted), bool)
        self.columns[column] = order[place] if len(ids) else np.zeros(len(wanted), np.int64)
        self.require(
            found,
            lambda index: (
                f"{field} {wanted[index]} names no usable {other.kind}; mend the {self.kind} or the {other.kind}"
            ),
        )

    def _read_batch(
        self,
        start: int,
        rows: list[Any],
        columns: Mapping[str, Column],
        leave_out: Mapping[str, Rule],
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        faults: dict[int, str] = {}
        wanted = np.ones(len(rows), bool)
        for place, row in enumerate(rows):
            if not isinstance(row, dict):
                faults[place] = (
                    f"{self.kind} at place {start + place} is a {type(row).__name__}, not an object; mend or remove it"
                )
                rows[place], wanted[place] = {}, False
        for reason, (name, unwanted) in leave_out.items():
            places = np.flatnonzero(wanted)
            values, bad = _column(name, columns[name], [rows[place] for place in places])
            out = unwanted(values)
            out[list(bad)] = False
            wanted[places[out]] = False
            self.left_out[reason] = self.left_out.get(reason, 0) + int(out.sum())
        places = np.flatnonzero(wanted)
        rows_wanted = [rows[place] for place in places]
        read = {}
        for name, column in columns.items():
            read[name], bad = _column(name, column, rows_wanted)
            for index, fault in bad.items():
                row, place = rows_wanted[index], int(places[index])
                named = _shown_id(row[self.key]) if self.key in row else f"at place {start + place}"
                faults.setdefault(place, f"{self.kind} {named}: {fault}; mend or remove it")
        for place in sorted(faults):
            self._broken(start + place, f"{self.path}: {faults[place]}")
        good = ~np.isin(places, list(faults))
        return start + places[good], {name: values[good] for name, values in read.items()}

    def _broken(self, place: int, line: str, fatal: bool = True) -> None:
        if fatal and not self.skip_broken:
            raise PartnasError(line)
        self.faults[int(place)] = line


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the cyclic collector, which looks through every list of numbers again and again: 2.6 times as slow."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _batches(rows: Sequence[Any], title: str) -> Iterator[tuple[int, list[Any]]]:
    """Runs of at most ``BATCH`` entries, decoded, each with the place of its first."""
    starts = range(0, len(rows), BATCH)
    for start in tqdm(starts, desc=title, unit_scale=BATCH, unit=" entries", delay=2, leave=False, disable=None):
        yield start, decoded(rows[start : start + BATCH])


def _strict(content: Any) -> bytes:
    """JSON as Python writes it in JSON's own words: :data:`NOT_FINITE`, and no byte order mark."""
    start = len(codecs.BOM_UTF8) if content[:3] == codecs.BOM_UTF8 else 0
    parts, in_text = [], False
    for token in re.finditer(rb"-?Infinity|NaN", content):
        part = content[start : token.start()]
        in_text ^= re.sub(rb"\\.", b"", part).count(b'"') % 2 == 1
        parts += [part, token[0] if in_text else NOT_FINITE[token[0]]]
        start = token.end()
    return b"".join([*parts, content[start:]])


def _column(name: str, kind: Column, rows: list[dict[str, Any]]) -> tuple[np.ndarray, dict[int, str]]:
    """A field of all rows as an array, with a filler at each row that does not fit, and what is wrong with that row."""
    values = [row.get(name) for row in rows]
    array = kind.column(values)
    if array is not None:
        return array, {}
    faults, singles = {}, []
    for index, value in enumerate(values):
        single = kind.column([value])
        if single is None:
            single = kind.column([kind.filler()])
            if name in rows[index]:
                faults[index] = f"{name} {kind.fault(value)}"
            elif kind.default is None:
                faults[index] = f"field {name!r} is missing"
            else:
                single[:] = kind.default
        singles.append(single)
    return np.concatenate(singles), faults


def _tried(values: Sequence[Any]) -> np.ndarray | None:
    try:
        return np.array(values)
    except (ValueError, OverflowError):
        return None


def _shown_id(value: Any) -> str:
    """An entry's id for a message, on one line; broken ones may be anything."""
    text = value.decode() if isinstance(value, bytes) else str(value)
    return text if text.isprintable() and len(text) <= SHOWN else repr(text[:SHOWN])


def _unreadable(path: Path, error: OSError) -> PartnasError:
    return PartnasError(f"{path}: cannot be read ({error.strerror}); check the path")
