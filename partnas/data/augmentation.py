"""Training augmentation: rotation, scale, mirror, colour, synthetic occlusion (section 4.2 of the paper)."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from partnas.data.occluders import SHIPPED, Occluders, occluders_in
from partnas.errors import PartnasError
from partnas.skeleton import HUMAN36M, Skeleton


class Drawn(NamedTuple):
    """The values drawn for one sample."""

    rotation: float
    scale: float
    flip: bool
    colour: np.ndarray


@dataclass(frozen=True)
class Augmentation:
    """What is varied in training; the values are the paper's, or the public baseline's where the paper is silent.

    Attributes:
        rotation: Degrees to either side.
        rotation_probability: How often the crop is turned.
        scale: Share by which the box grows or shrinks at most.
        flip_probability: How often the crop is mirrored.
        colour: Each channel is multiplied by U(1 − colour, 1 + colour).
        occlusion_probability: How often objects are pasted over the crop.
        occluders: Folder of those objects: RGBA pictures, or Pascal VOC 2012; the rendered ones that ship with the
            package where left out.

    Raises:
        PartnasError: A probability is outside 0–1, or an extent is negative (or, of ``scale`` and ``colour``, 1 or more).
    """

    rotation: float = 30.0
    rotation_probability: float = 0.6
    scale: float = 0.25
    flip_probability: float = 0.5
    colour: float = 0.2
    occlusion_probability: float = 0.5
    occluders: str | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name == "occluders":
                continue
            value = getattr(self, field.name)
            bound = math.inf if field.name == "rotation" else 1
            inside = 0 <= value <= bound if field.name.endswith("probability") else 0 <= value < bound
            if not inside:
                raise PartnasError(
                    f"augmentation.{field.name}: {value} is out of range; give a number from 0 to {bound}"
                )

    def draw(self, random: np.random.Generator) -> Drawn:
        turned = random.random() < self.rotation_probability
        return Drawn(
            rotation=float(np.clip(random.standard_normal(), -2, 2) / 2 * self.rotation) if turned else 0.0,
            scale=float(1 + np.clip(random.standard_normal(), -1, 1) * self.scale),
            flip=bool(random.random() < self.flip_probability),
            colour=random.uniform(1 - self.colour, 1 + self.colour, 3),
        )

    def objects(self) -> Occluders:
        """What :meth:`occlude` pastes."""
        return occluders_in(Path(self.occluders) if self.occluders else SHIPPED)

    def occlude(self, crop: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Paste 1 to 7 objects over a crop ``(S, S, 3)`` uint8; with probability 1 − ``occlusion_probability`` none."""
        if random.random() >= self.occlusion_probability:
            return crop
        return self.objects().paste(crop, random)


def mirror_coordinates(xyz: torch.Tensor, heatmap_size: int, skeleton: Skeleton = HUMAN36M) -> torch.Tensor:
    """Voxel coordinates ``(B, P, 3)`` as seen in the mirrored crop: x' = W − x, left and right parts swapped."""
    mirrored = xyz[:, skeleton.mirrored()].clone()
    mirrored[..., 0] = heatmap_size - mirrored[..., 0]
    return mirrored
