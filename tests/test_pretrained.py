import json
import struct

import pytest
import torch
import yaml
from jobs import TINY
from pretrained_file import random_resnet
from safetensors.torch import save_file
from torch.nn import functional as F

from partnas.errors import PartnasError
from partnas.networks import build, load_network
from partnas.nn.resnet import ResNet
from partnas.pretrained import load_pretrained
from partnas.space import SearchSpace

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH, BLOCKS = 4, (1, 2, 1, 1)
SMALL = random_resnet(WIDTH, BLOCKS)


def written(path, tensors):
    save_file(tensors, path)
    return path


def features(tensors, blocks, x):
    """What torchvision's ResNet computes of a picture before it pools, in evaluation mode."""

    def convolved(name, norm, x, **options):
        x = F.conv2d(x, tensors[f"{name}.weight"], **options)
        statistics = (tensors[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *statistics)

    x = F.max_pool2d(convolved("conv1", "bn1", x, stride=2, padding=3).relu(), 3, stride=2, padding=1)
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            inner = convolved(f"{name}.conv1", f"{name}.bn1", x).relu()
            inner = convolved(f"{name}.conv2", f"{name}.bn2", inner, stride=stride, padding=1).relu()
            inner = convolved(f"{name}.conv3", f"{name}.bn3", inner)
            if block == 0:
                x = convolved(f"{name}.downsample.0", f"{name}.downsample.1", x, stride=stride)
            x = (x + inner).relu()
    return x


def test_a_backbone_computes_what_the_network_of_the_file_does(tmp_path):
    backbone = ResNet(WIDTH, BLOCKS).eval()
    load_pretrained(backbone, written(tmp_path / "weights.safetensors", SMALL))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(x), features(SMALL, BLOCKS, x), rtol=1e-4, atol=1e-4)


def test_the_names_are_those_of_a_resnet50():
    expected = {
        name for name in random_resnet() if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    with torch.device("meta"):
        network = build({"kind": "resnet50", "space": SearchSpace(input_size=64, depth=2, parts=2).to_dict()})
    names = list(network.backbone.public_names().values())
    assert len(names) == len(set(names)) == 53 * 5
    assert set(names) == expected


def test_the_classifier_and_the_counters_may_be_left_out_and_halves_are_read(tmp_path):
    bare = {name: tensor for name, tensor in SMALL.items() if "fc." not in name and "num_batches" not in name}
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        backbone = ResNet(WIDTH, BLOCKS)
        stored = {name: tensor.to(dtype) for name, tensor in bare.items()}
        load_pretrained(backbone, written(tmp_path / "weights.safetensors", stored))
        own = backbone.state_dict()
        assert own["5.body.3.weight"].dtype == torch.float32
        assert torch.equal(own["5.body.3.weight"], stored["layer2.0.conv2.weight"].float())


def without(name):
    return {other: tensor for other, tensor in SMALL.items() if other != name}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (without("layer2.0.downsample.0.weight"), "layer2.0.downsample.0.weight is missing; give the weights"),
        (without("bn1.running_var"), "bn1.running_var is missing; give the weights"),
        (
            {**SMALL, "layer1.0.conv3.weight": torch.zeros(16, 5, 1, 1)},
            r"layer1.0.conv3.weight has shape \(16, 5, 1, 1\) where this backbone has \(16, 4, 1, 1\); give the weights",
        ),
        (
            {**SMALL, "bn1.bias": torch.zeros(4, dtype=torch.int64)},
            "bn1.bias is of torch.int64; store it as floating-point numbers",
        ),
        (random_resnet(WIDTH, (1, 3, 1, 1)), "layer2.2.bn1.bias is not of this backbone; give the weights of"),
    ],
)
def test_another_networks_weights_are_one_line_and_change_nothing(tmp_path, tensors, message):
    backbone = ResNet(WIDTH, BLOCKS)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    refuse(backbone, written(tmp_path / "weights.safetensors", tensors), message)
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def refuse(backbone, path, message):
    with pytest.raises(PartnasError, match=rf"weights\.safetensors: {message}") as caught:
        load_pretrained(backbone, path)
    assert "\n" not in str(caught.value)


def with_header(header):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


ENTRY = {"dtype": "F32", "shape": [4, 3, 7, 7], "data_offsets": [0, 2352]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 a zip of pickles, as torch.save writes it",
        struct.pack("<Q", 2**62) + b"{}",
        struct.pack("<Q", 4) + b"{\xff}}",
        with_header([]),
        with_header({"conv1.weight": 3}),
        with_header({"conv1.weight": {**ENTRY, "data_offsets": [0, 2351]}}),
        with_header({"conv1.weight": ENTRY}),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, content):
    path = tmp_path / "weights.safetensors"
    refuse(ResNet(WIDTH, BLOCKS), path, r"cannot be read \(.*\); pretrained names a safetensors file")
    path.write_bytes(content)
    refuse(ResNet(WIDTH, BLOCKS), path, "not a whole safetensors file")


ROOTNET = [
    "--kind", "rootnet", *TINY[:5], "--set", "network.input_size=32", "--set", f"root_net.width={WIDTH}",
    "--set", f"root_net.blocks={list(BLOCKS)}", "--set", "root_net.channels=4", "--set", "batch_size=4",
    "--set", "steps_per_epoch=1", "--set", "data.monitor_frames=4", "--set", "learning_rate=1e-12",
]  # fmt: skip


def test_a_training_starts_from_the_file_and_goes_on_without_it(tmp_path, cli):
    path, out = written(tmp_path / "weights.safetensors", SMALL), tmp_path / "run"
    command = ["train", "--out", out, *ROOTNET, "--set", f"pretrained={path}"]
    cli(*command, "--epochs", "1")
    trained = load_network(out).backbone.state_dict()
    for own, public in ResNet(WIDTH, BLOCKS).public_names().items():
        if "running" not in public:
            torch.testing.assert_close(trained[own], SMALL[public], rtol=0, atol=1e-6)
    assert yaml.safe_load((out / "config.yaml").read_text())["pretrained"] == str(path)
    path.unlink()
    cli(*command, "--epochs", "2", "--resume")
    process = cli("train", "--out", tmp_path / "new", *ROOTNET, "--set", f"pretrained={path}", code=1)
    assert "weights.safetensors: cannot be read" in process.stderr
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["partnet", "deconv"])
def test_a_network_without_a_resnet_is_refused_in_one_line(cli, genotype_file, tmp_path, kind):
    out = tmp_path / "run"
    options = ["--kind", kind, "--genotype", genotype_file, *TINY, "--set", "pretrained=weights.safetensors"]
    process = cli("train", "--out", out, *options, code=1)
    assert f"pretrained: holds a ResNet's weights, and a {kind} has no ResNet; leave it out, or" in process.stderr
    assert process.stderr.count("\n") == 1
    assert not out.exists()
