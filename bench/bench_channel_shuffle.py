"""channel_shuffle against PyTorch's own shuffle and an index; the floor is a plain copy of the tensor, ``clone``.

``python bench/bench_channel_shuffle.py [--threads 2] [--rounds 21] [--csv FILE]``
"""

import torch
import torch.nn.functional as F
from timing import Case, main

from partnas.ops.channel_shuffle import channel_shuffle, reference

SHAPES = ((4, 64, 128, 128), (4, 288, 32, 32), (4, 1152, 64, 64))
FORMATS = {"NCHW": torch.contiguous_format, "channels-last": torch.channels_last}


def cases(options):
    for shape in SHAPES:
        for name, layout in FORMATS.items():
            x = torch.randn(shape).contiguous(memory_format=layout)
            yield Case(
                f"{'x'.join(map(str, shape))} float32, {name}, 4 groups",
                {
                    "index": lambda x=x: reference(x, 4),
                    "PyTorch": lambda x=x: F.channel_shuffle(x, 4),
                    "ours": lambda x=x: channel_shuffle(x, 4),
                },
                tolerance=0.0,
                floor=x.clone,
            )
    parts = torch.randperm(18).tolist()
    for name, layout in FORMATS.items():
        x = torch.randn(SHAPES[-1]).contiguous(memory_format=layout)
        yield Case(
            f"{'x'.join(map(str, SHAPES[-1]))} float32, {name}, 18 parts of 64",
            {
                "index": lambda x=x: reference(x, order=parts, depth=64),
                "ours": lambda x=x: channel_shuffle(x, order=parts, depth=64),
            },
            tolerance=0.0,
            floor=x.clone,
        )


if __name__ == "__main__":
    main(__doc__, cases)
