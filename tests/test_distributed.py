"""Two processes over gloo do what one process does with the global batch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jobs import environment
from small_sets import write_release

from partnas.distributed import World
from partnas.errors import PartnasError

RANK_JOB = Path(__file__).with_name("rank_job.py")


def launch(launcher, *arguments):
    process = subprocess.run(
        [sys.executable, *launcher, str(RANK_JOB), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=300,
    )
    assert process.returncode == 0, process.stderr


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("job", "sets"), [("search", []), ("train", []), ("train", ["human36m", "mpii"])])
def test_two_ranks_equal_one_process(tmp_path, genotype_file, job, sets):
    one, two = tmp_path / "one", tmp_path / "two"
    settings = {}
    if sets:
        root = write_release(tmp_path / "release")
        settings = {"data": {"sets": [{"name": name, "root": str(root)} for name in sets]}}
    arguments = (genotype_file, json.dumps(settings))
    launch([], job, one, *arguments)
    launch(["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"], job, two, *arguments)
    assert len(losses(two)) == 2
    assert losses(two) == pytest.approx(losses(one), rel=1e-3)
    single = torch.load(one / "rank-0.pt", weights_only=True)
    ranks = [torch.load(two / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name in single:
        assert torch.equal(ranks[0][name], ranks[1][name]), f"the ranks differ in {name}"


def test_a_batch_that_cannot_be_shared_is_refused():
    world = World(rank=0, size=2, device=torch.device("cpu"))
    with pytest.raises(PartnasError, match="multiple of 2"):
        world.share(5)
