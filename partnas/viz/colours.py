"""One palette for every picture, after Okabe and Ito: colours that colour-blind people can tell apart."""

from partnas.skeleton import Skeleton

RIGHT, LEFT, TRUNK = "#D55E00", "#0072B2", "#009E73"
TARGET = "#5B6673"
"""Ground truth is grey wherever it is drawn beside a prediction."""

INK, FAINT_INK, RULE = "#1F2933", "#5A6775", "#DFE4EA"
"""Text, lesser text, and the lines that only guide the eye."""

OPERATION_COLOURS = {
    "none": "#B0BAC5",
    "max_pool_3x3": "#E69F00",
    "avg_pool_3x3": "#8F6200",
    "skip_connect": "#1E9E79",
    "sep_conv_3x3": "#6CB8EA",
    "sep_conv_5x5": "#0B62A8",
    "dil_conv_3x3": "#D073B4",
    "dil_conv_5x5": "#5F1A5C",
}
"""Hue tells the kind of operation, darkness the larger kernel (of the pools, the average)."""

CURVES = ("#0B62A8", "#B0316F")
"""Of the curves of one chart; the second one is dashed as well."""

CONCATENATION = "#AEB8C4"
GROUPS = ("#E08E2F", "#B0316F", "#5BA3DC", "#3D5A1E")
"""Of the heads of the last fusion cell; orange and pink as in Table 2 of the paper."""


def operation_colour(operation: str) -> str:
    return OPERATION_COLOURS.get(operation, FAINT_INK)


def group_colour(node: int) -> str:
    return GROUPS[node % len(GROUPS)]


def side_colour(part: str) -> str:
    """Right, left or trunk, by the part's name."""
    return RIGHT if part.startswith("R_") else LEFT if part.startswith("L_") else TRUNK


def bone_colour(bone: tuple[int, int], skeleton: Skeleton) -> str:
    """A bone has the colour of its limb: of whichever end is not on the trunk."""
    colours = [side_colour(skeleton.parts[place]) for place in bone]
    return next((colour for colour in colours if colour != TRUNK), TRUNK)


def rgb(colour: str) -> tuple[int, int, int]:
    """``#RRGGBB`` as three numbers in 0–255."""
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def tint(colour: str, share: float) -> str:
    """``colour`` thinned with white until only ``share`` of it is left."""
    return "#" + "".join(f"{round(255 + share * (value - 255)):02X}" for value in rgb(colour))
