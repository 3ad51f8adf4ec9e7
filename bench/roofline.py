"""What a step must move, what our kernels move, how often they are launched and what memory they need: computed, not
measured.

``python bench/roofline.py [--write docs/gpu.md]``

The real networks run on tensors without memory; every operator that they call is noted with its shapes. From those
follow the floor, each map read once and each result written once, and what the kernels ask of memory: borders of tiles,
maps that several launches read, second passes. What a block reads twice counts once, as its first-level cache or its
shared memory has it; what two blocks read counts twice, though the second-level cache will often have it.
"""

import argparse
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from plain_darts import PlainSupernet
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from partnas.architect import frozen
from partnas.config import load_config
from partnas.genotype import Genotype
from partnas.nn.layout import cell_layouts
from partnas.nn.part_net import PartNet
from partnas.nn.supernet import Supernet

BANDWIDTHS = {"TITAN RTX": 672e9, "A100": 2.04e12, "H100": 3.35e12, "H200": 4.8e12}
MULTIPROCESSORS, SHARED_BYTES = 132, 227 << 10
"""Of an H100, for which launch shapes are worked out."""
SEARCH_TITLE = "### A search step: weights and alphas, batch 40, 128², float32\n"


class Work(NamedTuple):
    """What one call of an operator amounts to.

    Attributes:
        least: Bytes that it must move.
        issued: Bytes that its kernels ask for.
        operations: Additions and multiplications of numbers, roughly.
        launches: Kernels.
    """

    least: int
    issued: int
    operations: int
    launches: int

    def __add__(self, other: "Work") -> "Work":  # type: ignore[override]
        return Work(*(a + b for a, b in zip(self, other, strict=True)))


NOTHING = Work(0, 0, 0, 0)


def size_of(*tree: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tree_leaves(tree) if isinstance(t, torch.Tensor))


# How the kernels of csrc/cuda cut their maps; names are theirs.


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def covered(extent: int, tile: int, stride: int, before: int, after: int, limit: int) -> int:
    """Pixels that tiles of ``tile`` outputs read along one axis of ``limit`` pixels, ``extent`` outputs in all."""
    total = 0
    for begin in range(0, extent, tile):
        last = min(begin + tile, extent) - 1
        total += min(limit, last * stride + after + 1) - max(0, begin * stride - before)
    return total


def lanes_of(channels: int, vector: int) -> int:
    for lanes in (32, 16):
        if channels % lanes == 0:
            return lanes
    even = ceil_div(channels, ceil_div(channels, 32))
    return ceil_div(even, vector) * vector if channels % vector == 0 else even


def room_for(blocks: int) -> int:
    return (SHARED_BYTES + 1024) // blocks - 1024


def shares(filters: int, launches: int) -> list[slice]:
    return [slice(filters * n // launches, filters * (n + 1) // launches) for n in range(launches)]


def round_up(a: int, b: int) -> int:
    return ceil_div(a, b) * b


def sets_of(shape, rows: int, columns: int, lanes: int) -> int:
    batch, _, height, width = shape
    return ceil_div(batch * ceil_div(height, rows) * ceil_div(width, columns), 32 // lanes)


def bank_tile(shape, kinds, stride: int, element: int) -> tuple[int, int]:
    """Rows and columns of the maps that a block of ``bank_forward`` makes (``plan_forward``)."""
    batch, channels, height, width = shape
    height, width = ceil_div(height, stride), ceil_div(width, stride)
    reach = max(size // 2 * dilation for size, dilation in kinds)
    unit = 8 if stride == 1 and any(dilation == 2 for _, dilation in kinds) else 4
    step = 4 if stride == 2 or (height <= 4 and unit == 4) else 8
    fresh = step * stride
    ring = fresh + 2 * reach - (stride - 1)
    lanes = lanes_of(channels, 16 // element)

    def fits(wanted, room):
        wide = (min(wanted, round_up(width, unit)) - 1) * stride + 1 + 2 * reach
        area = sum(size * size for size, _ in kinds)
        return wide * (ring * 128 + fresh * 32 * element) + 4 * 128 + area * lanes * 4 <= room

    choices = [
        wanted
        for blocks in (2, 1)
        for wanted in (32, 16, 8, 4)
        if wanted % unit == 0 and fits(wanted, room_for(blocks))
    ]
    columns = min(choices[0], round_up(width, unit))
    band = round_up(height, step)

    def blocks():
        return sets_of((batch, channels, height, width), band, columns, lanes) * ceil_div(channels, lanes)

    while (blocks() < 4 * MULTIPROCESSORS and band > 32) or (blocks() < MULTIPROCESSORS and band > step):
        band = round_up(ceil_div(band, 2), step)
    return band, columns


def strip_of(rows: int, tiles: int, many_blocks: int, longest: int) -> int:
    """Rows of a strip, of 4 at least."""
    return min(longest, max(4, ceil_div(rows, ceil_div(many_blocks, tiles))))


def kinds_of(weights, dilations) -> list[tuple[int, int]]:
    return [(w.shape[-1], d) for w, d in zip(weights, dilations, strict=True)]


def bank_work(arguments, found) -> Work:
    x, weights, dilations, stride, *numbers = arguments
    batch, channels, height, width = x.shape
    kinds = kinds_of(weights, dilations)
    launches = ceil_div(len(kinds), 8)
    read = 0
    for share in shares(len(kinds), launches):
        own = kinds[share]
        reach = max(size // 2 * dilation for size, dilation in own)
        rows, columns = bank_tile(x.shape, own, stride, x.element_size())
        down = covered(ceil_div(height, stride), rows, stride, reach, reach, height)
        across = covered(ceil_div(width, stride), columns, stride, reach, reach, width)
        read += batch * channels * down * across * x.element_size()
    small = size_of(weights, numbers)
    operations = 2 * found[0].numel() * sum(size * size for size, _ in kinds)
    return Work(size_of(x, found) + small, read + size_of(found) + small, operations, launches)


def backward_tile(shape, kinds, stride: int, element: int, wanted: list[bool]) -> tuple[int, int, int] | None:
    """Rows and columns of the source that a block of ``bank_backward`` takes, and how many blocks share a chunk's tiles
    (``plan_backward``); None where the filters do not fit."""
    channels = shape[1]
    lanes = lanes_of(channels, 16 // element)
    areas = [size * size for (size, _), need in zip(kinds, wanted, strict=True) if need]
    sums = 2 + sum(areas)
    largest = max(((area + 1) // 2 for area in areas), default=0)

    def fits(rows, columns, room):
        pixels = rows * columns
        for size, dilation in kinds:
            reach = size // 2 * dilation
            border = reach // stride + (reach + stride - 1) // stride
            pixels = max(pixels, (rows // stride + border) * (columns // stride + border))
        buffer = max(pixels * 32 * element, rows * columns // 16 * largest * 128)
        return 2 * buffer + (sums + 4) * 128 + sum(size * size for size, _ in kinds) * lanes * 4 <= room

    most = round_up(shape[2], 4), round_up(shape[3], 4)
    for rows, columns, blocks in ((8, 16, 2), (16, 16, 1), (8, 16, 1), (8, 8, 1), (4, 8, 1), (4, 4, 1)):
        rows, columns = min(rows, most[0]), min(columns, most[1])
        if fits(rows, columns, room_for(blocks)):
            parts = min(sets_of(shape, rows, columns, lanes), ceil_div(4 * MULTIPROCESSORS, ceil_div(channels, lanes)))
            return rows, columns, parts
    return None


def bank_backward_work(arguments, found) -> Work:
    gradients, x, weights, dilations, stride, statistics, scale, shift, _, _, needs, before_norm = arguments
    batch, channels, height, width = x.shape
    element = x.element_size()
    kinds, wanted = kinds_of(weights, dilations), [bool(need) for need in needs[3:]]
    through = bool(needs[0]) and statistics is not None and not before_norm
    sums = bool(needs[1] or needs[2]) or through
    launches = ceil_div(len(kinds), 16)
    while True:
        tiles = [backward_tile(x.shape, kinds[s], stride, element, wanted[s]) for s in shares(len(kinds), launches)]
        if all(tiles) or launches >= len(kinds):
            break
        launches += 1
    issued, count, numbers = 0, 0, batch * channels
    for share, (rows, columns, parts) in zip(shares(len(kinds), launches), tiles, strict=True):
        last = share.stop == len(kinds)
        issued += size_of(x)
        for size, dilation in kinds[share]:
            reach = size // 2 * dilation
            borders = reach // stride, (reach + stride - 1) // stride
            down = covered(ceil_div(height, stride), rows // stride, 1, *borders, ceil_div(height, stride))
            across = covered(ceil_div(width, stride), columns // stride, 1, *borders, ceil_div(width, stride))
            issued += numbers * down * across * element
        if any(needs[:3]):
            # What launches leave to one another is float32.
            issued += x.numel() * 4 * ((share.start > 0) + (not last)) + (size_of(x) if last and needs[0] else 0)
        rows_of_sums = sum(k[0] ** 2 for k, need in zip(kinds[share], wanted[share], strict=True) if need)
        rows_of_sums += 2 * (sums and last)
        chunks = ceil_div(channels, lanes_of(channels, 16 // element))
        issued += 2 * parts * chunks * rows_of_sums * 128
        count += 1 + (rows_of_sums > 0)
    small = size_of(weights, statistics, scale, shift) + size_of(found[1:] if needs[0] else found)
    maps = size_of(gradients) + size_of(x)
    least = maps + (size_of(x) if needs[0] else 0)
    if through:
        # Nothing of it can be written before all has been read: gradients and source again, or what was left
        # unfinished.
        least += min(maps, 3 * size_of(x))
        issued += 3 * size_of(x)
    taps = sum(k[0] ** 2 * (any(needs[:3]) + need) for k, need in zip(kinds, wanted, strict=True))
    positions = gradients[0].numel() if gradients else 0
    return Work(least + small, issued + small, 2 * positions * taps, count + through)


def pool_lines(shape, stride: int, element: int, backward: bool) -> int:
    """Numbers of a map that is read with a border of one, by all blocks (``forward_grid``, ``backward_grid``)."""
    batch, channels, height, width = shape
    down, across = ceil_div(height, stride), ceil_div(width, stride)
    vector = 16 // element if channels * element % 16 == 0 else 1
    vectors, most = channels // vector, (32 if vector == 1 else 8 * vector) // vector
    slices = ceil_div(vectors, most)
    rows = 256 // ceil_div(vectors, slices)
    span = rows if not backward else rows - (2 if stride == 1 else 1) if across > rows else rows // across * across
    tiles = ceil_div(batch * across, span)
    extent, even = (height, stride) if backward else (down, 1)
    strip = round_up(strip_of(extent, tiles * slices, 528 if backward else 1056, 32), even)
    if backward:
        lines = covered(height, strip, 1, 2 if stride == 1 else 1, 2, height)
        columns = batch * width + (tiles * (4 if stride == 1 else 3) if across > rows else 0)
    else:
        lines = covered(down, strip, stride, 1, 1, height)
        columns = batch * width + 2 * tiles
    return channels * lines * columns


def pool_work(arguments, found) -> Work:
    x, stride = arguments[0], arguments[-1]
    pair = len(tree_leaves(found)) > 1
    read = pool_lines(x.shape, stride, x.element_size(), False) * x.element_size()
    results = size_of(found)
    count = sum(t.numel() for t in tree_leaves(found) if t.dim() == 4)
    return Work(size_of(x) + results, read + results, 9 * count, 1 + pair)


def pool_backward_work(arguments, found) -> Work:
    *gradients, x = (t for t in arguments if isinstance(t, torch.Tensor))
    stride = arguments[-1]
    takes_max = len(gradients) > 1 or arguments[2]
    least = size_of(gradients, found) + (size_of(x) if takes_max else 0)
    lines = pool_lines(x.shape, stride, x.element_size(), True) / x.numel()
    read = lines * (size_of(gradients) + (size_of(x) if takes_max else 0))
    return Work(least, round(read) + size_of(found), 9 * sum(g.numel() for g in gradients), 1)


def read_once(launches: int, operations: float = 1) -> Callable[[Any, Any], Work]:
    """Of an operator that reads and writes everything once; ``operations`` for each number that it reads."""

    def work(arguments, found):
        count = sum(t.numel() for t in tree_leaves(arguments) if isinstance(t, torch.Tensor))
        least = size_of(arguments, found)
        return Work(least, least, round(operations * count), launches)

    return work


def reduce_work(arguments, found) -> Work:
    """Four branches at a time, each with a read of the gradient."""
    gradient, maps, _, identities = arguments
    least = size_of(arguments, found)
    again = size_of(gradient) * (max(1, ceil_div(len(maps) + len(identities), 4)) - 1)
    return Work(least, least + again, 3 * sum(t.numel() for t in (*maps, *identities)), 2)


def norm_sum_backward_work(arguments, found) -> Work:
    gradient, maps, statistics, weights, means, _, wanted, _, _ = arguments
    moved = size_of(gradient, [maps[k] for k in wanted], statistics, weights, means, found)
    return Work(moved, moved, 4 * sum(t.numel() for t in found), 1)


def upsample_work(arguments, found) -> Work:
    """A block makes what lies between two rows of pixels, so that each row is read twice (``upsample_cells``)."""
    x = arguments[0]
    least = size_of(x, found)
    return Work(least, least + size_of(x), 8 * found.numel(), 1)


def upsample_backward_work(arguments, found) -> Work:
    """Strips of rows of the small map, as wide as threads of a slice of the channels are many (``strips_of``)."""
    gradient, factor = arguments
    batch, channels, height, width = found.shape
    vector = 16 // gradient.element_size()
    vectors = channels // vector if channels % vector == 0 else channels
    slices = ceil_div(vectors, 32)
    columns = 256 // ceil_div(vectors, slices)
    tiles = ceil_div(batch * width, columns)
    strip = strip_of(height, tiles * slices, 528, 16)
    down = covered(height, strip, factor, factor // 2, factor + factor // 2 - 1, factor * height)
    across = batch * factor * width + (tiles * factor if columns % width else 0)
    issued = channels * down * across * gradient.element_size() + size_of(found)
    return Work(size_of(gradient, found), issued, 8 * gradient.numel(), 1)


MODELS: dict[str, Callable[[Any, Any], Work]] = {
    "depthwise_bank": bank_work,
    "depthwise_bank_backward": bank_backward_work,
    "pool_pair": pool_work,
    "pool_pair_backward": pool_backward_work,
    "pool": pool_work,
    "pool_backward": pool_backward_work,
    "norm_stats": read_once(2, 3),
    "norm_sum": read_once(1, 2),
    "norm_sum_reduce": reduce_work,
    "norm_sum_backward": norm_sum_backward_work,
    "upsample": upsample_work,
    "upsample_backward": upsample_backward_work,
    "soft_argmax_3d": read_once(2, 10),
    "soft_argmax_3d_backward": read_once(1, 8),
    "channel_shuffle": read_once(1, 0),
}

FREE = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "_unsafe_view", "lift_fresh")
"""Of PyTorch's operators beside views, those that start no kernel."""


def library_work(function, arguments, found) -> Work:
    """Of one of PyTorch's own operators: its arguments once, its results once, at least one kernel."""
    name = function._schema.name.removeprefix("aten::")
    is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in function._schema.returns)
    if is_view or name in FREE:
        return NOTHING
    moved = size_of(arguments) + size_of(found)
    if name == "convolution_backward":
        return Work(moved, moved, 0, sum(arguments[-1]))
    operations = 0
    if name in ("mm", "addmm", "bmm", "baddbmm"):
        left = next(t for t in arguments[-2:])
        operations = 2 * tree_leaves(found)[0].numel() * left.shape[-1]
    return Work(moved, moved, operations, 1)


class Trace(TorchDispatchMode):
    """Adds up the work of all operators that run inside, by name, and follows the memory that lives.

    Attributes:
        work: By operator; PyTorch's own are ``products`` (of matrices) or ``other``.
        calls: How many there were.
        peak: The most bytes that lived at once, of all tensors but the smallest that were made inside.
    """

    def __init__(self) -> None:
        super().__init__()
        self.work: dict[str, Work] = defaultdict(lambda: NOTHING)
        self.calls: dict[str, int] = defaultdict(int)
        self.peak = 0
        self._living: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        found = function(*arguments, **(keywords or {}))
        space, _, name = function._schema.name.partition("::")
        if space == "partnas":
            work = MODELS[name](arguments, found)
        else:
            work = library_work(function, arguments, found)
            name = "products" if work.operations else "other"
        if work.launches:
            self.work[name] += work
            self.calls[name] += 1
        self._follow(found)
        return found

    def _follow(self, found) -> None:
        for tensor in found if isinstance(found, (list, tuple)) else (found,):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is None or storage._cdata in self._living or storage.nbytes() < 1 << 18:
                continue
            self._living = {key: kept for key, kept in self._living.items() if not kept[0].expired()}
            self._living[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
            self.peak = max(self.peak, sum(size for _, size in self._living.values()))


@contextlib.contextmanager
def without_memory() -> Iterator[None]:
    """Inside, networks are made and run on tensors without memory, as on a GPU: our operators, but for pointwise, which
    is the library's there."""
    with (
        torch.device("meta"),
        mock.patch("partnas.ops.backend.resolve", lambda name, _: "reference" if name == "pointwise" else "native"),
        # All addresses would be 0.
        mock.patch.object(torch.Tensor, "data_ptr", lambda tensor: tensor.untyped_storage()._cdata),
    ):
        yield


def step_of(net, x, parameters, still, output=None) -> Trace:
    """Forward and backward with gradients of ``parameters``; ``still`` are frozen."""
    with Trace() as trace, frozen(still):
        result = (output or net)(x)
        torch.autograd.grad(result, parameters, torch.ones_like(result), allow_unused=True)
    return trace


def search_step(space, batch: int, which: str, **options) -> Trace:
    """A step of the supernet; ``which``: weights or alphas."""
    net = Supernet(space, **options)
    x = torch.empty(batch, 3, space.input_size, space.input_size)
    alphas, weights = list(net.alphas.values()), list(net.weight_parameters())
    wanted, still = (weights, alphas) if which == "weights" else (alphas, weights)
    return step_of(net, x, wanted, still)


def plain_steps(space, batch: int) -> list[Trace]:
    """The weight step and the alpha step of plain DARTS."""
    net = PlainSupernet(space, cell_layouts(space)).to(memory_format=torch.channels_last)
    x = torch.empty(batch, 3, space.input_size, space.input_size)
    shapes = Supernet(space).alphas
    alphas = {kind: torch.empty(a.shape, requires_grad=True) for kind, a in shapes.items()}
    weights = list(net.parameters())
    steps = []
    for wanted, still in ((weights, list(alphas.values())), (list(alphas.values()), weights)):
        steps.append(step_of(net, x, wanted, still, lambda images: net(images, alphas)))
    return steps


def train_step(space, batch: int, seed: int = 0) -> tuple[PartNet, Trace]:
    """A step of a derived network of random cells."""
    with torch.device("cpu"):
        draw = torch.Generator().manual_seed(seed)
        shapes = {kind: a.shape for kind, a in Supernet(space.replace(channels=2, cells=8)).alphas.items()}
        genotype = Genotype.from_alphas({k: torch.randn(s, generator=draw) for k, s in shapes.items()}, space)
    net = PartNet(genotype, space)
    x = torch.empty(batch, 3, space.input_size, space.input_size)
    return net, step_of(net, x, list(net.parameters()), [])


def total(traces: list[Trace]) -> tuple[dict[str, Work], dict[str, int]]:
    work: dict[str, Work] = defaultdict(lambda: NOTHING)
    calls: dict[str, int] = defaultdict(int)
    for trace in traces:
        for name in trace.work:
            work[name] += trace.work[name]
            calls[name] += trace.calls[name]
    return work, calls


def table(heads: list[str], rows: Iterator[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def work_table(traces: list[Trace]) -> str:
    work, calls = total(traces)

    def row(name, own, count):
        floors = [f"{own.least / bandwidth * 1e3:.1f}" for bandwidth in BANDWIDTHS.values()]
        ratio = f"{own.issued / own.least:.2f}" if name not in ("products", "other", "all") else ""
        numbers = [f"{own.least / 1e9:.2f}", f"{own.issued / 1e9:.2f}", ratio, f"{own.operations / 1e9:.0f}"]
        return [name, str(count), str(own.launches), *numbers, *floors]

    order = [*(name for name in MODELS if name in work), *(name for name in ("products", "other") if name in work)]
    rows = [row(name, work[name], calls[name]) for name in order]
    everything = NOTHING
    for own in work.values():
        everything += own
    rows.append(row("all", everything, sum(calls.values())))
    heads = ["operator", "calls", "launches", "floor, GB", "issued, GB", "ratio", "GFLOP"]
    return table([*heads, *(f"{gpu}, ms" for gpu in BANDWIDTHS)], rows)


def launches(traces: list[Trace]) -> int:
    return sum(own.launches for trace in traces for own in trace.work.values())


def rendered() -> str:
    """All tables, as they stand in docs/gpu.md."""
    with without_memory():
        space, batch = load_config("search", "search").space(), 40
        steps = [search_step(space, batch, which) for which in ("weights", "alphas")]
        plain = plain_steps(space, batch)
        parts = [SEARCH_TITLE, work_table(steps)]
        for title, preset, at_once in (("S", "small", 64), ("L", "large", 64)):
            _, step = train_step(load_config("train", preset).space(), at_once)
            parts += [f"### A training step of `{preset}` (the paper's {title}), batch {at_once}, 256², float32\n"]
            parts += [work_table([step])]
        parts += ["### Kernels launched\n", launch_table(steps, plain)]
        parts += ["### Memory of a weight step, batch 40\n", memory_table(space, batch, plain[0])]
    return "\n".join(parts)


def launch_table(steps: list[Trace], plain: list[Trace]) -> str:
    names = ("weight step", "alpha step")
    rows = [[n, str(launches([p])), str(launches([s]))] for n, p, s in zip(names, plain, steps, strict=True)]
    rows.append(["both", str(launches(plain)), str(launches(steps))])
    return table(["", "plain DARTS, at least", "ours, at least"], rows)


def memory_table(space, batch: int, plain: Trace) -> str:
    """The most that lives at once in a weight step, with what lies there all the time: parameters, their gradients and
    two numbers of the optimizer each, and the images."""
    always = 4 * size_of(list(Supernet(space).parameters())) + batch * 3 * space.input_size**2 * 4
    peaks = {"plain DARTS": plain.peak + always}
    for label, options in {
        "none": {"recompute": "none"},
        "light": {},
        "cell": {"recompute": "cell"},
        "light, bfloat16 maps": {"activation_dtype": torch.bfloat16},
        "cell, bfloat16 maps": {"recompute": "cell", "activation_dtype": torch.bfloat16},
    }.items():
        peaks[label] = search_step(space, batch, "weights", **options).peak + always
    rows = ([label, f"{peak / 1e9:.1f} GB", "yes" if peak < 22e9 else "no"] for label, peak in peaks.items())
    return table(["`recompute`", "at the most", "fits 24 GB, 2 of them left to CUDA and the library"], rows)


DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "gpu.md"
MARKS = "<!-- computed by bench/roofline.py -->\n", "<!-- end of what is computed -->\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="put the tables into this file, between its marks")
    path = parser.parse_args().write
    tables = rendered()
    if path is None:
        print(tables)
        return
    text = path.read_text(encoding="utf-8")
    begin, end = text.index(MARKS[0]) + len(MARKS[0]), text.index(MARKS[1])
    path.write_text(f"{text[:begin]}\n{tables}\n{text[end:]}", encoding="utf-8")


if __name__ == "__main__":
    main()
