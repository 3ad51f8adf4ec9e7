"""Bilinear upsampling: the outputs that lie between the same four pixels are made by one program, from one read."""

import torch
import triton
import triton.language as tl

from partnas.errors import PartnasError
from partnas.kernels.launch import Ahead, Config, check_storage, launch

TABLE = {75: Config({"ELEMENTS": 512}, 4, 1), 80: Config({"ELEMENTS": 1024}, 4, 1)}
MOST_CHANNELS = 128
"""Channels of a tile; wider maps are cut."""


def upsample(x: torch.Tensor, factor: int) -> torch.Tensor:
    _check("upsample", x, factor)
    batch, channels, height, width = x.shape
    out = torch.empty(
        (batch, channels, factor * height, factor * width),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )
    if out.numel():
        # Between the pixels of the map and around it are (H + 1) x (W + 1) cells.
        tile = _tile(channels)
        grid = _grid(batch * (height + 1), width + 1, channels, tile)
        sizes = (channels, height, width)
        launch(_upsample, grid, TABLE, x, out, *x.stride(), *out.stride(), *sizes, FACTOR=factor, CHANNELS=tile)
    return out


def upsample_backward(gradient: torch.Tensor, factor: int) -> torch.Tensor:
    _check("upsample_backward", gradient, factor)
    batch, channels, height, width = gradient.shape
    if height % factor or width % factor:
        raise PartnasError(f"upsample_backward: the sides of the gradient must be multiples of {factor}")
    height, width = height // factor, width // factor
    out = torch.empty(
        (batch, channels, height, width),
        dtype=gradient.dtype,
        device=gradient.device,
        memory_format=torch.channels_last,
    )
    if out.numel():
        tile = _tile(channels)
        grid = _grid(batch * height, width, channels, tile)
        strides = (*gradient.stride(), *out.stride())
        sizes = (channels, height, width)
        launch(_upsample_backward, grid, TABLE, gradient, out, *strides, *sizes, FACTOR=factor, CHANNELS=tile)
    return out


def _check(name: str, x: torch.Tensor, factor: int) -> None:
    check_storage(name, x)
    if factor not in (2, 4):
        raise PartnasError(f"{name}: factor {factor} is neither 2 nor 4")
    if x.dim() != 4:
        raise PartnasError(f"{name}: maps must be (B, C, H, W), got {x.dim()} dimensions")


def _tile(channels: int) -> int:
    return min(triton.next_power_of_2(channels), MOST_CHANNELS)


def _grid(rows: int, columns: int, channels: int, tile: int):
    def grid(blocks):
        columns_of_tile = max(1, blocks["ELEMENTS"] // tile)
        return (rows * triton.cdiv(columns, columns_of_tile) * triton.cdiv(channels, tile),)

    return grid


@triton.jit
def _place(columns, channels, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr):
    """This program's row [1, 1], columns [COLUMNS, 1] and channels [1, CHANNELS]."""
    program = tl.program_id(0)
    per_row = tl.cdiv(columns, COLUMNS)
    slices = tl.cdiv(channels, CHANNELS)
    c = program % slices * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    column = program // slices % per_row * COLUMNS + tl.arange(0, COLUMNS)[:, None]
    return tl.full([1, 1], program // slices // per_row, tl.int64), column, c


@triton.jit
def _upsample(
    x, out,
    x_batch, x_channel, x_row, x_column, out_batch, out_channel, out_row, out_column,
    channels, height, width,
    FACTOR: tl.constexpr, CHANNELS: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    COLUMNS: tl.constexpr = ELEMENTS // CHANNELS if ELEMENTS > CHANNELS else 1
    line, column, c = _place(width + 1, channels, COLUMNS, CHANNELS)
    row = line % (height + 1)
    inside = (column <= width) & (c < channels)
    column = column.to(tl.int64)
    left, right = tl.maximum(column - 1, 0), tl.minimum(column, width - 1)
    c = c.to(tl.int64)
    x += line // (height + 1) * x_batch
    upper, lower = x + tl.maximum(row - 1, 0) * x_row, x + tl.minimum(row, height - 1) * x_row
    at_left, at_right = left * x_column + c * x_channel, right * x_column + c * x_channel
    a = tl.load(upper + at_left, inside, 0.0).to(tl.float32)
    b = tl.load(upper + at_right, inside, 0.0).to(tl.float32)
    d = tl.load(lower + at_left, inside, 0.0).to(tl.float32)
    e = tl.load(lower + at_right, inside, 0.0).to(tl.float32)
    out += line // (height + 1) * out_batch + c * out_channel
    for i in tl.static_range(FACTOR):
        down = (i + 0.5) / FACTOR
        left_mix = a * (1 - down) + d * down
        right_mix = b * (1 - down) + e * down
        y = FACTOR * row - FACTOR // 2 + i
        for j in tl.static_range(FACTOR):
            along = (j + 0.5) / FACTOR
            value = left_mix * (1 - along) + right_mix * along
            z = FACTOR * column - FACTOR // 2 + j
            there = inside & (y >= 0) & (y < FACTOR * height) & (z >= 0) & (z < FACTOR * width)
            tl.store(out + y * out_row + z * out_column, value.to(out.dtype.element_ty), there)


@triton.jit
def _upsample_backward(
    gradient, out,
    g_batch, g_channel, g_row, g_column, out_batch, out_channel, out_row, out_column,
    channels, height, width,
    FACTOR: tl.constexpr, CHANNELS: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    COLUMNS: tl.constexpr = ELEMENTS // CHANNELS if ELEMENTS > CHANNELS else 1
    line, column, c = _place(width, channels, COLUMNS, CHANNELS)
    row = line % height
    inside = (column < width) & (c < channels)
    column, c = column.to(tl.int64), c.to(tl.int64)
    gradient += line // height * g_batch + c * g_channel
    total = tl.zeros([COLUMNS, CHANNELS], tl.float32)
    for i in range(2 * FACTOR):
        y = FACTOR * row - FACTOR // 2 + i
        sum_of_row = tl.zeros([COLUMNS, CHANNELS], tl.float32)
        for j in tl.static_range(2 * FACTOR):
            z = FACTOR * column - FACTOR // 2 + j
            there = inside & (y >= 0) & (y < FACTOR * height) & (z >= 0) & (z < FACTOR * width)
            g = tl.load(gradient + y * g_row + z * g_column, there, 0.0).to(tl.float32)
            sum_of_row += _share(j, column, width, FACTOR) * g
        total += _share(i, row, height, FACTOR) * sum_of_row
    out += line // height * out_batch + column * out_column + c * out_channel
    tl.store(out + row * out_row, total.to(out.dtype.element_ty), inside)


@triton.jit
def _share(tap, position, size, FACTOR: tl.constexpr):
    """What the output at ``tap`` of the 2 * FACTOR that read a pixel takes of it: all, beyond the first and last pixel's
    centre."""
    share = 1 - tl.abs((tap + 0.5) / FACTOR - 1)
    outer = ((position == 0) & (tap < FACTOR)) | ((position == size - 1) & (tap >= FACTOR))
    return tl.where(outer, 1.0, share)


_STRIDES = dict.fromkeys(("batch", "row", "column"), "i64:16") | {"channel": "i32"}


def _signature(read: str, source: str) -> dict[str, str]:
    strides = {f"{of}_{axis}": kind for of in (source, "out") for axis, kind in _STRIDES.items()}
    return {read: "*T", "out": "*T", **strides, "channels": "i32:16", "height": "i32", "width": "i32"}


AHEAD = [
    Ahead(kernel, TABLE, signature, {"FACTOR": factor, "CHANNELS": tile, f"{source}_channel": 1, "out_channel": 1})
    for kernel, source, signature in (
        (_upsample, "x", _signature("x", "x")),
        (_upsample_backward, "g", _signature("gradient", "g")),
    )
    for factor in (2, 4)
    for tile in (16, 128)
]
