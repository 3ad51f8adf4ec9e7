"""Training a derived network, a baseline or a root network from scratch (section 4.2 of the paper, evaluation stage)."""

import functools
from pathlib import Path
from typing import Any

import torch

from partnas import datasets
from partnas.config import TrainConfig
from partnas.data import PoseDataset
from partnas.distributed import World, join
from partnas.errors import PartnasError
from partnas.genotype import Genotype
from partnas.graph import set_learning_rate
from partnas.inference import mpjpe_of, mrpe_of
from partnas.loop import Batches, Job, batches_per_epoch, learning_rate_at, run_job
from partnas.loss import pose_loss, root_loss
from partnas.networks import WITH_RESNET, build
from partnas.nn.synchronise import synchronise
from partnas.pretrained import load_pretrained
from partnas.run import Run, write_text


def load_genotype(path: str | Path) -> Genotype:
    """A genotype from its file, from the folder of the search that found it, or the one named ``reference``."""
    path = Path(path)
    if str(path) == "reference" and not path.exists():
        from partnas.genotypes import REFERENCE

        return REFERENCE
    return Genotype.load(path / "genotype.json" if path.is_dir() else path)


def network_spec(config: TrainConfig, genotype: Genotype | None) -> dict[str, Any]:
    """What ``partnas.networks.build`` needs for this configuration.

    Raises:
        PartnasError: A network of cells without a genotype.
    """
    if config.kind == "rootnet":
        return {"kind": config.kind, "input_size": config.space().input_size, **config.root_net.model_dump()}
    spec: dict[str, Any] = {"kind": config.kind, "space": config.space().to_dict()}
    if config.kind != "resnet50":
        if genotype is None:
            raise PartnasError(
                f"genotype: {config.kind} is made of searched cells; give --genotype FILE or a search's folder"
            )
        spec["genotype"] = genotype.to_dict()
    if config.part_order is not None:
        spec["order"] = config.part_order
    if config.intermediate_supervision:
        spec["intermediate_supervision"] = True
    return spec


def require_backbone(config: TrainConfig) -> None:
    """See that pretrained weights are given to none but networks with a ResNet.

    Raises:
        PartnasError: They are given to another.
    """
    if config.pretrained is not None and config.kind not in WITH_RESNET:
        raise PartnasError(
            f"pretrained: holds a ResNet's weights, and a {config.kind} has no ResNet; leave it out, or take kind "
            f"{' or '.join(WITH_RESNET)}"
        )


class Training(Job):
    """Training of a pose network.

    Args:
        pretrained: A file of weights that the backbone starts from, see :func:`partnas.pretrained.load_pretrained`.
    """

    title = "train"

    def __init__(self, config: TrainConfig, genotype: Genotype | None, world: World, pretrained: str | None = None):
        self.config, self.world = config, world
        torch.manual_seed(config.seed)
        self.network = build(network_spec(config, genotype))
        if pretrained is not None:
            load_pretrained(self.network.backbone, pretrained)
        self.network.to(world.device)
        synchronise(self.network, world.size)
        self.train_set, self.monitor_set = self.sets()
        whole = batches_per_epoch(self.train_set, config.batch_size)
        self.steps_per_epoch = max(config.steps_per_epoch or whole, 1)
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.learning_rate, fused=True)

    def sets(self) -> tuple[PoseDataset, PoseDataset]:
        """What is trained on, and what is measured after every epoch."""
        return datasets.training_and_monitor_sets(self.config, datasets.TRAIN)

    def begin_at(self, step: int) -> None:
        config = self.config
        self.batches = Batches(self.train_set, config.batch_size, config.seed, self.world, config.data.workers, step)

    def begin_epoch(self, epoch: int) -> None:
        self.network.train()
        set_learning_rate(self.optimizer, learning_rate_at(epoch, self.config.learning_rate, self.config.milestones))

    def step(self, epoch: int) -> torch.Tensor:
        batch = self.batches.next()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss_of(batch)
        loss.backward()
        self.world.average_gradients(self.parameters)
        self.optimizer.step()
        return loss

    def look_ahead(self, epoch: int) -> None:
        self.batches.look_ahead()

    def loss_of(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        target = batch["coordinates"], batch["visible"], batch["has_depth"]
        if self.config.intermediate_supervision:
            return sum(pose_loss(predicted, *target) for predicted in self.network.forward_all(batch["image"]))
        return pose_loss(self.network(batch["image"]), *target)

    def end_epoch(self, epoch: int) -> dict[str, Any]:
        row: dict[str, Any] = {"learning_rate": self.optimizer.param_groups[0]["lr"]}
        if len(self.monitor_set):
            row |= self.measure()
        return row

    def measure(self) -> dict[str, float]:
        """The error on the monitor set."""
        return {"mpjpe_mm": mpjpe_of(self.network, self.monitor_set, self.config.batch_size, self.world.device)}

    def state(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])


class RootTraining(Training):
    """Training of a ``RootNet``."""

    def sets(self) -> tuple[PoseDataset, PoseDataset]:
        size, data = self.config.space().input_size, self.config.data
        make = functools.partial(datasets.as_root_dataset, input_size=size, data=data)
        return datasets.training_and_monitor_sets(self.config, datasets.TRAIN, make)

    def loss_of(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        target = batch["root"], batch["k"], batch["visible"], batch["has_depth"]
        return root_loss(self.network(batch["image"]), *target)

    def measure(self) -> dict[str, float]:
        return {"mrpe_mm": mrpe_of(self.network, self.monitor_set, self.config.batch_size, self.world.device)}


def train(config: TrainConfig, out: Path, resume: bool = False, progress: bool = True) -> torch.nn.Module:
    """Train a network and write the run folder ``out``.

    Raises:
        PartnasError: Bad settings, data or pretrained weights, or a loss that is no longer finite.
        partnas.errors.Stopped: Ctrl-C; the state is saved.
    """
    require_backbone(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    genotype = load_genotype(config.genotype) if config.genotype else None
    kind = RootTraining if config.kind == "rootnet" else Training
    world = join(config.device)
    run = Run(out, "train", resume, world.is_main)
    job = kind(config, genotype, world, None if resume else config.pretrained)
    run_job(job, run, config, world, resume, progress)
    if genotype is not None and world.is_main:
        write_text(run.path / "genotype.json", genotype.to_json())
    return job.network
