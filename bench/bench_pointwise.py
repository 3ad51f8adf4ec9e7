"""pointwise against the library: a product for each map, one batched product of all, and a 1x1 convolution for each.

``python bench/bench_pointwise.py [--device cuda] [--threads 2] [--rounds 21] [--only NAME] [--compile] [--csv FILE]``
"""

import torch
import torch.nn.functional as F
from timing import TOLERANCES, Case, main, name_of

from partnas.ops.pointwise import pointwise

COUNT = 16
CASES = (
    (8, 128), (8, 64), (16, 128), (16, 64), (32, 64), (64, 32), (128, 32), (128, 16), (288, 32), (288, 16),
    (8, 64, torch.bfloat16), (32, 64, torch.bfloat16), (8, 64, torch.float16), (32, 64, torch.float16),
)  # fmt: skip
"""Channels, side of the maps, dtype: float32, and those of the command line, where left out."""


def products(maps, weight):
    batch, _, height, width = maps[0].shape
    rows = [x.permute(0, 2, 3, 1).flatten(0, 2) for x in maps]
    return [
        (x @ matrix.t()).view(batch, height, width, -1).permute(0, 3, 1, 2)
        for x, matrix in zip(rows, weight, strict=True)
    ]


def batched(maps, weight):
    batch, channels, height, width = maps[0].shape
    rows = torch.stack([x.permute(0, 2, 3, 1) for x in maps]).view(len(maps), -1, channels)
    found = torch.bmm(rows, weight.transpose(1, 2))
    return found.view(len(maps), batch, height, width, -1).permute(0, 1, 4, 2, 3).unbind(0)


def convolutions(maps, weight):
    return [F.conv2d(x, matrix[:, :, None, None]) for x, matrix in zip(maps, weight, strict=True)]


def forward(function, maps, weight, _):
    with torch.no_grad():
        return function(maps, weight)


def both(function, maps, weight, gradients):
    return torch.autograd.grad(function(maps, weight), [weight, *maps], gradients)


def cases(options):
    compiled = torch.compile(convolutions, dynamic=False) if options.compile else None
    batch = options.batch
    for channels, side, dtype in _chosen(options):
        shape = (batch, channels, side, side)
        maps, gradients = (
            [
                torch.randn(shape, device=options.device).to(dtype).contiguous(memory_format=torch.channels_last)
                for _ in range(COUNT)
            ]
            for _ in range(2)
        )
        maps = [x.requires_grad_() for x in maps]
        weight = torch.randn(COUNT, channels, channels, device=options.device).to(dtype).requires_grad_()
        wide = (
            [x.detach().double().requires_grad_() for x in maps],
            weight.detach().double().requires_grad_(),
            [g.double() for g in gradients],
        )
        size = COUNT * maps[0].nbytes
        for step, reads, writes in ((forward, size, size), (both, 3 * size, 2 * size)):
            peers = {"products": products, "batched": batched, "convolutions": convolutions, "ours": pointwise}
            if compiled is not None:
                peers["compiled"] = compiled
            yield Case(
                f"{COUNT} maps {batch}x{channels}x{side}x{side} {name_of(dtype)}, "
                f"{'forward' if step is forward else 'forward + backward'}",
                {
                    name: lambda s=step, f=function, a=(maps, weight, gradients): s(f, *a)
                    for name, function in peers.items()
                },
                reads,
                writes,
                TOLERANCES[dtype],
                lambda s=step, w=wide: s(convolutions, *w),
            )


def _chosen(options):
    for channels, side, *dtype in CASES:
        for each in dtype or options.dtypes:
            yield channels, side, each


if __name__ == "__main__":
    main(__doc__, cases)
