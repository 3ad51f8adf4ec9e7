"""Networks from their descriptions, and from the runs that trained them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from partnas.errors import PartnasError
from partnas.genotype import Genotype
from partnas.nn import BackboneSupernet, DeconvNet, PartNet, PoseResNet50, RootNet, Supernet
from partnas.run import load_checkpoint, load_weights
from partnas.space import SearchSpace

KINDS = ("supernet", "backbone_supernet", "partnet", "resnet50", "deconv", "rootnet")
WITH_RESNET = ("resnet50", "rootnet")
SUPERNETS = {"supernet": Supernet, "backbone_supernet": BackboneSupernet}
ROOT_FIELDS = ("input_size", "width", "blocks", "channels")


def build(spec: Mapping[str, Any]) -> torch.nn.Module:
    """Build a network with fresh weights.

    Args:
        spec: ``kind`` (one of ``KINDS``), ``space`` (``SearchSpace.to_dict()``), ``genotype``
            (``Genotype.to_dict()``, for ``partnet`` and ``deconv``), and for ``partnet`` optionally ``order`` and
            ``intermediate_supervision``. A ``rootnet`` has no space but the fields of ``partnas.RootNet``. JSON can
            hold it; every network gives its own by ``spec()``.

    Raises:
        PartnasError: A field is missing or wrong.
    """
    if isinstance(spec, Mapping) and spec.get("kind") == "rootnet":
        return _root_net(spec)
    for field in ("kind", "space"):
        if not isinstance(spec, Mapping) or field not in spec:
            raise PartnasError(f"network: field {field!r} is missing; give kind and space")
    kind, space = spec["kind"], SearchSpace.from_dict(spec["space"])
    if kind not in KINDS:
        raise PartnasError(f"network: kind {kind!r} is not known; use one of {', '.join(KINDS)}")
    for field in ("order", "intermediate_supervision"):
        if spec.get(field) and kind != "partnet":
            raise PartnasError(f"network: field {field!r} is of a partnet, not of a {kind}; leave it out")
    if kind in SUPERNETS:
        return SUPERNETS[kind](space)
    if kind == "resnet50":
        return PoseResNet50(space)
    if "genotype" not in spec:
        raise PartnasError(f"network: field 'genotype' is missing; {kind} is made of searched cells")
    genotype = Genotype.from_dict(spec["genotype"])
    if kind == "deconv":
        return DeconvNet(genotype, space)
    return PartNet(genotype, space, spec.get("order"), bool(spec.get("intermediate_supervision", False)))


def _root_net(spec: Mapping[str, Any]) -> RootNet:
    fields = {name: value for name, value in spec.items() if name != "kind"}
    for name in fields:
        if name not in ROOT_FIELDS:
            raise PartnasError(f"network: field {name!r} is not of a rootnet; use some of {', '.join(ROOT_FIELDS)}")
    return RootNet(**fields)


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
        PartnasError: The checkpoint is missing, damaged, or that of a search or of a root network.
    """
    network = load_trained_network(run)
    if isinstance(network, RootNet):
        raise PartnasError(f"{run}: holds a rootnet, which tells roots and not poses; name a pose network's folder")
    return network


def load_root_network(run: Path) -> RootNet:
    """The root network of a training; see :func:`load_network` for the rest.

    Raises:
        PartnasError: The checkpoint is missing, damaged, or that of another network.
    """
    network = load_network(run)
    if not isinstance(network, RootNet):
        raise PartnasError(
            f"{run}: holds a {network.spec()['kind']}, not a rootnet; train one: partnas train --kind rootnet --out FOLDER"
        )
    return network


def load_trained_network(run: Path) -> torch.nn.Module:
    """The pose or root network of a training; see :func:`load_network` for the rest.

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
