import json

import pytest
import torch
import yaml

from partnas.config import SearchConfig
from partnas.errors import PartnasError
from partnas.flops import published_counts
from partnas.genotype import KINDS, Genotype
from partnas.genotypes import REFERENCE, REFERENCE_RUN
from partnas.train import load_genotype


def test_the_run_that_ships_with_it_found_the_reference():
    config = SearchConfig.model_validate(yaml.safe_load((REFERENCE_RUN / "config.yaml").read_text()))
    rows = [json.loads(line) for line in (REFERENCE_RUN / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, config.epochs + 1))
    # The softmax of these is the softmax of the alphas.
    alphas = {kind: torch.tensor(rows[-1]["alphas"][kind], dtype=torch.float64).log() for kind in KINDS}
    assert Genotype.from_alphas(alphas, config.space()) == REFERENCE


def test_the_card_says_what_the_run_was():
    card = (REFERENCE_RUN / "CARD.md").read_text()
    config = yaml.safe_load((REFERENCE_RUN / "config.yaml").read_text())
    for setting in (
        f"--batch-size {config['batch_size']}",
        f"steps_per_epoch={config['steps_per_epoch']}",
        f"alpha_learning_rate={config['alpha_learning_rate']}",
        f"network.input_size={config['network']['input_size']}",
        f"network.depth={config['network']['depth']}",
    ):
        assert setting in card
    assert "not the paper's" in card


def test_it_has_a_name_on_the_command_line(cli, tmp_path, monkeypatch):
    assert load_genotype("reference") == REFERENCE
    shown = cli("flops", "reference", "--preset", "mini").stdout
    assert "the paper's own" not in shown
    shown = cli("flops", "reference", "--cells", "10", "--set", "network.input_size=64").stdout
    assert shown.splitlines()[-1].endswith("13.0M parameters, 10.7G FLOPs (Table 4)")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reference").mkdir()
    with pytest.raises(PartnasError, match="no such file"):
        load_genotype("reference")


def test_published_counts():
    assert "20.4M parameters, 14.1G" in published_counts(20)
    assert published_counts(12) is None
