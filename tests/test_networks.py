import json

import pytest
import torch

from partnas.errors import PartnasError
from partnas.genotype import Genotype
from partnas.networks import (
    KINDS,
    build,
    for_inference,
    load_network,
    load_pose_network,
    load_root_network,
    load_supernet,
)
from partnas.nn import BackboneSupernet, DeconvNet, PartNet, PoseResNet50, RootNet, Supernet
from partnas.space import SearchSpace

pytestmark = pytest.mark.usefixtures("one_thread")

SPACE = SearchSpace(
    cells=7, reductions=3, fusions=2, nodes=3, fusion_nodes=2, channels=4, parts=5, depth=3, input_size=16,
    fusion_channels=6, groups=((4, 0, 2), (1, 3)), operations=("none", "skip_connect", "sep_conv_3x3"),
)  # fmt: skip
GENOTYPE = Genotype.random(SPACE, torch.Generator().manual_seed(0))


def networks():
    torch.manual_seed(0)
    return {
        "supernet": Supernet(SPACE),
        "backbone supernet": BackboneSupernet(SPACE),
        "partnet": PartNet(GENOTYPE, SPACE),
        "shuffled partnet": PartNet(GENOTYPE, SPACE, order=[4, 2, 0, 1, 3], intermediate_supervision=True),
        "deconv": DeconvNet(GENOTYPE, SPACE),
        "resnet50": PoseResNet50(SearchSpace(input_size=64, depth=2, parts=2)),
        "rootnet": RootNet(input_size=32, width=4, blocks=(1, 1, 1, 1), channels=4),
    }


def pictures_for(net):
    size = net.input_size if isinstance(net, RootNet) else net.space.input_size
    return torch.randn(2, 3, size, size)


@pytest.mark.parametrize(
    "name", ["supernet", "backbone supernet", "partnet", "shuffled partnet", "deconv", "resnet50", "rootnet"]
)
def test_a_network_is_built_again_from_its_spec(name):
    net = networks()[name].eval()
    spec = net.spec()
    again = build(json.loads(json.dumps(spec))).eval()
    assert type(again) is type(net)
    assert again.spec() == spec
    again.load_state_dict(net.state_dict())
    x = pictures_for(net)
    with torch.no_grad():
        assert torch.equal(again(x), net(x))


def test_every_kind_is_tested():
    assert {net.spec()["kind"] for net in networks().values()} == set(KINDS)


def test_settings_may_be_left_out():
    net = build({"kind": "partnet", "space": SPACE.to_dict(), "genotype": GENOTYPE.to_dict()})
    assert net.order is None
    assert not net.heads


def changed(**fields):
    spec = {**networks()["partnet"].spec(), **fields}
    return {name: value for name, value in spec.items() if value != "left out"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (None, "network: field 'kind' is missing; give kind and space"),
        (changed(kind="left out"), "network: field 'kind' is missing; give kind and space"),
        (changed(space="left out"), "network: field 'space' is missing; give kind and space"),
        (
            changed(kind="vgg"),
            "network: kind 'vgg' is not known; use one of supernet, backbone_supernet, partnet, resnet50, deconv, rootnet",
        ),
        (changed(space=None), "network: None is not a mapping"),
        (changed(space={"cells": 3}), "cells: 3 are fewer than"),
        (changed(space={"size": 3}), "network: field 'size' is not known"),
        (changed(genotype="left out"), "network: field 'genotype' is missing; partnet is made of searched cells"),
        (changed(kind="deconv", genotype="left out"), "network: field 'genotype' is missing; deconv is made of"),
        (changed(genotype={}), "genotype: format"),
        (changed(space=SPACE.replace(nodes=4).to_dict()), "genotype: normal: 3 nodes where the network has 4"),
        (changed(order=[0, 0, 1, 2, 3]), "order: not a permutation of the parts 0 to 4"),
        (changed(kind="deconv", order=[4, 3, 2, 1, 0]), "network: field 'order' is of a partnet, not of a deconv"),
        (
            changed(kind="resnet50", intermediate_supervision=True),
            "network: field 'intermediate_supervision' is of a partnet, not of a resnet50; leave it out",
        ),
        ({"kind": "rootnet", "size": 3}, "network: field 'size' is not of a rootnet; use some of input_size, width"),
        ({"kind": "rootnet", "blocks": [1]}, "blocks: .* are not the numbers of four stages"),
    ],
)
def test_a_bad_spec_is_one_line(spec, message):
    with pytest.raises(PartnasError, match=f"^{message}") as error:
        build(spec)
    assert "\n" not in str(error.value)


def checkpoint(path, net):
    record = {"format": "partnas.checkpoint", "version": 1, "job": "train", "network": net.spec()}
    torch.save({**record, "weights": net.state_dict()}, path)
    return path


def test_a_network_comes_back_from_its_run(tmp_path):
    net = networks()["shuffled partnet"]
    x = torch.randn(2, 3, 16, 16)
    net(x)
    checkpoint(tmp_path / "checkpoint.pt", net)
    for place in (tmp_path, tmp_path / "checkpoint.pt"):
        found = load_network(place)
        assert found.training
        assert found.spec() == net.spec()
        with torch.no_grad():
            assert torch.equal(found.eval()(x), net.eval()(x))
    assert isinstance(load_pose_network(tmp_path), PartNet)


@pytest.mark.parametrize("kind", ["partnet", "shuffled partnet", "deconv", "resnet50", "rootnet"])
def test_the_form_for_inference_gives_the_same(kind):
    net = networks()[kind]
    x = pictures_for(net)
    net(x)
    found = for_inference(net)
    assert not found.training
    with torch.no_grad():
        torch.testing.assert_close(found(x), net.eval()(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("held", "load", "named"),
    [
        ("deconv", load_supernet, "holds a deconv, not a supernet; name the folder of a search"),
        ("supernet", load_pose_network, "holds a supernet; train what it found"),
        ("rootnet", load_pose_network, "holds a rootnet, which tells roots and not poses"),
        ("deconv", load_root_network, "holds a deconv, not a rootnet; train one"),
    ],
)
def test_a_run_of_another_kind_is_refused(tmp_path, held, load, named):
    checkpoint(tmp_path / "checkpoint.pt", networks()[held])
    with pytest.raises(PartnasError, match=named) as error:
        load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_weights_of_another_network_are_refused(tmp_path):
    path = checkpoint(tmp_path / "checkpoint.pt", networks()["partnet"])
    record = torch.load(path, weights_only=True)
    record["network"] = networks()["deconv"].spec()
    torch.save(record, path)
    with pytest.raises(PartnasError, match="it is a checkpoint of another network"):
        load_network(tmp_path)
