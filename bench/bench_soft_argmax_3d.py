"""soft_argmax_3d against softmax and marginal sums, eager and compiled.

The truth is the reference in float64: in float32 the peers are themselves off by 1e-5.

``python bench/bench_soft_argmax_3d.py [--threads 2] [--rounds 21] [--compile] [--csv FILE]``
"""

import torch
from timing import Case, main

from partnas.ops.soft_argmax_3d import reference, soft_argmax_3d

SHAPE = (4, 18, 64, 64, 64)
LAYOUTS = ("NCHW", "channels-last")


def as_laid_out(x, layout):
    """(B, P, D, H, W) in memory as (B, P * D, H, W) contiguous or channels-last."""
    if layout == "NCHW":
        return x
    batch, parts, depth, height, width = x.shape
    flat = x.view(batch, parts * depth, height, width).contiguous(memory_format=torch.channels_last)
    return flat.view(batch, parts, depth, height, width)


def forward(function, x, _):
    with torch.no_grad():
        return function(x, SHAPE[1])


def both(function, x, gradient):
    return torch.autograd.grad(function(x, SHAPE[1]), x, gradient)


def cases(options):
    compiled = torch.compile(reference) if options.compile else None
    gradient = torch.randn(*SHAPE[:2], 3)
    for dtype, tolerance in ((torch.float32, 3e-5), (torch.bfloat16, 4e-3)):
        volume = (3 * torch.randn(SHAPE)).to(dtype)
        size = volume.numel() * volume.element_size()
        for step, moved in ((forward, size), (both, 4 * size)):
            for layout in LAYOUTS:
                plain = volume.clone().requires_grad_()
                x = as_laid_out(volume, layout).requires_grad_()
                peers = {"softmax + sums, NCHW": lambda x=plain, s=step: s(reference, x, gradient)}
                if layout != "NCHW":
                    peers["softmax + sums, channels-last"] = lambda x=x, s=step: s(reference, x, gradient)
                if compiled is not None:
                    peers["compiled"] = lambda x=x, s=step: s(compiled, x, gradient)
                name = "forward" if step is forward else "forward + backward"
                yield Case(
                    f"{'x'.join(map(str, SHAPE))} {str(dtype)[6:]}, {layout}, {name}",
                    {**peers, "ours": lambda x=x, s=step: s(soft_argmax_3d, x, gradient)},
                    moved,
                    tolerance,
                    lambda x=x, s=step: s(reference, x.detach().double().requires_grad_(), gradient.double()),
                )


if __name__ == "__main__":
    main(
        __doc__,
        cases,
        lambda parser: parser.add_argument("--compile", action="store_true", help="torch.compile as a peer too"),
    )
