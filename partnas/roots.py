"""The roots of a data set's people by a trained root network: measured, or written for other programs to read."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from partnas import datasets, flops
from partnas.config import DataConfig
from partnas.data import Frames, RootDataset
from partnas.data.records import read_json
from partnas.distributed import join
from partnas.errors import PartnasError
from partnas.files import require_writable_file
from partnas.inference import predict_roots, predict_set
from partnas.metrics import root_report
from partnas.networks import load_root_network
from partnas.nn import RootNet
from partnas.run import write_json

ANNOTATED = "annotation"
"""What ``bbox_from`` says of an annotated box."""


def evaluate_roots(
    network: RootNet, data: DataConfig, batch_size: int, device: torch.device, flip_test: bool, progress: bool
) -> dict[str, Any]:
    """Mean root position error on the test subjects, in camera millimetres.

    Beside it stands that of two predictors which do not look at the picture. ``mean_root`` says of every crop the mean
    place and the mean gamma of the training people, and is left out where their files are not there; ``box_area`` says its middle and gamma = 1, which is what
    ``partnas predict`` does without a root network.

    Raises:
        PartnasError: The data set is broken or missing, or the depth of none of its people is known.
    """
    test = datasets.frames(data, datasets.TEST)
    known = np.flatnonzero(test.has_depth)
    if not len(known):
        raise PartnasError(f"{test.name}: no person's depth is annotated; evaluate on a set with 3D annotations")
    dataset = datasets.as_root_dataset(test.subset(known), network.input_size, data)
    training = datasets.training_frames(data)
    title = "evaluate" if progress else None
    predicted = predict_set(network, dataset, batch_size, device, flip_test, data.workers, title, predict_roots)
    middle = network.heatmap_size / 2
    constants = {"box_area": np.array([middle, middle, 1.0])}
    if training is not None:
        targets = datasets.as_root_dataset(training, network.input_size, data).targets()
        constants["mean_root"] = np.nanmean(targets, axis=0)
    baselines = {name: dataset.to_camera(np.tile(root, (len(dataset), 1))) for name, root in constants.items()}
    return {
        **root_report(predicted, dataset.roots(), dataset.source.action, baselines),
        "protocol": data.protocol,
        "flip_test": flip_test,
        "data": datasets.name_of(data),
        "skipped": test.skipped,
        **flops.count(network, network.input_size),
    }


def write_roots(
    run: Path,
    people: Frames,
    out: Path,
    flip_test: bool = False,
    batch_size: int = 32,
    device: str = "auto",
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Write people's roots as the public RootNet does, for ``partnas evaluate --roots`` and others.

    A root that is not in front of the camera is refused, not moved: no reader of the file could use it, and a depth that
    was made up here would pass for the network's.

    Returns:
        What ``out`` holds: for each person ``image_id``, ``file_name``, ``bbox`` (the extended box), ``bbox_from``
        (``annotation``), ``root_cam`` in camera millimetres and ``score``, which is 1 as the boxes are annotations.

    Raises:
        PartnasError: The checkpoint or an image is broken or missing, a root is not in front of the camera, or ``out``
            cannot be written. Nothing is written then.
    """
    require_writable_file(out)
    world = join(device)
    network = load_root_network(run).to(world.device)
    dataset = datasets.as_root_dataset(people, network.input_size, DataConfig())
    title = "roots" if progress else None
    roots = predict_set(network, dataset, batch_size, world.device, flip_test, progress=title, predict=predict_roots)
    entries = _entries(dataset, roots)
    for entry in entries:
        if not entry["root_cam"][2] > 0:
            raise PartnasError(
                f"{run}: image_id {entry['image_id']}: the root network's depth is {entry['root_cam'][2]} mm, which is "
                "not in front of the camera; train it for longer"
            )
    write_json(out, entries)
    return entries


def has_annotated_boxes(path: Path) -> bool:
    """Whether a file of roots says that boxes of it are annotated ones, as what :func:`write_roots` writes does.

    Raises:
        PartnasError: The file is missing or broken.
    """
    return any(isinstance(entry, dict) and entry.get("bbox_from") == ANNOTATED for entry in read_json(path))


def _entries(dataset: RootDataset, roots: np.ndarray) -> list[dict[str, Any]]:
    source = dataset.source
    return [
        {
            "image_id": image_id,
            "file_name": name.decode(),
            "bbox": box,
            "bbox_from": ANNOTATED,
            "root_cam": root,
            "score": 1.0,
        }
        for image_id, name, box, root in zip(
            source.image_ids.tolist(),
            source.image_names.tolist(),
            dataset.boxes.round(3).tolist(),
            roots.round(2).tolist(),
            strict=True,
        )
    ]


def roots_table(result: dict[str, Any]) -> str:
    """The figures of a root network's ``evaluation.json`` for a person to read."""
    names = {"mean_root": "  of the mean training root", "box_area": "  of the box's area alone"}
    beside = result["baselines_mrpe_mm"]
    rows = {"MRPE": result["mrpe_mm"]} | {text: beside[name] for name, text in names.items() if name in beside}
    lines = [
        f"{'frames':<36}{result['frames']:>10}",
        f"{'mm':<36}" + "".join(f"{name:>10}" for name in result["mrpe_mm"]),
    ]
    lines += [f"{name:<36}" + "".join(f"{value:>10.1f}" for value in errors.values()) for name, errors in rows.items()]
    lines += [f"{'  ' + action:<36}{error:>10.1f}" for action, error in result["mrpe_per_action_mm"].items()]
    return "\n".join(lines)
