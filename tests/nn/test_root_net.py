"""RootNet: the root's place by a soft-argmax, and gamma from pooled features."""

import pytest
import torch
from torch import nn

import partnas
from partnas.errors import PartnasError
from partnas.nn.root_net import RootNet

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"input_size": 64, "width": 4, "blocks": (1, 1, 1, 1), "channels": 8}


def images(batch=2, size=64, dtype=torch.float32):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=dtype)


def test_as_published_it_is_a_resnet_50_and_two_heads():
    net = RootNet()
    deconvolutions = 2048 * 256 * 16 + 2 * 256 * 256 * 16 + 3 * 2 * 256
    heads = (256 + 1) + (2048 + 1)
    assert sum(p.numel() for p in net.parameters()) == 23_508_032 + deconvolutions + heads == 33_997_634
    assert (net.input_size, net.heatmap_size) == (256, 64)


@pytest.mark.parametrize("training", [True, False])
def test_place_and_gamma_in_plain_pytorch(training):
    torch.manual_seed(0)
    net = RootNet(**SMALL).double().train(training)
    x = images(dtype=torch.float64)
    found = net(x)
    assert found.shape == (2, 3)
    features = net.backbone(x)
    assert features.shape == (2, 32 * 4, 2, 2)
    probability = net.heatmap_head(features).flatten(1).softmax(1).view(2, 16, 16)
    places = torch.arange(16, dtype=torch.float64)
    gamma = features.mean((2, 3)) @ net.gamma_head.weight.flatten() + net.gamma_head.bias
    expected = torch.stack([(probability.sum(1) * places).sum(1), (probability.sum(2) * places).sum(1), gamma], 1)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(net.heatmaps(x).flatten(1).softmax(1).view(2, 16, 16), probability)


def test_gamma_begins_near_1():
    torch.manual_seed(0)
    with torch.no_grad():
        assert (RootNet(**SMALL)(images())[:, 2] - 1).abs().max() < 0.1


def test_gamma_and_place_move_what_they_should():
    """Gamma's gradient reaches its head and the backbone, the place's reaches the deconvolutions and the backbone."""
    net = RootNet(**SMALL)
    found = net(images()).sum(0)
    for column, head, other in ((0, net.heatmap_head, net.gamma_head), (2, net.gamma_head, net.heatmap_head)):
        net.zero_grad()
        found[column].backward(retain_graph=True)
        assert all(p.grad.abs().sum() > 0 for p in head.parameters() if p.dim() > 1)
        assert net.backbone[0].weight.grad.abs().sum() > 0
        assert all(p.grad is None or not p.grad.any() for p in other.parameters())


def test_gradcheck():
    torch.manual_seed(0)
    net = RootNet(input_size=32, width=2, blocks=(1, 1, 1, 1), channels=2).double().eval()
    x = images(1, 32, torch.float64).requires_grad_()
    bias = net.gamma_head.bias
    assert torch.autograd.gradcheck(lambda x, _: net(x), (x, bias), fast_mode=True, atol=1e-6)


def test_the_heads_share_one_backbone_of_the_given_size():
    net = RootNet(input_size=96, width=8, blocks=(1, 2, 1, 1), channels=6)
    assert net.backbone.output_channels == 256
    assert sum(type(layer).__name__ == "Bottleneck" for layer in net.backbone) == 5
    assert [layer.out_channels for layer in net.heatmap_head if isinstance(layer, nn.ConvTranspose2d)] == [6, 6, 6]
    assert net.heatmaps(images(2, 96)).shape == (2, 1, 24, 24)


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(batch):
    net = RootNet(**SMALL)
    assert net(images(batch)).shape == (batch, 3)


def test_layout_does_not_matter():
    net = RootNet(**SMALL).eval()
    x = images()
    with torch.no_grad():
        assert torch.equal(net(x), net(x.contiguous(memory_format=torch.channels_last)))


def test_half_precision_gives_float32_places():
    net = RootNet(**SMALL).to(torch.bfloat16).eval()
    with torch.no_grad():
        found = net(images().to(torch.bfloat16))
    assert found.dtype == torch.float32
    assert found.isfinite().all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_size": 80}, "input_size: 80 is no multiple of 32"),
        ({"input_size": 0}, "input_size: 0 is not a whole number of at least 1"),
        ({"width": 2.5}, "width: 2.5 is not a whole number"),
        ({"channels": True}, "channels: True is not a whole number"),
        ({"blocks": (1, 1, 1)}, "blocks: .* are not the numbers of four stages"),
        ({"blocks": (1, 1, 1, 0)}, "blocks: 0 is not a whole number"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(PartnasError, match=f"^{message}"):
        RootNet(**{**SMALL, **fields})


def test_spec_and_the_packages_face():
    assert RootNet(**SMALL).spec() == {
        "kind": "rootnet", "input_size": 64, "width": 4, "blocks": [1, 1, 1, 1], "channels": 8,
    }  # fmt: skip
    assert partnas.RootNet is RootNet
