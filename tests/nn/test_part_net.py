import copy
import pickle

import pytest
import torch
from plain_derived import plain_cells, plain_soft_argmax
from torch import nn

import partnas
from partnas.errors import PartnasError
from partnas.genotype import Edge, Genotype
from partnas.nn.layout import cell_layouts
from partnas.nn.part_net import PartNet
from partnas.ops import native, use_backend
from partnas.skeleton import HUMAN36M
from partnas.space import SearchSpace

SMALL = {"channels": 2, "input_size": 32, "depth": 3, "fusion_channels": 6}
SPACE = SearchSpace(
    cells=7, reductions=3, fusions=2, nodes=3, fusion_nodes=2, channels=4, parts=5, depth=3, input_size=16,
    fusion_channels=6, groups=((4, 0, 2), (1, 3)),
)  # fmt: skip
GENOTYPE = Genotype(
    normal=[
        [["sep_conv_3x3", 0], ["skip_connect", 1]],
        [["dil_conv_5x5", 0], ["max_pool_3x3", 2]],
        [["avg_pool_3x3", 3]],
    ],
    reduction=[
        [["max_pool_3x3", 0], ["sep_conv_5x5", 1]],
        [["skip_connect", 0], ["dil_conv_3x3", 2]],
        [["skip_connect", 3], ["avg_pool_3x3", 1], ["dil_conv_5x5", 0]],
    ],
    fusion=[[["sep_conv_3x3", 0], ["dil_conv_3x3", 1]], [["skip_connect", 1], ["sep_conv_5x5", 2]]],
)


def network(space=SPACE, genotype=GENOTYPE, seed=0, **settings):
    """A network whose batch norms have seen something."""
    torch.manual_seed(seed)
    net = PartNet(genotype, space, **settings)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return net


def images(space=SPACE, batch=2, size=None, dtype=torch.float32):
    side = size or space.input_size
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=dtype)


def plain_forward(net, x):
    heatmaps = plain_cells(net, cell_layouts(net.space), x)[-1]
    depth = net.space.depth
    slots = net.space.part_slots()
    return torch.stack([plain_soft_argmax(heatmaps[:, slot * depth : (slot + 1) * depth]) for slot in slots], 1)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_equals_the_plain_one(training):
    net = network().double().train(training)
    x = images(dtype=torch.float64).requires_grad_()
    inputs = [x, *net.parameters()]
    expected = plain_forward(net, x)
    found = net(x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    gradient = torch.randn_like(expected)
    ours = torch.autograd.grad(found, inputs, gradient)
    theirs = torch.autograd.grad(expected, inputs, gradient)
    for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        assert (mine - other).abs().max() < 1e-8 * other.abs().max().clamp_min(1), index


@pytest.mark.parametrize(
    ("cells", "fusion_nodes"), [(8, 3), (9, 2), (10, 1), (10, 2), (10, 3), (10, 4), (10, 5), (15, 4), (20, 2)]
)
def test_shapes(cells, fusion_nodes):
    space = SearchSpace(**SMALL, cells=cells, fusion_nodes=fusion_nodes)
    net = PartNet(Genotype.random(space, torch.Generator().manual_seed(cells)), space).eval()
    with torch.no_grad():
        heatmaps = net.heatmaps(images(space))
        coordinates = net(images(space))
    assert heatmaps.shape == (2, fusion_nodes * -(-18 // fusion_nodes) * 3, 8, 8)
    assert coordinates.shape == (2, 18, 3)
    assert coordinates.dtype == torch.float32
    assert (coordinates >= 0).all()
    assert (coordinates <= torch.tensor([7.0, 7.0, 2.0])).all()


def test_uneven_groups_drop_surplus_slots():
    space = SearchSpace(**SMALL, groups=(HUMAN36M.torso, HUMAN36M.limbs))
    genotype = Genotype.random(space, torch.Generator().manual_seed(0))
    net = PartNet(genotype, space).eval()
    heatmaps = net.heatmaps(images(space))
    assert heatmaps.shape[1] == 20 * 3
    heatmaps.retain_grad()
    coordinates = net.decode(heatmaps.chunk(2, 1))
    assert coordinates.shape == (2, 18, 3)
    (coordinates**2).sum().backward()
    unused = heatmaps.grad.view(2, 20, -1).abs().sum((0, 2)) == 0
    assert unused.nonzero().flatten().tolist() == [18, 19]


def test_each_group_is_read_from_its_own_node_of_the_last_cell():
    net = network()
    coordinates = net(images())
    last = net.cells[-1]
    for head, group in enumerate(SPACE.part_groups()):
        net.zero_grad()
        coordinates[:, list(group)].sum().backward(retain_graph=True)
        touched = [any(p.grad is not None and p.grad.any() for p in node.parameters()) for node in last.nodes]
        # Node 1 reads node 0, so that its parts depend on both.
        assert touched == ([True, False], [True, True])[head]


def test_a_part_order_permutes_the_outputs():
    order = [3, 0, 4, 1, 2]
    plain, shuffled = network(), network(order=order)
    shuffled.load_state_dict(plain.state_dict())
    x = images()
    assert torch.equal(shuffled.eval()(x), plain.eval()(x)[:, order])
    assert torch.equal(shuffled.heatmaps(x), plain.heatmaps(x))
    assert network(order=tuple(range(5))).eval()(x).equal(network().eval()(x))


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [0, 1, 2, 3, 3], [1, 2, 3, 4, 5], [0, 1, 2, 3, None], "01234", 5])
def test_an_order_that_is_no_permutation(order):
    with pytest.raises(PartnasError, match=r"^order: not a permutation of the parts 0 to 4; name each exactly once"):
        PartNet(GENOTYPE, SPACE, order)


@pytest.mark.parametrize("order", [torch.tensor([4, 3, 2, 1, 0]), (4, 3, 2, 1, 0)])
def test_an_order_of_any_kind_of_sequence(order):
    assert PartNet(GENOTYPE, SPACE, order).spec()["order"] == [4, 3, 2, 1, 0]


def test_intermediate_supervision_gives_poses_of_every_fusion_cell():
    space = SPACE.replace(cells=8, fusions=3)
    net = network(space, intermediate_supervision=True).double().eval()
    plain = network(space).double().eval()
    missing = plain.load_state_dict(net.state_dict(), strict=False)
    assert {name.split(".")[0] for name in missing.unexpected_keys} == {"heads"}
    assert not missing.missing_keys
    x = images(space, dtype=torch.float64)
    found = net.forward_all(x)
    assert [tuple(f.shape) for f in found] == [(2, 5, 3)] * 3
    assert torch.equal(found[-1], net(x))
    assert torch.equal(found[-1], plain(x))
    maps = plain_cells(net, cell_layouts(space), x)[-3:]
    for index, factor in ((0, 4.0), (1, 2.0)):
        volume = net.heads[str(5 + index)](maps[index]).view(2, 5, 3, *maps[index].shape[2:])
        expected = torch.stack([plain_soft_argmax(volume[:, part]) for part in range(5)], 1)
        expected = expected * torch.tensor([factor, factor, 1])
        torch.testing.assert_close(found[index], expected, rtol=1e-9, atol=1e-9)


def test_without_intermediate_supervision_there_is_one_pose():
    net = network()
    assert not net.heads
    (only,) = net.eval().forward_all(images())
    assert torch.equal(only, net(images()))


def test_evaluation_uses_running_statistics():
    net = network().eval()
    x = images(batch=3)
    whole = net(x)
    torch.testing.assert_close(net(x[1:2]), whole[1:2], rtol=1e-4, atol=1e-4)
    assert not net.train()(x).equal(whole)
    assert not net.eval()(x).equal(whole)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(batch, training):
    coordinates = network().train(training)(images(batch=batch))
    assert coordinates.shape == (batch, 5, 3)
    assert coordinates.isfinite().all()


def test_channels_last_goes_in_and_through():
    net = network().eval()
    maps = []
    for module in net.modules():
        if not list(module.children()) and module is not net.decode:
            module.register_forward_hook(lambda module, inputs, output: maps.append(output))
    x = images()
    with torch.no_grad():
        found = net(x.contiguous(memory_format=torch.channels_last))
        assert len(maps) > 50
        assert all(value.is_contiguous(memory_format=torch.channels_last) for value in maps)
        torch.testing.assert_close(net(x), found, rtol=0, atol=0)


def test_other_image_sizes():
    net = network().eval()
    assert net.heatmaps(images(size=24)).shape[2:] == (12, 12)


def test_the_genotype_must_fit_the_space():
    with pytest.raises(PartnasError, match=r"^genotype: normal: 3 nodes where the network has 4; set nodes to 3"):
        PartNet(GENOTYPE, SPACE.replace(nodes=4))
    with pytest.raises(
        PartnasError, match=r"^genotype: fusion: 2 nodes where the network has 1; set fusion_nodes to 2"
    ):
        PartNet(GENOTYPE, SPACE.replace(fusion_nodes=1, groups=None))


def test_pools_have_no_batch_norm():
    only_pools = Genotype(*[[[Edge("max_pool_3x3", 0), Edge("avg_pool_3x3", 1)]]] * 3)
    net = PartNet(only_pools, SPACE.replace(nodes=1, fusion_nodes=1, groups=None))
    for cell in net.cells:
        assert not list(cell.nodes.parameters())


def test_spec_and_the_packages_face():
    assert network(order=[4, 3, 2, 1, 0], intermediate_supervision=True).spec() == {
        "kind": "partnet",
        "space": SPACE.to_dict(),
        "genotype": GENOTYPE.to_dict(),
        "order": [4, 3, 2, 1, 0],
        "intermediate_supervision": True,
    }
    assert partnas.PartNet is PartNet


@pytest.mark.parametrize("settings", [{}, {"order": [2, 0, 4, 1, 3]}, {"intermediate_supervision": True}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fused_for_inference(settings, dtype):
    net = network(**settings).to(dtype)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = images(dtype=dtype)
    fused = net.fuse()
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    with torch.no_grad():
        expected = net.eval()(x)
        torch.testing.assert_close(fused(x), expected, **tolerance)
        torch.testing.assert_close(fused.train()(x), expected, **tolerance)
        torch.testing.assert_close(fused.heatmaps(x), net.heatmaps(x), **tolerance)
        for mine, right in zip(fused.forward_all(x), net.forward_all(x), strict=True):
            torch.testing.assert_close(mine, right, **tolerance)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert not any(p.requires_grad for p in fused.parameters())
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_fused_network_notices_that_its_weights_change():
    net, x = network().eval(), images()
    fused = net.fuse()
    other = network().eval()
    for parameter in other.parameters():
        torch.nn.init.uniform_(parameter, 0.2, 0.4)
    with torch.no_grad():
        fused(x)
        fused.load_state_dict(other.fuse().state_dict())
        torch.testing.assert_close(fused(x), other.fuse()(x), rtol=0, atol=0)
        exact = fused.double()(x.double())
    with torch.inference_mode():
        torch.testing.assert_close(fused.float()(x).double(), exact, rtol=1e-4, atol=1e-4)


def test_what_is_packed_stays_behind():
    net, x = network().eval().fuse(), images()
    with torch.no_grad():
        expected = net(x)
        kept = [module._weights for module in net.modules() if hasattr(module, "_weights")]
        assert any(each._kept for each in kept) is native.loaded()
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert not any(module._weights._kept for module in other.modules() if hasattr(module, "_weights"))
            torch.testing.assert_close(other(x), expected, rtol=0, atol=0)
        with use_backend("reference"):
            net = network().eval().fuse()
            expected = net(x)
        torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "operations", [("skip_connect", "avg_pool_3x3"), ("max_pool_3x3", "skip_connect"), ("max_pool_3x3",) * 2], ids=str
)
def test_sums_without_gradients_leave_what_others_read(operations):
    # Every node adds up the inputs, which the others read as well.
    nodes = [[Edge(name, source) for source, name in enumerate(operations)]] * 2
    space = SPACE.replace(nodes=2, fusion_nodes=2)
    net = PartNet(Genotype(nodes, nodes, nodes), space).eval().fuse()
    x = images()
    expected = net.heatmaps(x.requires_grad_()).detach()
    with torch.no_grad():
        torch.testing.assert_close(net.heatmaps(x), expected, rtol=1e-5, atol=1e-5)


def test_a_fused_network_can_still_be_differentiated():
    net, x = network().double().eval(), images(dtype=torch.float64)
    found = []
    for each in (net, net.fuse()):
        leaf = x.clone().requires_grad_()
        each(leaf).square().sum().backward()
        found.append(leaf.grad)
    torch.testing.assert_close(*found, rtol=1e-8, atol=1e-9)
