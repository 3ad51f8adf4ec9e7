"""Which samples make up which batch: a function of the seed, the epoch and the rank, and of nothing else."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from partnas.data.mixing import epoch_order


class EpochSampler(Sampler[tuple[int, int]]):
    """One epoch's ``(pass, index)`` pairs in a seeded order, cut to whole global batches.

    Sample k of the order goes to rank k mod ``world_size``, so that a global batch holds the same samples however many
    ranks share it. Half of an epoch is 3D where only some people have depth: see :func:`partnas.data.mixing.epoch_order`.

    Args:
        length: Samples in the set.
        batch_size: Samples of a batch on this rank.
        seed: Of the order.
        epoch: Chooses the order, and with it the passes, which go into the augmentation's randomness.
        rank: This process.
        world_size: Number of processes.
        start: Batches to leave out at the beginning, for resuming inside an epoch.
        has_depth: ``(length,)`` bool; all where left out.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        has_depth: np.ndarray | None = None,
    ):
        order = epoch_order(np.ones(length, bool) if has_depth is None else has_depth, seed, epoch)
        global_batch = batch_size * world_size
        batches = len(order) // global_batch
        self.order = order[start * global_batch : batches * global_batch][rank::world_size]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((int(turn), int(index)) for turn, index in self.order)

    def __len__(self) -> int:
        return len(self.order)
