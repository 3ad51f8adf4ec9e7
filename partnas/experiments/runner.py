"""Running an experiment: for every row and seed a search, a training and an evaluation, each at most once."""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from partnas.errors import PartnasError, RunFailed, Stopped
from partnas.evaluate import evaluate
from partnas.experiments.locks import claimed
from partnas.experiments.plan import FAILED, Plan
from partnas.experiments.results import write_results
from partnas.experiments.rows import Row
from partnas.genotype import Genotype
from partnas.networks import build
from partnas.run import CHECKPOINT, METRICS, write_json, write_text
from partnas.search import search
from partnas.space import SearchSpace
from partnas.train import load_genotype, network_spec, train

Work = tuple[Row, int]
"""A row and a seed."""
Say = Callable[[str], None]
DRAWS = 2000
"""Random genotypes looked at before giving up on one that is small enough."""
WAIT_SECONDS = 5
"""Between two looks at what other processes are at."""


def run_experiment(plan: Plan, seeds: int = 3, rows: Sequence[str] = (), progress: bool = True) -> list[Path]:
    """Run what is not done yet of the plan's rows, seed after seed, and write the tables anew after each.

    What is complete is kept and what was interrupted goes on, so the same call continues an experiment that was killed
    at any moment. Processes that are given the same folder share the work: each takes a row and seed that is free, and
    all of them end when everything is done. A run that cannot be finished is left out, and the others are run.

    Args:
        seeds: How many; the seeds are 0, 1 and so on.
        rows: Names of the rows to run; all of them if empty.

    Returns:
        The tables' files.

    Raises:
        PartnasError: An unknown row, a folder that holds something else, bad settings or data; or runs that cannot be
            finished, once all others are.
        Stopped: Ctrl-C; the state is saved.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise PartnasError(
            "experiment: runs in single processes; start it several times with one --out, not by torchrun"
        )
    work = [(row, seed) for seed in range(seeds) for row in plan.chosen(rows)]
    plan.open()
    say = print_line if progress else lambda text: None
    paths = write_results(plan, seeds)
    try:
        for _ in _settle(plan, work, say, progress):
            paths = write_results(plan, seeds)
    except Stopped:
        raise Stopped(f"{plan.out}: stopped and saved; go on with the same command") from None
    _require_no_failure(plan, work)
    return paths


def print_line(text: str) -> None:
    print(text, flush=True)


def _settle(plan: Plan, work: list[Work], say: Say, progress: bool) -> Iterator[None]:
    """Do all the work that is not done yet, or wait until other processes have; yields after each of it."""
    left = [run for run in work if not _is_settled(plan, *run)]
    is_told = False
    while left:
        taken = []
        for row, seed in left:
            if _run_row(plan, row, seed, say, progress):
                yield
            else:
                taken.append((row, seed))
        if len(taken) == len(left):
            if not is_told:
                say(f"waiting for other processes, which are at what is left: {len(taken)} runs, or their searches")
            is_told = True
            time.sleep(WAIT_SECONDS)
        left = taken


def _is_settled(plan: Plan, row: Row, seed: int) -> bool:
    return plan.result(row, seed).exists() or plan.failure(row, seed) is not None


def _require_no_failure(plan: Plan, work: list[Work]) -> None:
    failures = [path for run in work if (path := plan.failure(*run))]
    if failures:
        raise PartnasError(
            f"{len(failures)} of {len(work)} runs cannot be finished, the others are done: see "
            f"{', '.join(map(str, dict.fromkeys(failures)))}; remove such a file to try its run again"
        )


def _run_row(plan: Plan, row: Row, seed: int, say: Say, progress: bool) -> bool:
    """Do what is left of one row and seed, or see that it cannot be done; False where another process is at it."""
    with claimed(plan.folder(row, seed)) as is_mine:
        if not is_mine:
            return False
        if _is_settled(plan, row, seed):
            return True
        try:
            if row.searched and not _search_row(plan, row, seed, say, progress):
                return False
            _train_row(plan, row, seed, say, progress)
        except RunFailed as error:
            say(f"{row.name}, seed {seed}: failed: {error}")
        return True


def _search_row(plan: Plan, row: Row, seed: int, say: Say, progress: bool) -> bool:
    """See that the row's search is complete; False where another process is at it, or has just seen it fail."""
    found = plan.search_folder(row, seed)
    if (found / "genotype.json").exists():
        return True
    with claimed(found) as is_mine:
        if not is_mine or (found / FAILED).exists():
            return False
        if not (found / "genotype.json").exists():
            say(f"{row.name}, seed {seed}: search")
            with _failure_noted(found):
                search(plan.search_config(row, seed), found, _can_resume(found), progress)
        return True


def _train_row(plan: Plan, row: Row, seed: int, say: Say, progress: bool) -> None:
    """Train the row's network and measure it."""
    trained = plan.folder(row, seed) / "train"
    say(f"{row.name}, seed {seed}: train")
    with _failure_noted(trained):
        genotype = plan.search_folder(row, seed) if row.searched else None
        if row.draw is not None:
            genotype = _draw(plan, row, seed, genotype)
        config = plan.train_config(row, seed, genotype)
        train(config, trained, _can_resume(trained), progress)
        result = evaluate(trained, config.data, trained, device=config.device, progress=progress)
    write_json(plan.result(row, seed), result)
    say(f"{row.name}, seed {seed}: MPJPE {result['mpjpe_mm']:.1f} mm")


@contextmanager
def _failure_noted(run: Path) -> Iterator[None]:
    """Leave ``failed.txt`` in the run's folder where the block finds that it cannot be finished."""
    try:
        yield
    except RunFailed as error:
        write_text(run / FAILED, f"{error}\n")
        raise


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
        RunFailed: None of ``DRAWS`` genotypes is as small.
    """
    for _ in range(DRAWS):
        genotype = Genotype.random(space, generator)
        if parameters({"kind": "partnet", "space": space.to_dict(), "genotype": genotype.to_dict()}) <= limit:
            return genotype
    raise RunFailed(
        f"none of {DRAWS} random genotypes has at most {limit} parameters; change network of search and train"
    )


def parameters(spec: dict[str, Any]) -> int:
    """Parameters of the network that ``partnas.networks.build`` makes; none of them is stored for it."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(spec).parameters())
