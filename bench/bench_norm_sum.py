"""norm_stats and norm_sum against batch norm of each map and a weighted sum, as DARTS runs it.

``python bench/bench_norm_sum.py [--threads 2] [--rounds 21] [--only NAME] [--csv FILE]``
"""

import torch
import torch.nn.functional as F
from timing import Case, main

from partnas.ops.norm_sum import norm_stats, norm_sum

NODES = ((12, 16, 128), (24, 16, 128), (12, 288, 32))
"""Maps that enter a node, their channels and side; batch 4."""


def ours(maps, weights):
    return norm_sum(maps, norm_stats(maps), weights)


def plain(maps, weights):
    return sum(w * F.batch_norm(z, None, None, training=True) for w, z in zip(weights, maps, strict=True))


def forward(function, maps, weights, _):
    with torch.no_grad():
        return function(maps, weights)


def both(function, maps, weights, gradient):
    return torch.autograd.grad(function(maps, weights), [*maps, weights], gradient)


def cases(options):
    for count, channels, side in NODES:
        values = [torch.randn(4, channels, side, side) for _ in range(count)]
        maps = {
            layout: [z.contiguous(memory_format=layout).requires_grad_() for z in values]
            for layout in (torch.contiguous_format, torch.channels_last)
        }
        weights = torch.softmax(torch.randn(count), 0).requires_grad_()
        gradient = torch.randn(4, channels, side, side)
        wide = (
            [z.double().requires_grad_() for z in values],
            weights.detach().double().requires_grad_(),
            gradient.double(),
        )
        size = gradient.numel() * gradient.element_size()
        for step, moved in ((forward, (2 * count + 2) * size), (both, (6 * count + 4) * size)):
            arguments = {name: (maps[layout], weights, gradient.contiguous(memory_format=layout)) for name, layout in (
                ("NCHW", torch.contiguous_format), ("channels-last", torch.channels_last)
            )}  # fmt: skip
            yield Case(
                f"{count} maps 4x{channels}x{side}x{side} float32, {'forward' if step is forward else 'forward + backward'}",
                {
                    "channels-last": lambda s=step, a=arguments["channels-last"]: s(plain, *a),
                    "NCHW": lambda s=step, a=arguments["NCHW"]: s(plain, *a),
                    "ours": lambda s=step, a=arguments["channels-last"]: s(ours, *a),
                },
                moved,
                2e-5,
                lambda s=step, w=wide: s(plain, *w),
            )


if __name__ == "__main__":
    main(__doc__, cases)
