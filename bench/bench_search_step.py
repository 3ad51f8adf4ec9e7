"""Steps of the search on the whole supernet, against plain DARTS: NCHW, channels-last and compiled cell by cell.

``python bench/bench_search_step.py [--device cuda] [--threads 2] [--rounds 5] [--batch 4] [--preset search] [--only NAME]
[--no-compile] [--graph] [--csv FILE]``

The weight step is forward and backward without gradients of the alphas, the alpha step one without gradients of the
weights; neither has an optimizer in it. ``--memory`` tells what a weight step keeps for backward, and its peak, instead.
"""

import argparse
import multiprocessing
import time
from functools import partial

import torch
from live import live_bytes, peak_bytes
from plain_darts import PlainSupernet, copy_weights, products, weight_pairs
from timing import LAYOUTS, Case, main, name_of, options_from

from partnas.allocator import keep_freed_memory
from partnas.architect import frozen
from partnas.nn.layout import cell_layouts
from partnas.nn.supernet import Supernet
from partnas.presets import space_of

VARIANTS = {
    "none": {"recompute": "none"},
    "light": {},
    "cell": {"recompute": "cell"},
    "light, bfloat16": {"activation_dtype": torch.bfloat16},
    "cell, bfloat16": {"recompute": "cell", "activation_dtype": torch.bfloat16},
}


def supernet(space, device, **options):
    torch.manual_seed(0)
    return Supernet(space, **options).to(device)


def our_step(net, x, gradient, which):
    """``which``: weights or alphas; the others are frozen."""
    alphas, weights = list(net.alphas.values()), list(net.weight_parameters())
    wanted, still = (weights, alphas) if which == "weights" else (alphas, weights)

    def step():
        with frozen(still):
            output = net(x)
            return [output.detach(), *torch.autograd.grad(output, wanted, gradient)]

    return step


class Peer:
    """The plain network with the weights of ours, in bfloat16 under autocast. Its results are arranged in our order."""

    def __init__(self, net, x, gradient, which, memory, dtype=torch.float32, compiled=False):
        is_truth = dtype == torch.float64
        self.plain = PlainSupernet(net.space, cell_layouts(net.space), checkpointed=is_truth).to(x.device)
        with torch.no_grad():
            self.plain.stem[0].weight.copy_(net.stem[0].weight)
        for ours, theirs in zip(net.cells, self.plain.cells, strict=True):
            copy_weights(ours, theirs)
        kept = torch.float64 if is_truth else torch.float32
        self.autocast = torch.autocast(x.device.type, dtype, enabled=dtype not in (torch.float32, torch.float64))
        self.plain.to(kept).to(memory_format=memory)
        self.weights = list(self.plain.parameters())
        self.alphas = {k: a.detach().clone().to(kept).requires_grad_() for k, a in net.alphas.items()}
        self.x, self.gradient, self.which = x.to(kept).to(memory_format=memory), gradient.to(kept), which
        self.net = net
        if compiled:
            for cell in self.plain.cells:
                cell.compile(dynamic=False)
            began = time.perf_counter()
            self()
            print(f"compiled cell by cell in {time.perf_counter() - began:.0f} s ({which})")

    def __call__(self):
        alphas = list(self.alphas.values())
        wanted, still = (self.weights, alphas) if self.which == "weights" else (alphas, self.weights)
        with frozen(still):
            with self.autocast:
                output = self.plain(self.x, self.alphas)
            return [output.detach(), *torch.autograd.grad(output, wanted, self.gradient)]

    def arranged(self, found):
        output, *gradients = found
        if self.which == "alphas":
            return found
        by_weight = dict(zip(map(id, self.weights), gradients, strict=True))
        ours = {id(p): torch.zeros_like(p, dtype=output.dtype) for p in self.net.weight_parameters()}
        ours[id(self.net.stem[0].weight)] = by_weight[id(self.plain.stem[0].weight)]
        for cells in zip(self.net.cells, self.plain.cells, strict=True):
            for _, mine, index, theirs in weight_pairs(*cells):
                ours[id(mine)][index] = by_weight[id(theirs)].reshape(mine[index].shape)
        return [output, *ours.values()]


def cases(options: argparse.Namespace):
    space, device = space_of("search", options.preset), options.device
    side = space.input_size
    x = torch.randn(options.batch, 3, side, side, device=device).to(memory_format=torch.channels_last)
    gradient = torch.randn(options.batch, space.parts, 3, device=device)
    sides = [int(side * layout.scale) for layout in cell_layouts(space)]
    for dtype in options.dtypes:
        stored = {} if dtype == torch.float32 else {"activation_dtype": dtype}
        net = supernet(space, device, **stored)
        for which in ("weights", "alphas"):
            name = f"{options.preset} supernet, {which} step, batch {options.batch}, {side}x{side}"
            name += "" if dtype == torch.float32 else f", {name_of(dtype)}"
            if options.only not in name:
                continue
            peers = {layout: Peer(net, x, gradient, which, memory, dtype) for layout, memory in LAYOUTS.items()}
            if options.compile:
                peers["compiled"] = Peer(net, x, gradient, which, torch.channels_last, dtype, compiled=True)
            truth = Peer(net, x, gradient, which, torch.contiguous_format, torch.float64)
            yield Case(
                name,
                {**peers, "ours": our_step(net, x, gradient, which)},
                tolerance=options.tolerance * (1 if dtype == torch.float32 else 15),
                truth=truth,
                floor=products(zip(net.cells, sides, strict=True), options.batch, dtype),
                # A graph's memory is its own, and a peer's of a large batch does not fit a second time.
                graphed=("ours", "channels-last") if options.batch <= 16 else ("ours",),
                is_network=True,
            )
            if options.variants:
                for label, variant in VARIANTS.items():
                    if label == "light":
                        continue
                    contestants = {
                        "light": our_step(net, x, gradient, which),
                        "ours": our_step(supernet(space, device, **variant), x, gradient, which),
                    }
                    yield Case(f"{name}, {label}", contestants, tolerance=1.0)


def weight_step(label, space, batch, device):
    """A weight step of a variant of ours, or of the plain network in a layout; its forward alone; and the alphas."""
    x = torch.randn(batch, 3, space.input_size, space.input_size, device=device)
    gradient = torch.randn(batch, space.parts, 3, device=device)
    if label in LAYOUTS:
        peer = Peer(supernet(space, device), x, gradient, "weights", LAYOUTS[label])
        return peer, partial(peer.plain, peer.x, peer.alphas), peer.alphas
    net = supernet(space, device, **VARIANTS[label])
    x = x.to(memory_format=torch.channels_last)
    return our_step(net, x, gradient, "weights"), partial(net, x), net.alphas


def memory_of(label: str, preset: str, batch: int, device: torch.device, threads: int) -> tuple[int, int]:
    """Bytes of a weight step: what lives between its forward and backward beside parameters and images, and by how much
    the memory of the process rises over the whole of it."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    space = space_of("search", preset)
    weight_step(label, space, 1, device)[0]()
    step, forward, alphas = weight_step(label, space, batch, device)
    peak = peak_bytes(step, device)
    with frozen(list(alphas.values())):
        return live_bytes(forward), peak


def memory(options: argparse.Namespace) -> None:
    print(f"{options.preset} supernet, batch {options.batch}, weight step, MB an image: kept for backward, peak")
    # A process for each: what one has freed, the next would use.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as processes:
        for label in (*LAYOUTS, *VARIANTS):
            arguments = label, options.preset, options.batch, options.device, options.threads
            kept, peak = (size / options.batch / 1e6 for size in processes.apply(memory_of, arguments))
            name = f"plain, {label}" if label in LAYOUTS else label
            print(f"    {name:<22}{kept:8.1f}{peak:8.1f}", flush=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="search")
    parser.add_argument("--tolerance", type=float, default=5e-2)
    parser.add_argument("--memory", action="store_true", help="tell what a step keeps and its peak, and time nothing")
    parser.add_argument("--variants", action="store_true", help="time the ways to recompute and bfloat16, too")
    parser.set_defaults(rounds=5, compile=True)


if __name__ == "__main__":
    chosen = options_from(__doc__, add_options)
    if chosen.memory:
        memory(chosen)
    else:
        main(__doc__, cases, add_options)
