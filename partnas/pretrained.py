"""Weights that a ResNet starts from, out of a safetensors file: tensors and their names, and nothing that is executed."""

from collections.abc import Iterable
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
            found = [name for name in file.keys() if not name.startswith(CLASSIFIER)]  # noqa: SIM118
            for name in public.values():
                if name not in found:
                    raise PartnasError(
                        f"{path}: {name} is missing; give the weights of a ResNet of this backbone's size"
                    )
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
    _require_no_others(path, found, public.values())
    backbone.load_state_dict({**own, **weights})


def _require_no_others(path: Path, found: Iterable[str], known: Iterable[str]) -> None:
    others = [name for name in sorted(found) if name not in set(known) and not name.endswith(COUNTER)]
    if others:
        raise PartnasError(f"{path}: {others[0]} is not of this backbone; give the weights of a ResNet of its size")


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
