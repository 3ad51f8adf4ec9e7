"""depthwise_bank against the same convolutions one by one, in channels-last and in NCHW.

``python bench/bench_depthwise_bank.py [--device cuda] [--threads 2] [--rounds 21] [--only NAME] [--compile] [--csv FILE]``

Each case is a source of the supernet with all depthwise filters of its outgoing edges.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from timing import LAYOUTS, TOLERANCES, Case, main, name_of

from partnas.ops.depthwise_bank import depthwise_bank

KINDS = ((3, 1), (5, 1), (3, 2), (5, 2))


class Source(NamedTuple):
    channels: int
    side: int
    stride: int
    edges: int
    kinds: tuple = KINDS
    norm: bool = False


CASES = {
    "16 ch, 128², 1 edge": Source(16, 128, 1, 1),
    "16 ch, 128², 4 edges": Source(16, 128, 1, 4),
    "16 ch, 128², norm + one 5x5": Source(16, 128, 1, 1, kinds=((5, 1),), norm=True),
    "64 ch, 64², 4 edges": Source(64, 64, 1, 4),
    "128 ch, 32², stride 2, 4 edges": Source(128, 32, 2, 4),
    "288 ch, 32², 2 edges": Source(288, 32, 1, 2),
    "512 ch, 4², 4 edges": Source(512, 4, 1, 4),
}

BOTH_DTYPES = "16 ch, 128², 4 edges"
"""The case that is run in bfloat16 as well, whatever the command line says."""


class Work:
    def __init__(self, case: Source, batch: int, dtype: torch.dtype, device: torch.device, compiled: bool):
        self.case, self.dtype = case, dtype
        self.bank = [kind for kind in case.kinds for _ in range(case.edges)]
        self.compiled = torch.compile(self.darts, dynamic=False) if compiled else None
        generator = torch.Generator().manual_seed(0)
        side = -(-case.side // case.stride)
        x = torch.randn(batch, case.channels, case.side, case.side).to(device, dtype)
        weights = [torch.empty(case.channels, k, k).uniform_(-1, 1, generator=generator) for k, _ in self.bank]
        gradients = [torch.randn(batch, case.channels, side, side, generator=generator) for _ in self.bank]
        self.layouts = {
            name: (
                x.contiguous(memory_format=memory).requires_grad_(),
                [weight.to(device).requires_grad_() for weight in weights],
                [g.to(device, dtype).contiguous(memory_format=memory) for g in gradients],
            )
            for name, memory in LAYOUTS.items()
        }
        found = [x.double().mean((0, 2, 3)), x.double().var((0, 2, 3), correction=0)]
        self.statistics = torch.stack(found).float() if case.norm else None

    def ours(self, x, weights):
        dilations = [dilation for _, dilation in self.bank]
        return depthwise_bank(x, weights, dilations=dilations, stride=self.case.stride, statistics=self.statistics)

    def darts(self, x, weights):
        """As DARTS runs it: batch norm where there is one, then for each filter ReLU and convolution."""
        if self.case.norm:
            x = F.batch_norm(x, None, None, training=True)
        maps = []
        for weight, (size, dilation) in zip(weights, self.bank, strict=True):
            taps = weight[:, None].to(x.dtype)
            padding = dilation * (size // 2)
            maps.append(F.conv2d(torch.relu(x), taps, None, self.case.stride, padding, dilation, groups=len(weight)))
        return maps

    def contestants(self):
        found = {
            "channels-last": (self.darts, "channels-last"),
            "NCHW": (self.darts, "NCHW"),
            "ours": (self.ours, "channels-last"),
        }
        return found if self.compiled is None else {**found, "compiled": (self.compiled, "channels-last")}

    def forward(self, function, layout):
        x, weights, _ = self.layouts[layout]
        with torch.no_grad():
            return function(x, weights)

    def both(self, function, layout):
        x, weights, gradients = self.layouts[layout]
        return torch.autograd.grad(function(x, weights), [x, *weights], gradients)

    def truth(self, backward):
        x, weights, gradients = self.layouts["NCHW"]
        leaves = [t.detach().double().requires_grad_() for t in (x, *weights)]
        maps = self.darts(leaves[0], leaves[1:])
        return torch.autograd.grad(maps, leaves, [g.double() for g in gradients]) if backward else maps

    def bytes(self, backward):
        x, _, gradients = self.layouts["channels-last"]
        source, maps = x.nbytes, sum(gradient.nbytes for gradient in gradients)
        return (2 * source + maps, source + maps) if backward else (source, maps)


def cases(options):
    for name, case in CASES.items():
        dtypes = options.dtypes
        if name == BOTH_DTYPES and torch.bfloat16 not in dtypes:
            dtypes = [*dtypes, torch.bfloat16]
        for dtype in dtypes:
            if options.only not in f"{name}, {name_of(dtype)}, forward + backward":
                continue
            work = Work(case, options.batch, dtype, options.device, options.compile)
            for label, step, is_backward in (("forward", work.forward, False), ("forward + backward", work.both, True)):
                yield Case(
                    f"{name}, {name_of(dtype)}, {label}",
                    {who: (lambda s=step, c=c: s(*c)) for who, c in work.contestants().items()},
                    *work.bytes(is_backward),
                    # The peers' own error grows with the sums, so the measure is the largest value.
                    TOLERANCES[dtype],
                    lambda w=work, b=is_backward: w.truth(b),
                )


if __name__ == "__main__":
    main(__doc__, cases)
