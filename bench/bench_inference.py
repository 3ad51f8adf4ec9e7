"""Inference of a derived network and of ResNet-50 PoseNet, from images to joints: ours fused, plain PyTorch, compiled,
and in ONNX Runtime.

``python bench/bench_inference.py [--device cuda] [--threads 2] [--rounds 9] [--preset small] [--genotype FILE] [--heatmaps] [--only NAME] [--csv FILE]``

ONNX Runtime takes part where ``onnxruntime`` and ``onnx`` are installed. Told beside each network: its multiply-adds,
and the time that they take at the speed of a large matrix product.
"""

import copy
import io
import warnings

import torch
from plain_derived import loaded_genotype, plain_cells
from timing import Case, clock_of, interleaved, main, name_of

from partnas.genotype import Genotype
from partnas.nn import PartNet, PoseResNet50
from partnas.nn.layout import cell_layouts
from partnas.ops.soft_argmax_3d import reference as plain_soft_argmax
from partnas.presets import space_of

TOLERANCES = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def seen(net):
    """The network in evaluation mode, its batch norms no longer the identity."""
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return net.eval()


class Plain(torch.nn.Module):
    """Joints, or heatmaps, of ``net`` by PyTorch's own layers alone."""

    def __init__(self, net, stops_at_heatmaps):
        super().__init__()
        self.net, self.stops_at_heatmaps = net, stops_at_heatmaps

    def forward(self, image):
        space = self.net.space
        if not isinstance(self.net, PartNet):
            heatmaps, slots, order = self.net.heatmaps(image), space.parts, None
        else:
            heatmaps = plain_cells(self.net, cell_layouts(space), image)[-1]
            slots, order = space.fusion_nodes * space.slots, space.part_slots()
        return heatmaps if self.stops_at_heatmaps else plain_soft_argmax(heatmaps, slots, order)


def onnx_session(plain, x, threads):
    """The network in ONNX Runtime, or None where that is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError:
        return None
    file = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        # What it warns of, that shapes are taken as constants and that there is a newer exporter, is meant here.
        warnings.simplefilter("ignore")
        torch.onnx.export(plain, (x,), file, dynamo=False, input_names=["image"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    image = x.numpy()
    return lambda: torch.from_numpy(session.run(None, {"image": image})[0])


def without_gradients(function):
    def run():
        with torch.inference_mode():
            return function()

    return run


def contestants_for(net, x, options):
    """Joints, or heatmaps, of one network by everything that can compute them."""
    plain, last = Plain(net, options.heatmaps).eval(), x.contiguous(memory_format=torch.channels_last)
    fused = net.fuse() if isinstance(net, PartNet) else net
    ours = fused.heatmaps if options.heatmaps else fused
    found = {
        "NCHW": without_gradients(lambda: plain(x)),
        "channels-last": without_gradients(lambda: plain(last)),
        "ONNX Runtime": onnx_session(plain, x, options.threads) if x.device.type == "cpu" else None,
        "ours": without_gradients(lambda: ours(last)),
    }
    if options.compile:
        compiled = torch.compile(plain, dynamic=False)
        found["compiled"] = without_gradients(lambda: compiled(last))
    return {name: function for name, function in found.items() if function is not None}


def product_rate(device, dtype):
    """Multiply-adds a second of a large product."""
    a = torch.randn(2048, 2048, device=device).to(dtype)
    return 2048**3 / interleaved({"mm": lambda: a @ a}, 5, clock_of(device))["mm"].median


def multiply_adds(net, input_size):
    """Of one image, or None where fvcore, which counts them, is missing."""
    try:
        from partnas.flops import count
    except ImportError:
        return None
    return count(net, input_size)["flops"]["exact"]


def cases(options):
    space, device = space_of("train", options.preset), options.device
    torch.manual_seed(0)
    genotype = loaded_genotype(options.genotype) if options.genotype else Genotype.random(space)
    networks = {
        f"{options.preset} PartNet": lambda: PartNet(genotype, space),
        "ResNet-50": lambda: PoseResNet50(space.replace(reductions=5)),
    }
    for label, build in networks.items():
        for dtype in options.dtypes:
            rate = product_rate(device, dtype)
            for batch in (1, 8) if device.type == "cpu" else (1, 8, 64):
                name = f"{label}, batch {batch}, {space.input_size}x{space.input_size}"
                name += ", heatmaps" if options.heatmaps else ""
                name += "" if dtype == torch.float32 else f", {name_of(dtype)}"
                if options.only not in name:
                    continue
                net = seen(build())
                count = multiply_adds(net, space.input_size)
                net = net.to(device, dtype)
                x = torch.randn(batch, 3, space.input_size, space.input_size, device=device).to(dtype)
                if count:
                    print(
                        f"{name}: {count / 1e9:.2f} G multiply-adds an image, {count * batch / rate * 1e3:.1f} ms at the "
                        "product's speed"
                    )
                exact, wide = Plain(copy.deepcopy(net).double(), options.heatmaps).eval(), x.double()
                yield Case(
                    name,
                    contestants_for(net, x, options),
                    tolerance=TOLERANCES[dtype],
                    truth=without_gradients(lambda exact=exact, wide=wide: exact(wide)),
                    graphed=("ours", "channels-last"),
                    is_network=True,
                )


def add_options(parser):
    parser.add_argument("--preset", default="small")
    parser.add_argument("--genotype", help="genotype.json or the folder of a search; a random one where left out")
    parser.add_argument("--heatmaps", action="store_true", help="leave the soft-argmax out")
    parser.set_defaults(rounds=9, compile=True)


if __name__ == "__main__":
    main(__doc__, cases, add_options)
