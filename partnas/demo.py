"""The whole job on the embedded sample: search, derive, train, evaluate, predict, report."""

import json
import time
from pathlib import Path

import numpy as np

from partnas import datasets
from partnas.config import DataConfig, load_config
from partnas.evaluate import evaluate, table
from partnas.predict import predict
from partnas.run import CHECKPOINT
from partnas.search import search
from partnas.train import train
from partnas.viz.report import write_report
from partnas.viz.summary import write_png

SHOWN = 6


def demo(out: Path, seed: int = 0, threads: int | None = None, resume: bool = False) -> None:
    """Run everything with the ``mini`` preset into ``out``: ``search/``, ``train/``, ``predictions/``, ``report.html``.

    With ``resume`` the parts that are done are kept and an interrupted one goes on.
    """
    began = time.perf_counter()
    out = Path(out)
    settings = {"seed": seed, "threads": threads}
    found, trained = out / "search", out / "train"

    print("1/5  search: weights and architecture, in turn")
    genotype = search(load_config("search", "mini", None, settings), found, resume and (found / CHECKPOINT).exists())
    print(f"2/5  derived cells, in {found / 'genotype.json'}\n{genotype.to_json()}")
    print("3/5  train the derived network from scratch")
    config = load_config("train", "mini", None, {**settings, "genotype": str(found)})
    train(config, trained, resume and (trained / CHECKPOINT).exists())
    print("4/5  evaluate on clips that neither search nor training has seen")
    result = evaluate(trained, config.data, out, flip_test=False)
    print(table(result))
    print("5/5  predict on test images, and write the report")
    predict(trained, _test_pictures(config.data, out / "images"), out / "predictions")
    page = write_report(out, search_dir=found, train_dir=trained)
    picture = write_png(out / "summary.png", out)
    minutes = (time.perf_counter() - began) / 60
    print(json.dumps({key: round(result[key], 1) for key in ("mpjpe_mm", "mean_pose_mpjpe_mm", "pa_mpjpe_mm")}))
    print(f"open {page} (summary: {picture}); {minutes:.1f} minutes")


def _test_pictures(data: DataConfig, folder: Path) -> Path:
    """Copy a few evenly spaced test images into a folder, as a user would have them."""
    paths = datasets.frames(data, datasets.TEST).image_paths
    folder.mkdir(parents=True, exist_ok=True)
    for index in np.linspace(0, len(paths) - 1, SHOWN).round().astype(int):
        source = Path(paths[index])
        (folder / source.name).write_bytes(source.read_bytes())
    return folder
