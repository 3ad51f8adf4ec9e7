"""upsample against PyTorch's bilinear interpolation.

``python bench/bench_upsample.py [--threads 2] [--rounds 21] [--only NAME] [--csv FILE]``
"""

import torch
from timing import Case, main

from partnas.ops.upsample import reference, upsample

SOURCES = ((288, 16, 2), (288, 8, 4), (128, 32, 2))
"""Channels, side and factor; batch 4."""


def forward(function, x, factor, _):
    with torch.no_grad():
        return function(x, factor)


def both(function, x, factor, gradient):
    return torch.autograd.grad(function(x, factor), x, gradient)


def cases(options):
    for channels, side, factor in SOURCES:
        value = torch.randn(4, channels, side, side)
        gradient = torch.randn(4, channels, factor * side, factor * side)
        layouts = {"NCHW": torch.contiguous_format, "channels-last": torch.channels_last}
        given = {
            name: (
                value.contiguous(memory_format=layout).requires_grad_(),
                factor,
                gradient.contiguous(memory_format=layout),
            )
            for name, layout in layouts.items()
        }
        small, large = value.numel() * 4, gradient.numel() * 4
        for step, moved in ((forward, small + 2 * large), (both, 3 * small + 3 * large)):
            yield Case(
                f"4x{channels}x{side}x{side}, factor {factor}, {'forward' if step is forward else 'forward + backward'}",
                {
                    "channels-last": lambda s=step, a=given["channels-last"]: s(reference, *a),
                    "NCHW": lambda s=step, a=given["NCHW"]: s(reference, *a),
                    "ours": lambda s=step, a=given["channels-last"]: s(upsample, *a),
                },
                moved,
            )


if __name__ == "__main__":
    main(__doc__, cases)
