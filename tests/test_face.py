"""The Python example of the README, as it is printed there but on small numbers."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import partnas

pytestmark = pytest.mark.usefixtures("one_thread")

README = Path(__file__).resolve().parent.parent / "README.md"
SMALLER = {
    "SearchSpace()": "SearchSpace(channels=2, input_size=32, depth=2, fusion_channels=4)",
    "cells=20, input_size=256, depth=64": "cells=20, input_size=64, depth=4",
}


def example():
    (text,) = re.findall(r"## In Python\n+```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    for old, new in SMALLER.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@pytest.mark.parametrize("shape", [(1, 18 * 4, 6, 5), (1, 18, 4, 6, 5)])
def test_the_example_in_the_readme_runs(shape):
    names = {"heatmaps": torch.randn(shape)}
    exec(example(), names)
    net, genotype, model, xyz = (names[name] for name in ("net", "genotype", "model", "xyz"))
    assert names["space"].cells == 10
    with torch.no_grad():
        assert net(torch.randn(2, 3, 32, 32)).shape == (2, 18, 3)
        assert model.eval()(torch.randn(1, 3, 64, 64)).shape == (1, 18, 3)
    assert model.space.cells == 20
    assert model.heatmaps(torch.randn(1, 3, 64, 64)).shape == (1, 18 * 4, 16, 16)
    assert xyz.shape == (1, 18, 3)
    assert (xyz <= torch.tensor([4.0, 5.0, 3.0])).all()
    assert partnas.Genotype.from_json(genotype.to_json()) == genotype


def test_the_space_has_the_fields_and_defaults_of_the_paper():
    space = partnas.SearchSpace()
    paper = {
        "cells": 10, "reductions": 5, "fusions": 3, "fusion_nodes": 2, "channels": 16, "parts": 18, "input_size": 128,
        "depth": 32,
    }  # fmt: skip
    assert {name: getattr(space, name) for name in paper} == paper
    assert space.operations == partnas.OPERATIONS
    assert len(partnas.OPERATIONS) == 8


def test_every_public_name_is_there():
    for name in partnas.__all__:
        assert getattr(partnas, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'SearchSpaces'"):
        partnas.SearchSpaces  # noqa: B018


def test_the_package_is_imported_without_torch():
    code = "import sys, partnas; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
