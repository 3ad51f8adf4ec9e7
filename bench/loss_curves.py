"""Whether a search in bfloat16 learns as one in float32: losses of search steps, three seeds of each.

``python bench/loss_curves.py [--preset mini] [--steps 200] [--batch 8] [--device cpu] [--out docs/loss_curves]``

A search step is a weight step and, from the first on, an alpha step, on the data that ships with the package. Written
are ``OUT.csv`` (the losses) and ``OUT.png``; printed is, over windows of 20 steps, how far each bfloat16 curve is from
the float32 curve of its own seed, beside how far the float32 seeds are apart.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from partnas.allocator import keep_freed_memory
from partnas.config import load_config
from partnas.distributed import join
from partnas.search import Search

SEEDS = (0, 1, 2)
DTYPES = ("float32", "bfloat16")
WINDOW = 20
COLOURS = {"float32": "#1f4e79", "bfloat16": "#d1622b"}


def losses(options: argparse.Namespace, seed: int, dtype: str) -> list[float]:
    """The training loss of each step of one search."""
    settings = {
        "seed": seed,
        "activation_dtype": dtype,
        "batch_size": options.batch,
        "alpha_epoch": 1,
        "device": options.device,
    }
    job = Search(load_config("search", options.preset, settings=settings), join(options.device))
    job.begin_at(0)
    job.begin_epoch(1)
    return [float(job.step(1).detach()) for _ in tqdm(range(options.steps), desc=f"{dtype}, seed {seed}", unit="step")]


def smooth(curve: list[float]) -> np.ndarray:
    """Means over windows of steps."""
    return np.convolve(curve, np.ones(WINDOW) / WINDOW, mode="valid")


def compare(curves: dict[tuple[str, int], list[float]]) -> str:
    """What the curves say, in a few lines."""
    smoothed = {key: smooth(curve) for key, curve in curves.items()}
    reference = np.stack([smoothed["float32", seed] for seed in SEEDS])
    spread = np.ptp(reference, axis=0)
    lines = [f"float32: the seeds are {spread.mean():.3f} apart (at most {spread.max():.3f}), last {reference[:, -1]}"]
    for seed in SEEDS:
        apart = np.abs(smoothed["bfloat16", seed] - smoothed["float32", seed])
        lines.append(
            f"bfloat16, seed {seed}: {apart.mean():.3f} from its float32 curve (at most {apart.max():.3f}), within the "
            f"spread of the seeds at {np.mean(apart <= spread):.0%} of steps, last {smoothed['bfloat16', seed][-1]:.3f}"
        )
    return "\n".join(lines)


def draw(curves: dict[tuple[str, int], list[float]], path: Path) -> None:
    """The smoothed curves of all seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for (dtype, seed), curve in curves.items():
        steps = np.arange(WINDOW, len(curve) + 1)
        label = dtype if seed == SEEDS[0] else None
        axes.plot(steps, smooth(curve), color=COLOURS[dtype], linewidth=1.5, label=label)
    axes.set_xlabel("search step")
    axes.set_ylabel(f"training loss, mean of {WINDOW} steps")
    axes.set_title("Search in float32 and in bfloat16, three seeds each", loc="left", fontsize=11)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/loss_curves"))
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    curves = {(dtype, seed): losses(options, seed, dtype) for seed in SEEDS for dtype in DTYPES}
    with options.out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", *(f"{dtype} seed {seed}" for dtype, seed in curves)])
        for step, row in enumerate(zip(*curves.values(), strict=True), 1):
            writer.writerow([step, *(f"{loss:.5f}" for loss in row)])
    draw(curves, options.out.with_suffix(".png"))
    print(compare(curves))


if __name__ == "__main__":
    main()
