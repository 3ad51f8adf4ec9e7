"""A training step of a derived network, forward and backward, against the same network in plain PyTorch.

``python bench/bench_train_step.py [--device cuda] [--threads 2] [--rounds 5] [--batch 4] [--preset small] [--genotype FILE]
[--no-compile] [--graph] [--csv FILE]``

Both run on the weights of one network, whose batch norms take their statistics from the batch. There is no optimizer in
it.
"""

import torch
from plain_derived import loaded_genotype, plain_cells
from timing import Case, main

from partnas.genotype import Genotype
from partnas.nn import PartNet
from partnas.nn.layout import cell_layouts
from partnas.presets import space_of


class Step:
    """Heatmaps, and gradients of all weights for a given gradient of theirs. The soft-argmax has a benchmark of its
    own.

    Args:
        heatmaps: Maps a network and images to them.
    """

    def __init__(self, net, heatmaps, x, gradient):
        self.net, self.heatmaps, self.x, self.gradient = net, heatmaps, x, gradient

    def __call__(self):
        output = self.heatmaps(self.net, self.x)
        found = torch.autograd.grad(output, list(self.net.parameters()), self.gradient)
        return [output.detach(), *found]


def plain_heatmaps(net, x):
    return plain_cells(net, cell_layouts(net.space), x)[-1]


def cases(options):
    space, device = space_of("train", options.preset), options.device
    genotype = loaded_genotype(options.genotype) if options.genotype else Genotype.random(space)
    torch.manual_seed(0)
    net = PartNet(genotype, space).to(device)
    x = torch.randn(options.batch, 3, space.input_size, space.input_size, device=device)
    with torch.no_grad():
        gradient = torch.randn(net.heatmaps(x).shape, device=device)
    last = x.to(memory_format=torch.channels_last), gradient.to(memory_format=torch.channels_last)
    wide = PartNet(genotype, space).double().to(device)
    wide.load_state_dict(net.state_dict())
    contestants = {
        "NCHW": Step(net, plain_heatmaps, x, gradient),
        "channels-last": Step(net, plain_heatmaps, *last),
        "ours": Step(net, PartNet.heatmaps, *last),
    }
    if options.compile:
        contestants["compiled"] = Step(net, torch.compile(plain_heatmaps, dynamic=False), *last)
    yield Case(
        f"{options.preset} PartNet, batch {options.batch}, {space.input_size}x{space.input_size}",
        contestants,
        tolerance=options.tolerance,
        truth=Step(wide, plain_heatmaps, x.double(), gradient.double()),
        graphed=("ours", "channels-last"),
        is_network=True,
    )


def add_options(parser):
    parser.add_argument("--preset", default="small")
    parser.add_argument("--tolerance", type=float, default=5e-2)
    parser.add_argument("--genotype", help="genotype.json or the folder of a search; a random one where left out")
    parser.set_defaults(rounds=5, compile=True)


if __name__ == "__main__":
    main(__doc__, cases, add_options)
