"""Training augmentation: rotation, scale, mirror, colour, synthetic occlusion (section 4.2 of the paper)."""

import math
from dataclasses import dataclass, fields
from typing import NamedTuple

import cv2
import numpy as np
import torch

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

    Raises:
        PartnasError: A probability is outside 0–1, or an extent is negative (or, of ``scale`` and ``colour``, 1 or more).
    """

    rotation: float = 30.0
    rotation_probability: float = 0.6
    scale: float = 0.25
    flip_probability: float = 0.5
    colour: float = 0.2
    occlusion_probability: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
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

    def occlude(self, crop: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Paste 1 to 7 objects over a crop ``(S, S, 3)`` uint8; with probability 1 − ``occlusion_probability`` none.

        Sárándi et al., whom the paper follows, paste objects cut from Pascal VOC: scale U(0.2, 1) · side / 256, uniform
        centre, soft border. Here the objects are drawn: ellipses and polygons of U(0.2, 1) · side / 2 across, filled
        with a colour gradient and noise.
        """
        if random.random() >= self.occlusion_probability:
            return crop
        crop = crop.copy()
        for _ in range(random.integers(1, 8)):
            paste(crop, *drawn_object(crop.shape[0], random), centre=random.uniform(0, crop.shape[0], 2))
        return crop


def drawn_object(side: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A textured shape: colours ``(s, s, 3)`` in 0–255 and opacity ``(s, s)`` in 0–1, both float32."""
    size = max(int(random.uniform(0.2, 1) * side / 2), 3)
    mask = np.zeros((size, size), np.uint8)
    middle, radius = size / 2, size / 2 * random.uniform(0.5, 0.95)
    if random.random() < 0.5:
        axes = (radius, radius * random.uniform(0.3, 1))
        cv2.ellipse(mask, ((middle, middle), (2 * axes[0], 2 * axes[1]), random.uniform(0, 180)), 255, -1, cv2.LINE_AA)
    else:
        angles = np.sort(random.uniform(0, 2 * np.pi, random.integers(3, 9)))
        reach = radius * random.uniform(0.5, 1, len(angles))
        corners = middle + reach[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])
        cv2.fillPoly(mask, [(corners * 16).astype(np.int32)], 255, cv2.LINE_AA, shift=4)
    opacity = cv2.GaussianBlur(mask, (3, 3), 0).astype(np.float32) / 255
    ramp = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    first, second = random.uniform(0, 255, (2, 3)).astype(np.float32)
    grain = random.standard_normal((size, size, 1), dtype=np.float32) * random.uniform(0, 30)
    return np.clip(first * (1 - ramp) + second * ramp + grain, 0, 255).astype(np.float32), opacity


def paste(image: np.ndarray, colours: np.ndarray, opacity: np.ndarray, centre: np.ndarray) -> None:
    """Blend an object into ``image`` (uint8, changed in place) about ``centre`` (x, y); what falls outside is cut off."""
    height, width = opacity.shape
    left, top = (np.asarray(centre) - [width / 2, height / 2]).round().astype(int)
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + width, image.shape[1]), min(top + height, image.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    part = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
    weight = opacity[part][..., None]
    blended = image[y0:y1, x0:x1] * (1 - weight) + colours[part] * weight
    image[y0:y1, x0:x1] = blended.round().astype(np.uint8)


def mirror_coordinates(xyz: torch.Tensor, heatmap_size: int, skeleton: Skeleton = HUMAN36M) -> torch.Tensor:
    """Voxel coordinates ``(B, P, 3)`` as seen in the mirrored crop: x' = W − x, left and right parts swapped."""
    mirrored = xyz[:, skeleton.mirrored()].clone()
    mirrored[..., 0] = heatmap_size - mirrored[..., 0]
    return mirrored
