"""One rank of a tiny job: ``rank_job.py JOB OUT GENOTYPE [SETTINGS]``. Saves the weights that this rank ends with."""

import json
import sys
from pathlib import Path

import torch
from jobs import TINY_SETTINGS

from partnas.config import load_config, merge
from partnas.distributed import join, leave
from partnas.loop import run_job
from partnas.run import Run
from partnas.search import Search
from partnas.train import Training, load_genotype

name, out, genotype = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
settings = json.loads(sys.argv[4]) if len(sys.argv) > 4 else {}
config = load_config(name, "mini", None, merge(merge(TINY_SETTINGS, {"steps_per_epoch": 1}), settings))
torch.set_num_threads(1)
world = join("cpu")
job = Search(config, world) if name == "search" else Training(config, load_genotype(genotype), world)
run_job(job, Run(out, name, writes=world.is_main), config, world, progress=False)
torch.save(job.network.state_dict(), out / f"rank-{world.rank}.pt")
leave()
