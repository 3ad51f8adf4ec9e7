"""Tables in the paper's layout: its published rows, rows of this program beside them, Markdown and CSV."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import yaml

from partnas.errors import PartnasError
from partnas.files import write_text

PUBLISHED = Path(__file__).parent / "published.yaml"
MISSING = "–"


@dataclass(frozen=True)
class Spread:
    """A figure over several seeds: its mean and its spread, both in the column's unit.

    Attributes:
        spread: None for a single seed.
        digits: Decimals, where not the column's.
    """

    mean: float
    spread: float | None
    digits: int | None = None


Value = float | str | Spread | None


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: By which rows hold their values, such as ``Directions`` or ``parameters``.
        heading: As printed.
        better: Which direction is ranked best; None for a column that is not ranked.
        unit: Printed behind every number.
        digits: Decimals.
    """

    name: str
    heading: str
    better: Literal["lower", "higher"] | None = "lower"
    unit: str = ""
    digits: int = 1

    def text(self, value: Value) -> str:
        """A value as printed, an en dash where there is none."""
        if value is None:
            return MISSING
        if isinstance(value, str):
            return value
        text = f"{_mean(value):.{self.digits_of(value)}f}{self.unit}"
        if isinstance(value, Spread) and value.spread is not None:
            text += f" ± {value.spread:.{self.digits_of(value)}f}"
        return text

    def digits_of(self, value: float | Spread) -> int:
        """The decimals that a value is printed with."""
        own = value.digits if isinstance(value, Spread) else None
        return self.digits if own is None else own

    def marks(self, values: list[Value]) -> list[str]:
        """For each value ``best``, ``second`` or nothing; figures that print alike rank alike."""
        if self.better is None:
            return [""] * len(values)
        printed = [
            None if isinstance(value, str | None) else round(_mean(value), self.digits_of(value)) for value in values
        ]
        ranking = sorted({figure for figure in printed if figure is not None}, reverse=self.better == "higher")
        if len(ranking) < 2:
            return [""] * len(values)
        names = {ranking[0]: "best", ranking[1]: "second"}
        return ["" if figure is None else names.get(figure, "") for figure in printed]


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        name: As printed.
        values: By column name; what is left out prints as an en dash.
        data: What the figures were measured on. Rows are ranked only among those of the same data.
        measured: Whether this program measured them; such rows are marked with an arrow.
    """

    name: str
    values: Mapping[str, Value]
    data: str
    measured: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of figures under one heading.

    Attributes:
        title: One line.
        columns: In print order.
        rows: In print order.
        notes: Lines printed below.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        names = {column.name for column in self.columns}
        for row in self.rows:
            if unknown := row.values.keys() - names:
                raise ValueError(f"{self.title}: row {row.name!r} has no column for {', '.join(sorted(unknown))}")

    def with_rows(self, *rows: Row) -> "Table":
        return replace(self, rows=(*self.rows, *rows))

    def with_notes(self, *notes: str) -> "Table":
        return replace(self, notes=(*self.notes, *notes))

    def with_average(self, heading: str = "Avg") -> "Table":
        """The same table with a last column ``Average``, the mean of each row that has all its figures."""
        names = [column.name for column in self.columns]
        rows = []
        for row in self.rows:
            values = [row.values.get(name) for name in names]
            whole = all(isinstance(value, int | float) for value in values)
            average = sum(values) / len(values) if whole else None
            rows.append(replace(row, values={**row.values, "Average": average}))
        column = replace(self.columns[-1], name="Average", heading=heading)
        return replace(self, columns=(*self.columns, column), rows=tuple(rows))

    def to_markdown(self) -> str:
        """Best figures in bold and second best underlined, as in the paper, among the rows of the same data."""
        marks = self._marks()
        several = len({row.data for row in self.rows}) > 1
        headings = ["Methods", *(["Data"] if several else []), *(column.heading for column in self.columns)]
        lines = [f"**{self.title}**", "", _line(headings), _line([":--", *["--:"] * (len(headings) - 1)])]
        for place, row in enumerate(self.rows):
            cells = [f"→ {row.name}" if row.measured else row.name, *([row.data] if several else [])]
            for column in self.columns:
                cells.append(_marked(column.text(row.values.get(column.name)), marks[column.name][place]))
            lines.append(_line(cells))
        legend = ["Best in bold, second best underlined" + (", among rows of the same data." if several else ".")]
        if any(row.measured for row in self.rows):
            legend.append("→ measured by this program; the other rows are the paper's.")
        return "\n".join([*lines, "", " ".join(legend), *(f"\n{note}" for note in self.notes)]) + "\n"

    def to_csv(self) -> str:
        """Plain figures without marks, and two more columns: ``Data``, and ``Source`` (published or measured)."""
        spread = {
            column.name
            for column in self.columns
            if any(isinstance(row.values.get(column.name), Spread) for row in self.rows)
        }
        headings = ["Methods", "Data", "Source"]
        for column in self.columns:
            headings += [column.heading, f"{column.heading} ±"] if column.name in spread else [column.heading]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(headings)
        for row in self.rows:
            cells = [row.name, row.data, "measured" if row.measured else "published"]
            for column in self.columns:
                cells += _plain(column, row.values.get(column.name), column.name in spread)
            writer.writerow(cells)
        return text.getvalue()

    def write(self, folder: Path, name: str) -> list[Path]:
        """Write ``name.md`` and ``name.csv`` into ``folder``; returns their paths."""
        paths = [folder / f"{name}.md", folder / f"{name}.csv"]
        write_text(paths[0], self.to_markdown())
        write_text(paths[1], self.to_csv())
        return paths

    def _marks(self) -> dict[str, list[str]]:
        """Per column, the mark of every row."""
        marks = {column.name: [""] * len(self.rows) for column in self.columns}
        for data in {row.data for row in self.rows}:
            places = [place for place, row in enumerate(self.rows) if row.data == data]
            for column in self.columns:
                values = [self.rows[place].values.get(column.name) for place in places]
                for place, mark in zip(places, column.marks(values), strict=True):
                    marks[column.name][place] = mark
        return marks


def published(number: int) -> Table:
    """A table of the paper, 1 to 7, with the paper's rows.

    Raises:
        PartnasError: There is no such table.
    """
    records = {record["number"]: record for record in yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))}
    if number not in records:
        raise PartnasError(f"table {number}: not in the paper; use 1 to {max(records)}")
    record = records[number]
    names = list(record["columns"])
    rows = [Row(name, dict(zip(names, values, strict=True)), data=record["data"]) for name, *values in record["rows"]]
    worded = {name for row in rows for name, value in row.values.items() if isinstance(value, str)}
    columns = tuple(
        Column(name, heading, None if name in worded else record["better"], record.get("units", {}).get(name, ""))
        for name, heading in record["columns"].items()
    )
    return Table(f"Table {number}. {record['title']}", columns, tuple(rows))


def _mean(value: float | Spread) -> float:
    return value.mean if isinstance(value, Spread) else value


def _plain(column: Column, value: Value, with_spread: bool) -> list[str]:
    if value is None or isinstance(value, str):
        return [value or ""] + ([""] if with_spread else [])
    digits = column.digits_of(value)
    has_spread = isinstance(value, Spread) and value.spread is not None
    spread = [f"{value.spread:.{digits}f}" if has_spread else ""] if with_spread else []
    return [f"{_mean(value):.{digits}f}", *spread]


def _marked(text: str, mark: str) -> str:
    return {"best": f"**{text}**", "second": f"<u>{text}</u>"}.get(mark, text)


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
