"""Cells of the supernet, forward and backward, against plain DARTS: NCHW, channels-last and compiled.

``python bench/bench_mixed_op.py [--threads 2] [--rounds 7] [--batch 4] [--only NAME] [--csv FILE]``

The floor is the matrix products alone, forward and both backward, each batched over maps that are already there.
"""

import copy

import torch
from plain_darts import copy_weights, plain_cell, products, weight_pairs
from timing import Case, main

from partnas.config import load_config
from partnas.nn.layout import cell_layouts
from partnas.nn.mixed_cell import MixedCell, Mixing, alphas
from partnas.ops.maps import parts_of

CELLS = (("normal", 0), ("fusion", -1), ("reduction", 2))
"""Kind of cell, and which of its kind."""

TOLERANCE = 1e-2
"""Rounding opens or shuts one ReLU in a million, or picks the other of two equals in a pool; a gradient through it moves by
1e-3 of its norm, and by as much in every float32 contestant. Outputs agree to 1e-6."""


class Step:
    """Forward and backward of one cell, as the weight step has it: gradients of inputs and weights, none of alphas."""

    def __init__(self, nodes, run, cell, inputs, gradients, order):
        self.nodes, self.run, self.cell, self.order = nodes, run, cell, order
        self.inputs = [x.requires_grad_() for x in inputs]
        self.gradients = gradients

    def __call__(self):
        leaves = [*self.inputs, *self.cell.parameters()]
        for leaf in leaves:
            leaf.grad = None
        outputs = parts_of(self.run(*self.inputs))
        torch.autograd.backward(outputs, self.gradients)
        nodes = [part for output in outputs for part in output.detach().chunk(self.nodes // len(outputs), 1)]
        return [*nodes, *(x.grad for x in self.inputs), *self.order()]


def steps(layout, space, batch):
    """Ours and the peers on the same numbers, and the truth in float64."""
    height = int(space.input_size * layout.scale)
    entry = layout.scale * (2 if layout.kind == "reduction" else 1)
    sides = [int(space.input_size * entry / factor) for factor in layout.input_factors]
    inputs = [torch.randn(batch, c, s, s) for c, s in zip(layout.input_channels, sides, strict=True)]
    gradient = torch.randn(batch, layout.output_channels, height, height)
    architecture = alphas(layout.nodes, space.operations).detach()

    ours = MixedCell(layout, space.operations)
    weights = Mixing(layout.kind, layout.nodes, space.operations)(architecture)
    plain = plain_cell(layout, space.operations)
    copy_weights(ours, plain)

    def in_layout(layout_of_memory, *tensors):
        return [x.clone(memory_format=layout_of_memory) for x in tensors]

    def peer(cell, memory, dtype=torch.float32, compiled=False):
        cell = copy.deepcopy(cell).to(dtype).to(memory_format=memory)
        *x, g = in_layout(memory, *(t.to(dtype) for t in (*inputs, gradient)))
        function = torch.compile(cell) if compiled else cell
        pairs = list(weight_pairs(ours, cell))
        return Step(
            layout.nodes,
            lambda *x: function(*x, architecture.to(dtype)),
            cell,
            x,
            [g],
            lambda: [theirs.grad for *_, theirs in pairs],
        )

    x = in_layout(torch.channels_last, *inputs)
    gradients = in_layout(torch.channels_last, *gradient.chunk(layout.nodes, 1))
    pairs = list(weight_pairs(ours, plain))
    contestants = {
        "NCHW": peer(plain, torch.contiguous_format),
        "channels-last": peer(plain, torch.channels_last),
        "compiled": peer(plain, torch.channels_last, compiled=True),
        "ours": Step(
            layout.nodes,
            lambda *x: ours(*x, weights),
            ours,
            x,
            gradients,
            lambda: [mine.grad[index].reshape(theirs.shape) for _, mine, index, theirs in pairs],
        ),
    }
    return contestants, peer(plain, torch.contiguous_format, torch.float64), ours


def cases(options):
    space = load_config("search", "search").space()
    layouts = cell_layouts(space)
    for kind, place in CELLS:
        kinds = [each for each in layouts if each.kind == kind]
        layout = kinds[place]
        side = int(space.input_size * layout.scale)
        which = f"{kind} cell {place % len(kinds) + 1}"
        name = f"{which}: {options.batch}x{layout.channels} channels at {side}x{side}, forward + backward"
        if options.only not in name:
            continue
        contestants, truth, cell = steps(layout, space, options.batch)
        yield Case(name, contestants, 0, TOLERANCE, truth, products([(cell, side)], options.batch))


def add_options(parser):
    parser.add_argument("--batch", type=int, default=4)
    parser.set_defaults(rounds=7)


if __name__ == "__main__":
    main(__doc__, cases, add_options)
