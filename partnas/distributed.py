"""Rank and world size, read in one place; a single process is the special case of one rank."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from partnas.errors import PartnasError


@dataclass(frozen=True)
class World:
    """This process's place among the processes that ``torchrun`` started."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, batch_size: int) -> int:
        """The part of a global batch that this rank takes.

        Raises:
            PartnasError: ``batch_size`` is not a multiple of the number of processes.
        """
        if batch_size % self.size:
            raise PartnasError(
                f"batch_size: {batch_size} cannot be shared by {self.size} processes; take a multiple of {self.size}"
            )
        return batch_size // self.size

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its mean over the ranks, in one collective."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def average(self, value: torch.Tensor) -> torch.Tensor:
        """The mean over the ranks of a tensor that needs no gradient."""
        value = value.detach().clone()
        if self.size > 1:
            dist.all_reduce(value)
            value /= self.size
        return value

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


def join(device: str = "auto") -> World:
    """Join the process group that the environment describes, or stand alone.

    Args:
        device: ``auto`` (a GPU where there is one), ``cpu`` or ``cuda``.

    Raises:
        PartnasError: ``cuda`` was asked for and torch sees no GPU.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise PartnasError(f"device: {device!r} is not known; use auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise PartnasError("device: cuda was asked for but torch sees no GPU; use --device cpu or install a CUDA torch")
    use_cuda = device != "cpu" and torch.cuda.is_available()
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(chosen)
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if use_cuda else "gloo", rank=rank, world_size=size)
    return World(rank, size, chosen)


def leave() -> None:
    """Leave the process group, if this process is in one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def current_rank() -> int:
    """This process's rank; 0 where there is no process group."""
    return int(os.environ.get("RANK", "0"))
