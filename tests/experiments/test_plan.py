import json

import pytest
import torch
from pretrained_file import random_resnet
from safetensors.torch import save_file

from partnas.config import merge
from partnas.errors import PartnasError
from partnas.experiments import plan as plan_module
from partnas.experiments.locks import locked
from partnas.experiments.plan import Plan
from partnas.experiments.rows import BUDGETS, EXPERIMENTS, QUESTIONS
from partnas.tables import published

ALL = [(name, row) for name, rows in EXPERIMENTS.items() for row in rows]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_rows_stand_as_in_the_paper(number, tmp_path):
    table, rows = published(number), Plan(f"table{number}", tmp_path).rows
    assert [row.title for row in rows] == [row.name for row in table.rows]
    names = {column.name for column in table.columns}
    for row, line in zip(rows, table.rows, strict=True):
        words = {name: value for name, value in line.values.items() if isinstance(value, str)}
        differing = {name for name in words.keys() | row.words.keys() if words.get(name) != row.words.get(name)}
        assert differing & names == ({"pretrained"} if row.name == "resnet50" else set()), row.name


def test_settings_of_the_paper(tmp_path):
    for name, row in ALL:
        plan = Plan(name, tmp_path)
        train = plan.train_config(row, 3, None)
        space = train.space()
        assert (space.input_size, space.depth, train.epochs, train.batch_size, train.seed) == (256, 64, 20, 64, 3)
        assert space.heatmap_size == 64
        if row.searched:
            assert space.cells == {"nc15": 15, "nc20": 20}.get(row.name, 10)
            search = plan.search_config(row, 3)
            assert (search.space().input_size, search.space().cells, search.epochs, search.seed) == (128, 10, 25, 3)
            assert search.space().fusion_nodes == space.fusion_nodes
            assert search.space().operations == space.operations
    operations = {row.name: Plan("table1", tmp_path).search_config(row, 0).space().operations for _, row in ALL[:6]}
    assert not any(name.startswith("dil") for name in operations["ni2-no-dilated"])
    assert not any(name.startswith("sep") for name in operations["ni2-no-separable"])
    assert [len(operations[name]) for name in ("ni2", "ni2-no-dilated", "ni2-no-separable")] == [8, 6, 6]


@pytest.mark.parametrize("preset", BUDGETS)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_row_has_the_same_budget(name, preset, tmp_path):
    plan = Plan(name, tmp_path, preset, {"train": {"epochs": 3, "network": {"channels": 6}}})
    allowed = {"network", "kind", "part_order", "genotype"}
    configs = [plan.train_config(row, 0, None).model_dump() for row in plan.rows]
    for config in configs:
        assert {key: value for key, value in config.items() if key not in allowed} == {
            key: value for key, value in configs[0].items() if key not in allowed
        }
        assert config["network"]["channels"] == 6
    assert configs[0]["epochs"] == 3


def test_a_row_wins_over_the_settings_of_all(tmp_path):
    plan = Plan("table1", tmp_path, "mini", {"train": {"network": {"fusion_nodes": 4}}})
    assert plan.train_config(plan.rows[0], 0, None).space().fusion_nodes == 1


def test_rows_with_the_same_search_share_it(tmp_path):
    science = Plan("science", tmp_path)
    folders = {row.name: science.search_folder(row, 1) for row in science.rows if row.searched}
    found = tmp_path / "rows" / "found" / "seed1" / "search"
    assert {name for name, folder in folders.items() if folder == found} == {
        "found", *(f"random{n}" for n in range(1, 6)), *(f"shuffled{n}" for n in range(1, 4)),
    }  # fmt: skip
    own = [name for name, folder in folders.items() if folder.parent.parent.name == name]
    assert own == ["found", "ni1", "ni3", "backbone"]
    assert len({Plan("table1", tmp_path).search_folder(row, 0) for row in EXPERIMENTS["table1"]}) == 6


def test_part_orders_differ_and_move_parts_to_another_head():
    orders = [row.train["part_order"] for row in EXPERIMENTS["table2"][1:]]
    assert len({tuple(order) for order in orders}) == 3
    for order in orders:
        assert sorted(order) == list(range(18))
        moved = sum((place < 9) != (part < 9) for place, part in enumerate(order))
        assert moved >= 6


def test_questions_name_rows_of_science_and_leave_none_out():
    names = [row.name for row in EXPERIMENTS["science"]]
    asked = [name for question in QUESTIONS for name in (question.base, *question.others)]
    assert set(asked) == set(names)


def refused(*words, call):
    with pytest.raises(PartnasError) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names_are_refused(tmp_path):
    refused("experiment: 'table9'", "table1", call=lambda: Plan("table9", tmp_path))
    refused("preset: 'huge'", "mini", call=lambda: Plan("table1", tmp_path, "huge"))
    refused("--set: 'evaluate'", call=lambda: Plan("table1", tmp_path, "mini", {"evaluate": {}}))
    refused("row: table4", "'ni1'", "nc10", call=lambda: Plan("table4", tmp_path).chosen(["ni1"]))
    for job in ("search", "train"):
        refused("epoch", call=Plan("table1", tmp_path / "new", "mini", {job: {"epoch": 1}}).open)
    assert not (tmp_path / "new").exists()


def test_settings_that_have_no_fields_are_refused(tmp_path):
    refused("--set train: 3", "train.NAME=VALUE", call=lambda: Plan("table1", tmp_path, "mini", {"train": 3}))
    refused("network: 3", call=Plan("table1", tmp_path / "new", "mini", {"train": {"network": 3}}).open)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("job", ["search", "train"])
def test_data_that_are_nowhere_are_refused_before_anything_is_written(job, tmp_path):
    sets = [{"name": "human36m", "root": None}, {"name": "mpii", "root": "nowhere"}]
    for data in ({"root": "nowhere"}, {"root": None, "sets": sets}):
        refused("nowhere: no such folder", call=Plan("table2", tmp_path / "out", "mini", {job: {"data": data}}).open)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("job", ["search", "train"])
def test_missing_annotations_are_told_before_anything_is_written(job, tmp_path):
    (tmp_path / "empty").mkdir()
    muco = tmp_path / "MuCo/data/MuCo-3DHP.json"
    muco.parent.mkdir(parents=True)
    sets = {
        "Human36M_subject1_data.json: is missing; copy it": [{"name": "human36m", "root": str(tmp_path / "empty")}],
        "train.json: is missing": [{"name": "human36m", "root": None}, {"name": "mpii", "root": str(tmp_path)}],
        "MuCo-3DHP.json: is missing": [{"name": "muco", "root": str(tmp_path)}],
    }
    for line, chosen in sets.items():
        refused(line, call=Plan("table2", tmp_path / "out", "mini", {job: {"data": {"sets": chosen}}}).open)
    roots = {job: {"data": {"roots": "nowhere.json"}}}
    refused("nowhere.json: is missing; mend data.roots", call=Plan("table2", tmp_path / "out", "mini", roots).open)
    muco.write_text("{}")
    only = {"data": {"sets": [{"name": "muco", "root": str(tmp_path)}]}}
    refused("muco is read for training alone", call=Plan("table2", tmp_path / "out", "mini", {job: only}).open)
    assert not (tmp_path / "out").exists()


def test_pretrained_weights_are_of_the_resnet_alone(tmp_path):
    settings = {"train": {"pretrained": "resnet50.safetensors"}}
    for name in ("table3", "science"):
        plan = Plan(name, tmp_path, settings=settings)
        for row in plan.rows:
            own = plan.train_config(row, 0, None).pretrained
            assert own == ("resnet50.safetensors" if row.name == "resnet50" else None)
    refused(
        "pretrained: Extra inputs",
        call=lambda: Plan("table3", tmp_path / "out", settings={"search": settings["train"]}).open(),
    )


def test_pretrained_weights_are_looked_at_before_anything_is_written(tmp_path):
    weights, out = tmp_path / "resnet50.safetensors", tmp_path / "out"
    settings = {"train": {"pretrained": str(weights)}}
    refused("train.pretrained: table1 has no row", call=Plan("table1", out, settings=settings).open)
    refused("resnet50.safetensors: cannot be read", call=Plan("table3", out, settings=settings).open)
    tensors = {name: tensor.to(torch.float16) for name, tensor in random_resnet().items() if "num_batches" not in name}
    last = tensors.pop("layer4.2.bn3.bias")
    save_file(tensors, weights)
    refused("layer4.2.bn3.bias is missing", call=Plan("table3", out, settings=settings).open)
    assert not out.exists()
    save_file(tensors | {"layer4.2.bn3.bias": last}, weights)
    Plan("table3", out, settings=settings).open()
    weights.unlink()
    Plan("table3", out, settings=settings).open()


def test_a_folder_of_another_experiment_is_refused(tmp_path):
    plan = Plan("table1", tmp_path / "out", "mini", {"train": {"epochs": 3}})
    plan.open()
    plan.open()
    for name, preset, settings, field in (
        ("table2", "mini", {"train": {"epochs": 3}}, "experiment"),
        ("table1", "paper", {"train": {"epochs": 3}}, "preset"),
        ("table1", "mini", {"train": {"epochs": 4}}, "settings.train.epochs"),
    ):
        refused("another experiment", field, call=Plan(name, tmp_path / "out", preset, settings).open)
    (tmp_path / "out" / "experiment.json").write_text("{")
    refused("experiment.json", "cannot be read", call=plan.open)
    for text in ("[]", "3", '{"format": "partnas.genotype"}'):
        (tmp_path / "out" / "experiment.json").write_text(text)
        refused("experiment.json: format is not 'partnas.experiment'", call=plan.open)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    refused("something other", call=Plan("table1", tmp_path / "other").open)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("precious")
    refused("file: cannot be read (Not a directory)", call=Plan("table1", tmp_path / "file").open)
    refused("cannot be", "(Not a directory)", call=Plan("table1", tmp_path / "file" / "out").open)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_folder_that_another_process_is_making_is_no_other_thing(tmp_path):
    for name in (".lock", ".experiment.json.a1b2c3"):
        (tmp_path / name).write_text("")
    Plan("table1", tmp_path).open()
    assert (tmp_path / "experiment.json").exists()


def test_of_two_experiments_that_make_one_folder_the_second_is_refused(tmp_path, monkeypatch):
    out = tmp_path / "out"

    def late(folder):
        monkeypatch.undo()
        Plan("table2", out).open()
        return locked(folder)

    monkeypatch.setattr(plan_module, "locked", late)
    refused("another experiment, it differs in experiment", call=Plan("table1", out).open)
    assert json.loads((out / "experiment.json").read_text())["experiment"] == "table2"


def test_seeds_are_read_from_folders_of_that_very_form(tmp_path):
    plan = Plan("table1", tmp_path)
    for name in ("seed10", "seed2", "seed0.bak", "seed02", "seed", "seeds3", "myseed4"):
        plan.folder(plan.rows[0], 0).with_name(name).mkdir(parents=True)
    assert [seed for seed, _ in plan.folders(plan.rows[0])] == [2, 10]


def test_the_folder_says_what_it_is(tmp_path):
    settings = {"search": {"epochs": 2}}
    Plan("table3", tmp_path / "out", "mini", settings, {"threads": 1}).open()
    record = json.loads((tmp_path / "out" / "experiment.json").read_text())
    assert record == merge(record, {"experiment": "table3", "preset": "mini", "settings": settings})
    Plan("table3", tmp_path / "out", "mini", settings, {"threads": 2}).open()
