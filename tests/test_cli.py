import json
import subprocess
from pathlib import Path

import pytest
from jobs import GENOTYPE, REPOSITORY, TINY
from typer.testing import CliRunner

from partnas.cli import app

COMMANDS = ["demo", "search", "derive", "train", "evaluate", "predict", "flops", "bench", "data", "info", "report"]


@pytest.mark.parametrize("command", [*COMMANDS, "data synthesize", "data check"])
def test_every_command_has_help(cli, command):
    assert "Usage" in cli(*command.split(), "--help").stdout


def test_info_names_a_backend_for_every_operator(cli):
    facts = json.loads(cli("info", "--json").stdout)
    assert len(facts["operators"]) == 7
    assert "soft_argmax_3d" in cli("info").stdout


def test_resnet50_has_the_papers_figures(cli):
    facts = json.loads(cli("flops", "resnet50", "--json").stdout)
    assert round(facts["parameters"] / 1e6, 1) == 34.3
    assert round(facts["flops"]["paper"] / 1e9, 1) == 14.1
    assert round(facts["flops"]["exact"] / 1e9, 1) == 8.5


def test_more_cells_cost_more(cli, genotype_file):
    small = json.loads(cli("flops", genotype_file, "--json").stdout)
    large = json.loads(cli("flops", genotype_file, "--cells", "20", "--json").stdout)
    assert large["parameters"] > small["parameters"]
    assert large["flops"]["exact"] > small["flops"]["exact"]


def broken(change):
    genotype = json.loads(json.dumps(GENOTYPE))
    change(genotype)
    return genotype


@pytest.mark.parametrize(
    ("genotype", "named"),
    [
        (broken(lambda g: g["normal"][0][0].__setitem__(0, "sep_conv_7x7")), "sep_conv_7x7"),
        (broken(lambda g: g["normal"][0][0].__setitem__(1, 2)), "normal"),
        (broken(lambda g: g.pop("fusion")), "fusion"),
        ("not json", "JSON"),
    ],
)
def test_a_bad_genotype_is_one_line(cli, tmp_path, genotype, named):
    path = tmp_path / "bad.json"
    path.write_text(genotype if isinstance(genotype, str) else json.dumps(genotype))
    for command in (["flops", path], ["train", "--out", tmp_path / "run", "--genotype", path, *TINY]):
        process = cli(*command, code=1)
        assert "bad.json" in process.stderr
        assert named in process.stderr
        assert process.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("network.fusion_nodes=5", "fusion_nodes"),
        ("network.depth=0", "depth"),
        ("network.groups=[[Pelvis]]", "groups"),
        ("network.input_size=50", "input_size"),
        ("data.root=nowhere", "nowhere"),
        ("batch_size=100000", "batch_size"),
    ],
)
def test_a_bad_setting_is_one_line(cli, tmp_path, genotype_file, setting, named):
    process = cli("train", "--out", tmp_path / "run", "--genotype", genotype_file, *TINY, "--set", setting, code=1)
    assert named in process.stderr
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_training_cells_needs_a_genotype(cli, tmp_path):
    assert "--genotype" in cli("train", "--out", tmp_path / "run", *TINY, code=1).stderr


def test_the_embedded_sample_is_whole(cli):
    assert json.loads(cli("data", "check", "--json").stdout)["problems"] == []


@pytest.mark.parametrize(("device", "left_out"), [("cpu", set()), ("cuda", {"annotations", "loader"})])
def test_all_benchmarks_are_those_that_the_device_has(monkeypatch, device, left_out):
    chosen = []

    def run(command):
        chosen.append(Path(command[1]).stem.removeprefix("bench_"))
        assert command[2:] == ["--device", device]
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    result = CliRunner().invoke(app, ["bench", "--device", device])
    assert result.exit_code == 0
    everything = {path.stem.removeprefix("bench_") for path in (REPOSITORY / "bench").glob("bench_*.py")}
    assert set(chosen) == everything - left_out
