import csv
import io

import numpy as np
import pytest

from partnas.errors import PartnasError
from partnas.tables import Column, Row, Spread, Table, published

ACTIONS = [column.name for column in published(6).columns[:-1]]
ROUNDING = 0.1
"""An average and the mean of its row, both of figures rounded to 0.05, are at most this far apart."""

NOT_MEANS = {
    (1, 0): 0.62, (1, 1): 0.39, (1, 2): 0.54, (1, 3): 0.71, (1, 4): 0.40, (1, 5): 0.55,
    (3, 0): 0.25, (3, 1): 0.39, (3, 2): 0.39,
    (4, 0): 0.39, (4, 1): 0.29, (4, 2): 0.37,
    (5, 0): -1.88, (5, 1): -1.13, (5, 7): 0.21, (5, 8): 0.19, (5, 9): 0.11,
    (6, 0): -1.76, (6, 1): -0.14, (6, 4): 0.52, (6, 5): -0.11, (6, 7): -0.71, (6, 9): 0.52, (6, 10): -0.12,
    (6, 11): 0.39, (6, 12): 0.37,
}  # fmt: skip
"""(table, row) whose printed average is no mean over its columns, and by how many mm: its authors average over frames,
of which the actions have unequally many."""


def figures(table, row):
    return [row.values[column.name] for column in table.columns if column.better and not column.unit]


@pytest.mark.parametrize("number", range(1, 7))
def test_published_averages_against_their_rows(number):
    table = published(number)
    checked = 0
    for place, row in enumerate(table.rows):
        *values, average = figures(table, row)
        if None in values:
            continue
        difference = average - np.mean(values)
        assert min(values) < average < max(values)
        if (number, place) in NOT_MEANS:
            assert difference == pytest.approx(NOT_MEANS[number, place], abs=0.006), row.name
            assert abs(difference) > ROUNDING
        else:
            assert abs(difference) < ROUNDING, row.name
        checked += 1
    assert checked == {1: 6, 2: 1, 3: 3, 4: 3, 5: 10, 6: 11}[number]


def test_published_tables_agree_with_each_other_and_with_the_text():
    small, large = (published(4).rows[place].values for place in (0, 2))
    assert {name: published(1).rows[1].values[name] for name in small} == small
    assert {name: published(3).rows[2].values[name] for name in small} == small
    for number, row in ((6, small), (6, large)):
        values = published(number).rows[-2 if row is small else -1].values
        differing = [name for name in values if values[name] != row[name]]
        assert differing == ([] if row is small else ["WalkTogether"])  # 41.4 in Table 6, 41.5 in Table 4
    best = {row.name: row.values["Average"] for row in published(6).rows}
    assert best["Sun [48]"] - best["Ours, L"] == pytest.approx(2.3)
    averages = {row.name: row.values["Average"] for row in published(7).with_average().rows}
    assert averages["Moon [35]"] == pytest.approx(81.8, abs=0.05)
    assert averages["Ours, L"] == max(averages.values())


def test_shape_of_the_published_tables():
    assert [len(published(number).rows) for number in range(1, 8)] == [6, 4, 3, 3, 10, 13, 5]
    assert [len(published(number).columns) for number in range(1, 8)] == [20, 18, 20, 18, 16, 16, 20]
    assert ACTIONS[0] == "Directions"
    assert ACTIONS[-1] == "WalkTogether"
    for number in (1, 3, 4, 5):
        assert [column.name for column in published(number).columns if column.name in ACTIONS] == ACTIONS
    assert [column.better for column in published(3).columns[:3]] == [None, None, "lower"]
    assert {column.better for column in published(7).columns} == {"higher"}
    with pytest.raises(PartnasError, match="table 8: not in the paper; use 1 to 7"):
        published(8)


COLUMNS = (Column("kind", "Kind", None), Column("size", "Params", unit="M"), Column("pck", "PCK", "higher", digits=2))


def small_table():
    return Table(
        "A title",
        COLUMNS,
        (
            Row("a", {"kind": "x", "size": 2.04, "pck": 50.0}, "one"),
            Row("b", {"size": 1.96, "pck": 50.125}, "one"),
            Row("c", {"size": 3.0, "pck": Spread(49.0, 0.5)}, "one", measured=True),
            Row("d", {"size": 0.1, "pck": 99.0}, "other", measured=True),
        ),
        ("A note.",),
    )


def test_markdown_ranks_within_the_same_data_by_what_is_printed():
    assert small_table().to_markdown().splitlines() == [
        "**A title**",
        "",
        "| Methods | Data | Kind | Params | PCK |",
        "| :-- | --: | --: | --: | --: |",
        "| a | one | x | **2.0M** | <u>50.00</u> |",
        "| b | one | – | **2.0M** | **50.12** |",
        "| → c | one | – | <u>3.0M</u> | 49.00 ± 0.50 |",
        "| → d | other | – | 0.1M | 99.00 |",
        "",
        "Best in bold, second best underlined, among rows of the same data. → measured by this program; the other rows "
        "are the paper's.",
        "",
        "A note.",
    ]


def test_csv_holds_plain_figures():
    rows = list(csv.reader(io.StringIO(small_table().to_csv())))
    assert rows[0] == ["Methods", "Data", "Source", "Kind", "Params", "PCK", "PCK ±"]
    assert rows[1] == ["a", "one", "published", "x", "2.0", "50.00", ""]
    assert rows[3] == ["c", "one", "measured", "", "3.0", "49.00", "0.50"]


def test_a_value_without_a_column_is_an_error():
    with pytest.raises(ValueError, match="no column for Walk"):
        published(7).with_rows(Row("x", {"Walk": 1.0}, "MuPoTS-3D"))


def test_an_average_needs_all_figures():
    table = published(7).with_rows(Row("x", {"TS1": 90.0}, "MuPoTS-3D", measured=True)).with_average()
    assert table.columns[-1].heading == "Avg"
    assert table.rows[-1].values["Average"] is None
    assert table.rows[0].values["Average"] == pytest.approx(55.06)


def test_files(tmp_path):
    paths = published(5).write(tmp_path, "table5")
    assert [path.name for path in paths] == ["table5.md", "table5.csv"]
    assert paths[0].read_text() == published(5).to_markdown()
    assert paths[1].read_text() == published(5).to_csv()
