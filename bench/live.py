"""What a computation leaves in memory."""

import ctypes
import gc
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Made(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        results = function(*arguments, **(keywords or {}))
        given = {storage._cdata for storage in _storages((arguments, keywords or {}))}
        for storage in _storages(results):
            if storage._cdata not in given:
                self.storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return results


def live_bytes(function: Callable[[], Any]) -> int:
    """Bytes of all tensor memory that ``function`` makes and that lives while its result does: for the output of a
    network, what autograd keeps for backward, by whatever means. Memory that was there before is not counted."""
    with _Made() as made:
        result = function()
    gc.collect()
    size = sum(size for reference, size in made.storages.values() if not reference.expired())
    del result
    return size


def peak_bytes(function: Callable[[], Any], device: torch.device) -> int:
    """Bytes by which the memory of ``device`` that the process holds rises at most while ``function`` runs: resident
    memory on a CPU (of Linux with glibc), that of PyTorch's allocator on a GPU. Results of an earlier run of it must be
    gone; that run keeps what the libraries take once out of the count."""
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    ctypes.CDLL(None).malloc_trim(0)  # what is free but kept would serve uncounted
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    function()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    return 1024 * int(re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])


def _storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    return (leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))
