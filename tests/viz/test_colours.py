import itertools

import numpy as np
import pytest

from partnas.viz import colours

SIGHT = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
"""Of linear RGB: Machado, Oliveira and Fernandes, A physiologically-based model for simulation of colour vision
deficiency, 2009, severity 1."""
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
SETS = {
    "sides": (colours.RIGHT, colours.LEFT, colours.TRUNK, colours.TARGET),
    "operations": tuple(colours.OPERATION_COLOURS.values()),
    "groups": colours.GROUPS,
    "curves": colours.CURVES,
}


def lab(colour, sight):
    value = np.array(colours.rgb(colour)) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    white = XYZ @ np.ones(3)
    x, y, z = np.cbrt(XYZ @ np.clip(np.array(SIGHT[sight]) @ linear, 1e-3, 1) / white)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("name", SETS)
def test_colours_that_stand_together_can_be_told_apart(name, sight):
    for first, second in itertools.combinations(SETS[name], 2):
        distance = np.linalg.norm(lab(first, sight) - lab(second, sight))
        assert distance > 12, (first, second, distance)  # some 2 can just be told apart side by side


def test_tint():
    assert colours.tint("#102030", 1) == "#102030"
    assert colours.tint("#102030", 0) == "#FFFFFF"
