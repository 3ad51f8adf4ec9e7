"""The baselines: ResNet-50, and the searched backbone, each with deconvolutions."""

import pytest
import torch
from plain_derived import plain_cells, plain_soft_argmax
from torch import nn

import partnas
from partnas.errors import PartnasError
from partnas.genotype import Genotype
from partnas.networks import build
from partnas.nn.deconv_net import BackboneSupernet, DeconvNet, DeconvolutionHead, PoseResNet50
from partnas.nn.layout import cell_layouts
from partnas.nn.resnet import Bottleneck, ResNet50
from partnas.ops.maps import whole
from partnas.space import SearchSpace

SPACE = SearchSpace(
    cells=7, reductions=3, fusions=2, nodes=3, channels=4, parts=5, depth=3, input_size=16, fusion_channels=6
)


def parameters(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def images(space, batch=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, space.input_size, space.input_size, generator=generator, dtype=dtype)


def test_resnet_50_layer_by_layer():
    net = ResNet50()
    stem, blocks = list(net)[:4], list(net)[4:]
    assert parameters(*stem) == 9_408 + 128
    stages = [blocks[:3], blocks[3:7], blocks[7:13], blocks[13:]]
    assert [parameters(*stage) for stage in stages] == [215_808, 1_219_584, 7_098_368, 14_964_736]
    classifier = 2048 * 1000 + 1000
    assert parameters(net) == 25_557_032 - classifier == 23_508_032
    for stage, (width, count) in zip(stages, [(64, 3), (128, 4), (256, 6), (512, 3)], strict=True):
        assert len(stage) == count
        for index, block in enumerate(stage):
            convs = [module for module in block.body if isinstance(module, nn.Conv2d)]
            assert [(c.kernel_size, c.out_channels) for c in convs] == [
                ((1, 1), width), ((3, 3), width), ((1, 1), 4 * width),
            ]  # fmt: skip
            strided = index == 0 and width != 64
            assert [c.stride[0] for c in convs] == [1, 2 if strided else 1, 1]
            assert isinstance(block.shortcut, nn.Identity) is (index > 0)


def test_resnet_50_resolutions():
    net = ResNet50().eval()
    shapes = []
    for module in net:
        module.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    with torch.no_grad():
        net(torch.randn(1, 3, 64, 64))
    assert shapes[0] == (64, 32, 32)
    assert shapes[4:] == [*[(256, 16, 16)] * 3, *[(512, 8, 8)] * 4, *[(1024, 4, 4)] * 6, *[(2048, 2, 2)] * 3]


def test_a_bottleneck_adds_its_shortcut_before_the_last_relu():
    torch.manual_seed(0)
    for block, x in ((Bottleneck(16, 4, 1), torch.randn(2, 16, 4, 4)), (Bottleneck(8, 4, 2), torch.randn(2, 8, 4, 4))):
        block.eval()
        torch.testing.assert_close(block(x.clone()), torch.relu(block.body(x.clone()) + block.shortcut(x)))
        assert block(x).min() == 0


def test_the_baseline_has_34_3_million_parameters():
    net = PoseResNet50(SearchSpace(input_size=256, depth=64))
    head = 2048 * 256 * 16 + 2 * 256 * 256 * 16 + 3 * 2 * 256 + 256 * 18 * 64 + 18 * 64
    assert parameters(net.head) == head
    assert parameters(net) == 23_508_032 + head == 34_291_392


def test_the_baseline_maps_images_to_voxels():
    space = SearchSpace(input_size=64, depth=4)
    net = PoseResNet50(space).eval()
    with torch.no_grad():
        heatmaps = net.heatmaps(images(space))
        found = net(images(space))
    assert heatmaps.shape == (2, 18 * 4, 16, 16)
    expected = torch.stack([plain_soft_argmax(heatmaps[:, 4 * part : 4 * part + 4]) for part in range(18)], 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_baseline_has_stride_32():
    with pytest.raises(PartnasError, match=r"^reductions: 4; a ResNet-50 has stride 32, set reductions to 5"):
        PoseResNet50(SearchSpace(reductions=4))


def test_the_head_has_a_deconvolution_for_each_fusion_cell():
    head = DeconvNet(Genotype.random(SPACE), SPACE).head
    assert len(head) == 3 * SPACE.fusions + 1
    head = DeconvolutionHead(12, 2, 15)
    deconvolutions = [module for module in head if isinstance(module, nn.ConvTranspose2d)]
    assert [(d.in_channels, d.out_channels, d.kernel_size, d.stride) for d in deconvolutions] == [
        (12, 256, (4, 4), (2, 2)), (256, 256, (4, 4), (2, 2)),
    ]  # fmt: skip
    assert all(d.bias is None for d in deconvolutions)
    assert head(torch.randn(2, 12, 3, 5)).shape == (2, 15, 12, 20)


@pytest.mark.parametrize("training", [True, False])
def test_searched_cells_and_deconvolutions(training):
    torch.manual_seed(0)
    net = DeconvNet(Genotype.random(SPACE), SPACE).double().train(training)
    layouts = cell_layouts(SPACE)[:5]
    assert [layout.kind for layout in layouts] == list(SPACE.cell_kinds())[:5]
    x = images(SPACE, dtype=torch.float64)
    backbone = plain_cells(net, layouts, x)[-1]
    heatmaps = net.head(backbone)
    expected = torch.stack([plain_soft_argmax(heatmaps[:, 3 * part : 3 * part + 3]) for part in range(5)], 1)
    torch.testing.assert_close(net(x), expected, rtol=1e-9, atol=1e-9)


def test_the_searched_backbone_ends_in_2048_channels():
    space = SearchSpace()
    net = DeconvNet(Genotype.random(space), space)
    assert len(net.cells) == 7
    assert net.head[0].in_channels == 2048


def test_a_network_without_backbone_cells():
    space = SearchSpace(cells=3, reductions=0)
    with pytest.raises(PartnasError, match=r"^cells: a network of deconvolutions needs cells before them; take more"):
        DeconvNet(Genotype.random(space), space)


def test_the_genotype_must_fit_the_space():
    with pytest.raises(PartnasError, match=r"^genotype: normal: 3 nodes where the network has 4"):
        DeconvNet(Genotype.random(SPACE), SPACE.replace(nodes=4))


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(batch):
    space = SearchSpace(input_size=64, depth=2, parts=2)
    for net in (PoseResNet50(space), DeconvNet(Genotype.random(SPACE), SPACE)):
        assert net(images(net.space, batch)).shape == (batch, net.space.parts, 3)


def test_channels_last_goes_through():
    space = SearchSpace(input_size=64, depth=2, parts=2)
    for net in (PoseResNet50(space), DeconvNet(Genotype.random(SPACE), SPACE)):
        net.eval()
        x = images(net.space)
        with torch.no_grad():
            heatmaps = net.heatmaps(x)
            assert heatmaps.is_contiguous(memory_format=torch.channels_last)
            assert net.heatmaps(x.contiguous(memory_format=torch.channels_last)).equal(heatmaps)


def test_spec_and_the_packages_face():
    genotype = Genotype.random(SPACE)
    assert DeconvNet(genotype, SPACE).spec() == {
        "kind": "deconv",
        "space": SPACE.to_dict(),
        "genotype": genotype.to_dict(),
    }
    space = SearchSpace(input_size=32, depth=2)
    assert PoseResNet50(space).spec() == {"kind": "resnet50", "space": space.to_dict()}
    assert partnas.DeconvNet is DeconvNet
    assert partnas.PoseResNet50 is PoseResNet50


def test_backbone_supernet_is_the_supernets_cells_under_deconvolutions():
    torch.manual_seed(0)
    net = BackboneSupernet(SPACE)
    assert net.kinds == list(SPACE.cell_kinds())[: -SPACE.fusions]
    x = images(SPACE)
    older = newer = net.stem(x)
    weights = {kind: net.mixing[kind](net.alphas[kind]) for kind in ("normal", "reduction")}
    for kind, cell in zip(net.kinds, net.cells, strict=True):
        older, newer = newer, cell(older, newer, weights[kind])
    volumes = net.head(whole(newer)).unflatten(1, (SPACE.parts, SPACE.depth))
    expected = torch.stack([plain_soft_argmax(volumes[:, part]) for part in range(SPACE.parts)], 1)
    torch.testing.assert_close(net(x), expected, atol=1e-4, rtol=1e-4)


def test_backbone_supernet_learns_of_no_fusion_cells():
    torch.manual_seed(0)
    net = BackboneSupernet(SPACE)
    net(images(SPACE)).square().sum().backward()
    assert net.alphas["fusion"].grad is None
    assert net.alphas["normal"].grad.abs().sum() > 0
    assert net.alphas["reduction"].grad.abs().sum() > 0
    DeconvNet(net.genotype(), SPACE)
    rebuilt = build(net.spec())
    assert isinstance(rebuilt, BackboneSupernet)
    rebuilt.load_state_dict(net.state_dict())


def test_backbone_supernet_needs_a_backbone():
    with pytest.raises(PartnasError, match="take more than fusions"):
        BackboneSupernet(SPACE.replace(cells=2, reductions=0))
