"""Tables and the report, from evaluations that are written here."""

import csv
import json
import shutil

import pytest

from partnas.experiments import results as results_module
from partnas.experiments.locks import claimed
from partnas.experiments.plan import Plan
from partnas.experiments.results import collect, write_results
from partnas.tables import published

ACTIONS = [column.name for column in published(1).columns[4:-1]]


def write_run(
    plan, name, seed, error, actions=(), parameters=2_000_000, flops=(300_000_000, 500_000_000), data="Human36M",
    skipped=(0, 0),
):  # fmt: skip
    """An evaluation of a row and what else is read of its training."""
    folder = plan.out / "rows" / name / f"seed{seed}"
    (folder / "train").mkdir(parents=True)
    evaluation = {
        "data": data, "frames": 560, "mpjpe_mm": error, "pa_mpjpe_mm": error / 2, "mean_pose_mpjpe_mm": 331.0,
        "parameters": parameters, "flops": {"exact": flops[0], "paper": flops[1]},
        "per_action_mm": {action: error + place for place, action in enumerate(actions)},
        "per_part_mm": {"Pelvis": 0.0, "R_Hip": error}, "skipped": ["a line"] * skipped[1],
    }  # fmt: skip
    (folder / "train" / "data.json").write_text(json.dumps({"skipped": ["a line"] * skipped[0]}))
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    # Batches of 16: the second epoch's 30 steps at 8 images a second take a minute, the first's 60 at 16 as long.
    (folder / "train" / "metrics.jsonl").write_text(
        '{"step": 60, "images_per_second": 16.0}\n{"step": 90, "images_per_second": 8.0}\n'
    )
    return folder


def cells(text, name):
    """The cells of a table's row, without marks, by heading."""
    lines = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    row = next(line for line in lines if line[0] == name)
    return dict(zip(lines[0], row, strict=True))


def test_cells_are_means_and_deviations_over_seeds(tmp_path):
    plan = Plan("table1", tmp_path, "mini")
    for seed, error, parameters in ((0, 51.0, 1_500_000), (1, 52.0, 1_600_000), (2, 56.0, 1_700_000)):
        write_run(plan, "ni2", seed, error, ACTIONS, parameters)
    write_run(plan, "ni3", 0, 60.0, ACTIONS)
    markdown, table = (path.read_text() for path in write_results(plan, 3))
    ours = cells(markdown, "→ Ours, N_i = 2")
    # Mean 53, squares of 2, 1 and 3 over two: the root of 7.
    assert ours["Avg"] == "53.0 ± 2.6"
    assert ours["Direct."] == "53.0 ± 2.6"
    assert ours["WalkT."] == "67.0 ± 2.6"
    assert ours["Params"] == "1.60M ± 0.10"
    assert ours["FLOPs, exact"] == "0.30G ± 0.00"
    assert ours["FLOPs, paper's count"] == "0.50G ± 0.00"
    assert ours["Data"] == "Human36M, mini, 3 of 3 seeds"
    assert cells(markdown, "Ours, N_i = 2")["Params"] == "13.0M"
    assert cells(markdown, "→ Ours, N_i = 3")["Avg"] == "60.0"
    assert cells(markdown, "→ Ours, N_i = 4")["Avg"] == "–"
    assert '"Human36M, mini, 0 of 3 seeds",measured' in table
    titles = [line.split("|")[1].strip() for line in markdown.splitlines() if line.startswith("|")][2:]
    assert titles == [name for row in plan.rows for name in (row.title, f"→ {row.title}")]


def test_actions_of_other_data_get_columns(tmp_path):
    plan = Plan("table4", tmp_path, "mini")
    write_run(plan, "nc15", 0, 50.0, ["dance_b", "run"])
    ours = cells(write_results(plan, 3)[0].read_text(), "→ Ours, N_c = 15")
    assert (ours["dance_b"], ours["run"], ours["Direct."]) == ("50.0", "51.0", "–")


def write_search(plan, name, seed, skipped=0):
    """A complete search of a minute and a half."""
    folder = plan.out / "rows" / name / f"seed{seed}" / "search"
    folder.mkdir(parents=True)
    (folder / "genotype.json").write_text("{}")
    (folder / "data.json").write_text(json.dumps({"skipped": ["a line"] * skipped}))
    (folder / "metrics.jsonl").write_text('{"step": 90, "images_per_second": 16.0}\n')


def test_the_parts_table_has_the_sizes_too(tmp_path):
    plan = Plan("table2", tmp_path, "mini")
    for seed, parameters in ((0, 1_500_000), (1, 1_600_000), (2, 1_700_000)):
        write_run(plan, "original", seed, 50.0, parameters=parameters)
    markdown, table = (path.read_text() for path in write_results(plan, 3))
    ours, theirs = cells(markdown, "→ Ours, original"), cells(markdown, "Ours, original")
    sizes = ["Params", "FLOPs, paper's count", "FLOPs, exact"]
    assert list(ours)[-3:] == sizes
    assert [ours[name] for name in sizes] == ["1.60M ± 0.10", "0.50G ± 0.00", "0.30G ± 0.00"]
    assert [theirs[name] for name in sizes] == ["–", "–", "–"]
    assert ours["R Hip"] == "50.0 ± 0.0"
    headings = next(csv.reader(table.splitlines()))
    assert headings[-6:] == [heading for name in sizes for heading in (name, f"{name} ±")]


@pytest.mark.parametrize("name", ["table1", "table2", "table3", "table4"])
def test_a_table_says_what_it_took(name, tmp_path):
    plan = Plan(name, tmp_path, "mini")
    assert "Wall time" not in write_results(plan, 1)[0].read_text()
    row = next(row for row in plan.rows if row.searched).name
    for seed in (0, 1, 2):
        write_run(plan, row, seed, 50.0)
    write_search(plan, row, 0)
    assert (
        "\nWall time: 1.5 minutes of searching (runs: 1, mean 1.5), 6.0 minutes of training (runs: 3, mean 2.0).\n"
    ) in write_results(plan, 3)[0].read_text()


@pytest.mark.parametrize("name", ["table1", "science"])
def test_who_was_left_out_is_counted(name, tmp_path):
    plan = Plan(name, tmp_path, "mini")
    row = next(row for row in plan.rows if row.searched).name
    write_run(plan, row, 0, 50.0)
    write_search(plan, row, 0)
    assert "left out" not in write_results(plan, 1)[0].read_text()
    write_run(plan, row, 1, 50.0, skipped=(12, 3))
    text = write_results(plan, 2)[0].read_text()
    assert "People left out: 0 to 12 in training, 0 to 3 of the test; `skipped`" in text
    write_search(plan, row, 1, skipped=4)
    results = collect(plan, 2)
    assert [search["skipped"] for search in results["searches"]] == [0, 4]
    assert [(run["train_skipped"], run["test_skipped"]) for run in results["rows"][0]["runs"]] == [(0, 0), (12, 3)]
    assert "People left out: 0 to 4 in search, 0 to 12 in" in write_results(plan, 2)[0].read_text()


def test_table_3_says_what_the_resnet_started_from(tmp_path):
    for settings, word, start in (
        ({}, "–", "random weights"),
        ({"train": {"pretrained": "/weights/resnet50.safetensors"}}, "✓", "the weights in resnet50.safetensors"),
    ):
        text = write_results(Plan("table3", tmp_path, "mini", settings), 1)[0].read_text()
        assert cells(text, "→ Ours, ResNet")["Pretrain"] == word
        assert cells(text, "→ Ours, BS")["Pretrain"] == "–"
        assert cells(text, "Ours, ResNet")["Pretrain"] == "✓"
        assert f"was pretrained on ImageNet; the measured one starts from {start}.\n" in text


def test_results_keep_every_run(tmp_path):
    plan = Plan("table2", tmp_path, "mini", {"train": {"epochs": 9}})
    for seed in (1, 0):
        write_run(plan, "original", seed, 50.0 + seed)
    results = collect(plan, 1)
    original = results["rows"][0]
    assert [run["seed"] for run in original["runs"]] == [0, 1]
    assert original["summary"]["mpjpe_mm"] == {"mean": 50.5, "deviation": pytest.approx(0.5**0.5), "count": 2}
    assert original["runs"][0]["train_minutes"] == 2.0
    assert results["budget"]["train"]["epochs"] == 9
    assert results["rows"][1]["runs"] == []
    assert results["seeds"] == [0, 1]


def report(tmp_path, found, others):
    plan = Plan("science", tmp_path, "mini")
    for seed, error in enumerate(found):
        write_run(plan, "found", seed, error)
    for name, errors in others.items():
        for seed, error in enumerate(errors):
            write_run(plan, name, seed, error)
    return write_results(plan, 3)[0].read_text()


def sentence(text, beginning):
    return next(line for line in text.splitlines() if line.startswith(f"- {beginning}"))


def test_the_report_claims_what_the_spread_allows(tmp_path):
    text = report(
        tmp_path, [100.0, 104.0, 96.0],
        {
            "ni1": [110.0, 114.5, 106.0],  # +10, +10.5, +10
            "ni3": [101.0, 102.0, 99.0],  # +1, -2, +3
            "backbone": [90.0, 93.0, 85.0],  # -10, -11, -11
            "resnet50": [90.0],
        },
    )  # fmt: skip
    worse = sentence(text, "found cells, N_i = 1")
    # 10.17 with a deviation of 0.289: 4.303 * 0.289 / sqrt(3) = 0.717
    assert "+10.2 mm (95 % interval +9.4 to +10.9, 3 seeds). Worse" in worse
    equal = sentence(text, "found cells, N_i = 3")
    assert "+0.7 mm (95 % interval -5.6 to +6.9, 3 seeds)" in equal
    assert "no difference can be claimed" in equal
    assert "Better, which contradicts" in sentence(text, "found backbone")
    assert "one seed has no spread, so nothing is claimed" in sentence(text, "ResNet-50")
    assert "no seed of both is done" in sentence(text, "the random cells")


def test_the_first_question_is_answered_in_the_papers_name_for_nothing_that_it_did_not_ask(tmp_path):
    worse, better = [110.0, 114.5, 106.0], [90.0, 93.0, 85.0]
    text = report(tmp_path, [100.0, 104.0, 96.0], {"random1": worse, "random2": better, "ni1": worse})
    assert sentence(text, "random cells 1").endswith("Worse, as the paper's method supposes.")
    assert sentence(text, "random cells 2").endswith("Better, which contradicts what the paper's method supposes.")
    assert sentence(text, "found cells, N_i = 1").endswith("Worse, as one expects after the paper.")


def test_the_report_says_how_much_smaller_the_random_cells_are(tmp_path):
    plan = Plan("science", tmp_path, "mini")
    write_run(plan, "found", 0, 100.0, parameters=1_000_000, flops=(100_000_000, 1))
    write_run(plan, "random1", 0, 100.0, parameters=850_000, flops=(60_000_000, 1))
    write_run(plan, "random2", 0, 100.0, parameters=950_000, flops=(80_000_000, 1))
    # Of this seed there is no found network to compare with.
    write_run(plan, "random2", 1, 100.0, parameters=1, flops=(1, 1))
    write_run(plan, "shuffled1", 0, 100.0, parameters=1_000_000, flops=(100_000_000, 1))
    text = write_results(plan, 2)[0].read_text()
    assert sentence(text, "Size:") == (
        "- Size: the random cells have 0.90M parameters and 0.070G FLOPs (exact) on average, against 1.00M and 0.100G of "
        "found cells, N_i = 2 (-10 % and -30 %): a part of any difference may be one of size."
    )
    assert text.count("Size:") == 1


def test_only_rows_of_the_same_seeds_are_ranked(tmp_path):
    text = report(tmp_path, [100.0, 102.0], {"ni1": [90.0], "ni3": [103.0, 105.0], "shuffled1": [80.0]})
    table = text.partition("## All rows")[2]
    means = {
        "found cells, N_i = 2": "**101.0 ± 1.4**",
        "found cells, N_i = 3": "<u>104.0 ± 1.4</u>",
        "found cells, N_i = 1": "<u>90.0</u>",
        "found cells, parts in shuffled order 1": "**80.0**",
        "random cells 1, N_i = 2": "–",
    }
    for name, mean in means.items():
        line = next(line for line in table.splitlines() if line.startswith(f"| {name} |"))
        assert line.endswith(f"| {mean} |"), name
    assert cells(table, "found cells, N_i = 1")["Data"] == "Human36M, seed 0"
    assert cells(table, "random cells 1, N_i = 2")["Data"] == "Human36M, no seed yet"


@pytest.mark.parametrize(
    ("preset", "settings", "data", "heading", "scale"),
    [
        (
            "mini", {}, "embedded sample", "at reduced scale",
            "This is a small part of what the paper spent, on other data: the figures say something about this scale only.",
        ),
        (
            "mini", {}, "Human36M", "at reduced scale",
            "This is a small part of what the paper spent: the figures say something about this scale only.",
        ),
        ("paper", {}, "Human36M", "with the paper's settings", "These are the paper's settings."),
        (
            "paper", {}, "embedded sample", "with the paper's settings",
            "These are the paper's settings, on other data: the figures say something about these data only.",
        ),
        (
            "paper",
            {"train": {"epochs": 2, "augmentation": None, "data": {"root": "/x", "sets": [], "train_stride": 64}}},
            "Human36M", "with changed settings",
            "These are the paper's settings, changed by `train.epochs=2`, `train.augmentation=null`, "
            "`train.data.train_stride=64`: the figures say something about this scale only.",
        ),
    ],
)  # fmt: skip
def test_the_report_says_how_its_scale_and_data_compare_with_the_papers(
    tmp_path, preset, settings, data, heading, scale
):
    plan = Plan("science", tmp_path, preset, settings)
    write_run(plan, "found", 0, 100.0, data=data)
    text = write_results(plan, 1)[0].read_text()
    assert text.splitlines()[0] == f"# Experiments {heading}"
    assert f"). {scale} Test: 560 pictures" in text


def test_a_report_names_what_failed(tmp_path):
    plan = Plan("science", tmp_path, "mini")
    for row in plan.rows:
        if row.name != "ni1":
            write_run(plan, row.name, 0, 50.0)
    (plan.folder(plan.rows[6], 0) / "train").mkdir(parents=True)
    (plan.folder(plan.rows[6], 0) / "train" / "failed.txt").write_text("loss is nan at step 7\n")
    text = write_results(plan, 1)[0].read_text()
    assert "**Complete** but for what failed: 12 of 13 runs" in text
    assert "\n**Failed**: ni1, seed 0: loss is nan at step 7\n" in text
    assert "**Failed**: ni1" in write_results(plan, 2)[0].read_text()
    assert "Not done: ni1" not in write_results(plan, 1)[0].read_text()


def test_a_copy_of_a_seeds_folder_is_no_seed(tmp_path):
    plan = Plan("table2", tmp_path, "mini")
    folder = write_run(plan, "original", 0, 50.0)
    (folder / "search").mkdir()
    (folder / "search" / "genotype.json").write_text("{}")
    shutil.copytree(folder, folder.with_name("seed0.bak"))
    results = collect(plan, 1)
    assert [run["seed"] for run in results["rows"][0]["runs"]] == [0]
    assert [search["seed"] for search in results["searches"]] == [0]


def test_of_data_that_nothing_was_measured_on_the_settings_tell(tmp_path):
    assert collect(Plan("table2", tmp_path), 1)["data"] == "embedded sample"
    settings = {"train": {"data": {"root": "/sets/Human36M"}}}
    assert collect(Plan("table2", tmp_path, settings=settings), 1)["data"] == "Human36M"


def test_tables_are_written_under_the_folders_lock(tmp_path, monkeypatch):
    seen = []

    def collect_and_look(plan, seeds):
        with claimed(plan.out) as is_free:
            seen.append(is_free)
        return collect(plan, seeds)

    monkeypatch.setattr(results_module, "collect", collect_and_look)
    write_results(Plan("table2", tmp_path, "mini"), 1)
    assert seen == [False]


def test_the_report_names_what_is_not_done(tmp_path):
    text = report(tmp_path, [100.0, 101.0], {"ni1": [90.0]})
    assert "**Partial**: 3 of 39 runs (13 rows, seeds 0, 1, 2) are done" in text
    assert "ni1 (seed 1, 2)" in text
    assert "ni3 (seed 0, 1, 2)" in text
    assert "found (seed 2)" in text
    assert "`partnas experiment science --preset mini --seeds 3 --out DIR`" in text


def test_a_complete_report_says_so(tmp_path):
    plan = Plan("science", tmp_path, "mini")
    for row in plan.rows:
        write_run(plan, row.name, 0, 50.0)
    assert "**Complete**: 13 of 13 runs" in write_results(plan, 1)[0].read_text()


def test_a_group_is_its_mean_for_the_seeds_that_all_have(tmp_path):
    # Means 11 and 22 for seeds 0 and 1; only one row has seed 2.
    shuffled = {"shuffled1": [10.0, 20.0, 99.0], "shuffled2": [11.0, 22.0], "shuffled3": [12.0, 24.0]}
    text = report(tmp_path, [10.0, 20.0, 30.0], shuffled)
    assert "+1.5 mm" in sentence(text, "the shuffled orders")
    assert "2 seeds" in sentence(text, "the shuffled orders")


def test_a_report_without_runs(tmp_path):
    text = write_results(Plan("science", tmp_path, "mini"), 3)[0].read_text()
    assert "0 of 39 runs" in text
