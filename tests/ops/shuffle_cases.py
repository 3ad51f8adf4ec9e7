"""Maps of random bits in every layout, and the definition that channel_shuffle is held to."""

import torch
from map_cases import moved

from partnas.ops import channel_shuffle

DTYPES = [
    torch.bool, torch.uint8, torch.float8_e4m3fn, torch.int16, torch.float16, torch.bfloat16, torch.int32,
    torch.float32, torch.int64, torch.float64, torch.complex64, torch.complex128,
]  # fmt: skip

# C first, then the batch and what follows the channels.
SHAPES = [
    (12, (2, 5, 7)),
    (12, (3, 1, 1)),
    (12, (1, 3, 2)),
    (36, (2, 4, 33)),
    (60, (2, 17, 19)),
    (2, (1, 130, 3)),
    (1, (2, 3, 4)),
    (576, (1, 6, 7)),
    (12, (0, 5, 7)),
    (12, (2, 0, 7)),
    (0, (2, 3, 4)),
]

LAYOUTS = {
    "contiguous": lambda x: x,
    "channels-last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "5-D channels-last": lambda x: x[:, :, None].contiguous(memory_format=torch.channels_last_3d),
    "6-D": lambda x: x[:, :, None, None],
    "3-D": lambda x: x.flatten(2),
    "2-D": lambda x: x.new_zeros(x.shape[:2]) if 0 in x.shape else x[:, :, 0, 0].contiguous(),
    "batch inside": lambda x: x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    "cut out": lambda x: torch.cat([x, x, x], 3)[..., x.shape[3] : 2 * x.shape[3]],
    "channels cut out of channels-last": lambda x: torch.cat([x, x], 1)
    .contiguous(memory_format=torch.channels_last)[:, : x.shape[1]],
    "one sample for all": lambda x: x[:1].expand_as(x),
    "one pixel for all": lambda x: x[:, :, :1, :1].expand_as(x),
}  # fmt: skip


def numbers(channels, others, dtype, seed=0):
    """Random bits, so that NaN payloads and negative zeros count too."""
    batch, height, width = others
    shape = (batch, channels, height, width)
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    size = torch.empty((), dtype=dtype).element_size()
    return torch.randint(0, 256, (*shape, size), generator=generator, dtype=torch.uint8).view(dtype).squeeze(-1)


def bits(x):
    """The bytes of ``x``, as numpy and with a dimension for the bytes of an element."""
    return x.contiguous().flatten().view(torch.uint8).numpy().reshape(*x.shape, x.element_size())


def memory_format(x):
    """The format that the result shall have: channels-last for channels-last inputs, else contiguous."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if x.dim() in formats and not x.is_contiguous() and x.is_contiguous(memory_format=formats[x.dim()]):
        return formats[x.dim()]
    return torch.contiguous_format


def permutation(runs, seed=0):
    return torch.randperm(runs, generator=torch.Generator().manual_seed(seed)).tolist()


def check(x, groups=None, order=None, depth=1, device="cpu"):
    """Holds the shuffle, made on ``device``, to its definition, bit for bit, and to the memory format of ``x``."""
    runs = x.shape[1] // depth
    if order is None:
        order = [i % groups * (runs // groups) + i // groups for i in range(runs)]
    before = bits(x).copy()
    expected = before.take([run * depth + channel for run in order for channel in range(depth)], axis=1)
    there = moved(x, device)
    found = channel_shuffle(there, groups, order=None if groups else order, depth=depth)
    assert (bits(there.cpu()) == before).all()
    assert (found.shape, found.dtype) == (x.shape, x.dtype)
    assert found.is_contiguous(memory_format=memory_format(x))
    assert (bits(found.cpu()) == expected).all()
