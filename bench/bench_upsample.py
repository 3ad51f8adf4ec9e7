"""upsample against PyTorch's bilinear interpolation.

``python bench/bench_upsample.py [--device cuda] [--threads 2] [--rounds 21] [--only NAME] [--compile] [--csv FILE]``
"""

import torch
from timing import LAYOUTS, TOLERANCES, Case, in_layouts, main, name_of

from partnas.ops.upsample import reference, upsample

SOURCES = ((288, 16, 2), (288, 8, 4), (128, 32, 2))
"""Channels, side and factor."""


def forward(function, x, factor, _):
    with torch.no_grad():
        return function(x, factor)


def both(function, x, factor, gradient):
    return torch.autograd.grad(function(x, factor), x, gradient)


def cases(options):
    batch = options.batch
    compiled = torch.compile(reference, dynamic=False) if options.compile else None
    for dtype in options.dtypes:
        for channels, side, factor in SOURCES:
            value = torch.randn(batch, channels, side, side, device=options.device).to(dtype)
            gradient = torch.randn(batch, channels, factor * side, factor * side, device=options.device).to(dtype)
            given = {
                name: (
                    value.contiguous(memory_format=memory).requires_grad_(),
                    factor,
                    gradient.contiguous(memory_format=memory),
                )
                for name, memory in LAYOUTS.items()
            }
            wide = (value.double().requires_grad_(), factor, gradient.double())
            small, large = value.nbytes, gradient.nbytes
            for step, reads, writes in ((forward, small, large), (both, small + large, large + small)):
                yield Case(
                    f"{batch}x{channels}x{side}x{side} {name_of(dtype)}, factor {factor}, "
                    f"{'forward' if step is forward else 'forward + backward'}",
                    in_layouts(step, given, upsample, reference, compiled),
                    reads,
                    writes,
                    TOLERANCES[dtype],
                    lambda s=step, w=wide: s(reference, *w),
                )


if __name__ == "__main__":
    main(__doc__, cases)
