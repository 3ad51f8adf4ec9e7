"""How the time of a weight step of the supernet grows with batch, image size, channels and threads.

``python bench/scaling.py [--preset search] [--rounds 3] [--out docs/scaling]``

One of them is varied at a time, the others stay at 4 images, the preset's size and channels, and all threads. Written
are ``OUT.md`` (a table) and ``OUT.png``. The work is in proportion to images, to pixels, at most to the square of the
channels (matrix products; the rest to the channels), and to one over the threads.
"""

import argparse
import os
from pathlib import Path
from typing import NamedTuple

import matplotlib
import torch
from bench_search_step import our_step, supernet
from timing import interleaved
from tqdm import tqdm

from partnas.allocator import keep_freed_memory
from partnas.presets import space_of

BATCH = 4
BATCHES = (1, 2, 4, 8, 16)
SIZES = (64, 128, 256)
CHANNELS = (8, 16, 32)


class Point(NamedTuple):
    """One measurement: the varied setting, its value, the work relative to the value 1, and the seconds of a step."""

    setting: str
    value: int
    work: float
    seconds: float


def seconds(space, batch: int, rounds: int) -> float:
    """The median time of a weight step, forward and backward."""
    net = supernet(space, torch.device("cpu"))
    x = torch.randn(batch, 3, space.input_size, space.input_size).to(memory_format=torch.channels_last)
    step = our_step(net, x, torch.randn(batch, space.parts, 3), "weights")
    return interleaved({"step": step}, rounds)["step"].median


def measure(preset: str, rounds: int) -> list[Point]:
    base, threads = space_of("search", preset), os.cpu_count()
    plans = [("images", n, n, base, n, threads) for n in BATCHES]
    plans += [("image side", s, s**2, base.replace(input_size=s), BATCH, threads) for s in SIZES]
    plans += [("channels", c, c**2, base.replace(channels=c), BATCH, threads) for c in CHANNELS]
    plans += [("threads", t, 1 / t, base, BATCH, t) for t in sorted({1, threads})]
    points = []
    for setting, value, work, space, batch, used in tqdm(plans, unit="point"):
        torch.set_num_threads(used)
        points.append(Point(setting, value, work, seconds(space, batch, rounds)))
    return points


def table(points: list[Point]) -> str:
    rows = [
        "| varied | value | step | against the first | work against the first |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    first: dict[str, Point] = {}
    for point in points:
        start = first.setdefault(point.setting, point)
        rows.append(
            f"| {point.setting} | {point.value} | {point.seconds:.2f} s | {point.seconds / start.seconds:.2f} "
            f"| {point.work / start.work:.2f} |"
        )
    return "\n".join(rows)


def draw(points: list[Point], path: Path) -> None:
    matplotlib.use("Agg")
    from matplotlib import pyplot

    settings = list(dict.fromkeys(point.setting for point in points))
    figure, panels = pyplot.subplots(1, len(settings), figsize=(3.2 * len(settings), 3), layout="constrained")
    for panel, setting in zip(panels, settings, strict=True):
        line = [point for point in points if point.setting == setting]
        values = [point.value for point in line]
        panel.plot(values, [point.seconds for point in line], "o-", color="#1f4e79", label="measured")
        in_proportion = [line[0].seconds * point.work / line[0].work for point in line]
        panel.plot(values, in_proportion, "--", color="#999999", label="in proportion to the work")
        panel.set_xscale("log", base=2)
        panel.set_yscale("log", base=2)
        panel.set_xticks(values, [str(value) for value in values])
        panel.yaxis.set_major_formatter("{x:.3g}")
        panel.set_xlabel(setting)
    panels[0].set_ylabel("seconds a weight step")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="search")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/scaling"))
    options = parser.parse_args()
    keep_freed_memory()
    points = measure(options.preset, options.rounds)
    print(table(points))
    options.out.with_suffix(".md").write_text(
        f"# Scaling\n\nA weight step (forward and backward) of the `{options.preset}` supernet; medians of {options.rounds}; made "
        f"by `python bench/scaling.py`. At most in proportion to the work, a step's time is linear or better.\n\n"
        f"{table(points)}\n\n![The same as lines]({options.out.with_suffix('.png').name})\n"
    )
    draw(points, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
