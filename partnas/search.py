"""The search: weights on training batches, alphas on validation batches, alternately (section 3.1 of the paper)."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from partnas import datasets
from partnas.architect import Architect, first_order_step, weight_step
from partnas.config import SearchConfig
from partnas.distributed import World, join
from partnas.genotype import Genotype
from partnas.graph import GraphedStep, adam, restore_state, set_learning_rate, state_of
from partnas.inference import mpjpe_of
from partnas.loop import Batches, Job, batches_per_epoch, learning_rate_at, run_job
from partnas.loss import loss_of
from partnas.networks import SUPERNETS
from partnas.nn.synchronise import synchronise
from partnas.run import Run, write_text


class Search(Job):
    title = "search"

    def __init__(self, config: SearchConfig, world: World):
        self.config, self.world = config, world
        space = config.space()
        torch.manual_seed(config.seed)
        supernet = SUPERNETS[config.kind]
        self.network = supernet(space, config.recompute, getattr(torch, config.activation_dtype)).to(world.device)
        synchronise(self.network, world.size)
        self.train_set = datasets.training_set(config, datasets.SEARCH_TRAIN)
        self.validation_set = datasets.plain_set(config, datasets.SEARCH_VALIDATION)
        self.monitor_set = datasets.spread(config, datasets.SEARCH_VALIDATION, config.data.monitor_frames)
        whole = batches_per_epoch(self.train_set, config.batch_size)
        self.steps_per_epoch = max(config.steps_per_epoch or whole, 1)
        self.weights = list(self.network.weight_parameters())
        self.alphas = list(self.network.architecture_parameters())
        self.weight_optimizer = adam(self.weights, world.device, config.learning_rate, fused=True)
        self.alpha_optimizer = adam(
            self.alphas,
            world.device,
            config.alpha_learning_rate,
            betas=(0.5, 0.999),
            weight_decay=config.alpha_weight_decay,
        )
        # Nothing here holds on to this object: with the last reference to it the memory of its recorded steps is free.
        loss = partial(loss_of, self.network)
        self.architect = Architect(self.weights, self.alphas, loss, self.weight_optimizer, world)
        self.weight_step = partial(weight_step, self.architect)
        self.first_order_step = partial(first_order_step, self.architect, self.alpha_optimizer)
        if config.cuda_graph and world.device.type == "cuda" and world.size == 1:
            self.weight_step = GraphedStep(self.weight_step, "weight step")
            self.first_order_step = GraphedStep(self.first_order_step, "alpha step", beside=self.weight_step)

    def account(self) -> dict[str, Any]:
        return {**super().account(), "validation": datasets.account(self.validation_set.source)}

    def begin_at(self, step: int) -> None:
        config = self.config
        alpha_steps = max(0, step - (config.alpha_epoch - 1) * self.steps_per_epoch)
        self.train_batches = Batches(
            self.train_set, config.batch_size, config.seed, self.world, config.data.workers, step
        )
        self.validation_batches = Batches(
            self.validation_set, config.batch_size, config.seed + 1, self.world, config.data.workers, alpha_steps
        )

    def begin_epoch(self, epoch: int) -> None:
        self.learning_rate = learning_rate_at(epoch, self.config.learning_rate, self.config.milestones)
        set_learning_rate(self.weight_optimizer, self.learning_rate)

    def step(self, epoch: int) -> torch.Tensor:
        batch = self.train_batches.next()
        if epoch >= self.config.alpha_epoch:
            self.alpha_step(batch)
        return self.weight_step(batch)

    def look_ahead(self, epoch: int) -> None:
        self.train_batches.look_ahead()
        if epoch >= self.config.alpha_epoch:
            self.validation_batches.look_ahead()

    def alpha_step(self, train_batch: dict[str, torch.Tensor]) -> None:
        validation_batch = self.validation_batches.next()
        if self.config.order == "second":
            self.validation_loss = self.architect.second_order(train_batch, validation_batch)
            self.alpha_optimizer.step()
        else:
            # A recorded weight step may use the memory that a recorded alpha step has left its result in.
            self.validation_loss = self.first_order_step(validation_batch).clone()

    def end_epoch(self, epoch: int) -> dict[str, Any]:
        row: dict[str, Any] = {"learning_rate": self.learning_rate}
        if epoch >= self.config.alpha_epoch:
            row["validation_loss"] = float(self.world.average(self.validation_loss))
        if len(self.monitor_set):
            row["mpjpe_mm"] = mpjpe_of(self.network, self.monitor_set, self.config.batch_size, self.world.device)
        row["alphas"] = {
            kind: torch.softmax(alpha.detach(), dim=1).cpu().tolist() for kind, alpha in self.network.alphas.items()
        }
        return row

    def state(self) -> dict[str, Any]:
        return {
            "weight_optimizer": state_of(self.weight_optimizer),
            "alpha_optimizer": state_of(self.alpha_optimizer),
        }

    def restore(self, state: dict[str, Any]) -> None:
        restore_state(self.weight_optimizer, state["weight_optimizer"])
        restore_state(self.alpha_optimizer, state["alpha_optimizer"])


def search(config: SearchConfig, out: Path, resume: bool = False, progress: bool = True) -> Genotype:
    """Search an architecture and write the run folder ``out``; ``genotype.json`` in it is what was found.

    Raises:
        PartnasError: Bad settings or data, or a loss that is no longer finite.
        partnas.errors.Stopped: Ctrl-C; the state is saved.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    world = join(config.device)
    run = Run(out, "search", resume, world.is_main)
    job = Search(config, world)
    run_job(job, run, config, world, resume, progress)
    genotype = job.network.genotype()
    if world.is_main:
        write_text(run.path / "genotype.json", genotype.to_json())
    return genotype
