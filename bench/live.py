"""What a computation leaves in memory."""

import gc
from collections.abc import Callable, Iterator
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


def _storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    return (leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))
