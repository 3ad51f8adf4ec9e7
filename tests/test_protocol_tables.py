import pytest

from partnas.protocol_tables import human36m_table, mupots_table
from partnas.tables import published

ACTIONS = [column.name for column in published(6).columns[:-1]]
SEQUENCES = [f"TS{number}" for number in range(1, 21)]


BY_PROTOCOL_2 = {"sets": ["human36m", "mpii"], "protocol": 2}


def evaluation(protocol=2, actions=ACTIONS, stride=64, data="Human36M", trained=BY_PROTOCOL_2, skipped=()):
    return {
        "trained_on": trained, "skipped": list(skipped),
        "protocol": protocol, "test_stride": stride, "data": data, "mpjpe_mm": 47.0, "pa_mpjpe_mm": 33.0,
        "pa_mpjpe_scaled_mm": 31.0, "per_action_mm": {action: 40.0 + place for place, action in enumerate(actions)},
        "per_action_pa_mm": dict.fromkeys(actions, 30.0), "per_action_pa_scaled_mm": dict.fromkeys(actions, 29.0),
    }  # fmt: skip


def test_protocol_2_is_a_row_of_table_6_in_the_papers_order():
    table = human36m_table(evaluation(actions=ACTIONS[::-1]), "mine")
    assert table.title.startswith("Table 6.")
    assert table.rows[:-1] == published(6).rows
    last = table.to_markdown().splitlines()[-5 if table.notes else -3]
    assert last.startswith("| → mine | 54.0 |")
    assert last.endswith("| **40.0** | **47.0** |")


def test_protocol_1_gives_both_alignments_and_ranks_the_one_without_scale():
    table = human36m_table(evaluation(protocol=1, trained={"sets": ["human36m"], "protocol": 1}), "mine")
    assert table.title.startswith("Table 5.")
    rows = [line for line in table.to_markdown().splitlines() if "→ mine" in line]
    assert rows[0].startswith("| → mine | Human3.6M | <u>30.0</u> | **30.0** |")
    assert rows[0].endswith("| <u>33.0</u> |")
    assert rows[1].startswith("| → mine, scale fitted | Human3.6M, scale fitted | 29.0 |")
    assert rows[1].endswith("| 31.0 |")


@pytest.mark.parametrize(
    ("options", "data"),
    [
        ({"stride": 5}, "Human3.6M, 1 of 5 frames"),
        ({"actions": ACTIONS[:3]}, "Human3.6M, 3 of 15 actions"),
        ({"actions": ["spinkick", "run"], "data": "embedded sample"}, "embedded sample"),
        ({"actions": ["Walking", "run"], "data": "mocap"}, "mocap"),
        ({"trained": {"sets": ["human36m"], "protocol": 1}}, "Human3.6M, trained by protocol 1"),
        ({"trained": {"sets": ["embedded sample"], "protocol": 2}}, "Human3.6M, not trained on it"),
        ({"trained": None}, "Human3.6M, training not known"),
        ({"skipped": ["a line", "another"]}, "Human3.6M, 2 left out"),
        ({"stride": 5, "trained": None, "skipped": ["x"]}, "Human3.6M, 1 of 5 frames, training not known, 1 left out"),
    ],
)
def test_what_is_not_the_protocol_is_not_ranked_against_it(options, data):
    table = human36m_table(evaluation(**options), "mine")
    assert table.rows[-1].data == data
    row = next(line for line in table.to_markdown().splitlines() if "→ mine" in line)
    assert "**" not in row
    assert "<u>" not in row
    assert row.count("–") == len(set(ACTIONS) - set(options.get("actions", ACTIONS)))


MUCO = {"sets": ["muco", "coco"], "protocol": 2}


def mupots(sequences=SEQUENCES, roots="rootnet.json", boxes="rootnet.json", skipped=(), trained=MUCO):
    return {
        "data": "folder", "trained_on": trained, "roots": roots, "boxes": boxes, "skipped": list(skipped),
        "relative": {"all": {"pck_per_sequence": dict.fromkeys(sequences, 90.0)}},
    }  # fmt: skip


def test_mupots_is_a_row_of_table_7():
    table = mupots_table(mupots(), "mine")
    assert table.rows[-1].data == "MuPoTS-3D"
    row = next(line for line in table.to_markdown().splitlines() if "→ mine" in line)
    assert row.startswith("| → mine | 90.0 | **90.0** |")
    assert row.endswith("| **90.0** |")
    for options, data in (
        ({"roots": "annotation", "boxes": "annotation"}, "MuPoTS-3D, annotated root depths"),
        ({"boxes": "annotation"}, "MuPoTS-3D, annotated boxes"),
        ({"skipped": ["a line"]}, "MuPoTS-3D, 1 left out"),
        ({"trained": {"sets": ["human36m", "mpii"], "protocol": 2}}, "MuPoTS-3D, not trained on MuCo-3DHP"),
        ({"trained": {"sets": ["embedded sample"], "protocol": 2}}, "MuPoTS-3D, not trained on MuCo-3DHP"),
        ({"trained": None}, "MuPoTS-3D, training not known"),
    ):
        assert mupots_table(mupots(**options), "mine").rows[-1].data == data
    few = mupots_table(mupots(["TS1", "TS3"]), "mine")
    assert few.rows[-1].data == "MuPoTS-3D, 2 of 20 sequences"
    assert few.rows[-1].values["Average"] is None
    assert mupots_table(mupots(["mine1"]), "mine").rows[-1].data == "folder"


def test_table_7_says_what_was_trained_on():
    def notes(**options):
        return " ".join(mupots_table(mupots(**options), "mine").notes)

    theirs = "; the paper's on MuCo-3DHP and 2D poses of COCO."
    assert f"The measured network was trained on MuCo-3DHP, COCO{theirs}" in notes()
    mixed = {"sets": ["muco", "human36m"], "protocol": 2}
    assert f"The measured network was trained on MuCo-3DHP, Human3.6M{theirs}" in notes(trained=mixed)
    assert mupots_table(mupots(trained=mixed), "mine").rows[-1].data == "MuPoTS-3D"
    assert f"trained on embedded sample{theirs}" in notes(trained={"sets": ["embedded sample"], "protocol": 2})
    assert "trained on" not in notes(trained=None)
    files = {"roots": "result files", "boxes": "result files", "trained": None}
    assert "result files, which tell neither what the network was trained on nor" in notes(**files)
    row = next(line for line in mupots_table(mupots(**files), "mine").to_markdown().splitlines() if "→ mine" in line)
    assert "MuPoTS-3D, training not known" in row
    assert "**" not in row
    assert "<u>" not in row
