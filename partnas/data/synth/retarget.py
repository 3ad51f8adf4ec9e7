"""From a clip's pose to the bone orientations of the anny rig.

Clips: y up, x forward, +z right, straight hanging limbs at rest. Body: z up, facing −y, left = +x, metres.
"""

import numpy as np

from partnas.data.synth import rotations
from partnas.data.synth.clips import HINGES, LINKS, PARENTS, Pose

BASIS = np.array([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
"""Takes a clip's axes to the body's."""
DOWN = np.array([0.0, 0.0, -1.0])
RIGHT = np.array([-1.0, 0.0, 0.0])
SPINE = (("spine05", 0.15), ("spine04", 0.4), ("spine03", 0.75), ("spine02", 1.0), ("spine01", 1.0))
NECK = (("neck01", 0.25), ("neck02", 0.5), ("neck03", 0.75), ("head", 1.0))
ARM = (("clavicle", 0.12), ("shoulder01", 0.25))
CHAINS = (
    ("hip", "upperleg01", "lowerleg01"),
    ("knee", "lowerleg01", "foot"),
    ("shoulder", "upperarm01", "lowerarm01"),
    ("elbow", "lowerarm01", "wrist"),
)
"""Limb link of the clip, the rig's bone, and the bone at its far end."""

VARIATION = {
    "root": 6, "chest": 9, "neck": 13, "hip": 9, "knee": 10, "ankle": 8, "shoulder": 20, "elbow": 22,
}  # fmt: skip
"""Standard deviations in degrees of the joint noise that widens the training clips."""


def link_rotations(pose: Pose) -> dict[str, np.ndarray]:
    """World rotation [3, 3] of every clip link, in the body's axes."""
    local = rotations.to_matrix(pose.rotations)  # [13, 3, 3]
    world = {"root": local[0]}
    for index, link in enumerate(LINKS[1:], start=1):
        world[link] = world[PARENTS[link]] @ local[index]
    return {link: BASIS @ matrix @ BASIS.T for link, matrix in world.items()}


def rest_corrections(heads: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rotation [3, 3] that takes each limb bone from the rig's rest to the clip's rest (hanging, straight).

    Arms are aligned by two axes, the limb to −z and the elbow's hinge to −x, which also removes the bend of the
    resting elbow; legs by the shortest rotation. ``heads`` are the rest bone heads [3] by name.
    """
    corrections = {}
    for side in ("L", "R"):
        axes = {bone: heads[f"{far}.{side}"] - heads[f"{bone}.{side}"] for _, bone, far in CHAINS}
        hinge = np.cross(axes["upperarm01"], axes["lowerarm01"])
        for bone, axis in axes.items():
            if "arm" in bone:
                correction = rotations.frame(DOWN, RIGHT) @ rotations.frame(axis, hinge).T
            else:
                correction = rotations.shortest(axis, DOWN)
            corrections[f"{bone}.{side}"] = correction
    return corrections


def bone_turns(pose: Pose, heads: dict[str, np.ndarray], labels: list[str], parents: list[int]) -> np.ndarray:
    """World rotation from rest [J, 3, 3] of every bone of the rig in ``pose``.

    A bone's orientation is this times its rest orientation. Bones that no link drives turn with their parent.
    """
    links = link_rotations(pose)
    corrections = rest_corrections(heads)
    turns = {"root": links["root"], "spine02": links["chest"], "head": links["neck"]}
    for bone, share in SPINE:
        turns[bone] = rotations.blend(links["root"], links["chest"], share)
    for bone, share in NECK:
        turns[bone] = rotations.blend(links["chest"], links["neck"], share)
    for side, name in (("L", "left"), ("R", "right")):
        for link, bone, _ in CHAINS:
            turns[f"{bone}.{side}"] = links[f"{name}_{link}"] @ corrections[f"{bone}.{side}"]
        turns[f"foot.{side}"] = links[f"{name}_ankle"]
        for bone, share in ARM:
            turns[f"{bone}.{side}"] = rotations.blend(links["chest"], turns[f"upperarm01.{side}"], share)
    result = np.empty((len(labels), 3, 3))
    for index, (label, parent) in enumerate(zip(labels, parents, strict=True)):
        result[index] = turns[label] if label in turns else result[parent]
    return result


def vary(pose: Pose, generator: np.random.Generator, strength: float = 1.0) -> Pose:
    """The pose with random turns added to its joints; knees and elbows stay within their range.

    ``strength`` scales the standard deviations of VARIATION; 0 changes nothing.
    """
    changed = pose.rotations.copy()
    for index, link in enumerate(LINKS):
        degrees = VARIATION[link.split("_")[-1]] * strength
        turn = np.deg2rad(generator.normal(0, degrees / np.sqrt(1 if link in HINGES else 3), 3))
        if link in HINGES:
            sign = HINGES[link]
            angle = 2 * np.arctan2(changed[index, 3], changed[index, 0])
            flexion = sign * ((angle + np.pi) % (2 * np.pi) - np.pi)
            wanted = np.clip(flexion + turn[0], min(flexion, 0.0), max(flexion, np.deg2rad(145)))
            changed[index] = rotations.from_axis_angle(np.array([0.0, 0.0, 1.0]), sign * wanted)
        else:
            noise = rotations.from_axis_angle(turn, np.linalg.norm(turn))
            changed[index] = rotations.multiply(changed[index], noise)
    return Pose(pose.root, changed)


def with_arms_of(pose: Pose, other: Pose) -> Pose:
    """``pose`` with the arms and the neck of ``other``."""
    chosen = [index for index, link in enumerate(LINKS) if link.split("_")[-1] in ("shoulder", "elbow", "neck")]
    changed = pose.rotations.copy()
    changed[chosen] = other.rotations[chosen]
    return Pose(pose.root, changed)
