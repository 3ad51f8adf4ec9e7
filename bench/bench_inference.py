"""Inference of a derived network and of ResNet-50 PoseNet: ours fused, plain PyTorch, compiled, and in ONNX Runtime.

``python bench/bench_inference.py [--threads 2] [--rounds 9] [--preset small] [--genotype FILE] [--only NAME] [--csv FILE]``

ONNX Runtime takes part where ``onnxruntime`` and ``onnx`` are installed. Told beside each network: its multiply-adds, and
the time that they take at the speed of a large matrix product.
"""

import io

import torch
from plain_derived import plain_cells
from timing import Case, interleaved, main

from partnas import flops
from partnas.config import load_config
from partnas.genotype import Genotype
from partnas.networks import build
from partnas.nn import PartNet
from partnas.nn.layout import cell_layouts
from partnas.train import load_genotype


def seen(net):
    """The network in evaluation mode, its batch norms no longer the identity."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return net.eval()


class Plain(torch.nn.Module):
    """The heatmaps of ``net`` by PyTorch's own layers alone."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, image):
        if not isinstance(self.net, PartNet):
            return self.net.heatmaps(image)
        return plain_cells(self.net, cell_layouts(self.net.space), image)[-1]


def onnx_session(plain, x, threads):
    """The network in ONNX Runtime, or None where that is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError:
        return None
    file = io.BytesIO()
    with torch.no_grad():
        torch.onnx.export(plain, (x,), file, dynamo=False, input_names=["image"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    image = x.numpy()
    return lambda: torch.from_numpy(session.run(None, {"image": image})[0])


def contestants_for(net, x, threads):
    """Heatmaps of one network by everything that can compute them. The soft-argmax is left out: what ONNX makes of it
    would be timed against an operator of ours."""
    plain, last = Plain(net).eval(), x.contiguous(memory_format=torch.channels_last)
    compiled = torch.compile(plain)
    fused = net.fuse() if isinstance(net, PartNet) else net

    def without_gradients(function):
        def run():
            with torch.inference_mode():
                return function()

        return run

    found = {
        "NCHW": without_gradients(lambda: plain(x)),
        "channels-last": without_gradients(lambda: plain(last)),
        "compiled": without_gradients(lambda: compiled(last)),
        "ONNX Runtime": onnx_session(plain, x, threads),
        "ours": without_gradients(lambda: fused.heatmaps(last)),
    }
    return {name: function for name, function in found.items() if function is not None}


def product_rate():
    """Multiply-adds a second of a large product."""
    a = torch.randn(2048, 2048)
    return 2048**3 / interleaved({"mm": lambda: a @ a}, 5)["mm"].median


def cases(options):
    space = load_config("train", options.preset).space()
    torch.manual_seed(0)
    genotype = load_genotype(options.genotype) if options.genotype else Genotype.random(space)
    specs = {
        f"{options.preset} PartNet": {"kind": "partnet", "space": space.to_dict(), "genotype": genotype.to_dict()},
        "ResNet-50": {"kind": "resnet50", "space": space.replace(reductions=5).to_dict()},
    }
    rate = product_rate()
    for label, spec in specs.items():
        for batch in (1, 8):
            name = f"{label}, batch {batch}, {space.input_size}x{space.input_size}"
            if options.only not in name:
                continue
            net = seen(build(spec))
            count = flops.count(net, space.input_size)["flops"]["exact"]
            x = torch.randn(batch, 3, space.input_size, space.input_size)
            print(
                f"{name}: {count / 1e9:.2f} G multiply-adds an image, {count * batch / rate * 1e3:.1f} ms at the product's speed"
            )
            yield Case(name, contestants_for(net, x, options.threads), tolerance=1e-3)


def add_options(parser):
    parser.add_argument("--preset", default="small")
    parser.add_argument("--genotype", help="genotype.json or the folder of a search; a random one where left out")
    parser.set_defaults(rounds=9)


if __name__ == "__main__":
    main(__doc__, cases, add_options)
