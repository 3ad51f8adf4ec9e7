"""All depthwise filters of one source, in one launch.

A program owns a tile of pixels of one row and of channels, and takes a few rows of it through all filters, one filter after the
other: the first reads the source, the others find it in the first-level cache. A filter goes by columns of taps: one
column's taps and the values under all rows wait in registers, so that each value serves every row that it reaches. That
loop must not be unrolled: the compiler would move all loads to its front and run out of registers. Nor may it see that
addresses and masks are the same from turn to turn, and keep them all: they are given a zero, ``hidden``, that it does
not know.

Backward turns it round: the values of a tile and their gradients wait in registers, and each number of a map's gradient
that is loaded serves both the source's gradient and the taps' gradients. The latter are summed over the tile, and over
all tiles by a second kernel.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from partnas.kernels.launch import Ahead, Config, check, check_storage, launch
from partnas.ops.maps import channels_last, empty_map

# A kind is (size, dilation, whether the gradient of the taps is wanted); a bank is kinds with the number of each.


# Triton 3.6 takes neither a tuple out of a tuple nor a constant: what these hold is asked of functions.
@triton.constexpr_function
def _kind(bank, index):
    return bank[index][0]


@triton.constexpr_function
def _count(bank, index):
    return bank[index][1]


@triton.constexpr_function
def _size(kind):
    return kind[0]


@triton.constexpr_function
def _dilation(kind):
    return kind[1]


@triton.constexpr_function
def _wanted(kind):
    return kind[2]


@triton.constexpr_function
def _span(kind):
    """Pixels from a filter's centre to its furthest tap."""
    return kind[0] // 2 * kind[1]


@triton.constexpr_function
def _tap_over(kind, stride, row, r):
    """The row of taps through which row r of the map reads ``row``, counted from the first one that row 0 reads; or -1."""
    shift = row - stride * r
    return shift // kind[1] if 0 <= shift <= 2 * _span(kind) and shift % kind[1] == 0 else -1


@triton.constexpr_function
def _is_read(kind, stride, rows, row):
    return any(_tap_over(kind, stride, row, r) >= 0 for r in range(rows))


@triton.constexpr_function
def _phase(kind, tap, stride):
    """Which of every ``stride`` pixels of the source a tap reads."""
    return (tap - kind[0] // 2) * kind[1] % stride


@triton.constexpr_function
def _lag(kind, tap, stride):
    """Seen through a tap, how far the map's pixel lies from the source's, in pixels of the map."""
    shift = (tap - kind[0] // 2) * kind[1]
    return (shift % stride - shift) // stride


@triton.constexpr_function
def _column_taps(kind, phase, stride):
    """The taps of a row that read one phase: how many, the first, and their step."""
    taps = [tap for tap in range(kind[0]) if _phase(kind, tap, stride) == phase]
    return len(taps), min(taps, default=0), stride // kind[1] if stride > kind[1] else 1


@triton.constexpr_function
def _row_met(kind, tap, stride, rows, row):
    """The row of a tile, without the phase, whose pixels meet row ``row`` of the map through a row of taps; or -1."""
    r = row - _lag(kind, tap, stride)
    return r if 0 <= r < rows else -1


@triton.constexpr_function
def _meets_some(kind, stride, rows, row):
    return any(_row_met(kind, tap, stride, rows, row) >= 0 for tap in range(kind[0]))


@triton.constexpr_function
def _cell(kind, tap, stride, rows, row, phase):
    """That row's place among the tiles of a program, which are ordered by row, then by phases."""
    return (_row_met(kind, tap, stride, rows, row) * stride + _phase(kind, tap, stride)) * stride + phase


@triton.constexpr_function
def _first_tap(bank, index, wanted_only=False):
    """How many taps there are before those of kind ``index``."""
    return sum(kind[0] ** 2 * count for kind, count in bank[:index] if kind[2] or not wanted_only)


@triton.constexpr_function
def _first_filter(bank, index):
    return sum(count for _, count in bank[:index])


@triton.jit
def _pick(pointers, FIRST: tl.constexpr, COUNT: tl.constexpr, index):
    """pointers[FIRST + index], index < COUNT."""
    pointer = pointers[FIRST]
    for n in tl.static_range(1, COUNT):
        if index == n:
            pointer = pointers[FIRST + n]
    return pointer


@triton.jit
def _place(C, height, width, ROWS: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr):
    """This program's image, row, column and channel, and which tile it is of all that have those channels."""
    blocks = tl.cdiv(C, BLOCK_C)
    tile = tl.program_id(0) // blocks
    columns = tl.cdiv(width, BLOCK_W)
    rows = tl.cdiv(height, ROWS)
    image = (tile // columns // rows).to(tl.int64)
    return image, tile // columns % rows * ROWS, tile % columns * BLOCK_W, tl.program_id(0) % blocks * BLOCK_C, tile


@triton.jit
def _numbers(packed, TAPS: tl.constexpr, C, mask, AFFINE: tl.constexpr):
    """Mean, factor and offset of the channels; not read where the value is x itself."""
    if AFFINE:
        rows = packed + TAPS * C
        return (
            tl.load(rows, mask=mask, other=0.0),
            tl.load(rows + C, mask=mask, other=0.0),
            tl.load(rows + 2 * C, mask=mask, other=0.0),
        )
    else:
        return (0.0, 1.0, 0.0)


@triton.jit
def _entering(x, mask, numbers, AFFINE: tl.constexpr, RELU: tl.constexpr):
    """What the filters see of x; outside the map zero, whatever the affine map makes of it."""
    value = tl.load(x, mask=mask, other=0.0).to(tl.float32)
    if AFFINE:
        value = (value - numbers[0]) * numbers[1] + numbers[2]
    if RELU:
        value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
    if AFFINE:
        value = tl.where(mask, value, 0.0)
    return value


@triton.jit
def _pack(
    weights,
    statistics,
    scale,
    shift,
    packed,
    eps,
    C,
    BANK: tl.constexpr,
    TAPS: tl.constexpr,
    NORM: tl.constexpr,
    SCALE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Taps with the channels innermost, then mean, factor, offset and 1 / deviation: packed [TAPS + 4, C]."""
    channel = (tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK))[None, :]
    inside = channel < C
    tap = tl.arange(0, 32)[:, None]
    to = packed + tap * tl.cast(C, tl.int64) + channel
    for n in tl.static_range(len(BANK)):
        area = _size(_kind(BANK, n)) * _size(_kind(BANK, n))
        mask = inside & (tap < area)
        for f in range(_count(BANK, n)):
            weight = _pick(weights, _first_filter(BANK, n), _count(BANK, n), f)
            tl.store(to, tl.load(weight + channel * area + tap, mask=mask, other=0.0), mask=mask)
            to += area * tl.cast(C, tl.int64)
    to = packed + TAPS * tl.cast(C, tl.int64) + channel
    mean = tl.zeros([1, BLOCK], tl.float32)
    rstd = mean + 1.0
    if NORM:
        mean = tl.load(statistics + channel, mask=inside, other=0.0)
        rstd = 1.0 / tl.sqrt_rn(tl.load(statistics + C + channel, mask=inside, other=1.0) + eps)
    factor = rstd
    offset = tl.zeros([1, BLOCK], tl.float32)
    if SCALE:
        factor = rstd * tl.load(scale + channel, mask=inside, other=0.0)
        offset = tl.load(shift + channel, mask=inside, other=0.0)
    if NORM or SCALE:
        tl.store(to, mean, mask=inside)
        tl.store(to + C, factor, mask=inside)
        tl.store(to + 2 * C, offset, mask=inside)
        tl.store(to + 3 * C, rstd, mask=inside)


@triton.jit
def _filtered(
    x, taps, numbers, column, row, offsets, inside, C, H, W, hidden, nothing,
    KIND: tl.constexpr, STRIDE: tl.constexpr, AFFINE: tl.constexpr, RELU: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """ROWS tiles of one filter's map. x points, and row and column are, where the first one's first tap lies."""
    sums = (tl.zeros([BLOCK_W, BLOCK_C], tl.float32),) * ROWS
    for _ in range(_size(KIND)):
        hidden ^= nothing
        there = inside & (column >= 0) & (column < W)
        waiting = ()
        for i in tl.static_range(_size(KIND)):
            waiting = waiting + (tl.load(taps + i * _size(KIND) * C, mask=inside, other=0.0),)
        at = x
        for q in tl.static_range(2 * _span(KIND) + (ROWS - 1) * STRIDE + 1):
            if _is_read(KIND, STRIDE, ROWS, q):
                mask = there & (row + hidden + q >= 0) & (row + hidden + q < H)
                value = _entering(at + offsets, mask, numbers, AFFINE, RELU)
                for r in tl.static_range(ROWS):
                    if _tap_over(KIND, STRIDE, q, r) >= 0:
                        total = sums[r] + value * waiting[_tap_over(KIND, STRIDE, q, r)]
                        sums = sums[:r] + (total,) + sums[r + 1 :]
            at += tl.cast(W, tl.int64) * C + 16 * hidden
        taps += C
        column += _dilation(KIND)
        x += _dilation(KIND) * C
    return sums, hidden


@triton.jit
def _filter(
    x, packed, maps, C, H, W, height, width, nothing,
    BANK: tl.constexpr, TAPS: tl.constexpr, STRIDE: tl.constexpr, AFFINE: tl.constexpr, RELU: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_W: tl.constexpr, ROWS: tl.constexpr, STRIPS: tl.constexpr,
):  # fmt: skip
    image, top, left, first, _ = _place(C, height, width, ROWS * STRIPS, BLOCK_W, BLOCK_C)
    channel = tl.arange(0, BLOCK_C)[None, :]
    pixel = tl.arange(0, BLOCK_W)[:, None]
    inside = (first + channel < C) & (pixel >= 0)
    packed += first + channel + 0 * pixel
    numbers = _numbers(packed, TAPS, C, inside, AFFINE)
    hidden = nothing
    for strip in range(tl.minimum(STRIPS, tl.cdiv(height - top, ROWS))):
        taps = packed
        for n in tl.static_range(len(BANK)):
            for f in range(_count(BANK, n)):
                # Where the first tap lies.
                y = (top + strip * ROWS + hidden) * STRIDE - _span(_kind(BANK, n))
                z = left * STRIDE - _span(_kind(BANK, n))
                sums, hidden = _filtered(
                    x + ((image * H + y) * W + z) * C + first, taps, numbers, z + pixel * STRIDE, y + 0 * pixel,
                    pixel * (STRIDE * C) + channel, inside, C, H, W, hidden, nothing, _kind(BANK, n), STRIDE, AFFINE, RELU,
                    ROWS, BLOCK_W, BLOCK_C,
                )  # fmt: skip
                y = top + strip * ROWS + hidden
                to = _pick(maps, _first_filter(BANK, n), _count(BANK, n), f)
                to += ((image * height + y) * width + left) * C + first
                for r in tl.static_range(ROWS):
                    mask = inside & (left + pixel < width) & (y + r + 0 * pixel < height)
                    tl.store(to + (pixel * C + channel), sums[r].to(x.dtype.element_ty), mask=mask)
                    to += tl.cast(width, tl.int64) * C + 16 * hidden
                taps += _size(_kind(BANK, n)) * _size(_kind(BANK, n)) * C


@triton.jit
def _taken_back(
    gradient, taps, values, formed, partials, column, row, offsets, inside, channels_inside, C, height, width, hidden,
    nothing, KIND: tl.constexpr, STRIDE: tl.constexpr, NEEDS_VALUE: tl.constexpr, ROWS: tl.constexpr, BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """What one filter adds to the tiles ``formed`` of the source's gradient; writes its taps' sums over this tile.

    ``gradient`` points, and ``row`` and ``column`` are, where the first of the tile's pixels lies in the map.
    """
    for phase in tl.static_range(STRIDE):
        for turn in range(_column_taps(KIND, phase, STRIDE)[0]):
            hidden ^= nothing
            j = _column_taps(KIND, phase, STRIDE)[1] + turn * _column_taps(KIND, phase, STRIDE)[2]
            shift = (phase - (j - _size(KIND) // 2) * _dilation(KIND)) // STRIDE
            there = inside & (column + shift >= 0) & (column + shift < width)
            waiting = ()
            if NEEDS_VALUE:
                for i in tl.static_range(_size(KIND)):
                    waiting = waiting + (tl.load(taps + (i * _size(KIND) + j) * C, mask=inside, other=0.0),)
            sums = (tl.zeros([BLOCK_W, BLOCK_C], tl.float32),) * _size(KIND)
            at = gradient + (shift - 4 * tl.cast(width, tl.int64)) * C
            for o in tl.static_range(ROWS + 8):
                if _meets_some(KIND, STRIDE, ROWS, o - 4):
                    mask = there & (row + hidden + (o - 4) >= 0) & (row + hidden + (o - 4) < height)
                    g = tl.load(at + offsets, mask=mask, other=0.0).to(tl.float32)
                    for i in tl.static_range(_size(KIND)):
                        if _row_met(KIND, i, STRIDE, ROWS, o - 4) >= 0:
                            if NEEDS_VALUE:
                                total = formed[_cell(KIND, i, STRIDE, ROWS, o - 4, phase)] + waiting[i] * g
                                formed = (
                                    formed[: _cell(KIND, i, STRIDE, ROWS, o - 4, phase)]
                                    + (total,)
                                    + formed[_cell(KIND, i, STRIDE, ROWS, o - 4, phase) + 1 :]
                                )
                            if _wanted(KIND):
                                total = sums[i] + values[_cell(KIND, i, STRIDE, ROWS, o - 4, phase)] * g
                                sums = sums[:i] + (total,) + sums[i + 1 :]
                at += tl.cast(width, tl.int64) * C + 16 * hidden
            if _wanted(KIND):
                for i in tl.static_range(_size(KIND)):
                    to = partials + (i * _size(KIND) + j) * C + tl.arange(0, BLOCK_C)
                    tl.store(to, tl.sum(sums[i], 0), mask=channels_inside)
    return formed, hidden


@triton.jit
def _back(
    gradients, x, packed, to, partials, C, H, W, height, width, nothing,
    BANK: tl.constexpr, TAPS: tl.constexpr, WANTED: tl.constexpr, STRIDE: tl.constexpr, AFFINE: tl.constexpr,
    RELU: tl.constexpr, NEEDS_X: tl.constexpr, NEEDS_SUMS: tl.constexpr, SCALED: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_W: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The source's gradient before the clip, and for each tile the sums over its pixels: of WANTED taps' gradients, then
    of that gradient and of its product with x - mean: partials [tiles, WANTED + 2 or 0, C]."""
    NEEDS_VALUE: tl.constexpr = NEEDS_X or NEEDS_SUMS
    image, y, left, first, tile = _place(C, height, width, ROWS, BLOCK_W, BLOCK_C)
    channel = tl.arange(0, BLOCK_C)[None, :]
    column = left + tl.arange(0, BLOCK_W)[:, None]
    channels_inside = first + tl.arange(0, BLOCK_C) < C
    inside = (first + channel < C) & (column < width)
    packed += first + channel + 0 * column
    numbers = _numbers(packed, TAPS, C, inside, AFFINE)
    partials += tile.to(tl.int64) * (WANTED + 2 * NEEDS_SUMS) * C + first

    # What each pixel of the tile was before the filters, where the taps' gradients need it.
    source = ((image * H + y * STRIDE) * W + left * STRIDE) * C + first
    source += tl.arange(0, BLOCK_W)[:, None] * (STRIDE * C) + channel
    values = ()
    formed = ()
    for cell in tl.static_range(ROWS * STRIDE * STRIDE):
        if WANTED > 0:
            mask = inside & _is_there(column, y, H, W, STRIDE, cell)
            values = values + (_entering(x + source + _step(W, C, STRIDE, cell), mask, numbers, AFFINE, RELU),)
        if NEEDS_VALUE:
            formed = formed + (tl.zeros([BLOCK_W, BLOCK_C], tl.float32),)

    offsets = tl.arange(0, BLOCK_W)[:, None] * C + channel
    row = y + 0 * column
    taps = packed
    sums_of_taps = partials
    hidden = nothing
    for n in tl.static_range(len(BANK)):
        for f in range(_count(BANK, n)):
            gradient = _pick(gradients, _first_filter(BANK, n), _count(BANK, n), f)
            gradient += ((image * height + y + hidden) * width + left) * C + first
            formed, hidden = _taken_back(
                gradient, taps, values, formed, sums_of_taps, column, row, offsets, inside, channels_inside, C, height,
                width, hidden, nothing, _kind(BANK, n), STRIDE, NEEDS_VALUE, ROWS, BLOCK_W, BLOCK_C,
            )  # fmt: skip
            taps += _size(_kind(BANK, n)) * _size(_kind(BANK, n)) * C
            if _wanted(_kind(BANK, n)):
                sums_of_taps += _size(_kind(BANK, n)) * _size(_kind(BANK, n)) * C

    if NEEDS_VALUE:
        sum = tl.zeros([BLOCK_W, BLOCK_C], tl.float32)
        product_sum = sum
        for cell in tl.static_range(ROWS * STRIDE * STRIDE):
            mask = inside & _is_there(column, y, H, W, STRIDE, cell)
            at = source + _step(W, C, STRIDE, cell) + 16 * hidden
            found = formed[cell]
            if RELU:
                found = tl.where(_entering(x + at, mask, numbers, AFFINE, RELU) <= 0, 0.0, found)
            if NEEDS_SUMS:
                centred = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) - numbers[0]
                sum += tl.where(mask, found, 0.0)
                product_sum += tl.where(mask, found * centred, 0.0)
            if NEEDS_X:
                if SCALED:
                    found *= numbers[1]
                tl.store(to + at, found.to(x.dtype.element_ty), mask=mask)
        if NEEDS_SUMS:
            at = partials + WANTED * C + tl.arange(0, BLOCK_C)
            tl.store(at, tl.sum(sum, 0), mask=channels_inside)
            tl.store(at + C, tl.sum(product_sum, 0), mask=channels_inside)


@triton.jit
def _step(W, C, STRIDE: tl.constexpr, CELL: tl.constexpr):
    """From the first pixel of a tile to the same of a cell: row, then phases."""
    return ((CELL // STRIDE) * tl.cast(W, tl.int64) + CELL % STRIDE) * C


@triton.jit
def _is_there(column, y, H, W, STRIDE: tl.constexpr, CELL: tl.constexpr):
    return (column * STRIDE + CELL % STRIDE < W) & (y * STRIDE + CELL // STRIDE + 0 * column < H)


@triton.jit
def _reduce(
    partials, packed, tap_gradients, scale_gradient, shift_gradient, tiles, C,
    BANK: tl.constexpr, TAPS: tl.constexpr, WANTED: tl.constexpr, NEEDS_SUMS: tl.constexpr, NORM: tl.constexpr,
    TILES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The sums over all tiles; each wanted tap's to its place in its filter's gradient [C, k, k]."""
    row = tl.program_id(1)
    rows: tl.constexpr = WANTED + 2 * NEEDS_SUMS
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros([TILES, CHANNELS], tl.float32)
    for begin in range(0, tiles, TILES):
        tile = begin + tl.arange(0, TILES)[:, None]
        at = partials + (tile.to(tl.int64) * rows + row) * C + channel[None, :]
        total += tl.load(at, mask=(tile < tiles) & (channel < C)[None, :], other=0.0)
    found = tl.sum(total, 0)
    for n in tl.static_range(len(BANK)):
        tap = row - _first_tap(BANK, n)
        if (tap >= 0) & (row < _first_tap(BANK, n + 1)):
            area = _size(_kind(BANK, n)) * _size(_kind(BANK, n))
            gradient = _pick(tap_gradients, _first_filter(BANK, n), _count(BANK, n), tap // area)
            tl.store(gradient + channel.to(tl.int64) * area + tap % area, found, mask=channel < C)
    if NEEDS_SUMS:
        if row == WANTED:
            tl.store(shift_gradient + channel, found, mask=channel < C)
        if row == WANTED + 1:
            if NORM:
                found *= tl.load(packed + (TAPS + 3) * tl.cast(C, tl.int64) + channel, mask=channel < C, other=0.0)
            tl.store(scale_gradient + channel, found, mask=channel < C)


@triton.jit
def _through_statistics(
    gradient, x, packed, scale_gradient, shift_gradient, to, pixels, C, TAPS: tl.constexpr, BLOCK_C: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Batch norm's backward: factor * (g - mean(g) - z * mean(g * z)), z the normalised x."""
    BLOCK: tl.constexpr = TILE // BLOCK_C
    blocks = tl.cdiv(C, BLOCK_C)
    channel = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    first = (tl.program_id(0) // blocks).to(tl.int64) * BLOCK
    pixel = tl.arange(0, BLOCK)[:, None]
    mask = (first + pixel < pixels) & (channel < C)
    wide = channel + 0 * pixel
    numbers = packed + TAPS * tl.cast(C, tl.int64) + wide
    mean = tl.load(numbers, mask=mask, other=0.0)
    factor = tl.load(numbers + C, mask=mask, other=0.0)
    rstd = tl.load(numbers + 3 * C, mask=mask, other=0.0)
    mean_g = tl.load(shift_gradient + wide, mask=mask, other=0.0) / pixels
    mean_gz = tl.load(scale_gradient + wide, mask=mask, other=0.0) / pixels
    at = first * C + (pixel * C + channel)
    g = tl.load(gradient + at, mask=mask, other=0.0).to(tl.float32)
    z = (tl.load(x + at, mask=mask, other=0.0).to(tl.float32) - mean) * rstd
    tl.store(to + at, (factor * (g - mean_g - z * mean_gz)).to(x.dtype.element_ty), mask=mask)


FILTER = {75: Config({"ROWS": 8, "STRIPS": 4}, 4, 1, 255)}
FILTER_EVERY_SECOND = {75: Config({"ROWS": 4, "STRIPS": 4}, 4, 1, 255)}
BACK = {75: Config({}, 4, 1, 255)}
PACK = {75: Config({"BLOCK": 32}, 4, 1)}
REDUCE = {75: Config({"TILES": 128, "CHANNELS": 16}, 4, 1)}
THROUGH = {75: Config({"TILE": 1024}, 4, 1)}
TILE = 512
"""Numbers of a tile: four for each thread, 16 bytes of float32, so that all that is loaded shares one layout."""


def depthwise_bank(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    dilations: Sequence[int],
    stride: int,
    statistics: torch.Tensor | None,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    eps: float,
    relu: bool,
) -> list[torch.Tensor]:
    _check_bank(x, weights, dilations, stride, statistics, scale, shift)
    batch, channels, height, width = x.shape
    shape = (batch, channels, -(-height // stride), -(-width // stride))
    maps = [empty_map(x, shape) for _ in weights]
    if not maps or not x.numel():
        return maps
    bank = _Bank(weights, dilations, [False] * len(weights))
    tile = _channel_block(channels, shape[3])

    def grid(blocks):
        rows = triton.cdiv(shape[2], blocks["ROWS"] * blocks["STRIPS"])
        return (batch * rows * triton.cdiv(shape[3], TILE // tile) * triton.cdiv(channels, tile),)

    launch(
        _filter,
        grid,
        FILTER if stride == 1 else FILTER_EVERY_SECOND,
        channels_last(x),
        bank.packed(x, weights, statistics, scale, shift, eps),
        bank.ordered(maps),
        channels,
        height,
        width,
        *shape[2:],
        0,
        BANK=bank.kinds,
        TAPS=bank.taps,
        STRIDE=stride,
        AFFINE=statistics is not None or scale is not None,
        RELU=relu,
        BLOCK_C=tile,
        BLOCK_W=TILE // tile,
    )
    return maps


def depthwise_bank_backward(
    gradients: Sequence[torch.Tensor],
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    dilations: Sequence[int],
    stride: int,
    statistics: torch.Tensor | None,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    eps: float,
    relu: bool,
    needs: Sequence[int],
    before_norm: bool,
) -> list[torch.Tensor]:
    _check_bank(x, weights, dilations, stride, statistics, scale, shift)
    batch, channels, height, width = x.shape
    coarse = (-(-height // stride), -(-width // stride))
    check(
        len(gradients) == len(weights) and len(needs) == len(weights) + 3,
        "depthwise_bank_backward: give a gradient for each filter, and needs for x, scale, shift and each",
    )
    check(
        all(g.dtype == x.dtype and g.shape == (batch, channels, *coarse) for g in gradients),
        "depthwise_bank_backward: a gradient is not like its map",
    )
    needs = [bool(need) for need in needs]
    whole_norm = needs[0] and statistics is not None and not before_norm
    needs_sums = needs[1] or needs[2] or whole_norm
    source_gradient = empty_map(x, x.shape)
    channel_sums = [x.new_empty(channels, dtype=torch.float32) for _ in range(2)]
    tap_gradients = [torch.empty_like(w, memory_format=torch.contiguous_format) for w in weights]
    found = [t for t, need in zip((source_gradient, *channel_sums, *tap_gradients), needs, strict=True) if need]
    if not found:
        return []
    if not weights or not x.numel():
        return [t.zero_() for t in found]

    x = channels_last(x)
    bank = _Bank(weights, dilations, needs[3:])
    packed = bank.packed(x, weights, statistics, scale, shift, eps)
    tile = _channel_block(channels, coarse[1])
    rows = _rows_back(stride, bank.wanted)
    tiles = batch * triton.cdiv(coarse[0], rows) * triton.cdiv(coarse[1], TILE // tile)
    sums = bank.wanted + 2 * needs_sums
    partials = x.new_empty(tiles, sums, channels, dtype=torch.float32)
    launch(
        _back,
        lambda _: (tiles * triton.cdiv(channels, tile),),
        BACK,
        bank.ordered([channels_last(g) for g in gradients]),
        x,
        packed,
        source_gradient,
        partials,
        channels,
        height,
        width,
        *coarse,
        0,
        BANK=bank.kinds,
        TAPS=bank.taps,
        WANTED=bank.wanted,
        STRIDE=stride,
        AFFINE=statistics is not None or scale is not None,
        RELU=relu,
        NEEDS_X=needs[0],
        NEEDS_SUMS=needs_sums,
        SCALED=scale is not None and statistics is None,
        BLOCK_C=tile,
        BLOCK_W=TILE // tile,
        ROWS=rows,
    )
    if sums:
        wanted = [t for t, need in zip(bank.ordered(tap_gradients), bank.ordered(needs[3:]), strict=True) if need]
        launch(
            _reduce,
            lambda blocks: (triton.cdiv(channels, blocks["CHANNELS"]), sums),
            REDUCE,
            partials,
            packed,
            tuple(wanted) or (partials,),
            *channel_sums,
            tiles,
            channels,
            BANK=tuple((kind, count) for kind, count in bank.kinds if kind[2]),
            TAPS=bank.taps,
            WANTED=bank.wanted,
            NEEDS_SUMS=needs_sums,
            NORM=statistics is not None,
        )
    if whole_norm:
        pixels = batch * height * width
        tile = _channel_block(channels, pixels)
        found[0] = empty_map(x, x.shape)
        launch(
            _through_statistics,
            lambda blocks: (triton.cdiv(pixels, blocks["TILE"] // tile) * triton.cdiv(channels, tile),),
            THROUGH,
            source_gradient,
            x,
            packed,
            *channel_sums,
            found[0],
            pixels,
            channels,
            TAPS=bank.taps,
            BLOCK_C=tile,
        )
    return found


def _check_bank(x, weights, dilations, stride, statistics, scale, shift) -> None:
    """As csrc/common/depthwise_bank.h has it."""
    name = "depthwise_bank"
    check_storage(name, x)
    check(x.dim() == 4, f"{name}: x must be (B, C, H, W), got {x.dim()} dimensions")
    check(len(weights) == len(dilations), f"{name}: {len(weights)} filters but {len(dilations)} dilations")
    check(stride in (1, 2), f"{name}: stride must be 1 or 2, got {stride}")
    channels = x.shape[1]
    for f, (weight, dilation) in enumerate(zip(weights, dilations, strict=True)):
        check(
            weight.shape in ((channels, 3, 3), (channels, 5, 5)),
            f"{name}: weight {f} must be ({channels}, k, k), k 3 or 5",
        )
        check(dilation in (1, 2), f"{name}: dilation {f} must be 1 or 2, got {dilation}")
    check((scale is None) == (shift is None), f"{name}: give both of scale and shift, or neither")
    check(statistics is None or statistics.shape == (2, channels), f"{name}: statistics must be (2, {channels})")
    affine = [t for t in (scale, shift) if t is not None]
    check(all(t.numel() == channels for t in affine), f"{name}: scale and shift must be ({channels},)")
    numbers = [*weights, *affine, *([] if statistics is None else [statistics])]
    check(
        all(t.dtype == torch.float32 for t in numbers), f"{name}: weights, statistics, scale and shift must be float32"
    )


class _Bank:
    """Filters sorted by kind.

    Attributes:
        kinds: ``((kind, count), ...)``.
        taps, wanted: How many there are in all, and of how many the gradient is wanted.
    """

    def __init__(self, weights: Sequence[torch.Tensor], dilations: Sequence[int], needs: Sequence[bool]):
        of_kind: dict[tuple[int, int, bool], list[int]] = {}
        for f, (weight, dilation, need) in enumerate(zip(weights, dilations, needs, strict=True)):
            of_kind.setdefault((weight.shape[-1], dilation, need), []).append(f)
        self.kinds = tuple((kind, len(of_kind[kind])) for kind in sorted(of_kind))
        self._order = [f for kind in sorted(of_kind) for f in of_kind[kind]]
        self.taps = sum(size * size * count for (size, _, _), count in self.kinds)
        self.wanted = sum(size * size * count for (size, _, need), count in self.kinds if need)

    def ordered(self, values: Sequence) -> tuple:
        return tuple(values[f] for f in self._order)

    def packed(self, x, weights, statistics, scale, shift, eps: float) -> torch.Tensor:
        """What the kernels read beside maps, see ``_pack``."""
        channels = x.shape[1]
        packed = x.new_empty(self.taps + 4, channels, dtype=torch.float32)
        launch(
            _pack,
            lambda blocks: (triton.cdiv(channels, blocks["BLOCK"]),),
            PACK,
            tuple(w.contiguous() for w in self.ordered(weights)),
            *(packed if t is None else t.contiguous() for t in (statistics, scale, shift)),
            packed,
            eps,
            channels,
            BANK=self.kinds,
            TAPS=self.taps,
            NORM=statistics is not None,
            SCALE=scale is not None,
        )
        return packed


def _channel_block(channels: int, width: int) -> int:
    """Channels of a tile: few enough that its pixels fill, for wide maps, and a power of two that wastes little."""
    most = min(triton.next_power_of_2(channels), max(32, TILE // triton.next_power_of_2(width)), 128)
    block = most
    while block > 16 and 8 * block * triton.cdiv(channels, block) > 9 * channels:
        block //= 2
    return block if 8 * block * triton.cdiv(channels, block) <= 9 * channels else min(most, 32)


def _rows_back(stride: int, wanted: int) -> int:
    """Rows of a map that a program takes back; with TILE they say how many sums over tiles are left to add up."""
    return 2 if stride == 2 else 4 if wanted else 8


_SIZES = {"C": "i32:16", "H": "i32", "W": "i32", "height": "i32", "width": "i32", "nothing": "i32:16"}


def _ahead(kinds, count, stride, affine, wanted, sums):
    """The kernels of a bank of ``count`` filters of each kind; what of them is the same for all is in ``AHEAD``."""
    filters, taps = len(kinds) * count, count * sum(size * size for size, _ in kinds)
    table = FILTER if stride == 1 else FILTER_EVERY_SECOND
    maps = ("*T",) * filters
    tile = {"STRIDE": stride, "AFFINE": affine, "RELU": True, "BLOCK_C": 32, "BLOCK_W": TILE // 32}
    bank = {"BANK": tuple(((*kind, False), count) for kind in kinds), "TAPS": taps}
    yield Ahead(_filter, table, {"x": "*T", "packed": "*fp32", "maps": maps, **_SIZES}, {**bank, **tile})
    bank |= {"BANK": tuple(((*kind, wanted), count) for kind in kinds), "WANTED": taps * wanted}
    signature = {"gradients": maps, "x": "*T", "packed": "*fp32", "to": "*T", "partials": "*fp32", **_SIZES}
    tile |= {"NEEDS_X": True, "NEEDS_SUMS": sums, "SCALED": False, "ROWS": _rows_back(stride, taps * wanted)}
    yield Ahead(_back, BACK, signature, {**bank, **tile})


_NUMBERS = ("packed", "statistics", "scale", "shift", "partials", "scale_gradient", "shift_gradient")
_WIDE = dict.fromkeys(_NUMBERS, "*fp32")
_FOUR = ("*fp32",) * 4
_OF_TWO_KINDS = {"BANK": (((3, 1, True), 2), ((5, 2, True), 2)), "TAPS": 68, "NORM": True}
AHEAD = [
    *_ahead(((5, 1), (3, 2)), 2, 1, False, True, False),
    *_ahead(((5, 1), (3, 2)), 2, 2, False, True, False),
    *_ahead(((5, 2),), 1, 1, True, False, True),
    Ahead(_pack, PACK, {**_WIDE, "weights": _FOUR, "eps": "fp32", "C": "i32:16"}, {**_OF_TWO_KINDS, "SCALE": True}),
    Ahead(
        _reduce,
        REDUCE,
        {**_WIDE, "tap_gradients": _FOUR, "tiles": "i32", "C": "i32:16"},
        {**_OF_TWO_KINDS, "WANTED": 68, "NEEDS_SUMS": True},
    ),
    Ahead(
        _through_statistics,
        THROUGH,
        {**_WIDE, "gradient": "*T", "x": "*T", "to": "*T", "pixels": "i64", "C": "i32:16"},
        {"TAPS": 68, "BLOCK_C": 32},
    ),
]
