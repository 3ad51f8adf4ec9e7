"""One palette for every picture, after Okabe and Ito: colours that colour-blind people can tell apart."""

from partnas.skeleton import PARTS

RIGHT, LEFT, TRUNK = "#D55E00", "#0072B2", "#009E73"
TARGET = "#5B6673"
"""Ground truth is grey wherever it is drawn beside a prediction."""

OPERATION_COLOURS = {
    "none": "#A3ADB8",
    "max_pool_3x3": "#E69F00",
    "avg_pool_3x3": "#A87400",
    "skip_connect": "#1E9E79",
    "sep_conv_3x3": "#56A8DE",
    "sep_conv_5x5": "#0B62A8",
    "dil_conv_3x3": "#C77BB5",
    "dil_conv_5x5": "#86408F",
}
"""Hue tells the kind of operation, darkness the larger kernel (of the pools, the average)."""

CONCATENATION = "#C3CBD5"
GROUPS = ("#D9822B", "#C2477F", "#3B7DB8", "#5C8A3C")
"""Of the heads of the last fusion cell; orange and pink as in Table 2 of the paper."""


def operation_colour(operation: str) -> str:
    return OPERATION_COLOURS.get(operation, "#52606D")


def group_colour(node: int) -> str:
    return GROUPS[node % len(GROUPS)]


def side_colour(part: int) -> str:
    """Right, left or trunk, by the part's name."""
    name = PARTS[part]
    return RIGHT if name.startswith("R_") else LEFT if name.startswith("L_") else TRUNK


def bone_colour(bone: tuple[int, int]) -> str:
    """A bone has the colour of its limb: of whichever end is not on the trunk."""
    colours = [side_colour(part) for part in bone]
    return next((colour for colour in colours if colour != TRUNK), TRUNK)


def rgb(colour: str) -> tuple[int, int, int]:
    """``#RRGGBB`` as three numbers in 0–255."""
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
