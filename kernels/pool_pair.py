"""3x3 max and average pool of one source in one read, alone or with their statistics, and their backward.

A program takes some columns and channels of one image and goes down a strip of it, so that each input row is read once: its
maxima and sums over three columns stay in registers for the three windows that they belong to. The columns beside a column
come from the first cache.

The backward goes down in the same way and gathers: a window's winner is found again, where one of its rows leads and one of
that row's columns does, and each pixel adds the gradients of the windows that it wins. PyTorch's rule is that a later value
wins if it is larger or NaN. So a value is held against the earlier ones with NaN counted as infinite, which only another NaN
beats, and what lies before the map counts as NaN there, which any value beats.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from partnas.errors import PartnasError
from partnas.kernels.launch import Ahead, Config, check_storage, launch
from partnas.kernels.norm_sum import combined, finish_statistics, finite
from partnas.ops.maps import channels_last, empty_map

TABLE = {75: Config({}, 4, 1, 255), 80: Config({}, 8, 1)}
BACKWARD_TABLE = {75: Config({"ELEMENTS": 256}, 4, 1), 80: Config({"ELEMENTS": 512}, 4, 1)}

ELEMENTS = 1024
"""Outputs of a row of a program. Not in the table, as programs leave moments whose number the caller must know."""

MOST_IN_A_ROW = 1 << 30
"""Numbers of a row of a map: places in it are int32."""

_SIZES = ["height", "width", "out_height", "out_width", "strip"]
"""Arguments of kernels whose factors make no difference to how memory is read."""


def pool_pair(x: torch.Tensor, stride: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    _check("pool_pair", x, stride)
    max_map, avg_map = empty_map(x, _shape(x, stride)), empty_map(x, _shape(x, stride))
    channels = x.shape[1]
    programs = _places(max_map, ELEMENTS)
    partials = x.new_empty(2 * programs, 3, channels, dtype=torch.float32)
    pivots = x.new_empty(2, channels, dtype=torch.float32)
    statistics = x.new_empty(2, 2, channels, dtype=torch.float32)
    _forward(x, max_map, avg_map, partials, pivots, stride, programs)
    finish_statistics(partials, channels, (programs, 2 * programs), pivots, statistics)
    return max_map, avg_map, statistics


def pool_pair_backward(
    max_gradient: torch.Tensor, avg_gradient: torch.Tensor, x: torch.Tensor, stride: int
) -> torch.Tensor:
    return _gather("pool_pair_backward", max_gradient, avg_gradient, x, stride)


def pool(x: torch.Tensor, takes_max: bool, stride: int) -> torch.Tensor:
    _check("pool", x, stride)
    out = empty_map(x, _shape(x, stride))
    _forward(x, out if takes_max else None, None if takes_max else out, None, None, stride, _places(out, ELEMENTS))
    return out


def pool_backward(gradient: torch.Tensor, x: torch.Tensor, takes_max: bool, stride: int) -> torch.Tensor:
    return _gather("pool_backward", gradient if takes_max else None, None if takes_max else gradient, x, stride)


def _forward(x, max_map, avg_map, partials, pivots, stride, programs) -> None:
    out = max_map if avg_map is None else avg_map
    _, channels, out_height, out_width = out.shape
    tile = _tile(channels)
    launch(
        _pool, lambda blocks: (programs * triton.cdiv(channels, tile),), TABLE, channels_last(x), max_map, avg_map,
        partials, pivots, channels, *x.shape[2:], out_height, out_width, _strip(out), programs,
        STRIDE=stride, CHANNELS=tile, COLUMNS=_columns(channels, ELEMENTS),
    )  # fmt: skip


def _gather(name, max_gradient, avg_gradient, x, stride) -> torch.Tensor:
    _check(name, x, stride, [g for g in (max_gradient, avg_gradient) if g is not None])
    gradient = empty_map(x, x.shape)
    given = max_gradient if avg_gradient is None else avg_gradient
    _, channels, out_height, out_width = given.shape
    tile = _tile(channels)

    def grid(blocks):
        return (_places(given, blocks["ELEMENTS"]) * triton.cdiv(channels, tile),)

    arguments = (
        None if max_gradient is None else channels_last(x),
        *(None if g is None else channels_last(g) for g in (max_gradient, avg_gradient)),
        gradient,
        *(channels, *x.shape[2:], out_height, out_width, _strip(given)),
    )
    if stride == 1:
        launch(_backward_1, grid, BACKWARD_TABLE, *arguments, CHANNELS=tile)
    else:
        launch(_backward_2, grid, BACKWARD_TABLE, *arguments, CHANNELS=tile)
    return gradient


def _check(name: str, x: torch.Tensor, stride: int, gradients: Sequence[torch.Tensor] = ()) -> None:
    check_storage(name, x)
    if x.dim() != 4:
        raise PartnasError(f"{name}: x must be (B, C, H, W), got {x.dim()} dimensions")
    if stride not in (1, 2):
        raise PartnasError(f"{name}: stride {stride} is neither 1 nor 2")
    if 0 in x.shape[1:]:
        raise PartnasError(f"{name}: x has no pixels or no channels")
    if max(x.shape[2], x.shape[3] * x.shape[1]) > MOST_IN_A_ROW:
        raise PartnasError(
            f"{name}: x of shape {tuple(x.shape)} is too large for the Triton kernels: "
            "H and W * C must be at most 2^30; use the backend 'reference'"
        )
    if any(g.shape != _shape(x, stride) or g.dtype != x.dtype for g in gradients):
        raise PartnasError(f"{name}: a gradient must have the shape and dtype of its pool")


def _shape(x: torch.Tensor, stride: int) -> tuple[int, ...]:
    return (*x.shape[:2], -(-x.shape[2] // stride), -(-x.shape[3] // stride))


def _tile(channels: int) -> int:
    """Channels of a program: as few idle ones as may be, but runs of 16 at the least."""
    if channels <= 16:
        return triton.next_power_of_2(max(1, channels))
    return min((128, 64, 32, 16), key=lambda size: triton.cdiv(channels, size) * size)


def _columns(channels: int, elements: int) -> int:
    return max(1, elements // _tile(channels))


def _strip(out: torch.Tensor) -> int:
    """Rows that a program goes down: many, as it reads rows beyond either end, but not so many that few programs are left."""
    return min(32, max(8, out.numel() >> 20))


def _places(out: torch.Tensor, elements: int) -> int:
    """Programs that share each channel of a map."""
    batch, channels, height, width = out.shape
    return batch * triton.cdiv(height, _strip(out)) * triton.cdiv(width, _columns(channels, elements))


@triton.jit
def _place(rows, columns, channels, strip, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr):
    """This program's image, first row, row after the last, columns [COLUMNS, 1] and channels [1, CHANNELS]."""
    slices = tl.cdiv(channels, CHANNELS)
    per_row = tl.cdiv(columns, COLUMNS)
    strips = tl.cdiv(rows, strip)
    program = tl.program_id(0)
    c = program % slices * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    place = program // slices
    column = place % per_row * COLUMNS + tl.arange(0, COLUMNS)[:, None]
    first = place // per_row % strips * strip
    return (place // per_row // strips).to(tl.int64), first, tl.minimum(first + strip, rows), column, c


@triton.jit
def _larger(a, b):
    """The larger of both, NaN if either is."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _share(rows, columns):
    """One over the number of values of a window of so many rows (one number) and columns."""
    return tl.where(columns == 3, 1.0 / (3.0 * rows), tl.where(columns == 2, 1.0 / (2.0 * rows), 1.0 / rows))


@triton.jit
def _inside(first, size):
    """How many of three places from ``first`` on a map of that size has."""
    return tl.minimum(first + 3, size) - tl.maximum(first, 0)


@triton.jit
def _there(row, c, channels, height, width, column, inside):
    """Whether the columns left of ``column``, on it and right of it are on the map, in a row that may not be."""
    there = inside & (c < tl.where((row >= 0) & (row < height), channels, 0))
    return there & (column > 0), there, there & (column + 1 < width)


@triton.jit
def _three(x, row, at, c, channels, height, width, column, inside):
    """The values at the three columns around ``column``, as they are stored."""
    left, middle, right = _there(row, c, channels, height, width, column, inside)
    x += tl.cast(row, tl.int64) * width * channels
    nothing = float("-inf")
    return (
        tl.load(x + at - channels, left, nothing),
        tl.load(x + at, middle, nothing),
        tl.load(x + at + channels, right, nothing),
    )


@triton.jit
def _line(values, row, c, channels, height, width, column, inside):
    """Maximum and sum of what ``_three`` gave."""
    there = _there(row, c, channels, height, width, column, inside)
    first = values[0].to(tl.float32)
    largest, total = first, tl.where(there[0], first, 0.0)
    for k in tl.static_range(1, 3):
        value = values[k].to(tl.float32)
        largest = _larger(largest, value)
        total += tl.where(there[k], value, 0.0)
    return largest, total


@triton.jit(do_not_specialize=[*_SIZES, "programs"])
def _pool(
    x, max_map, avg_map, partials, pivots,
    channels, height, width, out_height, out_width, strip, programs,
    STRIDE: tl.constexpr, CHANNELS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The maps that are not None; with partials [2, programs, 3, C], count, mean and sum of squared deviations of what was
    written less the pivot."""
    image, first, last, out_column, c = _place(out_height, out_width, channels, strip, COLUMNS, CHANNELS)
    inside = (out_column < out_width) & (c < channels)
    column = STRIDE * out_column
    at, out_at = column * channels + c, out_column * channels + c
    columns = _inside(column - 1, width)
    zero = tl.zeros([COLUMNS, CHANNELS], tl.float32)
    if partials is not None:
        pivot = finite(tl.load(x + c, c < channels, 0.0).to(tl.float32))
        some = c < tl.where(tl.program_id(0) * CHANNELS < channels, channels, 0)
        tl.store(pivots + c, pivot, some)
        tl.store(pivots + channels + c, pivot, some)
        max_mean, max_squares, avg_mean, avg_squares = zero, zero, zero, zero
    x += image * height * width * channels
    # Of rows, those that this strip reads: what the next step needs is asked for before this one is done.
    end = tl.minimum(height, STRIDE * (last - 1) + 2)
    above = _three(x, STRIDE * first - 1, at, c, channels, end, width, column, inside)
    top_max, top_sum = _line(above, STRIDE * first - 1, c, channels, end, width, column, inside)
    middle = _three(x, STRIDE * first, at, c, channels, end, width, column, inside)
    bottom = _three(x, STRIDE * first + 1, at, c, channels, end, width, column, inside)
    middle_max, middle_sum = zero, zero
    if STRIDE == 1:
        middle_max, middle_sum = _line(middle, first, c, channels, end, width, column, inside)
    for out_row in range(first, last):
        row = STRIDE * out_row
        if STRIDE == 2:
            middle_max, middle_sum = _line(middle, row, c, channels, end, width, column, inside)
            middle = _three(x, row + 2, at, c, channels, end, width, column, inside)
        bottom_max, bottom_sum = _line(bottom, row + 1, c, channels, end, width, column, inside)
        bottom = _three(x, row + STRIDE + 1, at, c, channels, end, width, column, inside)
        to = (image * out_height + out_row) * out_width * channels + out_at
        seen = 1.0 / (out_row - first + 1)
        if max_map is not None:
            largest = _larger(_larger(top_max, middle_max), bottom_max).to(max_map.dtype.element_ty)
            tl.store(max_map + to, largest, inside)
            if partials is not None:
                value = largest.to(tl.float32) - pivot
                moved = value - max_mean
                max_mean += moved * seen
                max_squares += moved * (value - max_mean)
        if avg_map is not None:
            share = _share(_inside(row - 1, height).to(tl.float32), columns)
            average = ((top_sum + middle_sum + bottom_sum) * share).to(avg_map.dtype.element_ty)
            tl.store(avg_map + to, average, inside)
            if partials is not None:
                value = average.to(tl.float32) - pivot
                moved = value - avg_mean
                avg_mean += moved * seen
                avg_squares += moved * (value - avg_mean)
        if STRIDE == 1:
            top_max, top_sum, middle_max, middle_sum = middle_max, middle_sum, bottom_max, bottom_sum
        else:
            top_max, top_sum = bottom_max, bottom_sum
    if partials is not None:
        count = tl.where(inside, (last - first).to(tl.float32), 0.0)
        place = (tl.program_id(0) // tl.cdiv(channels, CHANNELS)).to(tl.int64)
        to = partials + place * 3 * channels + tl.program_id(0) % tl.cdiv(channels, CHANNELS) * CHANNELS
        _leave(to, count, tl.where(inside, max_mean, 0.0), tl.where(inside, max_squares, 0.0), c, channels, CHANNELS)
        to += tl.cast(programs, tl.int64) * 3 * channels
        _leave(to, count, tl.where(inside, avg_mean, 0.0), tl.where(inside, avg_squares, 0.0), c, channels, CHANNELS)


@triton.jit
def _leave(to, count, mean, squares, c, channels, CHANNELS: tl.constexpr):
    count, mean, squares = combined(count, mean, squares)
    to += tl.arange(0, CHANNELS)
    there = tl.max(c, 0) < channels
    tl.store(to, count, there)
    tl.store(to + channels, mean, there)
    tl.store(to + 2 * channels, squares, there)


@triton.jit
def _beatable(x):
    """What a later value is held against."""
    return tl.where(x < float("inf"), x, float("inf"))


@triton.jit
def _candidates_1(x, row, at, c, channels, height, width, column, inside):
    """Of the windows one to the left of a column, on it and one to the right: maxima of a row, and whether its value at the
    column is the winner of the row."""
    there = inside & (c < tl.where((row >= 0) & (row < height), channels, 0))
    x += tl.cast(row, tl.int64) * width * channels
    nothing = float("-inf")
    v0 = tl.load(x + at - 2 * channels, there & (column > 1), nothing).to(tl.float32)
    v1 = tl.load(x + at - channels, there & (column > 0), nothing).to(tl.float32)
    v2 = tl.load(x + at, there, nothing).to(tl.float32)
    v3 = tl.load(x + at + channels, there & (column + 1 < width), nothing).to(tl.float32)
    v4 = tl.load(x + at + 2 * channels, there & (column + 2 < width), nothing).to(tl.float32)
    nan = float("nan")
    b0 = tl.where(column > 1, _beatable(v0), nan)
    b1 = tl.where(column > 0, _beatable(v1), nan)
    b2 = _beatable(v2)
    stays = v3 <= b2
    wins = (~(v2 <= b0) & ~(v2 <= b1), ~(v2 <= b1) & stays, stays & (v4 <= b2))
    middle = _larger(v2, v3)
    return (_larger(_larger(v0, v1), v2), _larger(v1, middle), _larger(middle, v4)), wins


@triton.jit(do_not_specialize=_SIZES)
def _backward_1(
    x, max_gradient, avg_gradient, gradient,
    channels, height, width, out_height, out_width, strip,
    CHANNELS: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    COLUMNS: tl.constexpr = ELEMENTS // CHANNELS if ELEMENTS > CHANNELS else 1
    image, first, last, column, c = _place(height, width, channels, strip, COLUMNS, CHANNELS)
    inside = (column < width) & (c < channels)
    at = column * channels + c
    start = image * height * width * channels
    zero = tl.zeros([COLUMNS, CHANNELS], tl.float32)
    never = zero > 0
    # Of the rows above the newest: what their maxima must be beaten by, and where they hold the winner.
    # Triton takes a name for a constant that a loop only sets to another name of the same initial value, so each has its own.
    first_zero = tl.zeros([COLUMNS, CHANNELS], tl.float32)
    top, middle = (first_zero, first_zero, first_zero), (zero, zero, zero)
    top_leads, top_wins, middle_wins = (never, never, never), (never, never, never), (never, never, never)
    above, here = zero, zero
    for row in range(first - 2, last + 2):
        # The windows around row - 1 are complete.
        below = zero
        complete = (row > first - 1) & (row > 0) & (row <= height)
        window_there = inside & (c < tl.where(complete, channels, 0))
        window = start + tl.cast(row - 1, tl.int64) * width * channels + at
        if max_gradient is not None:
            maxima, wins = _candidates_1(x + start, row, at, c, channels, height, width, column, inside)
            new_middle, leads, new_top_wins = (), (), ()
            for k in tl.static_range(3):
                there = window_there & (column + k > 0) & (column + k <= width)
                g = tl.load(max_gradient + window + (k - 1) * channels, there, 0.0).to(tl.float32)
                under_top, under_middle = maxima[k] <= top[k], maxima[k] <= middle[k]
                above += tl.where(top_wins[k] & under_top, g, 0.0)
                here += tl.where(middle_wins[k] & under_middle & ~top_leads[k], g, 0.0)
                below += tl.where(wins[k] & ~under_top & ~under_middle, g, 0.0)
                new_middle = new_middle + (_beatable(maxima[k]) + tl.where(row < 0, float("nan"), 0.0),)
                leads = leads + (under_middle,)
                new_top_wins = new_top_wins + (middle_wins[k] & under_middle,)
            top, middle, top_leads, top_wins, middle_wins = middle, new_middle, leads, new_top_wins, wins
        if avg_gradient is not None:
            rows = tl.maximum(_inside(row - 2, height), 1).to(tl.float32)
            total = zero
            for k in tl.static_range(3):
                there = window_there & (column + k > 0) & (column + k <= width)
                g = tl.load(avg_gradient + window + (k - 1) * channels, there, 0.0).to(tl.float32)
                total += g * _share(rows, _inside(column + k - 2, width))
            above += total
            here += total
            below += total
        done = start + tl.cast(row - 2, tl.int64) * width * channels + at
        tl.store(
            gradient + done, above.to(gradient.dtype.element_ty), inside & (c < tl.where(row - 2 >= first, channels, 0))
        )
        above, here = here, below


@triton.jit
def _candidates_2(x, row, at, c, channels, height, width, column, inside):
    """Of the two windows around an even column and the next even one: maxima of a row, and whether the row's winner is the
    value at the even column in the first window, that at the odd one in the first, and that at the odd one in the second."""
    there = inside & (c < tl.where((row >= 0) & (row < height), channels, 0))
    x += tl.cast(row, tl.int64) * width * channels
    nothing = float("-inf")
    v0 = tl.load(x + at - channels, there & (column > 0), nothing).to(tl.float32)
    v1 = tl.load(x + at, there, nothing).to(tl.float32)
    v2 = tl.load(x + at + channels, there & (column + 1 < width), nothing).to(tl.float32)
    v3 = tl.load(x + at + 2 * channels, there & (column + 2 < width), nothing).to(tl.float32)
    v4 = tl.load(x + at + 3 * channels, there & (column + 3 < width), nothing).to(tl.float32)
    b0 = tl.where(column > 0, _beatable(v0), float("nan"))
    b1, b2 = _beatable(v1), _beatable(v2)
    stays = v2 <= b1
    wins = (~(v1 <= b0) & stays, ~(v2 <= b0) & ~stays, (v3 <= b2) & (v4 <= b2))
    return (_larger(_larger(v0, v1), v2), _larger(_larger(v2, v3), v4)), wins


@triton.jit(do_not_specialize=_SIZES)
def _backward_2(
    x, max_gradient, avg_gradient, gradient,
    channels, height, width, out_height, out_width, strip,
    CHANNELS: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    COLUMNS: tl.constexpr = ELEMENTS // CHANNELS if ELEMENTS > CHANNELS else 1
    image, first, last, out_column, c = _place(out_height, out_width, channels, strip, COLUMNS, CHANNELS)
    inside = (out_column < out_width) & (c < channels)
    column = 2 * out_column
    at, out_at = column * channels + c, out_column * channels + c
    start, out_start = image * height * width * channels, image * out_height * out_width * channels
    odd_inside = inside & (column + 1 < width)
    next_inside = inside & (out_column + 1 < out_width)
    zero = tl.zeros([COLUMNS, CHANNELS], tl.float32)
    # The gradients of the row above, at even and odd columns.
    above_even, above_odd = zero, zero
    if max_gradient is not None:
        maxima, top_wins = _candidates_2(x + start, 2 * first - 1, at, c, channels, height, width, column, inside)
        outside = tl.where(first > 0, 0.0, float("nan"))
        top = (_beatable(maxima[0]) + outside, _beatable(maxima[1]) + outside)
    for out_row in range(first, last + 1):
        row = 2 * out_row
        here_even, here_odd, below_even, below_odd = zero, zero, zero, zero
        there = c < tl.where(out_row < out_height, channels, 0)
        window = out_start + tl.cast(out_row, tl.int64) * out_width * channels + out_at
        if max_gradient is not None:
            g = tl.load(max_gradient + window, inside & there, 0.0).to(tl.float32)
            next_g = tl.load(max_gradient + window + channels, next_inside & there, 0.0).to(tl.float32)
            maxima, middle_wins = _candidates_2(x + start, row, at, c, channels, height, width, column, inside)
            low_maxima, low_wins = _candidates_2(x + start, row + 1, at, c, channels, height, width, column, inside)
            middle = (_beatable(maxima[0]), _beatable(maxima[1]))
            top_leads = (maxima[0] <= top[0], maxima[1] <= top[1])
            under_top = (low_maxima[0] <= top[0], low_maxima[1] <= top[1])
            under_middle = (low_maxima[0] <= middle[0], low_maxima[1] <= middle[1])
            top_row = (top_leads[0] & under_top[0], top_leads[1] & under_top[1])
            middle_row = (~top_leads[0] & under_middle[0], ~top_leads[1] & under_middle[1])
            low_row = (~under_top[0] & ~under_middle[0], ~under_top[1] & ~under_middle[1])
            above_even += tl.where(top_row[0] & top_wins[0], g, 0.0)
            above_odd += tl.where(top_row[0] & top_wins[1], g, 0.0) + tl.where(top_row[1] & top_wins[2], next_g, 0.0)
            here_even += tl.where(middle_row[0] & middle_wins[0], g, 0.0)
            here_odd += tl.where(middle_row[0] & middle_wins[1], g, 0.0)
            here_odd += tl.where(middle_row[1] & middle_wins[2], next_g, 0.0)
            below_even += tl.where(low_row[0] & low_wins[0], g, 0.0)
            below_odd += tl.where(low_row[0] & low_wins[1], g, 0.0) + tl.where(low_row[1] & low_wins[2], next_g, 0.0)
            top, top_wins = (_beatable(low_maxima[0]), _beatable(low_maxima[1])), low_wins
        if avg_gradient is not None:
            rows = tl.maximum(_inside(row - 1, height), 1).to(tl.float32)
            even = tl.load(avg_gradient + window, inside & there, 0.0).to(tl.float32)
            even *= _share(rows, _inside(column - 1, width))
            odd = tl.load(avg_gradient + window + channels, next_inside & there, 0.0).to(tl.float32)
            odd = even + odd * _share(rows, _inside(column + 1, width))
            above_even += even
            here_even += even
            below_even += even
            above_odd += odd
            here_odd += odd
            below_odd += odd
        to = gradient + start + tl.cast(row, tl.int64) * width * channels + at
        kind = gradient.dtype.element_ty
        upper = to - width * channels
        above_there = c < tl.where((out_row > first) & (row - 1 < height), channels, 0)
        here_there = c < tl.where(out_row < last, channels, 0)
        tl.store(upper, above_even.to(kind), inside & above_there)
        tl.store(upper + channels, above_odd.to(kind), odd_inside & above_there)
        tl.store(to, here_even.to(kind), inside & here_there)
        tl.store(to + channels, here_odd.to(kind), odd_inside & here_there)
        above_even, above_odd = below_even, below_odd


def _ahead(stride: int, channels: int, maxima: bool, averages: bool) -> list[Ahead]:
    sizes = {**dict.fromkeys(_SIZES, "i32"), "channels": "i32:16" if maxima and averages else "i32"}
    maps = {"max_map": maxima, "avg_map": averages}
    gradients = {"x": maxima, "max_gradient": maxima, "avg_gradient": averages}
    moments = {"partials": maxima and averages, "pivots": maxima and averages}
    types = {"x": "*T", **dict.fromkeys(maps, "*T"), **dict.fromkeys(moments, "*fp32")}
    absent = {name: None for name, there in {**maps, **moments}.items() if not there}
    absent_gradients = {name: None for name, there in gradients.items() if not there}
    return [
        Ahead(
            _pool,
            TABLE,
            {**types, **sizes, "programs": "i32"},
            {**absent, "STRIDE": stride, "CHANNELS": channels, "COLUMNS": ELEMENTS // channels},
        ),
        Ahead(
            _backward_1 if stride == 1 else _backward_2,
            BACKWARD_TABLE,
            {**dict.fromkeys((*gradients, "gradient"), "*T"), **sizes},
            {**absent_gradients, "CHANNELS": channels},
        ),
    ]


AHEAD = [
    *_ahead(1, 16, True, True),
    *_ahead(2, 16, True, True),
    *_ahead(1, 128, True, False),
    *_ahead(2, 128, False, True),
]
