"""One palette for every picture: Okabe and Ito's colours, which colour-blind people can tell apart."""

from partnas.skeleton import PARTS

RIGHT, LEFT, TRUNK = "#D55E00", "#0072B2", "#009E73"
PREDICTED, TARGET = "#D55E00", "#5F6B7A"

OPERATION_COLOURS = {
    "none": "#B8BFC8",
    "max_pool_3x3": "#E69F00",
    "avg_pool_3x3": "#B8860B",
    "skip_connect": "#7A8594",
    "sep_conv_3x3": "#56B4E9",
    "sep_conv_5x5": "#0072B2",
    "dil_conv_3x3": "#CC79A7",
    "dil_conv_5x5": "#93437A",
}


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
