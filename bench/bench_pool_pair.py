"""pool_pair against the two pools and their batch statistics, one by one.

``python bench/bench_pool_pair.py [--device cuda] [--threads 2] [--rounds 21] [--only NAME] [--compile] [--csv FILE]``
"""

import torch
from timing import LAYOUTS, TOLERANCES, Case, in_layouts, main, name_of

from partnas.ops.norm_sum import reference_stats
from partnas.ops.pool_pair import pool_pair, reference

SOURCES = ((16, 128, 1), (64, 64, 2), (288, 32, 1))
"""Channels, side and stride of a source."""


def plain(x, stride):
    maps = reference(x, stride)
    with torch.no_grad():
        statistics = reference_stats(maps)
    return *maps, statistics


def forward(function, x, stride, _):
    with torch.no_grad():
        return function(x, stride)


def both(function, x, stride, gradients):
    return torch.autograd.grad(function(x, stride)[:2], x, gradients)


def cases(options):
    batch = options.batch
    compiled = torch.compile(plain, dynamic=False) if options.compile else None
    for dtype in options.dtypes:
        for channels, side, stride in SOURCES:
            value = torch.randn(batch, channels, side, side, device=options.device).to(dtype)
            small = side // stride
            gradients = [torch.randn(batch, channels, small, small, device=options.device).to(dtype) for _ in range(2)]
            given = {
                name: (
                    value.contiguous(memory_format=memory).requires_grad_(),
                    stride,
                    [g.contiguous(memory_format=memory) for g in gradients],
                )
                for name, memory in LAYOUTS.items()
            }
            wide = (value.double().requires_grad_(), stride, [g.double() for g in gradients])
            source, pooled = value.nbytes, gradients[0].nbytes
            for step, reads, writes in (
                (forward, source, 2 * pooled),
                (both, 2 * source + 2 * pooled, 2 * pooled + source),
            ):
                yield Case(
                    f"{batch}x{channels}x{side}x{side} {name_of(dtype)}, stride {stride}, "
                    f"{'forward' if step is forward else 'forward + backward'}",
                    in_layouts(step, given, pool_pair, plain, compiled),
                    reads,
                    writes,
                    TOLERANCES[dtype],
                    lambda s=step, w=wide: s(plain, *w),
                )


if __name__ == "__main__":
    main(__doc__, cases)
