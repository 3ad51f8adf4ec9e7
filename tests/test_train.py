import json

import pytest
import torch
from jobs import TINY

from partnas.networks import load_network
from partnas.run import load_checkpoint


def test_a_training_leaves_a_whole_run_folder(trained):
    for name in ("config.yaml", "metrics.jsonl", "genotype.json", "checkpoint.pt", "report.html"):
        assert (trained / name).stat().st_size > 0, name
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert load_checkpoint(trained)["step"] == 4


def test_resume_reaches_the_same_bits(tmp_path, cli, genotype_file, trained):
    out = tmp_path / "run"
    cli("train", "--out", out, "--genotype", genotype_file, *TINY, "--set", "epochs=1")
    cli("train", "--out", out, "--genotype", genotype_file, *TINY, "--resume")
    whole, resumed = load_checkpoint(trained)["weights"], load_checkpoint(out)["weights"]
    for name in whole:
        assert torch.equal(whole[name], resumed[name]), name


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("resnet50", ["--set", "network.reductions=5", "--set", "network.cells=10"]),
        ("deconv", ["genotype"]),
        ("partnet", ["genotype", "--set", "intermediate_supervision=true"]),
        ("partnet", ["genotype", "--set", f"part_order={list(range(17, -1, -1))}"]),
    ],
)
def test_other_networks_train_and_can_be_rebuilt(tmp_path, cli, genotype_file, kind, options):
    options = [part for o in options for part in (["--genotype", genotype_file] if o == "genotype" else [o])]
    out = tmp_path / "run"
    cli("train", "--out", out, "--kind", kind, *options, *TINY, "--set", "epochs=1", "--set", "steps_per_epoch=1")
    network = load_network(out).eval()
    size = network.space.input_size
    assert network(torch.zeros(1, 3, size, size)).shape == (1, 18, 3)


def test_an_occupied_folder_is_refused(cli, genotype_file, trained):
    process = cli("train", "--out", trained, "--genotype", genotype_file, *TINY, code=1)
    assert "--resume" in process.stderr


def test_resuming_another_network_names_the_field(cli, genotype_file, trained):
    before = (trained / "config.yaml").read_text()
    options = [*TINY, "--set", "network.channels=8", "--resume"]
    process = cli("train", "--out", trained, "--genotype", genotype_file, *options, code=1)
    assert "channels" in process.stderr
    assert (trained / "config.yaml").read_text() == before
