"""channel_shuffle against PyTorch's own shuffle and an index; the floor is a plain copy of the tensor, ``clone``.

``python bench/bench_channel_shuffle.py [--device cuda] [--threads 2] [--rounds 21] [--compile] [--csv FILE]``
"""

import torch
import torch.nn.functional as F
from timing import LAYOUTS, Case, main, name_of

from partnas.ops.channel_shuffle import channel_shuffle, reference

SHAPES = ((64, 128, 128), (288, 32, 32), (1152, 64, 64))
"""Channels, height and width."""


def cases(options):
    parts = torch.randperm(18).tolist()
    compiled = torch.compile(reference, dynamic=False) if options.compile else None
    for dtype in options.dtypes:
        for shape in SHAPES:
            for layout, memory in LAYOUTS.items():
                shape_of_all = (options.batch, *shape)
                x = torch.randn(shape_of_all, device=options.device).to(dtype).contiguous(memory_format=memory)
                contestants = {
                    "index": lambda x=x: reference(x, 4),
                    "PyTorch": lambda x=x: F.channel_shuffle(x, 4),
                    "ours": lambda x=x: channel_shuffle(x, 4),
                }
                if compiled is not None:
                    contestants["compiled"] = lambda x=x: compiled(x, 4)
                name = f"{'x'.join(map(str, shape_of_all))} {name_of(dtype)}, {layout}"
                yield Case(f"{name}, 4 groups", contestants, tolerance=0.0, floor=x.clone)
                if shape != SHAPES[-1]:
                    continue
                contestants = {
                    "index": lambda x=x: reference(x, order=parts, depth=64),
                    "ours": lambda x=x: channel_shuffle(x, order=parts, depth=64),
                }
                if compiled is not None:
                    contestants["compiled"] = lambda x=x: compiled(x, order=parts, depth=64)
                yield Case(f"{name}, 18 parts of 64", contestants, tolerance=0.0, floor=x.clone)


if __name__ == "__main__":
    main(__doc__, cases)
