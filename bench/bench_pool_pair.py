"""pool_pair against the two pools and their batch statistics, one by one.

``python bench/bench_pool_pair.py [--threads 2] [--rounds 21] [--only NAME] [--csv FILE]``
"""

import torch
from timing import Case, main

from partnas.ops.norm_sum import reference_stats
from partnas.ops.pool_pair import pool_pair, reference

SOURCES = ((16, 128, 1), (64, 64, 2), (288, 32, 1))
"""Channels, side and stride of a source; batch 4."""


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
    for channels, side, stride in SOURCES:
        value = torch.randn(4, channels, side, side)
        gradients = [torch.randn(4, channels, side // stride, side // stride) for _ in range(2)]
        layouts = {"NCHW": torch.contiguous_format, "channels-last": torch.channels_last}
        given = {
            name: (
                value.contiguous(memory_format=layout).requires_grad_(),
                stride,
                [g.contiguous(memory_format=layout) for g in gradients],
            )
            for name, layout in layouts.items()
        }
        source, maps = value.numel() * 4, gradients[0].numel() * 4
        for step, moved in ((forward, source + 4 * maps), (both, 4 * source + 6 * maps)):
            yield Case(
                f"4x{channels}x{side}x{side}, stride {stride}, {'forward' if step is forward else 'forward + backward'}",
                {
                    "channels-last": lambda s=step, a=given["channels-last"]: s(plain, *a),
                    "NCHW": lambda s=step, a=given["NCHW"]: s(plain, *a),
                    "ours": lambda s=step, a=given["channels-last"]: s(pool_pair, *a),
                },
                moved,
            )


if __name__ == "__main__":
    main(__doc__, cases)
