import pytest
import torch
from live import live_bytes
from plain_darts import PlainSupernet, copy_weights, weight_pairs

import partnas
from partnas.architect import frozen
from partnas.genotype import Genotype
from partnas.nn.layout import cell_layouts
from partnas.nn.supernet import Supernet
from partnas.ops.maps import parts_of, whole
from partnas.space import SearchSpace

SMALL = {"channels": 2, "input_size": 32, "depth": 3, "fusion_channels": 6}
SPACES = {
    "all kinds of neighbours": SearchSpace(
        cells=8, reductions=3, fusions=2, nodes=3, fusion_nodes=2, channels=4, parts=5, depth=3, input_size=16,
        fusion_channels=6, groups=((4, 0, 2), (1, 3)),
    ),
    "fusion right after reduction": SearchSpace(
        cells=3, reductions=1, fusions=2, nodes=2, fusion_nodes=1, channels=4, parts=2, depth=2, input_size=8,
        fusion_channels=4, operations=("sep_conv_3x3", "skip_connect", "none", "dil_conv_5x5", "max_pool_3x3"),
    ),
}  # fmt: skip


def images(space, batch=2, size=None, dtype=torch.float32, seed=0):
    side = size or space.input_size
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def with_larger_alphas(net):
    with torch.no_grad():
        for alpha in net.alphas.values():
            alpha.normal_()
    return net


@pytest.mark.parametrize("name", SPACES)
def test_the_whole_network_equals_the_plain_one(name):
    space = SPACES[name]
    torch.manual_seed(0)
    net = with_larger_alphas(Supernet(space)).double()
    plain = PlainSupernet(space, cell_layouts(space)).double()
    with torch.no_grad():
        plain.stem[0].weight.copy_(net.stem[0].weight)
    for ours, theirs in zip(net.cells, plain.cells, strict=True):
        copy_weights(ours, theirs)
    alphas = {kind: value.detach().clone().requires_grad_() for kind, value in net.alphas.items()}
    x = images(space, dtype=torch.float64)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = net(ours), plain(theirs, alphas)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    gradient = torch.randn_like(expected)
    found.backward(gradient)
    expected.backward(gradient)
    pairs = [("image", ours.grad, theirs.grad), ("stem", net.stem[0].weight.grad, plain.stem[0].weight.grad)]
    pairs += [(kind, net.alphas[kind].grad, alpha.grad) for kind, alpha in alphas.items() if kind in net.kinds]
    for index, cells in enumerate(zip(net.cells, plain.cells, strict=True)):
        for label, mine, at, other in weight_pairs(*cells):
            pairs.append((f"cell {index} {label}", mine.grad[at].reshape(other.shape), other.grad))
    for label, mine, other in pairs:
        error = (mine - other).abs().max() / other.abs().max().clamp_min(1e-6)
        assert error < 1e-8, f"{label}: {error}"


@pytest.mark.parametrize(("cells", "fusion_nodes"), [(8, 1), (9, 5), (10, 2), (10, 3), (15, 4), (20, 2)])
def test_shapes(cells, fusion_nodes):
    space = SearchSpace(**SMALL, cells=cells, fusion_nodes=fusion_nodes)
    net = Supernet(space)
    with torch.no_grad():
        heatmaps = net.heatmaps(images(space))
        assert heatmaps.shape == (2, fusion_nodes * -(-18 // fusion_nodes) * 3, 8, 8)
        coordinates = net(images(space))
    assert coordinates.shape == (2, 18, 3)
    assert coordinates.dtype == torch.float32
    assert (coordinates >= 0).all()
    assert (coordinates <= torch.tensor([7.0, 7.0, 2.0])).all()
    genotype = net.genotype()
    assert len(genotype.fusion) == fusion_nodes
    assert len(genotype.normal) == len(genotype.reduction) == 4


@pytest.mark.parametrize("groups", [None, ((3, 1, 4), (0, 2))])
def test_parts_are_read_from_their_slots(groups):
    space = SearchSpace(
        cells=4, reductions=1, fusions=1, nodes=1, channels=2, parts=5, depth=3, input_size=8, groups=groups
    )
    net = Supernet(space)
    heatmaps = torch.zeros(1, 2 * 3 * 3, 8, 8)
    expected = []
    for head, group in enumerate(space.part_groups()):
        for place, part in enumerate(group):
            x, y, z = part, 7 - part, part % 3
            heatmaps[0, (head * 3 + place) * 3 + z, y, x] = 20
            expected.append((part, [x, y, z]))
    found = net.decode(heatmaps.requires_grad_().chunk(2, 1))
    expected = torch.tensor([row for _, row in sorted(expected)], dtype=torch.float32)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-4)
    (found**2).sum().backward()
    used = torch.tensor(space.part_slots())
    by_slot = heatmaps.grad.view(6, -1).abs().sum(1) > 0
    assert by_slot.nonzero().flatten().tolist() == used.sort().values.tolist()


def test_stem_and_cell_channels():
    net = Supernet(SearchSpace(**{**SMALL, "channels": 4}))
    x = images(net.space)
    outputs = []
    for cell in net.cells:
        cell.register_forward_hook(lambda module, inputs, output: outputs.append(whole(output).shape[1:]))
    net.stem.register_forward_hook(lambda module, inputs, output: outputs.append(output.shape[1:]))
    with torch.no_grad():
        net(x)
    assert [tuple(shape) for shape in outputs] == [
        (12, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8), (128, 4, 4), (256, 2, 2), (512, 1, 1), (512, 1, 1),
        (6, 2, 2), (6, 4, 4), (54, 8, 8),
    ]  # fmt: skip


def test_alphas_are_parameters_like_any_other():
    space = SPACES["all kinds of neighbours"]
    net = with_larger_alphas(Supernet(space))
    names = {name for name, _ in net.named_parameters()}
    state = net.state_dict()
    assert set(state) == names
    assert {f"alphas.{kind}" for kind in ("normal", "reduction", "fusion")} < names
    assert net.alphas["normal"].shape == net.alphas["reduction"].shape == (9, 8)
    assert net.alphas["fusion"].shape == (5, 8)
    other = Supernet(space)
    other.load_state_dict(state)
    assert other.genotype() == net.genotype()
    x = images(space)
    torch.testing.assert_close(other(x), net(x), rtol=0, atol=0)

    alphas, weights = list(net.architecture_parameters()), list(net.weight_parameters())
    assert {id(p) for p in alphas} == {id(p) for p in net.alphas.values()}
    assert len({id(p) for p in [*alphas, *weights]}) == len(alphas) + len(weights) == len(names)


def test_the_genotype_is_what_the_alphas_stand_for():
    net = with_larger_alphas(Supernet(SPACES["all kinds of neighbours"]))
    assert net.genotype() == Genotype.from_alphas(dict(net.alphas.items()), net.space)
    with torch.no_grad():
        net.alphas["fusion"].zero_()
        net.alphas["fusion"][1, 6] = 5
    assert net.genotype().fusion[0] == (("max_pool_3x3", 0), ("dil_conv_3x3", 1))


def test_alphas_mix_the_cells():
    net = Supernet(SPACES["all kinds of neighbours"])
    x = images(net.space)
    before = net(x)
    for kind in ("normal", "reduction", "fusion"):
        changed = Supernet(net.space)
        changed.load_state_dict(net.state_dict())
        with torch.no_grad():
            changed.alphas[kind].normal_()
        assert (changed(x) - before).abs().max() > 1e-3


def backward_reaches(output):
    """The parameters that a backward from ``output`` would form a gradient of."""
    found, seen, waiting = set(), set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting += [following for following, _ in node.next_functions]
    return found


@pytest.mark.parametrize("step", ["weight", "alpha"])
def test_a_step_forms_only_its_own_gradients(step):
    net = Supernet(SPACES["all kinds of neighbours"])
    weights, alphas = list(net.weight_parameters()), list(net.architecture_parameters())
    asked, other = (weights, alphas) if step == "weight" else (alphas, weights)
    with frozen(other):
        output = net(images(net.space))
        assert backward_reaches(output) == {id(p) for p in asked}
        output.sum().backward()
    assert all(p.grad is not None for p in asked)
    assert all(p.grad is None and p.requires_grad for p in other)


def test_evaluation_mode_uses_the_batch_too():
    net = Supernet(SPACES["all kinds of neighbours"])
    x = images(net.space, batch=3)
    with torch.no_grad():
        trained = net(x)
        torch.testing.assert_close(net.eval()(x), trained, rtol=0, atol=0)
        assert (net(x[:2]) - trained[:2]).abs().max() > 1e-4
    assert not dict(net.named_buffers()).keys() & net.state_dict().keys()


def test_channels_last_goes_in_and_through():
    space = SPACES["all kinds of neighbours"]
    net = Supernet(space)
    maps = []
    for cell in net.cells:
        cell.register_forward_hook(lambda module, inputs, output: maps.extend(map(parts_of, [*inputs[:2], output])))
    x = images(space)
    with torch.no_grad():
        found = net(x.contiguous(memory_format=torch.channels_last))
        assert all(part.is_contiguous(memory_format=torch.channels_last) for parts in maps for part in parts)
        torch.testing.assert_close(net(x), found, rtol=0, atol=0)
    assert len(maps) == 2 * 3 * space.cells


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(batch):
    space = SPACES["all kinds of neighbours"]
    net = Supernet(space)
    coordinates = net(images(space, batch=batch))
    assert coordinates.shape == (batch, 5, 3)
    assert coordinates.isfinite().all()
    coordinates.sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_other_image_sizes():
    net = Supernet(SPACES["all kinds of neighbours"])
    with torch.no_grad():
        assert net.heatmaps(images(net.space, size=24)).shape[2:] == (12, 12)


def test_a_network_without_normal_cells_has_their_alphas_all_the_same():
    net = Supernet(SearchSpace(**SMALL, cells=8))
    assert "normal" not in net.kinds
    net(images(net.space)).sum().backward()
    assert net.alphas["normal"].grad is None
    assert net.alphas["reduction"].grad is not None
    net.genotype().check(net.space)


def test_the_seed_decides_the_weights():
    space = SPACES["fusion right after reduction"]
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(Supernet(space).state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_spec_and_the_packages_face():
    space = SPACES["all kinds of neighbours"]
    assert Supernet(space).spec() == {"kind": "supernet", "space": space.to_dict()}
    assert partnas.Supernet is Supernet


def step_of(space, x, **options):
    """Loss, gradients and bytes kept of a weight step of the same network with other options."""
    torch.manual_seed(0)
    net = with_larger_alphas(Supernet(space, **options))
    with frozen(list(net.alphas.values())):
        kept = live_bytes(lambda: net(x))
        loss = net(x).square().mean()
        loss.backward()
    return loss.detach(), {name: p.grad for name, p in net.named_parameters() if p.grad is not None}, kept


def test_what_is_formed_anew_changes_nothing_but_memory():
    space = SPACES["all kinds of neighbours"]
    x = images(space)
    losses, gradients, sizes = zip(
        *(step_of(space, x, recompute=way) for way in ("none", "light", "cell")), strict=True
    )
    assert all(torch.equal(losses[0], other) for other in losses[1:])
    assert gradients[0].keys() == gradients[1].keys() == gradients[2].keys()
    for name, kept in gradients[0].items():
        light, cell = gradients[1][name], gradients[2][name]
        assert torch.equal(kept, cell)
        # Where filtered maps are formed anew, sums over the pixels are cut elsewhere.
        torch.testing.assert_close(light, kept, rtol=1e-5, atol=1e-5 * float(kept.abs().max()))
    assert sizes[1] < 0.75 * sizes[0]
    assert sizes[2] < 0.3 * sizes[0]


def test_alphas_learn_through_cells_that_are_formed_anew():
    space, found = SPACES["all kinds of neighbours"], []
    for recompute in ("light", "cell"):
        torch.manual_seed(0)
        net = with_larger_alphas(Supernet(space, recompute))
        with frozen(list(net.weight_parameters())):
            net(images(space)).square().mean().backward()
        found.append([alpha.grad for kind, alpha in net.alphas.items() if kind in net.kinds])
    assert all(g.any() for g in found[0])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_bfloat16_maps():
    space = SPACES["all kinds of neighbours"]
    x = images(space, batch=4)
    loss, gradients, size = step_of(space, x)
    half_loss, half_gradients, half_size = step_of(space, x, activation_dtype=torch.bfloat16)
    assert half_size < 0.6 * size
    assert half_loss.dtype == torch.float32
    assert half_gradients.keys() == gradients.keys()
    torch.testing.assert_close(half_loss, loss, rtol=0.1, atol=0)
    assert all(gradient.dtype == torch.float32 for gradient in half_gradients.values())
    both = [torch.cat([g.flatten() for g in each.values()]) for each in (gradients, half_gradients)]
    assert torch.cosine_similarity(*both, dim=0) > 0.9


def test_a_way_to_recompute_that_is_none():
    with pytest.raises(partnas.PartnasError, match=r"'some' is not known; use one of none, light, cell"):
        Supernet(SPACES["all kinds of neighbours"], "some")
