"""Permutations of channels or of runs of channels, as moves of memory.

Contiguous and channels-last maps alike are rows of runs that lie one after the other, and the runs of each row are
permuted: a run is so many channels in channels-last memory, so many planes in contiguous memory.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from partnas.errors import PartnasError
from partnas.kernels import numbers
from partnas.kernels.launch import Ahead, Config, launch

TABLE = {75: Config({"BYTES": 4096}, 4, 1)}
GATHER_TABLE = {75: Config({"BYTES": 2048, "STEPS": 8}, 4, 1)}

SHORT = 16
"""Bytes of a run from which on a program moves one run of many rows, rather than all runs of a few."""
MOST_COLUMNS, MOST_CHANNELS = 4096, 256
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def channel_shuffle(x: torch.Tensor, groups: int, order: Sequence[int], depth: int) -> torch.Tensor:
    # As partnas/ops/channel_shuffle.py has it.
    memory_format = torch.contiguous_format
    if x.dim() in (4, 5) and not x.is_contiguous():
        wanted = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        memory_format = wanted if x.is_contiguous(memory_format=wanted) else memory_format
    x = x.resolve_conj().resolve_neg().contiguous(memory_format=memory_format)
    out = torch.empty_like(x, memory_format=memory_format)
    if out.numel() == 0:
        return out
    runs = x.shape[1] // depth
    rows = len(x)
    length = x.numel() // rows // runs
    if memory_format != torch.contiguous_format:
        rows, length = x.numel() // x.shape[1], depth
    read, written = _as_integers(x), _as_integers(out)
    length = length * x.element_size() // read.element_size()
    if runs * length >= 2**31 - 2**20:
        raise PartnasError(f"channel_shuffle: a map of shape {tuple(x.shape)} is too large for the Triton kernels")
    table = numbers.table_of(order, x.device) if order else read
    _permute(read, written, table, groups, rows, runs, length)
    return out


def _as_integers(x: torch.Tensor) -> torch.Tensor:
    return (torch.view_as_real(x) if x.element_size() == 16 else x).view(INTEGERS[min(8, x.element_size())])


def _permute(x, out, table, groups, rows, runs, length) -> None:
    item = x.element_size()
    settings = (x, out, table, max(1, groups), rows, runs, length)
    if length * item >= SHORT:
        most = triton.next_power_of_2(min(length, MOST_COLUMNS))

        def grid(blocks):
            columns = min(most, blocks["BYTES"] // item)
            return (runs * triton.cdiv(length, columns) * triton.cdiv(rows, blocks["BYTES"] // item // columns),)

        launch(_move_runs, grid, TABLE, *settings, ORDERED=groups == 0, ITEM=item, MOST=most)
    else:
        tile = min(triton.next_power_of_2(runs * length), MOST_CHANNELS)

        def grid(blocks):
            rows_of_tile = max(1, blocks["BYTES"] // item // tile) * blocks["STEPS"]
            return (triton.cdiv(runs * length, tile) * triton.cdiv(rows, rows_of_tile),)

        launch(_gather, grid, GATHER_TABLE, *settings, ORDERED=groups == 0, ITEM=item, CHANNELS=tile)


@triton.jit
def _source(run, table, groups, runs, ORDERED: tl.constexpr):
    """The run that is read for an output's."""
    if ORDERED:
        return tl.load(table + run)
    return run % groups * (runs // groups) + run // groups


@triton.jit
def _move_runs(
    x, out, table, groups, rows, runs, length,
    ORDERED: tl.constexpr, ITEM: tl.constexpr, MOST: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    """One run of many rows, or a piece of it."""
    COLUMNS: tl.constexpr = MOST if BYTES // ITEM > MOST else BYTES // ITEM
    ROWS: tl.constexpr = BYTES // ITEM // COLUMNS
    program = tl.program_id(0)
    pieces = tl.cdiv(length, COLUMNS)
    column = program % pieces * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    run = program // pieces % runs
    row = (program // pieces // runs).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    there = (row < rows) & (column < length)
    source = _source(run, table, groups, runs, ORDERED)
    line = row * (runs * length) + column
    value = tl.load(x + line + source.to(tl.int64) * length, there, 0)
    tl.store(out + line + run.to(tl.int64) * length, value, there)


@triton.jit
def _gather(
    x, out, table, groups, rows, runs, length,
    ORDERED: tl.constexpr, ITEM: tl.constexpr, CHANNELS: tl.constexpr, BYTES: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """All of many rows, or a slice of their channels: where from is found once for all rows."""
    ROWS: tl.constexpr = BYTES // ITEM // CHANNELS if BYTES // ITEM > CHANNELS else 1
    program = tl.program_id(0)
    channels = runs * length
    slices = tl.cdiv(channels, CHANNELS)
    channel = program % slices * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    known = channel < channels
    run = tl.where(known, channel // length, 0)
    source = _source(run, table, groups, runs, ORDERED) * length + channel % length
    first = (program // slices).to(tl.int64) * (ROWS * STEPS)
    for step in range(STEPS):
        row = first + step * ROWS + tl.arange(0, ROWS)[:, None]
        there = (row < rows) & known
        tl.store(out + row * channels + channel, tl.load(x + row * channels + source, there, 0), there)


_SIZES = {"table": "*i32", "groups": "i32", "rows": "i32"}

AHEAD = [
    *numbers.AHEAD,
    *(
        Ahead(kernel, table, {"x": f"*i{8 * item}", "out": f"*i{8 * item}", **_SIZES, **sizes}, {**constexprs, "ITEM": item, "ORDERED": ordered})
        for kernel, table, sizes, constexprs in (
            (_move_runs, TABLE, {"runs": "i32", "length": "i32:16"}, {"MOST": 64}),
            (_gather, GATHER_TABLE, {"runs": "i32:16", "length": "i32"}, {"CHANNELS": 128}),
        )
        for item in (1, 2, 4, 8)
        for ordered in (False, True)
    ),
]  # fmt: skip
