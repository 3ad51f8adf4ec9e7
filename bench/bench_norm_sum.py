"""norm_stats and norm_sum against batch norm of each map and a weighted sum, as DARTS runs it.

``python bench/bench_norm_sum.py [--device cuda] [--threads 2] [--rounds 21] [--only NAME] [--compile] [--csv FILE]``
"""

import torch
import torch.nn.functional as F
from timing import LAYOUTS, TOLERANCES, Case, in_layouts, main, name_of

from partnas.ops.norm_sum import norm_stats, norm_sum

NODES = ((12, 16, 128), (24, 16, 128), (12, 288, 32))
"""Maps that enter a node, their channels and side."""


def ours(maps, weights):
    return norm_sum(maps, norm_stats(maps), weights)


def plain(maps, weights):
    total = sum(w * F.batch_norm(z, None, None, training=True) for w, z in zip(weights, maps, strict=True))
    return total.to(maps[0].dtype)


def forward(function, maps, weights, _):
    with torch.no_grad():
        return function(maps, weights)


def both(function, maps, weights, gradient):
    return torch.autograd.grad(function(maps, weights), [*maps, weights], gradient)


def cases(options):
    batch = options.batch
    compiled = torch.compile(plain, dynamic=False) if options.compile else None
    for dtype in options.dtypes:
        for count, channels, side in NODES:
            shape = (batch, channels, side, side)
            values = [torch.randn(shape, device=options.device).to(dtype) for _ in range(count)]
            gradient = torch.randn(shape, device=options.device).to(dtype)
            weights = torch.softmax(torch.randn(count, device=options.device), 0).requires_grad_()
            given = {
                layout: (
                    [z.contiguous(memory_format=memory).requires_grad_() for z in values],
                    weights,
                    gradient.contiguous(memory_format=memory),
                )
                for layout, memory in LAYOUTS.items()
            }
            wide = (
                [z.double().requires_grad_() for z in values],
                weights.detach().double().requires_grad_(),
                gradient.double(),
            )
            size = gradient.nbytes
            for step, reads, writes in ((forward, 2 * count, 1), (both, 4 * count + 2, 1 + count)):
                yield Case(
                    f"{count} maps {batch}x{channels}x{side}x{side} {name_of(dtype)}, "
                    f"{'forward' if step is forward else 'forward + backward'}",
                    in_layouts(step, given, ours, plain, compiled),
                    reads * size,
                    writes * size,
                    TOLERANCES[dtype],
                    lambda s=step, w=wide: s(plain, *w),
                )


if __name__ == "__main__":
    main(__doc__, cases)
