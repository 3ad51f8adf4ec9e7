"""Networks from their descriptions, and from the runs that trained them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from partnas.errors import PartnasError
from partnas.genotype import Genotype
from partnas.nn import DeconvNet, PartNet, PoseResNet50, Supernet
from partnas.run import load_checkpoint, load_weights
from partnas.space import SearchSpace

KINDS = ("supernet", "partnet", "resnet50", "deconv")


def build(spec: Mapping[str, Any]) -> torch.nn.Module:
    """Build a network with fresh weights.

    Args:
        spec: ``kind`` (one of ``KINDS``), ``space`` (``SearchSpace.to_dict()``), ``genotype``
            (``Genotype.to_dict()``, for ``partnet`` and ``deconv``), and for ``partnet`` optionally ``order`` and
            ``intermediate_supervision``. JSON can hold it; every network gives its own by ``spec()``.

    Raises:
        PartnasError: A field is missing or wrong.
    """
    for field in ("kind", "space"):
        if field not in spec:
            raise PartnasError(f"network: field {field!r} is missing; give kind and space")
    kind, space = spec["kind"], SearchSpace.from_dict(spec["space"])
    if kind not in KINDS:
        raise PartnasError(f"network: kind {kind!r} is not known; use one of {', '.join(KINDS)}")
    if kind == "supernet":
        return Supernet(space)
    if kind == "resnet50":
        return PoseResNet50(space)
    if "genotype" not in spec:
        raise PartnasError(f"network: field 'genotype' is missing; {kind} is made of searched cells")
    genotype = Genotype.from_dict(spec["genotype"])
    if kind == "deconv":
        return DeconvNet(genotype, space)
    return PartNet(genotype, space, spec.get("order"), bool(spec.get("intermediate_supervision", False)))


def load_network(run: Path, kind: str | None = None) -> torch.nn.Module:
    """The network of a run folder, or of a checkpoint file, with its weights, on the CPU and in training mode.

    Args:
        kind: Refuse a network of another kind.

    Raises:
        PartnasError: The checkpoint is missing, damaged or of another kind of network.
    """
    record = load_checkpoint(run)
    if kind is not None and record["network"].get("kind") != kind:
        raise PartnasError(f"{run}: holds a {record['network'].get('kind')}, not a {kind}; name another run")
    network = build(record["network"])
    load_weights(network, record, Path(run))
    return network
