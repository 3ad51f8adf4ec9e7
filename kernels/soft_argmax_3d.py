"""Soft-argmax over D x H x W in one read of the volume, and its gradient in one more.

A volume is walked as rows along the dimension that lies closest in memory: x in contiguous memory, z in channels-last. The
rows of a part are cut into segments, by the shape alone; each segment keeps the sums of e^(v - reference), with the
largest value so far as its reference, and of that times each coordinate. A second kernel adds the segments up.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from partnas.errors import PartnasError
from partnas.kernels import numbers
from partnas.kernels.launch import Ahead, Config, check_storage, launch
from partnas.kernels.numbers import unpacked

TABLE = {75: Config({"ELEMENTS": 1024}, 4, 1), 80: Config({"ELEMENTS": 2048}, 4, 1)}
FINISH_TABLE = {75: Config({}, 1, 1)}

PLANES, COLUMNS = (2, 3, 4), (3, 4, 2)
"""Dimensions from the outermost in: z, y, x, and y, x, z."""

MOST_COLUMNS = 256
SEGMENT = 16384
MOST_SEGMENTS = 256

PARTS_A_LAUNCH = 64
LOWEST = tl.constexpr(-torch.finfo(torch.float32).max)
"""Reference of what holds nothing but -inf so far: its exponentials are zero, and anything finite lifts it."""


def soft_argmax_3d(volume: torch.Tensor, order: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    check_storage("soft_argmax_3d", volume)
    batch, chosen = len(volume), len(order)
    xyz = volume.new_empty((batch, chosen, 3), dtype=torch.float32)
    statistics = volume.new_empty((batch, chosen, 5), dtype=torch.float32)
    axes, rows, columns = _walk(volume)
    tile = _tile(columns)
    segments = min(triton.cdiv(rows * columns, SEGMENT), rows, MOST_SEGMENTS)
    partials = volume.new_empty((batch, chosen, 5, segments), dtype=torch.float32)
    sizes = [volume.shape[axis] for axis in axes]
    strides = [volume.stride(axis) for axis in (0, 1, *axes)]
    for first in range(0, chosen, PARTS_A_LAUNCH):
        some = order[first : first + PARTS_A_LAUNCH]

        def grid(blocks, some=some):
            return (batch * segments * len(some),)

        launch(
            _sums, grid, TABLE, volume, partials, numbers.packed(some), len(some), first, chosen, segments,
            *strides, *sizes, COLUMNS=tile, WHOLE=columns <= tile,
        )  # fmt: skip
    launch(
        _finish, lambda _: (batch * chosen,), FINISH_TABLE, partials, xyz, statistics, segments,
        PLANES=axes == PLANES, SEGMENTS=triton.next_power_of_2(segments),
    )  # fmt: skip
    return xyz, statistics


def soft_argmax_3d_backward(
    gradient: torch.Tensor, volume: torch.Tensor, statistics: torch.Tensor, order: Sequence[int]
) -> torch.Tensor:
    check_storage("soft_argmax_3d_backward", volume)
    batch, parts = volume.shape[:2]
    axes, rows, columns = _walk(volume)
    out = volume.new_empty(volume.shape)
    if axes != PLANES:
        out = volume.new_empty([volume.shape[axis] for axis in (0, 3, 4, 1, 2)]).permute(0, 3, 4, 1, 2)
    # Place of each of the volume's parts among the chosen, from 1 on; 0 for what was left out.
    place = [0] * parts
    for index, part in enumerate(order):
        place[part] = index + 1
    tile = _tile(columns)
    sizes = [volume.shape[axis] for axis in axes]
    strides = [t.stride(axis) for t in (volume, out) for axis in (0, 1, *axes)]
    for first in range(0, parts, PARTS_A_LAUNCH):
        some = place[first : first + PARTS_A_LAUNCH]

        def grid(blocks, some=some):
            tiles = triton.cdiv(rows, max(1, blocks["ELEMENTS"] // tile)) * triton.cdiv(columns, tile)
            return (batch * tiles * len(some),)

        launch(
            _gradient, grid, TABLE, gradient, volume, statistics, out, numbers.packed(some), len(some), first, len(order),
            *gradient.stride(), *strides, *sizes, COLUMNS=tile, PLANES=axes == PLANES,
        )  # fmt: skip
    return out


def _walk(volume: torch.Tensor) -> tuple[tuple[int, int, int], int, int]:
    """The dimensions from the outermost in, the number of rows along the innermost, and the size of that."""
    depth, _, width = volume.shape[2:]
    # As partnas/ops/soft_argmax_3d.py has it, for the strides of the gradient follow.
    by_rows = volume.stride(4) == 1 or width == 1
    by_columns = volume.stride(2) == 1 or depth == 1
    axes = COLUMNS if by_columns and (not by_rows or depth > width) else PLANES
    rows, columns = volume.shape[axes[0]] * volume.shape[axes[1]], volume.shape[axes[2]]
    if max(rows, columns) >= 2**31 - 2**20:
        raise PartnasError(
            f"soft_argmax_3d: a volume of shape {tuple(volume.shape)} is too large for the Triton kernels"
        )
    return axes, rows, columns


def _tile(columns: int) -> int:
    return min(triton.next_power_of_2(columns), MOST_COLUMNS)


@triton.jit
def _sums(
    volume, partials, order, some, first, chosen, segments,
    batch_stride, part_stride, outer_stride, middle_stride, inner_stride, outer, middle, inner,
    COLUMNS: tl.constexpr, WHOLE: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """WHOLE: a tile holds whole rows, and a lane of it one column."""
    ROWS: tl.constexpr = ELEMENTS // COLUMNS if ELEMENTS > COLUMNS else 1
    program = tl.program_id(0)
    index = program % some
    segment = program // some % segments
    sample = (program // some // segments).to(tl.int64)
    volume += sample * batch_stride + unpacked(order, index).to(tl.int64) * part_stride
    rows = outer * middle
    begin = (segment.to(tl.int64) * rows // segments).to(tl.int32)
    end = ((segment.to(tl.int64) + 1) * rows // segments).to(tl.int32)

    reference = LOWEST
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    by_outer = tl.zeros([ROWS, COLUMNS], tl.float32)
    by_middle = tl.zeros([ROWS, COLUMNS], tl.float32)
    by_inner = tl.zeros([ROWS, COLUMNS], tl.float32)
    for top in range(begin, end, ROWS):
        row = top + tl.arange(0, ROWS)[:, None]
        o, m = row // middle, row % middle
        offset = o.to(tl.int64) * outer_stride + m.to(tl.int64) * middle_stride
        for left in range(0, inner, COLUMNS):
            i = left + tl.arange(0, COLUMNS)[None, :]
            there = (row < end) & (i < inner)
            v = tl.load(volume + offset + i.to(tl.int64) * inner_stride, there, float("-inf")).to(tl.float32)
            largest = tl.maximum(reference, tl.max(v))
            factor = tl.exp(reference - largest)
            reference = largest
            e = tl.exp(v - reference)
            total = total * factor + e
            by_outer = by_outer * factor + e * o.to(tl.float32)
            by_middle = by_middle * factor + e * m.to(tl.float32)
            if not WHOLE:
                by_inner = by_inner * factor + e * i.to(tl.float32)
    if WHOLE:
        by_inner = total * tl.arange(0, COLUMNS)[None, :].to(tl.float32)

    partials += (sample * chosen + first + index) * 5 * segments + segment
    tl.store(partials, reference)
    tl.store(partials + segments, tl.sum(total))
    tl.store(partials + 2 * segments, tl.sum(by_outer))
    tl.store(partials + 3 * segments, tl.sum(by_middle))
    tl.store(partials + 4 * segments, tl.sum(by_inner))


@triton.jit
def _finish(
    partials, xyz, statistics, segments,
    SEGMENTS: tl.constexpr, PLANES: tl.constexpr,
):  # fmt: skip
    """Adds the segments of a part and writes (reference, sum, x, y, z), with the reference moved so that the sum is 1 but
    for rounding: e^(v - reference) then never overflows in backward."""
    part = tl.program_id(0).to(tl.int64)
    segment = tl.arange(0, SEGMENTS)
    there = segment < segments
    partials += part * 5 * segments + segment
    references = tl.load(partials, there, LOWEST)
    reference = tl.max(references)
    factor = tl.exp(references - reference)
    total = tl.sum(factor * tl.load(partials + segments, there, 0.0))
    moved = reference + tl.log(total)
    tl.store(statistics + 5 * part, moved)
    tl.store(statistics + 5 * part + 1, total * tl.exp(reference - moved))
    for coordinate in tl.static_range(3):
        sums = partials + (4 - coordinate if PLANES else 2 + (4 - coordinate) % 3) * segments
        mean = tl.sum(factor * tl.load(sums, there, 0.0)) / total
        tl.store(xyz + 3 * part + coordinate, mean)
        tl.store(statistics + 5 * part + 2 + coordinate, mean)


@triton.jit
def _gradient(
    gradient, volume, statistics, out, places, some, first, chosen,
    g_batch, g_part, g_axis,
    batch_stride, part_stride, outer_stride, middle_stride, inner_stride,
    out_batch, out_part, out_outer, out_middle, out_inner, outer, middle, inner,
    COLUMNS: tl.constexpr, PLANES: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    ROWS: tl.constexpr = ELEMENTS // COLUMNS if ELEMENTS > COLUMNS else 1
    rows = outer * middle
    program = tl.program_id(0)
    index = program % some
    strips, tiles = tl.cdiv(inner, COLUMNS), tl.cdiv(rows, ROWS)
    left = program // some % strips * COLUMNS
    top = program // some // strips % tiles * ROWS
    sample = (program // some // strips // tiles).to(tl.int64)
    row, i = top + tl.arange(0, ROWS)[:, None], left + tl.arange(0, COLUMNS)[None, :]
    o, m = row // middle, row % middle
    there = (row < rows) & (i < inner)

    place = unpacked(places, index)
    out += sample * out_batch + (first + index).to(tl.int64) * out_part
    out += o.to(tl.int64) * out_outer + m.to(tl.int64) * out_middle + i.to(tl.int64) * out_inner
    if place == 0:
        tl.store(out, tl.zeros([ROWS, COLUMNS], out.dtype.element_ty), there)
    else:
        statistics += (sample * chosen + place - 1) * 5
        gradient += sample * g_batch + (place - 1) * g_part
        reference = tl.load(statistics)
        scale = 1 / tl.load(statistics + 1)
        x, y, z = (i, m, o) if PLANES else (m, o, i)
        value = scale * (
            tl.load(gradient).to(tl.float32) * (x.to(tl.float32) - tl.load(statistics + 2))
            + tl.load(gradient + g_axis).to(tl.float32) * (y.to(tl.float32) - tl.load(statistics + 3))
            + tl.load(gradient + 2 * g_axis).to(tl.float32) * (z.to(tl.float32) - tl.load(statistics + 4))
        )
        volume += sample * batch_stride + (first + index).to(tl.int64) * part_stride
        offset = o.to(tl.int64) * outer_stride + m.to(tl.int64) * middle_stride + i.to(tl.int64) * inner_stride
        v = tl.load(volume + offset, there, float("-inf")).to(tl.float32)
        tl.store(out, (tl.exp(v - reference) * value).to(out.dtype.element_ty), there)


_STRIDES = {"batch_stride": "i64:16", "part_stride": "i64:16", "outer_stride": "i64:16", "middle_stride": "i64:16"}
_OUT_STRIDES = {"out_batch": "i64:16", "out_part": "i64:16", "out_outer": "i64:16", "out_middle": "i64:16"}
_SIZES = {"some": "i32", "first": "i32", "chosen": "i32"}
_GRID = {"outer": "i32:16", "middle": "i32:16", "inner": "i32:16"}
_WORDS = ("i64",) * 6

AHEAD = [
    *(
        Ahead(
            _sums,
            TABLE,
            {"volume": "*T", "partials": "*fp32", "order": _WORDS, **_SIZES, "segments": "i32", **_STRIDES, **_GRID},
            {"inner_stride": 1, "COLUMNS": columns, "WHOLE": whole},
        )
        for columns, whole in ((32, True), (64, True), (256, False))
    ),
    Ahead(
        _finish,
        FINISH_TABLE,
        {"partials": "*fp32", "xyz": "*fp32", "statistics": "*fp32", "segments": "i32"},
        {"SEGMENTS": 16, "PLANES": True},
    ),
    *(
        Ahead(
            _gradient,
            TABLE,
            {"gradient": "*fp32", "volume": "*T", "statistics": "*fp32", "out": "*T", "places": _WORDS, **_SIZES,
             "g_batch": "i32", "g_part": "i32", **_STRIDES, **_OUT_STRIDES, **_GRID},
            {"g_axis": 1, "inner_stride": 1, "out_inner": 1, "COLUMNS": columns, "PLANES": planes},
        )
        for columns in (32, 64)
        for planes in (True, False)
    ),
]  # fmt: skip
