"""depthwise_bank against the same convolutions one by one, in channels-last and in NCHW.

``python bench/bench_depthwise_bank.py [--threads 2] [--rounds 21] [--only NAME] [--csv FILE]``

Each case is a source of the supernet with all depthwise filters of its outgoing edges.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from timing import Case, main

from partnas.ops.depthwise_bank import depthwise_bank

KINDS = ((3, 1), (5, 1), (3, 2), (5, 2))


class Source(NamedTuple):
    channels: int
    side: int
    stride: int
    edges: int
    batch: int = 4
    kinds: tuple = KINDS
    norm: bool = False
    dtype: torch.dtype = torch.float32


CASES = {
    "16 ch, 128², 1 edge": Source(16, 128, 1, 1),
    "16 ch, 128², 4 edges": Source(16, 128, 1, 4),
    "16 ch, 128², 4 edges, bfloat16": Source(16, 128, 1, 4, dtype=torch.bfloat16),
    "16 ch, 128², norm + one 5x5": Source(16, 128, 1, 1, kinds=((5, 1),), norm=True),
    "64 ch, 64², 4 edges": Source(64, 64, 1, 4),
    "128 ch, 32², stride 2, 4 edges": Source(128, 32, 2, 4),
    "288 ch, 32², 2 edges": Source(288, 32, 1, 2),
    "512 ch, 4², 4 edges": Source(512, 4, 1, 4),
}


class Work:
    def __init__(self, case: Source):
        self.case = case
        self.bank = [kind for kind in case.kinds for _ in range(case.edges)]
        x = torch.randn(case.batch, case.channels, case.side, case.side)
        self.layouts = {}
        for name, layout in (("channels-last", torch.channels_last), ("NCHW", torch.contiguous_format)):
            source = x.to(case.dtype).contiguous(memory_format=layout).requires_grad_()
            weights = [torch.empty(case.channels, k, k) for k, _ in self.bank]
            generator = torch.Generator().manual_seed(0)
            for weight in weights:
                weight.uniform_(-1, 1, generator=generator).requires_grad_()
            side = -(-case.side // case.stride)
            gradients = [
                torch.randn(case.batch, case.channels, side, side, generator=generator)
                .to(case.dtype)
                .contiguous(memory_format=layout)
                for _ in self.bank
            ]
            self.layouts[name] = source, weights, gradients
        mean, variance = x.to(case.dtype).float().mean((0, 2, 3)), x.to(case.dtype).float().var((0, 2, 3), correction=0)
        self.statistics = torch.stack([mean, variance]) if case.norm else None

    def ours(self, layout):
        x, weights, _ = self.layouts[layout]
        dilations = [dilation for _, dilation in self.bank]
        return depthwise_bank(x, weights, dilations=dilations, stride=self.case.stride, statistics=self.statistics)

    def peer(self, layout):
        """As DARTS runs it: batch norm where there is one, then for each filter ReLU and convolution."""
        x, weights, _ = self.layouts[layout]
        if self.case.norm:
            x = F.batch_norm(x, None, None, training=True)
        maps = []
        for weight, (size, dilation) in zip(weights, self.bank, strict=True):
            taps = weight[:, None].to(x.dtype)
            padding = dilation * (size // 2)
            maps.append(F.conv2d(torch.relu(x), taps, None, self.case.stride, padding, dilation, groups=len(weight)))
        return maps

    def contestants(self):
        return {
            "channels-last": (self.peer, "channels-last"),
            "NCHW": (self.peer, "NCHW"),
            "ours": (self.ours, "channels-last"),
        }

    def forward(self, function, layout):
        with torch.no_grad():
            return function(layout)

    def both(self, function, layout):
        x, weights, gradients = self.layouts[layout]
        return torch.autograd.grad(function(layout), [x, *weights], gradients)

    def bytes(self, backward):
        x, _, gradients = self.layouts["channels-last"]
        source = x.numel() * x.element_size()
        maps = sum(gradient.numel() * gradient.element_size() for gradient in gradients)
        forward = source + 2 * maps
        return forward + (maps + 3 * source if backward else 0)


def cases(options):
    for name, case in CASES.items():
        work = Work(case)
        for label, step, is_backward in (("forward", work.forward, False), ("forward + backward", work.both, True)):
            contestants = {who: (lambda s=step, c=c: s(*c)) for who, c in work.contestants().items()}
            # The peers' own error grows with the sums, so the measure is the largest value.
            tolerance = 2e-2 if case.dtype == torch.bfloat16 else 2e-5
            yield Case(f"{name}, {label}", contestants, work.bytes(is_backward), tolerance)


if __name__ == "__main__":
    main(__doc__, cases)
