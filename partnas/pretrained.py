"""Weights that a ResNet starts from, out of a safetensors file: tensors and their names, and nothing that is executed."""

import math
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import torch

from partnas.errors import PartnasError
from partnas.nn.resnet import ResNet

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
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
    header, content = _read(path)
    found = {name: entry for name, entry in header.items() if not name.startswith(CLASSIFIER)}
    weights = {
        name: _tensor(path, public[name], found.get(public[name]), tuple(own[name].shape), content) for name in public
    }
    _require_no_others(path, found, public.values())
    backbone.load_state_dict({**own, **weights})


def _require_no_others(path: Path, found: Iterable[str], known: Iterable[str]) -> None:
    others = [name for name in found if name not in set(known) and not name.endswith(COUNTER)]
    if others:
        raise PartnasError(f"{path}: {others[0]} is not of this backbone; give the weights of a ResNet of its size")


def _read(path: Path) -> tuple[dict[str, Any], memoryview]:
    """The header of a safetensors file, without its metadata, and the bytes that it describes."""
    try:
        content = bytearray(path.read_bytes())
    except OSError as error:
        raise PartnasError(
            f"{path}: cannot be read ({error.strerror}); pretrained names a safetensors file of a ResNet's weights"
        ) from None
    length = struct.unpack_from("<Q", content)[0] if len(content) >= 8 else math.inf
    try:
        header = msgspec.json.decode(content[8 : 8 + length]) if length <= len(content) - 8 else None
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise PartnasError(f"{path}: not a safetensors file; write one by safetensors.torch.save_file")
    header.pop("__metadata__", None)
    return header, memoryview(content)[8 + length :]


def _tensor(path: Path, name: str, entry: Any, shape: tuple[int, ...], content: memoryview) -> torch.Tensor:
    """A tensor of the file, which is to have this shape."""
    if entry is None:
        raise PartnasError(f"{path}: {name} is missing; give the weights of a ResNet of this backbone's size")
    try:
        dtype, found, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise PartnasError(f"{path}: {name}: no dtype, shape and data_offsets; write the file again") from None
    if found != shape:
        raise PartnasError(
            f"{path}: {name} has shape {found} where this backbone has {shape}; give the weights of a ResNet of its size"
        )
    if str(dtype) not in DTYPES:
        raise PartnasError(f"{path}: {name} has dtype {dtype!r}; store it as one of {', '.join(DTYPES)}")
    count, dtype = math.prod(shape), DTYPES[dtype]
    if not isinstance(begin, int) or not 0 <= begin <= len(content) or end != begin + count * dtype.itemsize:
        raise PartnasError(f"{path}: {name}: data_offsets do not fit its shape; write the file again")
    if end > len(content):
        raise PartnasError(f"{path}: {name}: the file is cut off; copy it again")
    return torch.frombuffer(content, dtype=dtype, count=count, offset=begin).view(shape)
