"""depthwise_bank against the same convolutions one by one, in channels-last and in NCHW.

``python bench/bench_depthwise_bank.py [--threads 2] [--rounds 15] [--only NAME]``

Each case is a source of the supernet with all depthwise filters of its outgoing edges, forward and forward + backward.
The contestants take turns in one process; printed are medians in milliseconds, the gain over the better peer, the rate
in GFLOP/s (a multiply-add is two), and the floor: the time to move every byte once at the measured bandwidth, fresh
outputs counted twice because a cache line is read before it is written. No time is printed where results differ.
"""

import argparse
import statistics
import time
from typing import NamedTuple

import torch
import torch.nn.functional as F

from partnas.ops.depthwise_bank import depthwise_bank, flops

KINDS = ((3, 1), (5, 1), (3, 2), (5, 2))


class Case(NamedTuple):
    channels: int
    side: int
    stride: int
    edges: int
    batch: int = 4
    kinds: tuple = KINDS
    norm: bool = False
    dtype: torch.dtype = torch.float32


CASES = {
    "16 ch, 128², 1 edge": Case(16, 128, 1, 1),
    "16 ch, 128², 4 edges": Case(16, 128, 1, 4),
    "16 ch, 128², 4 edges, bfloat16": Case(16, 128, 1, 4, dtype=torch.bfloat16),
    "16 ch, 128², norm + one 5x5": Case(16, 128, 1, 1, kinds=((5, 1),), norm=True),
    "64 ch, 64², 4 edges": Case(64, 64, 1, 4),
    "128 ch, 32², stride 2, 4 edges": Case(128, 32, 2, 4),
    "288 ch, 32², 2 edges": Case(288, 32, 1, 2),
    "512 ch, 4², 4 edges": Case(512, 4, 1, 4),
}


class Work:
    def __init__(self, case: Case):
        self.case = case
        self.bank = [kind for kind in case.kinds for _ in range(case.edges)]
        x = torch.randn(case.batch, case.channels, case.side, case.side)
        self.layouts = {}
        for name, layout in (("channels-last", torch.channels_last), ("NCHW", torch.contiguous_format)):
            source = x.to(case.dtype).contiguous(memory_format=layout).requires_grad_()
            weights = [torch.empty(case.channels, k, k) for k, _ in self.bank]
            generator = torch.Generator().manual_seed(0)
            for weight in weights:
                weight.uniform_(-1, 1, generator=generator).requires_grad_()
            side = -(-case.side // case.stride)
            gradients = [
                torch.randn(case.batch, case.channels, side, side, generator=generator)
                .to(case.dtype)
                .contiguous(memory_format=layout)
                for _ in self.bank
            ]
            self.layouts[name] = source, weights, gradients
        mean, variance = x.to(case.dtype).float().mean((0, 2, 3)), x.to(case.dtype).float().var((0, 2, 3), correction=0)
        self.statistics = torch.stack([mean, variance]) if case.norm else None

    def ours(self, layout):
        x, weights, _ = self.layouts[layout]
        dilations = [dilation for _, dilation in self.bank]
        return depthwise_bank(x, weights, dilations=dilations, stride=self.case.stride, statistics=self.statistics)

    def peer(self, layout):
        """As DARTS runs it: batch norm where there is one, then for each filter ReLU and convolution."""
        x, weights, _ = self.layouts[layout]
        if self.case.norm:
            x = F.batch_norm(x, None, None, training=True)
        maps = []
        for weight, (size, dilation) in zip(weights, self.bank, strict=True):
            taps = weight[:, None].to(x.dtype)
            padding = dilation * (size // 2)
            maps.append(F.conv2d(torch.relu(x), taps, None, self.case.stride, padding, dilation, groups=len(weight)))
        return maps

    def contestants(self):
        return {
            "ours": (self.ours, "channels-last"),
            "channels-last": (self.peer, "channels-last"),
            "NCHW": (self.peer, "NCHW"),
        }

    def forward(self, function, layout):
        with torch.no_grad():
            return function(layout)

    def both(self, function, layout):
        x, weights, gradients = self.layouts[layout]
        return torch.autograd.grad(function(layout), [x, *weights], gradients)

    def check(self):
        # The peers' own error grows with the sums, so the measure is the largest value.
        tolerance = 2e-2 if self.case.dtype == torch.bfloat16 else 2e-5
        for step in (self.forward, self.both):
            results = {name: step(*contestant) for name, contestant in self.contestants().items()}
            for name in ("channels-last", "NCHW"):
                for value, other in zip(results["ours"], results[name], strict=True):
                    error = (value - other).abs().max() / other.abs().max()
                    assert error < tolerance, f"{step.__name__} differs from {name} by {error:.1e}"

    def multiply_adds(self):
        case = self.case
        return flops((case.batch, case.channels, case.side, case.side), [size for size, _ in self.bank], case.stride)

    def bytes(self, backward):
        x, _, gradients = self.layouts["channels-last"]
        source = x.numel() * x.element_size()
        maps = sum(gradient.numel() * gradient.element_size() for gradient in gradients)
        forward = source + 2 * maps
        return forward + (maps + 3 * source if backward else 0)


def interleaved(functions, rounds):
    """Median seconds of each function; they take turns, so that all meet the same machine."""
    times = {name: [] for name in functions}
    for function in functions.values():
        function()
    for _ in range(rounds):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}


def bandwidth():
    """Bytes a second that a sum over 256 MB reads."""
    memory = torch.ones(64 << 20)
    return memory.numel() * 4 / interleaved({"sum": lambda: memory.sum()}, 9)["sum"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="run the cases whose name has this in it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    speed = bandwidth()
    print(f"{options.threads} threads, torch {torch.__version__}, {speed / 1e9:.0f} GB/s read")
    print(f"{'':42}{'ours':>9}{'ch.-last':>9}{'NCHW':>9}{'gain':>7}{'GFLOP/s':>9}{'floor':>8}")
    for name, case in CASES.items():
        if options.only not in name:
            continue
        work = Work(case)
        work.check()
        for label, step, passes in (("forward", work.forward, 1), ("forward + backward", work.both, 3)):
            contestants = {who: (lambda s=step, c=c: s(*c)) for who, c in work.contestants().items()}
            found = interleaved(contestants, options.rounds)
            gain = min(found["channels-last"], found["NCHW"]) / found["ours"]
            rate = 2 * passes * work.multiply_adds() / found["ours"] / 1e9
            floor = work.bytes(passes == 3) / speed
            milliseconds = "".join(f"{found[who] * 1e3:9.2f}" for who in contestants)
            print(
                f"{name + ', ' + label if passes == 1 else '  ' + label:<42}{milliseconds}{gain:6.1f}x{rate:9.0f}{floor * 1e3:8.2f}"
            )


if __name__ == "__main__":
    main()
