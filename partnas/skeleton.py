"""Skeletons: the names, mirror pairs and bones of the parts that a data set annotates.

The network's skeleton is the first 3D set's: Human3.6M's 18 parts by default, MuCo-3DHP's 21 where that is trained on.
"""

from dataclasses import dataclass

from partnas.errors import PartnasError

LIMB_JOINTS = ("Knee", "Ankle", "Toe", "Elbow", "Wrist", "Hand")
"""The parts of the arms and legs beyond shoulder and hip: those of many degrees of freedom."""


@dataclass(frozen=True)
class Skeleton:
    """The parts of one annotation scheme, in the order of its arrays.

    Attributes:
        name: As settings and files spell it.
        parts: Names; the same name means the same part in every skeleton.
        flip_pairs: Places of the parts that a mirror swaps.
        bones: Pairs of places, from the pelvis outward.
        evaluated: Places of the parts that enter the error.
    """

    name: str
    parts: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    bones: tuple[tuple[int, int], ...]
    evaluated: tuple[int, ...]

    @property
    def root(self) -> int:
        """The place of the pelvis."""
        return self.parts.index("Pelvis")

    @property
    def limbs(self) -> tuple[int, ...]:
        """Places of the parts of the limbs, by their names."""
        return tuple(place for place, part in enumerate(self.parts) if part[2:] in LIMB_JOINTS)

    @property
    def torso(self) -> tuple[int, ...]:
        """Places of all other parts."""
        return tuple(place for place in range(len(self.parts)) if place not in self.limbs)

    def mirrored(self) -> list[int]:
        """The part order after a left-right mirror: entry ``p`` is the part that is at ``p`` in the mirrored body."""
        order = list(range(len(self.parts)))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return order

    def places_of(self, parts: tuple[str, ...]) -> list[int | None]:
        """Where each of ``parts`` stands here, None for a part that this skeleton lacks."""
        return [self.parts.index(part) if part in self.parts else None for part in parts]


HUMAN36M = Skeleton(
    name="human36m",
    parts=(
        "Pelvis", "R_Hip", "R_Knee", "R_Ankle", "L_Hip", "L_Knee", "L_Ankle", "Torso", "Neck", "Nose", "Head",
        "L_Shoulder", "L_Elbow", "L_Wrist", "R_Shoulder", "R_Elbow", "R_Wrist", "Thorax",
    ),
    flip_pairs=((1, 4), (2, 5), (3, 6), (14, 11), (15, 12), (16, 13)),
    bones=(
        (0, 7), (7, 8), (8, 9), (9, 10), (8, 11), (11, 12), (12, 13), (8, 14), (14, 15), (15, 16),
        (0, 1), (1, 2), (2, 3), (0, 4), (4, 5), (5, 6),
    ),
    evaluated=tuple(range(17)),
)  # fmt: skip
"""Thorax is the middle of the shoulders by definition, and left out of the error."""

MPII = Skeleton(
    name="mpii",
    parts=(
        "R_Ankle", "R_Knee", "R_Hip", "L_Hip", "L_Knee", "L_Ankle", "Pelvis", "Thorax", "Neck", "Head", "R_Wrist",
        "R_Elbow", "R_Shoulder", "L_Shoulder", "L_Elbow", "L_Wrist",
    ),
    flip_pairs=((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)),
    bones=(
        (6, 7), (7, 8), (8, 9), (7, 12), (12, 11), (11, 10), (7, 13), (13, 14), (14, 15), (6, 2), (2, 1), (1, 0),
        (6, 3), (3, 4), (4, 5),
    ),
    evaluated=tuple(range(16)),
)  # fmt: skip

COCO = Skeleton(
    name="coco",
    parts=(
        "Nose", "L_Eye", "R_Eye", "L_Ear", "R_Ear", "L_Shoulder", "R_Shoulder", "L_Elbow", "R_Elbow", "L_Wrist",
        "R_Wrist", "L_Hip", "R_Hip", "L_Knee", "R_Knee", "L_Ankle", "R_Ankle", "Thorax", "Pelvis",
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    bones=(
        (18, 17), (17, 0), (0, 1), (0, 2), (1, 3), (2, 4), (17, 5), (5, 7), (7, 9), (17, 6), (6, 8), (8, 10),
        (18, 11), (11, 13), (13, 15), (18, 12), (12, 14), (14, 16),
    ),
    evaluated=tuple(range(17)),
)  # fmt: skip
"""Thorax and Pelvis are the middles of the shoulders and of the hips."""

MUCO = Skeleton(
    name="muco",
    parts=(
        "Head_top", "Thorax", "R_Shoulder", "R_Elbow", "R_Wrist", "L_Shoulder", "L_Elbow", "L_Wrist", "R_Hip",
        "R_Knee", "R_Ankle", "L_Hip", "L_Knee", "L_Ankle", "Pelvis", "Spine", "Head", "R_Hand", "L_Hand", "R_Toe",
        "L_Toe",
    ),
    flip_pairs=((2, 5), (3, 6), (4, 7), (8, 11), (9, 12), (10, 13), (17, 18), (19, 20)),
    bones=(
        (14, 15), (15, 1), (1, 16), (16, 0), (1, 2), (2, 3), (3, 4), (4, 17), (1, 5), (5, 6), (6, 7), (7, 18),
        (14, 8), (8, 9), (9, 10), (10, 19), (14, 11), (11, 12), (12, 13), (13, 20),
    ),
    evaluated=tuple(range(17)),
)  # fmt: skip

MUPOTS = Skeleton(
    name="mupots",
    parts=MUCO.parts[:17],
    flip_pairs=MUCO.flip_pairs[:6],
    bones=tuple(bone for bone in MUCO.bones if max(bone) < 17),
    evaluated=tuple(range(17)),
)

SKELETONS = {skeleton.name: skeleton for skeleton in (HUMAN36M, MPII, COCO, MUCO, MUPOTS)}


def skeleton_named(name: str, where: str) -> Skeleton:
    """The skeleton of that name.

    Raises:
        PartnasError: There is none; the message begins with ``where``.
    """
    if not isinstance(name, str) or name not in SKELETONS:
        raise PartnasError(f"{where}: {name!r} is not known; use one of {', '.join(SKELETONS)}")
    return SKELETONS[name]
