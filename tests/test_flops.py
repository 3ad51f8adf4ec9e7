import pytest
import torch
from torch import nn

from partnas import flops
from partnas.genotype import Genotype
from partnas.nn import DeconvNet, PartNet, PoseResNet50
from partnas.nn.layout import cell_layouts, stem_channels
from partnas.nn.primitives import SeparableConv, preprocessing
from partnas.ops import native, use_backend
from partnas.ops.pointwise import pointwise
from partnas.space import SearchSpace

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = SearchSpace(
    cells=7, reductions=2, fusions=2, nodes=3, fusion_nodes=2, channels=4, parts=5, depth=3, input_size=32,
    fusion_channels=6,
)  # fmt: skip


class Tiny(nn.Module):
    """Something of everything that is counted."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.block = SeparableConv(4, 5, stride=2)
        self.up = preprocessing(4, 6, 2, searching=False)
        self.deconvolution = nn.ConvTranspose2d(6, 2, 4, stride=2, padding=1, bias=False)

    def forward(self, x):
        return self.deconvolution(self.up(self.block(self.stem(x))))


def test_tiny_by_hand():
    size, half = 16 * 16, 8 * 8
    stem = 3 * 4 * 9 * size
    # Depthwise, pointwise, and two for each number that is normalised; twice.
    block = 2 * (4 * 25 * half + 4 * 4 * half + 2 * 4 * half)
    convolution = 4 * 6 * half + 2 * 6 * half
    upsampling = 4 * 6 * size
    # A deconvolution's input positions each go through all taps ...
    deconvolution = 6 * 2 * 16 * size
    exact = stem + block + convolution + upsampling + deconvolution
    found = flops.count(Tiny(), 16)
    assert found["flops"] == {
        "exact": exact,
        # ... or its output positions, four times as many.
        "paper": exact + 3 * deconvolution,
        "upsample_first": exact + 3 * convolution,
    }
    assert found["parameters"] == 108 + 2 * (100 + 16 + 8) + 24 + 12 + 192


def test_upsampling_by_four_first_is_sixteen_times_the_convolution():
    layer = nn.Sequential(nn.Identity(), preprocessing(3, 5, 4, searching=False))
    found = flops.count(layer, 8)["flops"]
    convolution = (3 * 5 + 2 * 5) * 64
    assert found["exact"] == convolution + 4 * 5 * 64 * 16
    assert found["upsample_first"] - found["exact"] == 15 * convolution


def test_pointwise_products_are_counted():
    class Products(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, 5, 3))

        def forward(self, x):
            return pointwise([x, x], self.weight)

    assert flops.count(Products(), 4)["flops"]["exact"] == 2 * 5 * 3 * 16


def test_resnet_50_in_both_conventions():
    found = flops.count(PoseResNet50(SearchSpace(input_size=256, depth=64)), 256)
    assert found["parameters"] == 34_291_392
    # 2048 and twice 256 channels to 256, at 8, 16 and 32 a side.
    deconvolutions = 16 * 256 * (2048 * 8**2 + 256 * 16**2 + 256 * 32**2)
    assert found["flops"]["paper"] - found["flops"]["exact"] == 3 * deconvolutions
    assert round(found["flops"]["exact"] / 1e9, 1) == 8.5
    assert round(found["flops"]["paper"] / 1e9, 1) == 14.1
    assert found["flops"]["upsample_first"] == found["flops"]["exact"]


def weights_by_hand(name, channels, stride):
    """Weights of an operation, batch norm's included: all of them meet each output position once."""
    if name.startswith(("sep", "dil")):
        size = int(name[-1])
        return (2 if name.startswith("sep") else 1) * (size * size * channels + channels * channels + 2 * channels)
    return channels * channels + 2 * channels if name == "skip_connect" and stride == 2 else 0


def by_hand(genotype, space, upsample_first=False):
    """Parameters and FLOPs of a derived network, one edge after the other."""
    stem = 29 * stem_channels(space)
    parameters, count = stem, stem * space.input_size**2
    for layout in cell_layouts(space):
        out = int(layout.scale * space.input_size) ** 2
        entry = 4 * out if layout.kind == "reduction" else out
        for channels, factor in zip(layout.input_channels, layout.input_factors, strict=True):
            weights = channels * layout.channels + 2 * layout.channels
            parameters += weights
            if factor > 1:
                count += 4 * layout.channels * entry
                count += weights * (entry if upsample_first else entry // int(factor) ** 2)
            else:
                count += weights * entry
        for node in getattr(genotype, layout.kind):
            for name, source in node:
                weights = weights_by_hand(name, layout.channels, 2 if entry > out and source < 2 else 1)
                parameters += weights
                count += weights * out
    return parameters, count


@pytest.mark.parametrize("seed", range(3))
def test_derived_networks_by_hand(seed):
    genotype = Genotype.random(SMALL, torch.Generator().manual_seed(seed))
    found = flops.count(PartNet(genotype, SMALL), 32)
    assert (found["parameters"], found["flops"]["exact"]) == by_hand(genotype, SMALL)
    assert found["flops"]["upsample_first"] == by_hand(genotype, SMALL, upsample_first=True)[1]
    assert found["flops"]["paper"] == found["flops"]["exact"]


PAPER = SearchSpace(input_size=256, depth=64)


@pytest.mark.parametrize(
    ("fusion_nodes", "parameters", "count"), [(1, 14.7, 22.9), (2, 13.0, 10.7), (3, 9.9, 7.8), (4, 9.9, 7.9)]
)
def test_the_papers_table_1_is_within_reach_of_random_genotypes(fusion_nodes, parameters, count):
    space = PAPER.replace(fusion_nodes=fusion_nodes)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3000):
        found = by_hand(Genotype.random(space, generator), space, upsample_first=True)
        if abs(found[0] / 1e6 / parameters - 1) < 0.03 and abs(found[1] / 1e9 / count - 1) < 0.05:
            return
    pytest.fail("none of 3000 came near")


def test_genotypes_of_the_papers_size_grow_with_the_cells_as_in_table_4():
    generator = torch.Generator().manual_seed(0)
    grown = []
    for _ in range(1500):
        genotype = Genotype.random(PAPER, generator)
        parameters, count = by_hand(genotype, PAPER, upsample_first=True)
        if abs(parameters / 13.0e6 - 1) < 0.06 and abs(count / 10.7e9 - 1) < 0.1:
            spaces = (PAPER.replace(cells=15), PAPER.replace(cells=20), PAPER.replace(cells=20, placement="printed"))
            grown.append([value for space in spaces for value in by_hand(genotype, space, upsample_first=True)])
    assert len(grown) > 5
    at_15, count_15, at_20, count_20, printed, _ = torch.tensor(grown).double().mean(0).tolist()
    assert at_15 == pytest.approx(14.7e6, rel=0.05)
    assert count_15 == pytest.approx(12.7e9, rel=0.05)
    assert at_20 == pytest.approx(20.4e6, rel=0.1)
    assert count_20 == pytest.approx(14.1e9, rel=0.1)
    # Equation 6 as it is printed gives far more than the paper's own table says.
    assert printed > 1.6 * 20.4e6


def test_the_count_does_not_depend_on_the_backend():
    net = PartNet(Genotype.random(SMALL), SMALL)
    found = flops.count(net, 32)
    for backend in ["reference", *(["native"] if native.loaded() else [])]:
        with use_backend(backend):
            assert flops.count(net, 32) == found


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(training):
    net = DeconvNet(Genotype.random(SMALL), SMALL).double().train(training)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    flops.count(net, 32)
    assert net.training is training
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_the_table_names_every_convention():
    result = {"parameters": 34_291_392, "flops": {"exact": 8.47e9, "paper": 14.1e9, "upsample_first": 8.47e9}}
    lines = flops.table(result).splitlines()
    assert lines[0].split() == ["parameters", "34.3M"]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["FLOPs,", "exact", "8.5G"], ["FLOPs,", "paper", "14.1G"], ["FLOPs,", "upsample_first", "8.5G"],
    ]  # fmt: skip
    assert set(flops.CONVENTIONS) == set(result["flops"])
