"""Steps of a search of the smallest network, and by how much the process grew over the last of them; run by itself.

``python tests/long_search.py STEPS_BEFORE STEPS_MEASURED`` prints the bytes.
"""

import ctypes
import gc
import os
import sys

import torch

from partnas.config import load_config
from partnas.distributed import World
from partnas.search import Search

SETTINGS = {
    "network": {
        "cells": 3, "reductions": 1, "fusions": 1, "nodes": 2, "channels": 2, "parts": 18, "input_size": 16, "depth": 2,
        "fusion_channels": 4,
    },
    "batch_size": 2,
    "alpha_epoch": 1,
}  # fmt: skip


class Constant:
    """A stream of one batch."""

    def __init__(self, batch):
        self.batch = batch

    def next(self):
        return self.batch


def resident() -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(before: int, measured: int) -> None:
    torch.set_num_threads(1)
    job = Search(load_config("search", "mini", settings=SETTINGS), World(0, 1, torch.device("cpu")))
    job.begin_at(0)
    job.begin_epoch(1)
    # The stream of images fills a cache as it goes on.
    job.train_batches = job.validation_batches = Constant(job.train_batches.next())
    sizes = []
    for step in range(before + measured):
        # What is given back seldom leaves the heap in pieces, and those are no leak.
        if (step - before) % 100 == 0:
            sizes.append(resident())
        job.step(1)
    print(resident() - sizes[before // 100])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
