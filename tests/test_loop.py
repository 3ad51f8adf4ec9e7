import numpy as np
import torch

from partnas.data import PoseDataset
from partnas.distributed import World
from partnas.loop import Batches


class Numbers(PoseDataset):
    """Twelve samples, each a number of its own in each epoch."""

    def __init__(self):
        pass

    def __len__(self):
        return 12

    @property
    def has_depth(self):
        return np.ones(12, bool)

    def __getitem__(self, place):
        epoch, index = place
        number = 100 * epoch + index
        return {"image": torch.full((3, 2, 2), float(number)), "visible": torch.tensor(number)}


def taken(start=0, ahead=()):
    batches = Batches(Numbers(), 4, 0, World(0, 1, torch.device("cpu")), 0, start)
    found = []
    for step in range(6):
        if step in ahead:
            batches.look_ahead()
            batches.look_ahead()
        found.append(batches.next()["visible"].tolist())
    return found


def test_looking_ahead_changes_no_batch():
    plain = taken()
    assert len({number for batch in plain for number in batch}) == 24
    assert taken(ahead=(0, 2, 3, 5)) == plain
    assert taken(start=2, ahead=(1,))[:4] == plain[2:]
