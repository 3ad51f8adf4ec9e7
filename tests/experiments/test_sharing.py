"""Which runs are done, waited for, given up and tried again; the jobs themselves are stood in for."""

import json
from contextlib import ExitStack

import pytest
from typer.testing import CliRunner

from partnas.cli import app
from partnas.data import mpii
from partnas.data.human36m import annotation_files
from partnas.errors import PartnasError, RunFailed
from partnas.experiments import runner
from partnas.experiments.locks import claimed
from partnas.experiments.plan import Plan
from partnas.experiments.runner import run_experiment
from partnas.files import write_text

FIGURES = {
    "data": "Human36M", "frames": 5, "mpjpe_mm": 50.0, "pa_mpjpe_mm": 40.0, "mean_pose_mpjpe_mm": 300.0,
    "parameters": 10, "flops": {"exact": 10, "paper": 10}, "per_action_mm": {}, "per_part_mm": {},
    "skipped": ["a line"],
}  # fmt: skip


class Jobs:
    """Stand-ins for search, train and evaluate: what they were called for, and what is to go wrong."""

    def __init__(self):
        self.calls = []
        self.data = []
        self.errors = {}

    def run(self, job, out):
        run = f"{job} {out.parent.parent.name} {out.parent.name}"
        self.calls.append(run)
        out.mkdir(parents=True, exist_ok=True)
        if run in self.errors:
            raise self.errors[run]

    def search(self, config, out, resume, progress):
        self.data.append(config.data)
        self.run("search", out)
        (out / "genotype.json").write_text("{}")

    def train(self, config, out, resume, progress):
        self.data.append(config.data)
        self.run("train", out)

    def evaluate(self, run, data, out, device, progress):
        self.data.append(data)
        return FIGURES


@pytest.fixture
def jobs(monkeypatch):
    jobs = Jobs()
    for name in ("search", "train", "evaluate"):
        monkeypatch.setattr(runner, name, getattr(jobs, name))
    return jobs


@pytest.fixture
def plan(tmp_path):
    return Plan("table2", tmp_path / "out", "mini")


def folder_of(plan, name, seed=0):
    return plan.out / "rows" / name / f"seed{seed}"


def with_annotations(root):
    """``root`` with files in it for which an experiment looks before it makes its folder."""
    for path in [
        root / mpii.ANNOTATIONS,
        *(path for s in (1, 5, 6, 7, 8, 9, 11) for path in annotation_files(root, s)),
    ]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def on_the_command_line(*arguments):
    """``partnas experiment`` in this process; returns what it ended with, None where it was well."""
    return CliRunner().invoke(app, ["experiment", *map(str, arguments)]).exception


@pytest.mark.parametrize("with_data", [False, True])
def test_broken_people_are_left_out_by_every_job_and_counted(jobs, tmp_path, with_data):
    out, data = tmp_path / "out", ["--data", f"human36m,mpii={with_annotations(tmp_path)}"] if with_data else []
    command = ["table2", "--out", out, "--seeds", "1", "--row", "original", *data]
    assert on_the_command_line(*command, "--skip-broken") is None
    assert [chosen.skip_broken for chosen in jobs.data] == [True, True, True]
    assert [len(chosen.sets) for chosen in jobs.data] == ([1, 2, 2] if with_data else [0, 0, 0])
    assert "People left out: 1 of the test;" in (out / "table2.md").read_text()
    assert "differs in settings.search" in str(on_the_command_line(*command))


def test_data_that_are_nowhere_leave_nothing_behind(jobs, tmp_path):
    command = ["table2", "--out", tmp_path / "out", "--seeds", "1", "--row", "original", "--data"]
    assert "nowhere: no such folder" in str(on_the_command_line(*command, tmp_path / "nowhere"))
    assert not list(tmp_path.iterdir())
    assert on_the_command_line(*command, with_annotations(tmp_path / "Human36M")) is None
    assert jobs.calls == ["search original seed0", "train original seed0"]


def hold(monkeypatch, *folders, looks=2):
    """Another process holds the folders' locks until it was waited for ``looks`` times; returns the waits."""
    waits, locks = [], ExitStack()
    for folder in folders:
        assert locks.enter_context(claimed(folder))

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == looks:
            locks.close()

    monkeypatch.setattr(runner.time, "sleep", wait)
    return waits


def test_the_training_of_a_row_that_was_evaluated_half_way_is_finished(jobs, plan):
    plan.open()
    trained = folder_of(plan, "original") / "train"
    trained.mkdir(parents=True)
    (trained / "evaluation.json").write_text(json.dumps({**FIGURES, "mpjpe_mm": 200.0}))
    run_experiment(plan, 1, ["original"])
    assert jobs.calls == ["search original seed0", "train original seed0"]
    (trained / "evaluation.json").write_text(json.dumps({**FIGURES, "mpjpe_mm": 1.0}))
    run_experiment(plan, 1, ["original"])
    assert len(jobs.calls) == 2
    results = json.loads((plan.out / "results.json").read_text())
    assert [run["mpjpe_mm"] for run in results["rows"][0]["runs"]] == [50.0]


def test_runs_of_another_process_are_waited_for_and_taken_when_it_lets_go(jobs, plan, monkeypatch, capsys):
    plan.open()
    waits = hold(monkeypatch, folder_of(plan, "original"))
    run_experiment(plan, 1, ["original", "shuffled1"])
    assert jobs.calls == ["search original seed0", "train shuffled1 seed0", "train original seed0"]
    assert len(waits) == 2
    assert capsys.readouterr().out.count("waiting for other processes") == 1


def test_a_search_of_another_process_is_waited_for(jobs, plan, monkeypatch):
    plan.open()
    search = folder_of(plan, "original") / "search"
    waits = hold(monkeypatch, search)
    run_experiment(plan, 1)
    assert len(waits) == 2
    assert jobs.calls == ["search original seed0", *(f"train {row.name} seed0" for row in plan.rows)]


def test_a_complete_search_needs_no_lock(jobs, plan, monkeypatch):
    plan.open()
    search = folder_of(plan, "original") / "search"
    search.mkdir(parents=True)
    (search / "genotype.json").write_text("{}")
    waits = hold(monkeypatch, search, looks=1)
    run_experiment(plan, 1, ["shuffled1"])
    assert jobs.calls == ["train shuffled1 seed0"]
    assert not waits


def fail(plan, seeds=1, rows=()):
    with pytest.raises(PartnasError) as caught:
        run_experiment(plan, seeds, rows)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_that_fails_is_noted_and_the_others_go_on(jobs, plan, capsys):
    jobs.errors["train shuffled1 seed0"] = RunFailed("loss is nan at step 7")
    note = folder_of(plan, "shuffled1") / "train" / "failed.txt"
    assert fail(plan) == (
        f"1 of 4 runs cannot be finished, the others are done: see {note}; remove such a file to try its run again"
    )
    assert "shuffled1, seed 0: failed: loss is nan at step 7" in capsys.readouterr().out
    assert note.read_text() == "loss is nan at step 7\n"
    rows = {row["name"]: row for row in json.loads((plan.out / "results.json").read_text())["rows"]}
    assert [len(rows[row.name]["runs"]) for row in plan.rows] == [1, 0, 1, 1]
    assert rows["shuffled1"]["failed"] == [{"seed": 0, "reason": "loss is nan at step 7"}]
    assert "Failed: Ours, shuffled 1, seed 0: loss is nan at step 7" in (plan.out / "table2.md").read_text()
    before = len(jobs.calls)
    assert str(note) in fail(plan)
    assert len(jobs.calls) == before
    note.unlink()
    jobs.errors.clear()
    run_experiment(plan, 1)
    assert jobs.calls[before:] == ["train shuffled1 seed0"]
    assert "Failed" not in (plan.out / "table2.md").read_text()


def test_a_search_that_fails_is_tried_once_for_all_rows_that_share_it(jobs, plan):
    jobs.errors["search original seed0"] = RunFailed("loss is nan at step 7")
    line = fail(plan, 2)
    assert "4 of 8 runs" in line
    assert line.count("failed.txt") == 1
    assert [call for call in jobs.calls if "search" in call] == ["search original seed0", "search original seed1"]
    assert len(jobs.calls) == 6


def test_a_search_that_another_process_has_just_seen_fail_is_not_tried(jobs, plan, monkeypatch):
    note = folder_of(plan, "original") / "search" / "failed.txt"

    def claimed_late(folder):
        if folder == note.parent:
            write_text(note, "loss is nan at step 7")
        return claimed(folder)

    monkeypatch.setattr(runner, "claimed", claimed_late)
    monkeypatch.setattr(runner.time, "sleep", lambda seconds: None)
    assert str(note) in fail(plan, 1, ["original"])
    assert not jobs.calls


def test_an_error_that_is_not_of_one_run_stops_everything(jobs, plan):
    jobs.errors["train original seed0"] = PartnasError("annotations: missing")
    assert fail(plan, 2) == "annotations: missing"
    assert jobs.calls == ["search original seed0", "train original seed0"]
    assert not list(plan.out.glob("**/failed.txt"))


def test_tables_are_written_before_the_first_run_and_after_each(jobs, plan, monkeypatch):
    written = []

    def write_results(plan, seeds):
        written.append(len(jobs.calls))
        return []

    monkeypatch.setattr(runner, "write_results", write_results)
    run_experiment(plan, 1, ["original", "shuffled1"])
    assert written == [0, 2, 3]
    run_experiment(plan, 1)
    assert written[3:] == [3, 4, 5]
    run_experiment(plan, 1)
    assert written[6:] == [5]
