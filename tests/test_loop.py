import signal

import numpy as np
import pytest
import torch

from partnas.config import load_config
from partnas.data import PoseDataset
from partnas.distributed import World
from partnas.errors import RunFailed, Stopped
from partnas.loop import Batches
from partnas.run import load_checkpoint
from partnas.search import Search, search
from partnas.train import Training, train

SETTINGS = {
    "network": {
        "cells": 4, "reductions": 1, "fusions": 1, "channels": 2, "input_size": 16, "depth": 2, "fusion_channels": 4,
    },
    "batch_size": 2, "epochs": 2, "steps_per_epoch": 1, "data": {"monitor_frames": 0}, "threads": 1,
}  # fmt: skip


class Numbers(PoseDataset):
    """Twelve samples, each a number of its own in each epoch."""

    def __init__(self):
        pass

    def __len__(self):
        return 12

    @property
    def has_depth(self):
        return np.ones(12, bool)

    def __getitem__(self, place):
        epoch, index = place
        number = 100 * epoch + index
        return {"image": torch.full((3, 2, 2), float(number)), "visible": torch.tensor(number)}


def taken(start=0, ahead=()):
    batches = Batches(Numbers(), 4, 0, World(0, 1, torch.device("cpu")), 0, start)
    found = []
    for step in range(6):
        if step in ahead:
            batches.look_ahead()
            batches.look_ahead()
        found.append(batches.next()["visible"].tolist())
    return found


def test_looking_ahead_changes_no_batch():
    plain = taken()
    assert len({number for batch in plain for number in batch}) == 24
    assert taken(ahead=(0, 2, 3, 5)) == plain
    assert taken(start=2, ahead=(1,))[:4] == plain[2:]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("moment", ["step", "end_epoch"])
@pytest.mark.parametrize(("name", "job", "run"), [("search", Search, search), ("train", Training, train)])
def test_ctrl_c_in_the_last_step_lets_no_other_job_follow(tmp_path, monkeypatch, genotype_file, name, job, run, moment):
    settings = SETTINGS if name == "search" else {**SETTINGS, "genotype": str(genotype_file)}
    config = load_config(name, "mini", None, settings)
    plain = getattr(job, moment)

    def interrupted(self, epoch):
        if epoch == 2:
            signal.raise_signal(signal.SIGINT)
        return plain(self, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(job, moment, interrupted)
        with pytest.raises(Stopped, match="stopped with all 2 steps done and saved; go on with --resume"):
            run(config, tmp_path / "run", progress=False)
    assert load_checkpoint(tmp_path / "run")["step"] == 2
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    run(config, tmp_path / "run", resume=True, progress=False)
    assert (tmp_path / "run" / "genotype.json").exists()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.usefixtures("one_thread")
def test_a_run_that_diverges_says_that_it_is_this_run(tmp_path):
    config = load_config("search", "mini", None, {**SETTINGS, "learning_rate": 3e37})
    with pytest.raises(RunFailed, match="lower learning_rate"):
        search(config, tmp_path / "run", progress=False)
