"""Cells of the supernet, forward and backward, against plain DARTS: NCHW, channels-last and compiled.

``python bench/bench_mixed_op.py [--device cuda] [--threads 2] [--rounds 7] [--batch 4] [--only NAME] [--no-compile] [--csv FILE]``

The floor is the matrix products alone, forward and both backward, each batched over maps that are already there.
"""

import copy

import torch
from plain_darts import copy_weights, plain_cell, products, weight_pairs
from timing import Case, main, name_of

from partnas.nn.layout import cell_layouts
from partnas.nn.mixed_cell import MixedCell, Mixing, alphas
from partnas.ops.maps import parts_of
from partnas.presets import space_of

CELLS = (("normal", 0), ("fusion", -1), ("reduction", 2))
"""Kind of cell, and which of its kind."""

TOLERANCES = {torch.float32: 1e-2, torch.bfloat16: 2e-1}
"""Rounding opens or shuts one ReLU in a million, or picks the other of two equals in a pool; a gradient through it
moves by 1e-3 of its norm, and by as much in every float32 contestant. Outputs agree to 1e-6."""


class Step:
    """Forward and backward of one cell, as the weight step has it: gradients of inputs and weights, none of alphas."""

    def __init__(self, nodes, run, cell, inputs, gradients, order, autocast=None):
        self.nodes, self.run, self.cell, self.order = nodes, run, cell, order
        self.inputs = [x.requires_grad_() for x in inputs]
        self.gradients, self.autocast = gradients, autocast

    def __call__(self):
        leaves = [*self.inputs, *self.cell.parameters()]
        for leaf in leaves:
            leaf.grad = None
        device = self.inputs[0].device.type
        with torch.autocast(device, self.autocast, enabled=self.autocast is not None):
            outputs = parts_of(self.run(*self.inputs))
        torch.autograd.backward(outputs, self.gradients)
        return [output.detach() for output in outputs]

    def arranged(self, outputs):
        nodes = [part for output in outputs for part in output.chunk(self.nodes // len(outputs), 1)]
        return [*nodes, *(x.grad for x in self.inputs), *self.order()]


def steps(layout, space, options, dtype):
    """Ours and the peers on the same numbers, and the truth in float64. Peers in bfloat16 run under autocast."""
    device, batch = options.device, options.batch
    height = int(space.input_size * layout.scale)
    entry = layout.scale * (2 if layout.kind == "reduction" else 1)
    sides = [int(space.input_size * entry / factor) for factor in layout.input_factors]
    inputs = [
        torch.randn(batch, c, s, s, device=device).to(dtype) for c, s in zip(layout.input_channels, sides, strict=True)
    ]
    gradient = torch.randn(batch, layout.output_channels, height, height, device=device).to(dtype)
    architecture = alphas(layout.nodes, space.operations).detach().to(device)

    ours = MixedCell(layout, space.operations).to(device)
    weights = Mixing(layout.kind, layout.nodes, space.operations).to(device)(architecture)
    plain = plain_cell(layout, space.operations).to(device)
    copy_weights(ours, plain)
    autocast = None if dtype == torch.float32 else dtype

    def in_layout(layout_of_memory, *tensors):
        return [x.clone(memory_format=layout_of_memory) for x in tensors]

    def peer(memory, dtype_of_all=None, compiled=False):
        cell = copy.deepcopy(plain).to(memory_format=memory).to(dtype_of_all or torch.float32)
        *x, g = in_layout(memory, *(t.to(dtype_of_all or dtype) for t in (*inputs, gradient)))
        function = torch.compile(cell, dynamic=False) if compiled else cell
        pairs = list(weight_pairs(ours, cell))
        mixture = architecture.to(dtype_of_all or torch.float32)
        return Step(
            layout.nodes,
            lambda *x: function(*x, mixture),
            cell,
            x,
            [g],
            lambda: [theirs.grad for *_, theirs in pairs],
            None if dtype_of_all else autocast,
        )

    x = in_layout(torch.channels_last, *inputs)
    gradients = in_layout(torch.channels_last, *gradient.chunk(layout.nodes, 1))
    pairs = list(weight_pairs(ours, plain))
    contestants = {
        "NCHW": peer(torch.contiguous_format),
        "channels-last": peer(torch.channels_last),
        "ours": Step(
            layout.nodes,
            lambda *x: ours(*x, weights),
            ours,
            x,
            gradients,
            lambda: [mine.grad[index].reshape(theirs.shape) for _, mine, index, theirs in pairs],
        ),
    }
    if options.compile:
        contestants["compiled"] = peer(torch.channels_last, compiled=True)
    return contestants, peer(torch.contiguous_format, torch.float64), ours


def cases(options):
    space = space_of("search", "search")
    layouts = cell_layouts(space)
    for dtype in options.dtypes:
        for kind, place in CELLS:
            kinds = [each for each in layouts if each.kind == kind]
            layout = kinds[place]
            side = int(space.input_size * layout.scale)
            which = f"{kind} cell {place % len(kinds) + 1}"
            what = f"{options.batch}x{layout.channels} channels at {side}x{side} {name_of(dtype)}"
            name = f"{which}: {what}, forward + backward"
            if options.only not in name:
                continue
            contestants, truth, cell = steps(layout, space, options, dtype)
            floor = products([(cell, side)], options.batch, dtype)
            yield Case(
                name, contestants, 0, 0, TOLERANCES[dtype], truth, floor, ("channels-last", "ours"), is_network=True
            )


def add_options(parser):
    parser.set_defaults(rounds=7, compile=True)


if __name__ == "__main__":
    main(__doc__, cases, add_options)
