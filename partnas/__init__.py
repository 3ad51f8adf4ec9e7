"""Architecture search for part-aware monocular 3D human pose, on an engine of fused operators.

What stands here is imported when it is first used, so that the command line answers without waiting for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from partnas.errors import PartnasError

if TYPE_CHECKING:
    from partnas import ops
    from partnas.genotype import Edge, Genotype
    from partnas.nn import DeconvNet, PartNet, PoseResNet50, RootNet, Supernet
    from partnas.space import OPERATIONS, SearchSpace

__version__ = "0.1.0"

_HOMES = {
    "DeconvNet": "partnas.nn",
    "Edge": "partnas.genotype",
    "Genotype": "partnas.genotype",
    "OPERATIONS": "partnas.space",
    "PartNet": "partnas.nn",
    "PoseResNet50": "partnas.nn",
    "RootNet": "partnas.nn",
    "SearchSpace": "partnas.space",
    "Supernet": "partnas.nn",
}

__all__ = [
    "OPERATIONS",
    "DeconvNet",
    "Edge",
    "Genotype",
    "PartNet",
    "PartnasError",
    "PoseResNet50",
    "RootNet",
    "SearchSpace",
    "Supernet",
    "ops",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name == "ops":
        return importlib.import_module("partnas.ops")
    raise AttributeError(f"module 'partnas' has no attribute {name!r}")
