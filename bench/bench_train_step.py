"""A training step of a derived network, forward and backward, against the same network in plain PyTorch.

``python bench/bench_train_step.py [--threads 2] [--rounds 5] [--batch 4] [--preset small] [--genotype FILE] [--csv FILE]``

Both run on the weights of one network, whose batch norms take their statistics from the batch. There is no optimizer in it.
"""

import torch
from plain_derived import plain_cells
from timing import Case, main

from partnas.config import load_config
from partnas.genotype import Genotype
from partnas.nn import PartNet
from partnas.nn.layout import cell_layouts
from partnas.train import load_genotype


class Step:
    """Heatmaps, and gradients of all weights for a given gradient of theirs. The soft-argmax has a benchmark of its own.

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
    space = load_config("train", options.preset).space()
    genotype = load_genotype(options.genotype) if options.genotype else Genotype.random(space)
    torch.manual_seed(0)
    net = PartNet(genotype, space)
    x = torch.randn(options.batch, 3, space.input_size, space.input_size)
    with torch.no_grad():
        gradient = torch.randn(net.heatmaps(x).shape)
    last = x.to(memory_format=torch.channels_last), gradient.to(memory_format=torch.channels_last)
    wide = PartNet(genotype, space).double()
    wide.load_state_dict(net.state_dict())
    compiled = torch.compile(plain_heatmaps)
    contestants = {
        "NCHW": Step(net, plain_heatmaps, x, gradient),
        "channels-last": Step(net, plain_heatmaps, *last),
        "ours": Step(net, PartNet.heatmaps, *last),
    }
    if options.compile:
        contestants["compiled"] = Step(net, compiled, *last)
    name = f"{options.preset} PartNet, batch {options.batch}, {space.input_size}x{space.input_size}"
    yield Case(name, contestants, 0, options.tolerance, Step(wide, plain_heatmaps, x.double(), gradient.double()))


def add_options(parser):
    parser.add_argument("--preset", default="small")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tolerance", type=float, default=5e-2)
    parser.add_argument("--genotype", help="genotype.json or the folder of a search; a random one where left out")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave the compiled peer out")
    parser.set_defaults(rounds=5)


if __name__ == "__main__":
    main(__doc__, cases, add_options)
