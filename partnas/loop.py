"""The loop that searching and training share: batches, schedule, progress, checkpoints, interruption."""

import abc
import math
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from tqdm import tqdm

from partnas.allocator import keep_freed_memory
from partnas.config import JobConfig
from partnas.data import EpochSampler, PoseDataset, batches_of, epoch_length
from partnas.datasets import account
from partnas.distributed import World
from partnas.errors import PartnasError, RunFailed, Stopped
from partnas.run import Run, load_weights

Batch = dict[str, torch.Tensor]


def batches_per_epoch(dataset: PoseDataset, batch_size: int) -> int:
    """Whole batches of an epoch over a set; of a mixed one, half of them 3D."""
    return epoch_length(dataset.has_depth) // batch_size


class Batches:
    """An endless, seeded stream of batches: step ``k`` gives the same batch however often the job was resumed.

    Args:
        dataset: Where the samples come from.
        batch_size: Images of a batch over all ranks; this rank gets its share.
        start: The step to begin with.
    """

    def __init__(self, dataset: PoseDataset, batch_size: int, seed: int, world: World, workers: int, start: int = 0):
        self.dataset, self.seed, self.world, self.workers = dataset, seed, world, workers
        self.local_batch = world.share(batch_size)
        self.batches_per_epoch = batches_per_epoch(dataset, batch_size)
        if self.batches_per_epoch == 0:
            raise PartnasError(
                f"batch_size: {batch_size} is more than the {len(dataset)} frames of the set; take a smaller batch"
            )
        self._iterator = self._stream(start)
        self._ahead: Batch | None = None

    def _stream(self, start: int) -> Iterator[Batch]:
        epoch, skipped = divmod(start, self.batches_per_epoch)
        while True:
            sampler = EpochSampler(
                len(self.dataset),
                batch_size=self.local_batch,
                seed=self.seed,
                epoch=epoch,
                rank=self.world.rank,
                world_size=self.world.size,
                start=skipped,
                has_depth=self.dataset.has_depth,
            )
            is_pinned = self.world.device.type == "cuda"
            yield from batches_of(self.dataset, self.local_batch, self.workers, sampler=sampler, pin_memory=is_pinned)
            epoch, skipped = epoch + 1, 0

    def next(self) -> Batch:
        batch, self._ahead = self._ahead or self._load(), None
        return batch

    def look_ahead(self) -> None:
        """Load the next batch now, and not when it is asked for."""
        self._ahead = self._ahead or self._load()

    def _load(self) -> Batch:
        batch = next(self._iterator)
        device = self.world.device
        moved = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
        moved["image"] = moved["image"].contiguous(memory_format=torch.channels_last)
        return moved


class Interrupt:
    """Turns the first Ctrl-C (or SIGTERM) into a flag, so that a step is finished and saved; the second one kills."""

    def __init__(self) -> None:
        self.raised = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        self.raised = True
        signal.signal(number, self._previous[number])

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def learning_rate_at(epoch: int, initial: float, milestones: list[int]) -> float:
    """The step schedule of the paper: divided by 10 at each milestone. ``epoch`` counts from 1."""
    return initial * 0.1 ** sum(epoch >= milestone for milestone in milestones)


def largest_weight(network: torch.nn.Module) -> float:
    """The largest magnitude of all parameters; NaN where one of them is NaN."""
    return torch.stack([p.detach().abs().max().float() for p in network.parameters() if p.numel()]).max().item()


class Meter:
    """A progress bar over all steps of a job, with the running loss and images per second, and a line for each epoch.

    Where standard error is no terminal there are only the lines.
    """

    def __init__(self, title: str, total: int, done: int, batch_size: int, shown: bool):
        self._title, self._shown = title, shown
        self._bar = tqdm(total=total, initial=done, desc=title, unit="step", disable=None if shown else True)
        self._batch_size = batch_size
        self._loss = 0.0
        self._images = 0
        self._since = time.perf_counter()
        self._steps = 0

    def step(self, loss: float) -> None:
        self._steps += 1
        self._loss += loss
        self._images += self._batch_size
        seconds = time.perf_counter() - self._since
        self._bar.set_postfix_str(f"loss {self._loss / self._steps:.3f}, {self._images / seconds:.1f} images/s", False)
        self._bar.update()

    def take(self) -> dict[str, float]:
        """Mean loss and images per second since the last call."""
        seconds = time.perf_counter() - self._since
        row = {"loss": self._loss / max(self._steps, 1), "images_per_second": self._images / seconds}
        self._loss, self._images, self._steps, self._since = 0.0, 0, 0, time.perf_counter()
        return row

    def tell(self, row: dict[str, Any], epochs: int) -> None:
        """One line on the epoch that ``row`` of ``metrics.jsonl`` is about."""
        if not self._shown:
            return
        figures = [f"{name.replace('_', ' ')} {row[name]:.3f}" for name in ("loss", "validation_loss") if name in row]
        if "mpjpe_mm" in row:
            figures.append(f"held-out MPJPE {row['mpjpe_mm']:.0f} mm")
        if "mrpe_mm" in row:
            figures.append(f"held-out MRPE {row['mrpe_mm']:.0f} mm")
        figures.append(f"{row['images_per_second']:.1f} images/s")
        self._bar.write(f"{self._title}: epoch {row['epoch']}/{epochs}: {', '.join(figures)}", file=sys.stderr)

    def close(self) -> None:
        self._bar.close()


class Job(abc.ABC):
    """What a loop over steps needs to know of the work. ``Search`` and ``Training`` fill it in."""

    title: str
    network: torch.nn.Module
    train_set: PoseDataset
    steps_per_epoch: int

    def account(self) -> dict[str, Any]:
        """Whom the job reads, and who is left out: what ``data.json`` holds."""
        return account(self.train_set.source)

    @abc.abstractmethod
    def begin_epoch(self, epoch: int) -> None:
        """Set the learning rates of ``epoch``, which counts from 1."""

    @abc.abstractmethod
    def begin_at(self, step: int) -> None:
        """Open the data streams so that the next batch is that of ``step``."""

    @abc.abstractmethod
    def step(self, epoch: int) -> torch.Tensor:
        """Do one step and return this rank's loss, a scalar."""

    @abc.abstractmethod
    def look_ahead(self, epoch: int) -> None:
        """Load what the next step of ``epoch`` needs, while the device may still be at work on this one."""

    @abc.abstractmethod
    def end_epoch(self, epoch: int) -> dict[str, Any]:
        """Figures for ``metrics.jsonl`` beyond the loss."""

    @abc.abstractmethod
    def state(self) -> dict[str, Any]:
        """Everything but the weights that the next step depends on."""

    @abc.abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state` gave."""


def run_job(job: Job, run: Run, config: JobConfig, world: World, resume: bool = False, progress: bool = True) -> None:
    """Run ``job`` to its last epoch, saving as it goes.

    A checkpoint holds everything that the next step depends on, and the data streams are functions of the step, so a
    resumed run does the same arithmetic as an uninterrupted one.

    Raises:
        RunFailed: The loss, a figure of an epoch or a weight is no longer finite; the last good checkpoint stays.
        Stopped: Ctrl-C or SIGTERM; the state is saved. In the last step too, so that no other job follows.
    """
    keep_freed_memory()
    total = config.epochs * job.steps_per_epoch
    done = 0
    if resume:
        record = run.load(job.network.spec())
        load_weights(job.network, record, run.checkpoint_path)
        job.restore(record["state"])
        done = record["step"]
    job.begin_at(done)
    run.open(config.model_dump(), done)
    run.write("data.json", job.account())

    def check(figures: dict[str, Any], step: int, saved: int) -> None:
        for name, value in figures.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise RunFailed(
                    f"{run.path}: {name.replace('_', ' ')} is {value} at step {step}; lower learning_rate or look for "
                    f"broken annotations with `partnas data check`; the state of step {saved} is kept"
                )

    def save(step: int) -> None:
        network = job.network
        run.save({"network": network.spec(), "weights": network.state_dict(), "state": job.state(), "step": step})

    meter = Meter(job.title, total, done, config.batch_size, progress and world.is_main)
    saved = done
    try:
        with Interrupt() as interrupt:
            for step in range(done, total):
                epoch, within = divmod(step, job.steps_per_epoch)
                epoch += 1
                if within == 0 or step == done:
                    job.begin_epoch(epoch)
                loss = job.step(epoch).detach()
                is_saved = (step + 1) % config.checkpoint_every == 0 or step + 1 == total
                # Not before this step is safe: a batch that cannot be read ends the job.
                if (
                    world.device.type == "cuda"
                    and within + 1 < job.steps_per_epoch
                    and not (is_saved or interrupt.raised)
                ):
                    job.look_ahead(epoch)
                mean_loss, stop = world.average(
                    torch.stack([loss, loss.new_full((), float(interrupt.raised))])
                ).tolist()
                check({"loss": mean_loss}, step + 1, saved)
                meter.step(mean_loss)
                if within + 1 == job.steps_per_epoch:
                    row = {"step": step + 1, "epoch": epoch, **meter.take(), **job.end_epoch(epoch)}
                    check(row, step + 1, saved)
                    run.log(row)
                    meter.tell(row, config.epochs)
                if stop or is_saved:
                    check({"largest weight": largest_weight(job.network)}, step + 1, saved)
                    save(step + 1)
                    saved = step + 1
                if stop and step + 1 < total:
                    raise Stopped(f"{run.path}: stopped after step {step + 1} of {total}; go on with --resume")
            if world.average(torch.tensor(float(interrupt.raised), device=world.device)):
                raise Stopped(f"{run.path}: stopped with all {total} steps done and saved; go on with --resume")
    finally:
        meter.close()
        run.close()
