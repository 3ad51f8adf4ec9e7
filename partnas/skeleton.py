"""The 18-part Human3.6M skeleton: names, mirror pairs, bones.

Every array of poses in the project has its parts in the order of ``PARTS``.
"""

PARTS = (
    "Pelvis",
    "R_Hip",
    "R_Knee",
    "R_Ankle",
    "L_Hip",
    "L_Knee",
    "L_Ankle",
    "Torso",
    "Neck",
    "Nose",
    "Head",
    "L_Shoulder",
    "L_Elbow",
    "L_Wrist",
    "R_Shoulder",
    "R_Elbow",
    "R_Wrist",
    "Thorax",
)
ROOT = PARTS.index("Pelvis")
THORAX = PARTS.index("Thorax")
EVALUATED = tuple(range(17))
"""Parts that enter the error: all but Thorax, which is the middle of the shoulders by definition."""

FLIP_PAIRS = ((1, 4), (2, 5), (3, 6), (14, 11), (15, 12), (16, 13))
BONES = (
    (0, 7), (7, 8), (8, 9), (9, 10), (8, 11), (11, 12), (12, 13), (8, 14), (14, 15), (15, 16),
    (0, 1), (1, 2), (2, 3), (0, 4), (4, 5), (5, 6),
)  # fmt: skip

TORSO = tuple(
    PARTS.index(name)
    for name in (
        "Pelvis", "R_Hip", "L_Hip", "Torso", "Neck", "Nose", "Head", "L_Shoulder", "R_Shoulder", "Thorax",
    )
)  # fmt: skip
LIMBS = tuple(part for part in range(len(PARTS)) if part not in TORSO)


def mirrored_parts() -> list[int]:
    """The part order after a left-right mirror: entry ``p`` is the part that stands at ``p`` in the mirrored body."""
    order = list(range(len(PARTS)))
    for left, right in FLIP_PAIRS:
        order[left], order[right] = right, left
    return order
