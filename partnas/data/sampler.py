"""Which samples make up which batch: a function of the seed, the epoch and the rank, and of nothing else."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler[tuple[int, int]]):
    """One epoch's ``(epoch, index)`` pairs in a seeded order, cut to whole global batches.

    Sample k of the permutation goes to rank k mod ``world_size``, so that a global batch holds the same samples however
    many ranks share it.

    Args:
        length: Samples in the set.
        batch_size: Samples of a batch on this rank.
        seed: Of the order.
        epoch: Chooses the permutation, and goes into the augmentation's randomness.
        rank: This process.
        world_size: Number of processes.
        start: Batches to leave out at the beginning, for resuming inside an epoch.
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
    ):
        self.epoch = epoch
        batches = length // (batch_size * world_size)
        order = np.random.default_rng([seed, epoch]).permutation(length)
        used = order[start * batch_size * world_size : batches * batch_size * world_size]
        self.indices = used[rank::world_size]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((self.epoch, int(index)) for index in self.indices)

    def __len__(self) -> int:
        return len(self.indices)
