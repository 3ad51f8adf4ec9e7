"""Weights that a ResNet starts from, out of a safetensors file: tensors and their names, and nothing that is executed."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from partnas.errors import PartnasError
from partnas.nn.resnet import ResNet

CLASSIFIER, COUNTER = "fc.", ".num_batches_tracked"


def load_pretrained(backbone: ResNet, path: str | Path) -> None:
    """Copy the weights of a file into ``backbone``; the classifier and the counters of batches in it are ignored.

    Args:
        path: A safetensors file of tensors named as torchvision and timm name those of a ResNet.

    Raises:
        PartnasError: The file cannot be read, is no safetensors file, lacks a tensor of the backbone, has it in another
            shape or in integers, or holds one that is not of the backbone.
    """
    path = Path(path)
    own, public = backbone.state_dict(), backbone.public_names()
    try:
        with safe_open(path, framework="pt") as file:
            _require_names(path, set(file.keys()), list(public.values()))
            weights = {name: _tensor(path, public[name], own[name], file.get_tensor(public[name])) for name in public}
    except OSError as error:
        raise PartnasError(
            f"{path}: cannot be read ({error.strerror or 'no such file'}); pretrained names a safetensors file of a "
            "ResNet's weights"
        ) from None
    except SafetensorError as error:
        raise PartnasError(
            f"{path}: not a whole safetensors file ({str(error).splitlines()[0][:80]}); write it by "
            "safetensors.torch.save_file"
        ) from None
    backbone.load_state_dict({**own, **weights})


def _require_names(path: Path, found: set[str], wanted: Sequence[str]) -> None:
    """Require that a file has the ``wanted`` tensors, and none but what is ignored beside them."""
    fix = "give the weights of a ResNet of this backbone's size"
    if missing := [name for name in wanted if name not in found]:
        raise PartnasError(f"{path}: {missing[0]} is missing; {fix}")
    others = [n for n in found.difference(wanted) if not n.startswith(CLASSIFIER) and not n.endswith(COUNTER)]
    if others:
        raise PartnasError(f"{path}: {min(others)} is not of this backbone; {fix}")


def _tensor(path: Path, name: str, own: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """A tensor of the file, which is to be like the backbone's ``own``."""
    if found.shape != own.shape:
        raise PartnasError(
            f"{path}: {name} has shape {tuple(found.shape)} where this backbone has {tuple(own.shape)}; give the weights of "
            "a ResNet of its size"
        )
    if not found.is_floating_point():
        raise PartnasError(f"{path}: {name} is of {found.dtype}; store it as floating-point numbers")
    return found
