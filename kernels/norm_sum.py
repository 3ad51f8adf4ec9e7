"""Batch statistics, weighted sum and backward of batch-normed maps.

A map is flat memory, taken as rows of a whole number of pixels and of tiles: the channels of a tile's elements are then
those of the tile below, no lane is idle whatever the number of channels, and what belongs to a channel is loaded once for
several rows. All maps of a node pass through one launch, so that the sum, or the gradient, moves once. `count > k` is always
so: a branch for each map keeps the compiler from loading them all before it adds the first, which no registers would hold.

Sums over positions have two stages, programs that each add up some rows and a second kernel that adds up programs, and
depend on nothing but the shape. Statistics are those of x - pivot, the pivot being a channel's first value, as (count, mean,
sum of squared deviations) combined after Chan: as exact where the mean is thousands of deviations from zero.
"""

import itertools
import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from partnas.kernels.launch import Ahead, Config, check, check_storage, launch
from partnas.ops.maps import channels_last, empty_map

MOST = 32
"""Maps and identities of one launch."""

MOST_REDUCED = 13
"""The same where sums over positions are formed, which all stay in registers."""

COLUMNS = 1024
"""Elements of a tile where maps are summed."""

REDUCED_COLUMNS = 128
"""Elements of a row of a tile where sums over positions are formed; a program writes as many."""

PROGRAMS = 512
"""Programs that share a reduction."""

LEAST_ROWS = 64
"""Rows that a program of a reduction takes at the least."""

MOST_CHANNELS = 1 << 18
"""With more, places within the rows of a tile would pass int32 (see ``_length``)."""

TABLE = {75: Config({"ROWS": 2}, 4, 1), 80: Config({"ROWS": 4}, 4, 1)}
REDUCE_TABLE = {75: Config({"ROWS": 4, "UNROLLED": 4}, 4, 1)}
MEASURE_TABLE = {75: Config({"ROWS": 4, "UNROLLED": 8}, 4, 1)}
# Larger tiles of odd numbers of channels crash the compiler of Triton 3.9.
STATISTICS_TABLE = {75: Config({"ROWS": 128, "UNROLLED": 4}, 16, 1, varies=False)}
FINISH_TABLE = {75: Config({"ROWS": 512}, 8, 1), 80: Config({"ROWS": 1024}, 16, 1)}


def norm_stats(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    check(len(maps) > 0, "norm_stats: give at least one map")
    check_storage("norm_stats", *maps)
    check(all(z.dim() == 4 for z in maps), "norm_stats: maps must be (B, C, H, W)")
    channels, count = maps[0].shape[1], len(maps)
    check(all(z.shape[1] == channels for z in maps), "norm_stats: all maps must have the same channels")
    if count > MOST:
        return torch.cat([norm_stats(maps[:MOST]), norm_stats(maps[MOST:])])
    if any(z.dtype != maps[0].dtype for z in maps):
        return torch.cat([norm_stats([z]) for z in maps])
    maps = tuple(channels_last(z) for z in maps)
    length = _length(channels, REDUCED_COLUMNS)
    elements = tuple(z.numel() for z in maps)
    filled = min(length, max(elements))
    rows = [triton.cdiv(size, length) for size in elements]
    each = _rows_of_a_program(sum(rows), length)
    ends = tuple(itertools.accumulate(triton.cdiv(r, each) for r in rows))
    statistics = maps[0].new_empty(count, 2, channels, dtype=torch.float32)
    partials = statistics.new_empty(ends[-1], 3, length)
    pivots = statistics.new_empty(count, channels)

    def grid(blocks):
        return ends[-1], triton.cdiv(filled, REDUCED_COLUMNS)

    launch(
        _measure, grid, MEASURE_TABLE, maps, _times_16(elements), _times_16(ends), partials, pivots, each, length, channels,
        MAPS=count, COLUMNS=REDUCED_COLUMNS,
    )  # fmt: skip
    finish_statistics(partials, filled, ends, pivots, statistics)
    return statistics


def finish_statistics(
    partials: torch.Tensor, filled: int, ends: tuple[int, ...], pivots: torch.Tensor, statistics: torch.Tensor
) -> None:
    """Second stage of batch statistics: ``statistics`` (K, 2, C) from moments that programs left.

    Args:
        partials: ``(S, 3, L)`` float32: counts, means of x - pivot and sums of squared deviations of elements whose channel
            is their place modulo C.
        filled: How many of each L elements were written.
        ends: Where in ``partials`` each of the K maps ends.
        pivots: ``(K, C)``.
    """
    count, channels = pivots.shape

    def grid(blocks):
        return count, triton.cdiv(channels, 16)

    launch(
        _finish_statistics, grid, STATISTICS_TABLE, partials, _times_16(ends), pivots, statistics, partials.shape[2],
        filled // max(1, channels), channels, MAPS=count, CHANNELS=16,
    )  # fmt: skip


def norm_sum(
    maps: Sequence[torch.Tensor],
    statistics: torch.Tensor,
    weights: torch.Tensor,
    identities: Sequence[torch.Tensor],
    identity_weights: torch.Tensor,
    shift: torch.Tensor | None,
    eps: float,
) -> torch.Tensor:
    check(len(maps) + len(identities) > 0, "norm_sum: give at least one map or identity")
    like = (*maps, *identities)[0]
    _check_maps("norm_sum", like, (*maps, *identities))
    _check_statistics("norm_sum", statistics, len(maps), like.shape[1])
    check(
        weights.numel() == len(maps) * like.shape[1] and identity_weights.numel() == len(identities),
        "norm_sum: each channel of each map and each identity needs its weight",
    )
    check(shift is None or shift.numel() == like.shape[1], "norm_sum: shift must be (C,)")
    inputs = tuple(channels_last(x) for x in (*maps, *identities))
    out = empty_map(inputs[0], inputs[0].shape)
    statistics, weights, identity_weights = _numbers(statistics), _numbers(weights), _numbers(identity_weights)
    shift = None if shift is None else _numbers(shift)
    total = None
    for first in range(0, len(inputs), MOST):
        some = inputs[first : first + MOST]
        last = first + MOST >= len(inputs)
        start, total = total, out if last else torch.empty_like(out, dtype=torch.float32)
        launch(
            _sum, _sum_grid(out), TABLE, some, start, statistics[first:], weights[first:],
            identity_weights[max(0, first - len(maps)) :], shift if last else None, total,
            *_sizes(out), eps, len(some), MAPS=min(len(some), max(0, len(maps) - first)), INPUTS=len(some), COLUMNS=COLUMNS,
        )  # fmt: skip
    return out


def norm_sum_reduce(
    gradient: torch.Tensor, maps: Sequence[torch.Tensor], statistics: torch.Tensor, identities: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    _check_maps("norm_sum_reduce", gradient, (*maps, *identities))
    _check_statistics("norm_sum_reduce", statistics, len(maps), gradient.shape[1])
    gradient = channels_last(gradient)
    inputs = [channels_last(x) for x in (*maps, *identities)]
    statistics = _numbers(statistics)
    channels, elements = gradient.shape[1], gradient.numel()
    sums = gradient.new_empty(1 + len(inputs), channels, dtype=torch.float32)
    length = _length(channels, REDUCED_COLUMNS)
    filled = min(length, elements)
    rows = triton.cdiv(elements, length)
    each = _rows_of_a_program(rows, length)
    segments = triton.cdiv(rows, each)
    partials = sums.new_empty(1 + len(inputs), segments, length)

    def grid(blocks):
        return segments, triton.cdiv(filled, REDUCED_COLUMNS)

    for first in range(0, max(1, len(inputs)), MOST_REDUCED):
        some = tuple(inputs[first : first + MOST_REDUCED])
        launch(
            _reduce, grid, REDUCE_TABLE, gradient, some or (gradient,), statistics[first:], partials[first:], elements, each,
            length, channels, len(some), MAPS=min(len(some), max(0, len(maps) - first)), INPUTS=len(some), FIRST=min(first, 1),
            COLUMNS=REDUCED_COLUMNS,
        )  # fmt: skip

    def finish_grid(blocks):
        return 1 + len(inputs), triton.cdiv(channels, 16)

    launch(
        _finish_sums, finish_grid, FINISH_TABLE, partials, sums, segments, filled // max(1, channels), length, channels,
        CHANNELS=16,
    )  # fmt: skip
    return sums[: 1 + len(maps)], sums[1 + len(maps) :].sum(1)


def norm_sum_backward(
    gradient: torch.Tensor,
    maps: Sequence[torch.Tensor],
    statistics: torch.Tensor,
    weights: torch.Tensor,
    means: torch.Tensor,
    identity_weights: torch.Tensor,
    wanted: Sequence[int],
    wanted_identities: Sequence[int],
    eps: float,
) -> list[torch.Tensor]:
    count = len(maps)
    _check_maps("norm_sum_backward", gradient, [maps[k] for k in wanted if 0 <= k < count])
    channels = gradient.shape[1]
    _check_statistics("norm_sum_backward", statistics, count, channels)
    check(means.numel() == (count + 1) * channels, "norm_sum_backward: means must be (1 + K, C)")
    check(weights.numel() == count * channels, "norm_sum_backward: each channel of each map needs its weight")
    for k in wanted:
        check(0 <= k < count, f"norm_sum_backward: there is no map {k}")
    for index in wanted_identities:
        check(0 <= index < identity_weights.numel(), f"norm_sum_backward: there is no identity {index}")
    gradient = channels_last(gradient)
    statistics, weights, means = _numbers(statistics), _numbers(weights), _numbers(means)
    identity_weights = _numbers(identity_weights)
    gradients = [empty_map(gradient, gradient.shape) for _ in (*wanted, *wanted_identities)]
    sources = [(index, True) for index in wanted] + [(index, False) for index in wanted_identities]
    for first in range(0, len(gradients), MOST):
        some = sources[first : first + MOST]
        read = [index for index, is_map in some if is_map]
        launch(
            _backward, _sum_grid(gradient), TABLE, gradient, tuple(channels_last(maps[k]) for k in read) or (gradient,),
            statistics, weights, means, identity_weights, tuple(gradients[first : first + MOST]), *_sizes(gradient),
            eps, WANTED=tuple(index for index, _ in some), MAPS=len(read), OUTPUTS=len(some),
            COLUMNS=COLUMNS,
        )  # fmt: skip
    return gradients


def _check_maps(name: str, like: torch.Tensor, maps: Sequence[torch.Tensor]) -> None:
    check_storage(name, like)
    check(like.dim() == 4, f"{name}: maps must be (B, C, H, W)")
    check(all(x.dtype == like.dtype for x in maps), f"{name}: all maps must be (B, C, H, W) of one dtype")
    check(all(x.shape == like.shape for x in maps), f"{name}: all maps must have one shape")


def _check_statistics(name: str, statistics: torch.Tensor, count: int, channels: int) -> None:
    check(statistics.shape == (count, 2, channels), f"{name}: statistics must be (K, 2, C)")


def _numbers(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.float32).contiguous()


def _times_16(numbers: tuple[int, ...]) -> tuple[int, ...]:
    """Numbers as kernels take them in a tuple: Triton compiles anew for every mixture of ones, multiples of 16 and others."""
    return tuple(16 * number for number in numbers)


def _rows_of_a_program(rows: int, length: int) -> int:
    """How many of all rows a program of a reduction adds up."""
    along = max(1, PROGRAMS * REDUCED_COLUMNS // length)
    return max(1, triton.cdiv(rows, along * LEAST_ROWS)) * LEAST_ROWS


def _length(channels: int, columns: int) -> int:
    """Elements of a row: whole pixels and whole tiles."""
    check(
        channels <= MOST_CHANNELS,
        f"norm_sum: maps of {channels} channels are too wide for the Triton kernels, which take 2^18; "
        "use the backend 'reference'",
    )
    return math.lcm(max(1, channels), columns)


def _sizes(x: torch.Tensor) -> tuple[int, int, int]:
    """Elements of a map, of its rows, and its channels."""
    return x.numel(), _length(x.shape[1], COLUMNS), x.shape[1]


def _sum_grid(x: torch.Tensor):
    elements, length, _ = _sizes(x)

    def grid(blocks):
        return triton.cdiv(triton.cdiv(elements, length), blocks["ROWS"]), triton.cdiv(min(elements, length), COLUMNS)

    return grid


@triton.jit(do_not_specialize=["count"])
def _sum(
    inputs, start, statistics, weights, identity_weights, shift, out,
    elements, length, channels, eps, count,
    MAPS: tl.constexpr, INPUTS: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """out = start + shift + the weighted sum of the first MAPS inputs, normalised, and of the others as they are."""
    base = tl.program_id(0).to(tl.int64) * ROWS * length
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    c = column % channels
    offset = tl.zeros([COLUMNS], tl.float32)
    if shift is not None:
        offset = tl.load(shift + c)
    totals = ()
    for r in tl.static_range(ROWS):
        at = base + r * length + column
        before = 0.0 if start is None else tl.load(start + at, at < elements, 0.0)
        totals = totals + (offset + before,)
    for k in tl.static_range(INPUTS):
        if count > k:
            if k < MAPS:
                center = tl.load(statistics + 2 * k * channels + c)
                rstd = tl.rsqrt(tl.load(statistics + (2 * k + 1) * channels + c) + eps)
                slope = tl.load(weights + k * channels + c) * rstd
            else:
                center = tl.zeros([COLUMNS], tl.float32)
                slope = center + tl.load(identity_weights + (k - MAPS))
            sums = ()
            for r in tl.static_range(ROWS):
                at = base + r * length + column
                x = tl.load(inputs[k] + at, at < elements, 0.0).to(tl.float32)
                sums = sums + (totals[r] + (x - center) * slope,)
            totals = sums
    for r in tl.static_range(ROWS):
        at = base + r * length + column
        tl.store(out + at, totals[r].to(out.dtype.element_ty), at < elements)


@triton.jit
def _backward(
    gradient, maps, statistics, weights, means, identity_weights, outputs,
    elements, length, channels, eps,
    WANTED: tl.constexpr, MAPS: tl.constexpr, OUTPUTS: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Output i is the gradient of map WANTED[i], and beyond MAPS that of identity WANTED[i]."""
    base = tl.program_id(0).to(tl.int64) * ROWS * length
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    c = column % channels
    mean = tl.load(means + c)
    gradients = ()
    for r in tl.static_range(ROWS):
        at = base + r * length + column
        gradients = gradients + (tl.load(gradient + at, at < elements, 0.0).to(tl.float32),)
    for i in tl.static_range(OUTPUTS):
        k = WANTED[i]
        if i < MAPS:
            rstd = tl.rsqrt(tl.load(statistics + (2 * k + 1) * channels + c) + eps)
            center = tl.load(statistics + 2 * k * channels + c)
            slope = tl.load(weights + k * channels + c) * rstd
            curve = slope * rstd * rstd * tl.load(means + (k + 1) * channels + c)
        else:
            slope = tl.load(identity_weights + k)
        for r in tl.static_range(ROWS):
            at = base + r * length + column
            if i < MAPS:
                x = tl.load(maps[i] + at, at < elements, 0.0).to(tl.float32)
                value = slope * (gradients[r] - mean) - curve * (x - center)
            else:
                value = slope * gradients[r]
            tl.store(outputs[i] + at, value.to(outputs[i].dtype.element_ty), at < elements)


@triton.jit(do_not_specialize=["count"])
def _reduce(
    gradient, inputs, statistics, partials,
    elements, each, length, channels, count,
    MAPS: tl.constexpr, INPUTS: tl.constexpr, FIRST: tl.constexpr, COLUMNS: tl.constexpr,
    ROWS: tl.constexpr, UNROLLED: tl.constexpr,
):  # fmt: skip
    """partials [1 + INPUTS, segments, length]: sums over a segment's rows of g and of g * (input - its mean)."""
    segment = tl.program_id(0)
    base = segment.to(tl.int64) * each * length
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    c = column % channels
    within = tl.arange(0, ROWS)[:, None] * length + column
    end = tl.minimum(elements, base + each * tl.cast(length, tl.int64))
    rows = tl.minimum(each, tl.cast(tl.cdiv(elements - base, length), tl.int32))
    sums = ()
    for _ in tl.static_range(1 + INPUTS):
        sums = sums + (tl.zeros([ROWS, COLUMNS], tl.float32),)
    for row in range(0, rows, ROWS * UNROLLED):
        start = base + row * tl.cast(length, tl.int64)
        g = ()
        sum_of_g = sums[0]
        for u in tl.static_range(UNROLLED):
            at = start + u * ROWS * length + within
            g = g + (tl.load(gradient + at, at < end, 0.0).to(tl.float32),)
            sum_of_g += g[u]
        new = (sum_of_g,)
        for k in tl.static_range(INPUTS):
            total = sums[k + 1]
            if count > k:
                center = tl.zeros([1, COLUMNS], tl.float32)
                if k < MAPS:
                    center = tl.load(statistics + 2 * k * channels + c)
                for u in tl.static_range(UNROLLED):
                    at = start + u * ROWS * length + within
                    total += g[u] * (tl.load(inputs[k] + at, at < end, 0.0).to(tl.float32) - center)
            new = new + (total,)
        sums = new
    to = partials + segment.to(tl.int64) * length + tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    for k in tl.static_range(FIRST, 1 + INPUTS):
        tl.store(to + k * tl.num_programs(0).to(tl.int64) * length, tl.sum(sums[k], 0))


@triton.jit(do_not_specialize=["segments", "of_segment"])
def _finish_sums(partials, sums, segments, of_segment, length, channels, CHANNELS: tl.constexpr, ROWS: tl.constexpr):
    """sums [K, C] of partials [K, segments, length], of which `of_segment` pixels are filled."""
    k = tl.program_id(0)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    partials += k.to(tl.int64) * segments * length
    total = tl.zeros([ROWS, CHANNELS], tl.float32)
    for first in range(0, segments * of_segment, ROWS):
        at, inside = _rows_at(first, segments * of_segment, of_segment, length, channels, c, ROWS)
        total += tl.load(partials + at, inside, 0.0)
    tl.store(sums + k * channels + c, tl.sum(total, 0), c < channels)


@triton.jit
def _measure(
    maps, elements, ends, partials, pivots,
    each, length, channels,
    MAPS: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, UNROLLED: tl.constexpr,
):  # fmt: skip
    """partials [segments, 3, length]: count, mean and sum of squared deviations of x - pivot over a segment's rows."""
    segment = tl.program_id(0)
    x = maps[0]
    size, first, index = tl.cast(elements[0], tl.int64), segment * 0, segment * 0
    for k in tl.static_range(1, MAPS):
        beyond = segment >= ends[k - 1] // 16
        x = tl.where(beyond, maps[k], x)
        size = tl.where(beyond, elements[k], size)
        first = tl.where(beyond, ends[k - 1] // 16, first)
        index = tl.where(beyond, k, index)
    size = size // 16
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    c = column % channels
    pivot = finite(tl.load(x + c).to(tl.float32))
    tl.store(pivots + index * channels + column, pivot, column < tl.where(segment == first, channels, 0))

    base = (segment - first).to(tl.int64) * each * length
    within = tl.arange(0, ROWS)[:, None] * length + column
    step = ROWS * tl.cast(length, tl.int64)
    end = tl.minimum(size, base + each * tl.cast(length, tl.int64))
    whole = ((end - base) // (UNROLLED * step)).to(tl.int32)
    x += base
    mean = tl.zeros([ROWS, COLUMNS], tl.float32)
    squares = tl.zeros([ROWS, COLUMNS], tl.float32)
    for i in range(0, whole):
        values = ()
        for u in tl.static_range(UNROLLED):
            values = values + (tl.load(x + u * step + within).to(tl.float32) - pivot,)
        sum_here = values[0]
        for u in tl.static_range(1, UNROLLED):
            sum_here += values[u]
        mean_here = sum_here * (1 / UNROLLED)
        moved = mean_here - mean
        share = 1.0 / (i + 1)
        mean += moved * share
        squares += moved * moved * (UNROLLED * (i * share))
        for u in tl.static_range(UNROLLED):
            squares += (values[u] - mean_here) * (values[u] - mean_here)
        x += UNROLLED * step

    left = end - base - whole * (UNROLLED * step)
    sum_here = tl.zeros([ROWS, COLUMNS], tl.float32)
    count_here = tl.zeros([ROWS, COLUMNS], tl.float32)
    for u in tl.static_range(UNROLLED):
        at = u * step + within
        sum_here += tl.where(at < left, tl.load(x + at, at < left, 0.0).to(tl.float32) - pivot, 0.0)
        count_here += tl.where(at < left, 1.0, 0.0)
    mean_here = sum_here / tl.maximum(count_here, 1.0)
    for u in tl.static_range(UNROLLED):
        at = u * step + within
        value = tl.load(x + at, at < left, 0.0).to(tl.float32) - pivot - mean_here
        squares += tl.where(at < left, value * value, 0.0)
    before = UNROLLED * whole.to(tl.float32)
    count = before + count_here
    moved = mean_here - mean
    share = count_here / tl.maximum(count, 1.0)
    mean += tl.where(count_here > 0, moved * share, 0.0)
    squares += tl.where(count_here > 0, moved * moved * (before * share), 0.0)

    count, mean, squares = combined(count, mean, squares)
    to = partials + segment.to(tl.int64) * 3 * length + tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    tl.store(to, count)
    tl.store(to + length, mean)
    tl.store(to + 2 * length, squares)


@triton.jit
def finite(x):
    """x, and zero where it is infinite or NaN."""
    return tl.where(tl.abs(x) < float("inf"), x, 0.0)


@triton.jit
def combined(count, mean, squares):
    """The moments of the union, over the first axis, of sets of which these are counts, means and sums of squares."""
    total = tl.sum(count, 0)
    mean_of_all = tl.sum(count * mean, 0) / tl.maximum(total, 1.0)
    moved = mean - mean_of_all[None, :]
    return total, mean_of_all, tl.sum(squares + count * moved * moved, 0)


@triton.jit(do_not_specialize=["of_segment"])
def _finish_statistics(
    partials, ends, pivots, statistics, length, of_segment, channels,
    MAPS: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, UNROLLED: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0)
    first, last = index * 0, ends[0] // 16
    for k in tl.static_range(1, MAPS):
        first = tl.where(index == k, ends[k - 1] // 16, first)
        last = tl.where(index == k, ends[k] // 16, last)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    rows = (last - first) * of_segment
    partials += first.to(tl.int64) * 3 * length

    counts = tl.zeros([ROWS, CHANNELS], tl.float32)
    totals = tl.zeros([ROWS, CHANNELS], tl.float32)
    for row in range(0, rows, ROWS * UNROLLED):
        for u in tl.static_range(UNROLLED):
            at, inside = _rows_at(row + u * ROWS, rows, of_segment, 3 * length, channels, c, ROWS)
            count = tl.load(partials + at, inside, 0.0)
            counts += count
            totals += count * tl.load(partials + at + length, inside, 0.0)
    count = tl.sum(counts, 0)
    mean = tl.sum(totals, 0) / tl.maximum(count, 1.0)

    squares = tl.zeros([ROWS, CHANNELS], tl.float32)
    for row in range(0, rows, ROWS * UNROLLED):
        for u in tl.static_range(UNROLLED):
            at, inside = _rows_at(row + u * ROWS, rows, of_segment, 3 * length, channels, c, ROWS)
            moved = tl.load(partials + at + length, inside, 0.0) - mean[None, :]
            squares += tl.load(partials + at + 2 * length, inside, 0.0)
            squares += tl.load(partials + at, inside, 0.0) * moved * moved
    variance = tl.sum(squares, 0) / tl.maximum(count, 1.0)
    pivot = tl.load(pivots + index * channels + c, (c < channels) & (count > 0), 0.0)
    tl.store(statistics + 2 * index * channels + c, pivot + mean, c < channels)
    tl.store(statistics + (2 * index + 1) * channels + c, variance, c < channels)


@triton.jit
def _rows_at(first, rows, of_segment, segment_length, channels, c, ROWS: tl.constexpr):
    """Where the channels of pixels from ``first`` are, of ``rows`` in segments of ``of_segment``, and whether they are."""
    row = first + tl.arange(0, ROWS)
    segment = row // of_segment
    at = segment.to(tl.int64) * segment_length + (row - segment * of_segment) * channels
    return at[:, None] + c[None, :], (row < rows)[:, None] & (c < channels)[None, :]


def _ahead(maps: int, identities: int, kind: str, channels: str) -> list[Ahead]:
    inputs = maps + identities
    pointers, numbers = (kind,) * inputs, "*fp32"
    sizes = {"elements": "i32:16", "length": "i32:16", "channels": channels}
    counts = {"MAPS": maps, "INPUTS": inputs}
    of_sum = {"statistics": numbers, "weights": numbers, "identity_weights": numbers, "eps": "fp32"}
    return [
        Ahead(
            _sum,
            TABLE,
            {"inputs": pointers, "shift": numbers, "out": kind, "count": "i32", **of_sum, **sizes},
            {**counts, "start": None, "COLUMNS": COLUMNS},
        ),
        Ahead(
            _backward,
            TABLE,
            {"gradient": kind, "maps": pointers[:maps], "means": numbers, "outputs": pointers, **of_sum, **sizes},
            {"WANTED": (*range(maps), *range(identities)), "MAPS": maps, "OUTPUTS": inputs, "COLUMNS": COLUMNS},
        ),
        Ahead(
            _reduce,
            REDUCE_TABLE,
            {
                "gradient": kind,
                "inputs": pointers,
                "statistics": numbers,
                "partials": numbers,
                "each": "i32:16",
                "count": "i32",
                **sizes,
            },
            {**counts, "FIRST": 0, "COLUMNS": REDUCED_COLUMNS},
        ),
        Ahead(
            _measure,
            MEASURE_TABLE,
            {
                "maps": pointers[:maps],
                "elements": ("i32:16",) * maps,
                "ends": ("i32:16",) * maps,
                "partials": numbers,
                "pivots": numbers,
                "each": "i32:16",
                "length": "i32:16",
                "channels": channels,
            },
            {"MAPS": maps, "COLUMNS": REDUCED_COLUMNS},
        ),
        Ahead(
            _finish_statistics,
            STATISTICS_TABLE,
            {
                "partials": numbers,
                "ends": ("i32:16",) * maps,
                "pivots": numbers,
                "statistics": numbers,
                "length": "i32:16",
                "of_segment": "i32",
                "channels": channels,
            },
            {"MAPS": maps, "CHANNELS": 16},
        ),
    ]


AHEAD = [
    *_ahead(2, 1, "*T", "i32:16"),
    *_ahead(12, 1, "*bf16", "i32"),
    Ahead(
        _finish_sums,
        FINISH_TABLE,
        {
            "partials": "*fp32",
            "sums": "*fp32",
            "segments": "i32",
            "of_segment": "i32",
            "length": "i32:16",
            "channels": "i32:16",
        },
        {"CHANNELS": 16},
    ),
]
