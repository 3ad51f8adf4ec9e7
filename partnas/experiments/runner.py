"""Running an experiment: for every row and seed a search, a training and an evaluation, each at most once."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from partnas.errors import PartnasError, Stopped
from partnas.evaluate import evaluate
from partnas.experiments.plan import Plan
from partnas.experiments.results import write_results
from partnas.experiments.rows import Row
from partnas.genotype import Genotype
from partnas.networks import build
from partnas.run import CHECKPOINT, METRICS, write_text
from partnas.search import search
from partnas.space import SearchSpace
from partnas.train import load_genotype, network_spec, train

DRAWS = 2000
"""Random genotypes looked at before giving up on one that is small enough."""


def run_experiment(plan: Plan, seeds: int = 3, rows: Sequence[str] = (), progress: bool = True) -> list[Path]:
    """Run what is not done yet of the plan's rows, seed after seed, and write the tables anew after each.

    What is complete is kept and what was interrupted goes on, so the same call continues an experiment that was killed
    at any moment. Processes that are given the same folder share the work: each takes a row and seed that is free.

    Args:
        seeds: How many; the seeds are 0, 1 and so on.
        rows: Names of the rows to run; all of them if empty.

    Returns:
        The tables' files.

    Raises:
        PartnasError: An unknown row, a folder that holds something else, bad settings or data.
        Stopped: Ctrl-C; the state is saved.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise PartnasError(
            "experiment: runs in single processes; start it several times with one --out, not by torchrun"
        )
    chosen = plan.chosen(rows)
    plan.open()
    say = print_line if progress else lambda text: None
    work = [(row, seed) for seed in range(seeds) for row in chosen]
    try:
        while work:
            left = []
            for row, seed in work:
                if not _run_row(plan, row, seed, say, progress):
                    left.append((row, seed))
                else:
                    write_results(plan, seeds)
            if len(left) == len(work):
                say(f"{len(left)} of the runs are another process's; it writes the tables when they are done")
                break
            work = left
    except Stopped:
        raise Stopped(f"{plan.out}: stopped and saved; go on with the same command") from None
    return write_results(plan, seeds)


def print_line(text: str) -> None:
    print(text, flush=True)


def _run_row(plan: Plan, row: Row, seed: int, say: Callable[[str], None], progress: bool) -> bool:
    """Do what is left of one row and seed; False where another process is at it."""
    folder = plan.folder(row, seed)
    if (folder / "train" / "evaluation.json").exists():
        return True
    with _claimed(folder) as is_mine:
        if not is_mine:
            return False
        genotype = None
        if row.searched:
            genotype = plan.search_folder(row, seed)
            with _claimed(genotype) as is_mine:
                if not is_mine:
                    return False
                if not (genotype / "genotype.json").exists():
                    say(f"{row.name}, seed {seed}: search")
                    search(plan.search_config(row, seed), genotype, _can_resume(genotype), progress)
            if row.draw is not None:
                genotype = _draw(plan, row, seed, genotype)
        say(f"{row.name}, seed {seed}: train")
        config, trained = plan.train_config(row, seed, genotype), folder / "train"
        train(config, trained, _can_resume(trained), progress)
        result = evaluate(trained, config.data, trained, device=config.device, progress=progress)
        say(f"{row.name}, seed {seed}: MPJPE {result['mpjpe_mm']:.1f} mm")
    return True


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock inside the block; gives False where another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_mine = True
        except BlockingIOError:
            is_mine = False
        yield is_mine


def _can_resume(run: Path) -> bool:
    """Whether a run has a checkpoint to go on from; what one without left behind is removed."""
    if (run / CHECKPOINT).exists():
        return True
    (run / METRICS).unlink(missing_ok=True)
    shutil.rmtree(run / "events", ignore_errors=True)
    return False


def _draw(plan: Plan, row: Row, seed: int, found: Path) -> Path:
    """The file of the row's random genotype, no larger as a network than the found one."""
    path = plan.folder(row, seed) / "genotype.json"
    if not path.exists():
        config = plan.train_config(row, seed, found)
        limit = parameters(network_spec(config, load_genotype(found)))
        generator = torch.Generator().manual_seed(1000 * seed + row.draw)
        write_text(path, small_genotype(config.space(), limit, generator).to_json())
    return path


def small_genotype(space: SearchSpace, limit: int, generator: torch.Generator) -> Genotype:
    """The first genotype drawn uniformly from ``space`` whose network has at most ``limit`` parameters.

    Raises:
        PartnasError: None of ``DRAWS`` genotypes is as small.
    """
    for _ in range(DRAWS):
        genotype = Genotype.random(space, generator)
        if parameters({"kind": "partnet", "space": space.to_dict(), "genotype": genotype.to_dict()}) <= limit:
            return genotype
    raise PartnasError(f"none of {DRAWS} random genotypes has at most {limit} parameters; take another seed")


def parameters(spec: dict[str, Any]) -> int:
    """Parameters of the network that ``partnas.networks.build`` makes; none of them is stored for it."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(spec).parameters())
