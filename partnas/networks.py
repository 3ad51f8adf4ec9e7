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
        if not isinstance(spec, Mapping) or field not in spec:
            raise PartnasError(f"network: field {field!r} is missing; give kind and space")
    kind, space = spec["kind"], SearchSpace.from_dict(spec["space"])
    if kind not in KINDS:
        raise PartnasError(f"network: kind {kind!r} is not known; use one of {', '.join(KINDS)}")
    for field in ("order", "intermediate_supervision"):
        if spec.get(field) and kind != "partnet":
            raise PartnasError(f"network: field {field!r} is of a partnet, not of a {kind}; leave it out")
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


def load_supernet(run: Path) -> Supernet:
    """The network of a search; see :func:`load_network` for the rest.

    Raises:
        PartnasError: The checkpoint is missing, damaged, or that of a training.
    """
    network = load_network(run)
    if not isinstance(network, Supernet):
        raise PartnasError(f"{run}: holds a {network.spec()['kind']}, not a supernet; name the folder of a search")
    return network


def load_pose_network(run: Path) -> torch.nn.Module:
    """The network of a training; see :func:`load_network` for the rest.

    Raises:
        PartnasError: The checkpoint is missing, damaged, or that of a search.
    """
    network = load_network(run)
    if isinstance(network, Supernet):
        raise PartnasError(f"{run}: holds a supernet; train what it found: partnas train --genotype {run} --out FOLDER")
    return network


def for_inference(network: torch.nn.Module) -> torch.nn.Module:
    """The fastest form of a network that gives the same numbers in evaluation mode, to rounding; not to be trained."""
    return network.fuse() if isinstance(network, PartNet) else network.eval()


def load_network(run: Path) -> torch.nn.Module:
    """The network of a run folder, or of a checkpoint file, with its weights, on the CPU and in training mode.

    Raises:
        PartnasError: The checkpoint is missing or damaged.
    """
    record = load_checkpoint(run)
    network = build(record["network"])
    load_weights(network, record, Path(run))
    return network
