"""The whole job on the embedded sample: search, derive, train, evaluate, predict, report."""

import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from partnas import datasets
from partnas.config import DataConfig, load_config
from partnas.errors import Stopped
from partnas.evaluate import evaluate, table
from partnas.predict import predict
from partnas.run import CHECKPOINT
from partnas.search import search
from partnas.train import train
from partnas.viz.report import write_report
from partnas.viz.summary import write_png

SHOWN = 6


def free_folder(wanted: Path) -> Path:
    """``wanted``, or where a demo has been there already the first free of ``wanted-2``, ``wanted-3`` and so on."""
    names = itertools.chain([wanted], (wanted.with_name(f"{wanted.name}-{n}") for n in itertools.count(2)))
    return next(path for path in names if not path.exists())


def demo(out: Path, seed: int = 0, threads: int | None = None, resume: bool = False) -> Path:
    """Run everything with the ``mini`` preset into ``out``: ``search/``, ``train/``, ``predictions/``, ``report.html``.

    An earlier demo is kept: without ``resume`` this one then goes to :func:`free_folder`. With it the parts that are
    done are kept and an interrupted one goes on.

    Returns:
        The folder.

    Raises:
        Stopped: Ctrl-C; the message says how to go on.
    """
    out = Path(out) if resume else free_folder(Path(out))
    try:
        _run(out, {"seed": seed, "threads": threads}, resume)
    except Stopped:
        raise Stopped(f"{out}: stopped and saved; go on with `partnas demo --out {out} --resume`") from None
    return out


def _run(out: Path, settings: dict[str, Any], resume: bool) -> None:
    began = time.perf_counter()
    found, trained = out / "search", out / "train"
    _say("1/5  search: weights and architecture, in turn")
    genotype = search(load_config("search", "mini", None, settings), found, resume and (found / CHECKPOINT).exists())
    _say(f"2/5  derived cells, in {found / 'genotype.json'}\n{genotype.to_json()}")
    _say("3/5  train the derived network from scratch")
    config = load_config("train", "mini", None, {**settings, "genotype": str(found)})
    train(config, trained, resume and (trained / CHECKPOINT).exists())
    _say("4/5  evaluate, with the flip test, on motions that neither search nor training has seen")
    result = evaluate(trained, config.data, out, flip_test=True)
    _say(table(result))
    _say("5/5  predict on test images, and write the report")
    predict(trained, _test_pictures(config.data, out / "images"), out / "predictions")
    page = write_report(out, search_dir=found, train_dir=trained)
    picture = write_png(out / "summary.png", out)
    _say(json.dumps({key: round(result[key], 1) for key in ("mpjpe_mm", "mean_pose_mpjpe_mm", "pa_mpjpe_mm")}))
    _say(f"open {page} (as a picture: {picture}); {(time.perf_counter() - began) / 60:.1f} minutes")


def _say(text: str) -> None:
    print(text, flush=True)


def _test_pictures(data: DataConfig, folder: Path) -> Path:
    """Copy a few evenly spaced test images into a folder, as a user would have them."""
    paths = datasets.frames(data, datasets.TEST).image_paths
    folder.mkdir(parents=True, exist_ok=True)
    for index in np.linspace(0, len(paths) - 1, SHOWN).round().astype(int):
        source = Path(paths[index])
        (folder / source.name).write_bytes(source.read_bytes())
    return folder
