"""soft_argmax_3d against softmax and marginal sums, eager and compiled.

The truth is the reference in float64: in float32 the peers are themselves off by 1e-5.

``python bench/bench_soft_argmax_3d.py [--device cuda] [--threads 2] [--rounds 21] [--compile] [--csv FILE]``
"""

import torch
from timing import LAYOUTS, Case, main, name_of

from partnas.ops.soft_argmax_3d import reference, soft_argmax_3d

PARTS = 18
SIDE = 64
TOLERANCES = {torch.float32: 3e-5, torch.float16: 1e-3, torch.bfloat16: 4e-3}


def as_laid_out(x, layout):
    """(B, P, D, H, W) in memory as (B, P * D, H, W) contiguous or channels-last."""
    if layout == "NCHW":
        return x
    batch, parts, depth, height, width = x.shape
    flat = x.view(batch, parts * depth, height, width).contiguous(memory_format=torch.channels_last)
    return flat.view(batch, parts, depth, height, width)


def forward(function, x, _):
    with torch.no_grad():
        return function(x, PARTS)


def both(function, x, gradient):
    return torch.autograd.grad(function(x, PARTS), x, gradient)


def cases(options):
    compiled = torch.compile(reference, dynamic=False) if options.compile else None
    shape = (options.batch, PARTS, SIDE, SIDE, SIDE)
    gradient = torch.randn(*shape[:2], 3, device=options.device)
    for dtype in options.dtypes:
        volume = (3 * torch.randn(shape, device=options.device)).to(dtype)
        size = volume.nbytes
        for step, reads, writes in ((forward, size, 0), (both, 2 * size, size)):
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
                    f"{'x'.join(map(str, shape))} {name_of(dtype)}, {layout}, {name}",
                    {**peers, "ours": lambda x=x, s=step: s(soft_argmax_3d, x, gradient)},
                    reads,
                    writes,
                    TOLERANCES[dtype],
                    lambda x=x, s=step: s(reference, x.detach().double().requires_grad_(), gradient.double()),
                )


if __name__ == "__main__":
    main(__doc__, cases, lambda parser: parser.set_defaults(dtypes=["float32", "bfloat16"]))
