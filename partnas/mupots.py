"""Measuring a network, or another program's result files, on MuPoTS-3D (section 4.2 of the paper)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from partnas import flops
from partnas.data import Frames, PoseDataset
from partnas.data.annotations import read_file, read_images
from partnas.data.mupots import ANNOTATIONS, FOLDER, read_mupots
from partnas.datasets import own_folder
from partnas.distributed import join
from partnas.errors import PartnasError
from partnas.evaluate import require_root_depths
from partnas.files import require_writable
from partnas.inference import predict_set
from partnas.metrics.mupots import People, pck_report
from partnas.metrics.mupots_files import (
    frame_key,
    has_annotations,
    read_annotations,
    read_results,
    scipy_io,
    write_results,
)
from partnas.networks import for_inference, load_pose_network
from partnas.protocol_tables import mupots_table
from partnas.protocols import trained_on
from partnas.roots import ANNOTATED, has_annotated_boxes
from partnas.run import write_json
from partnas.skeleton import MUPOTS, Skeleton


def root_named(data: Sequence[str]) -> Path | None:
    """The set's folder that ``["mupots=DIR"]`` names, ``DIR`` itself or ``DIR/MuPoTS``; None where it names other sets.

    Raises:
        PartnasError: Another set stands beside it, or there is no such folder.
    """
    roots = [value.removeprefix("mupots=") for value in data if value.startswith("mupots=")]
    if not roots:
        return None
    if len(data) > 1:
        raise PartnasError("--data: mupots is measured by itself; leave the other sets out")
    root = Path(roots[0])
    if not root.is_dir():
        raise PartnasError(f"{root}: no such folder; name that of MuPoTS-3D, which holds data/MuPoTS-3D.json")
    return own_folder(root, "mupots")


def evaluate_mupots(
    run: Path,
    root: Path,
    out: Path,
    roots: Path | None = None,
    skip_broken: bool = False,
    flip_test: bool = False,
    batch_size: int = 32,
    workers: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """Measure a run's network, and write ``evaluation.json``, ``table7`` and the evaluator's result files under ``out``.

    Args:
        run: A training's folder or checkpoint; its network must predict all 17 parts of the set.
        root: The data set's folder, which holds ``data/MuPoTS-3D.json``.
        out: Where to write.
        roots: A file of boxes and root positions, as RootNet writes; the annotated boxes and depths where None.
        skip_broken: Whether to leave out broken annotations and images, and list them, instead of raising.
        flip_test: Whether to average with the mirrored image's prediction.
        batch_size: Crops of a step.
        workers: Loader processes.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: Whether to show a bar.

    Returns:
        What ``evaluation.json`` holds: :func:`partnas.metrics.mupots.pck_report` and what it was measured with;
        ``trained_on`` is what :func:`partnas.protocols.trained_on` finds.

    Raises:
        PartnasError: The checkpoint or the data set is broken or missing, the network lacks a part, ``out`` cannot be
            written, or scipy is missing.
    """
    scipy_io()
    require_writable(out)
    trained = trained_on(run)
    world = join(device)
    network = load_pose_network(run).to(world.device)
    space = network.space
    skeleton = require_mupots_parts(space.body, run)
    annotated = read_mupots(root, skip_broken=skip_broken)
    people = annotated if roots is None else read_mupots(root, roots, skip_broken)
    require_root_depths(people, str(roots))
    images = image_keys(root, skip_broken)
    truth, truth_file = true_people(root, annotated)
    dataset = PoseDataset(people.mapped_to(skeleton), space.input_size, space.heatmap_size, space.depth)
    title = "evaluate" if progress else None
    camera = predict_set(for_inference(network), dataset, batch_size, world.device, flip_test, workers, title)
    predicted = predicted_people(camera, people, skeleton)
    write_results(out, predicted, np.union1d(images, truth.frames).tolist())
    result = {
        "data": root.resolve().name,
        "trained_on": trained,
        "roots": "annotation" if roots is None else roots.name,
        "boxes": ANNOTATED if roots is None or has_annotated_boxes(roots) else roots.name,
        "truth": truth_file,
        "skipped": list(dict.fromkeys(annotated.skipped + people.skipped)),
        "left_out": annotated.left_out,
        "flip_test": flip_test,
        **pck_report(truth, predicted),
        **flops.count(network, space.input_size),
    }
    mupots_table(result, str(run)).write(out, "table7")
    write_json(out / "evaluation.json", result)
    return result


def score(results: Path, root: Path, out: Path | None = None, skip_broken: bool = False) -> dict[str, Any]:
    """The same figures from the two result files in ``results``, this program's or another's.

    Args:
        results: Folder of ``preds_2d_kpt_mupots.mat`` and ``preds_3d_kpt_mupots.mat``.
        root: The data set's folder.
        out: Where to write ``evaluation.json`` and ``table7``; nothing is written where None.
        skip_broken: As for :func:`evaluate_mupots`.

    Raises:
        PartnasError: A file is broken or missing, a result is of a sequence that is not in the set, ``out``
            cannot be written, or scipy is missing.
    """
    if out is not None:
        require_writable(out)
    annotated = read_mupots(root, skip_broken=skip_broken)
    truth, truth_file = true_people(root, annotated)
    predicted = read_results(results)
    strangers = predicted.frames[~np.isin(predicted.sequences(), truth.sequences())]
    if len(strangers):
        raise PartnasError(f"{results}: {strangers[0]} is of no sequence of {root}; name the set that was predicted")
    result = {
        "data": root.resolve().name,
        "trained_on": None,
        "roots": "result files",
        "boxes": "result files",
        "truth": truth_file,
        "skipped": annotated.skipped,
        "left_out": annotated.left_out,
        **pck_report(truth, predicted),
    }
    if out is not None:
        mupots_table(result, str(results)).write(out, "table7")
        write_json(out / "evaluation.json", result)
    return result


def require_mupots_parts(skeleton: Skeleton, run: Path) -> Skeleton:
    """``skeleton``, where it has all parts that the evaluator needs to bring bones to the annotated lengths.

    Raises:
        PartnasError: It lacks some.
    """
    lacking = [part for part in MUPOTS.parts if part not in skeleton.parts]
    if lacking:
        raise PartnasError(
            f"{run}: predicts the {len(skeleton.parts)} parts of {skeleton.name}, without {', '.join(lacking)}, which "
            "MuPoTS-3D's evaluator needs; train on MuCo-3DHP"
        )
    return skeleton


def frame_keys(source: Frames) -> np.ndarray:
    """``(N,)`` the evaluator's name of each person's image."""
    return np.array([frame_key(name.decode()) for name in source.image_names.tolist()], dtype=str)


def image_keys(root: Path, skip_broken: bool) -> np.ndarray:
    """``(I,)`` the evaluator's name of each image of the set, whether people of it are left out or not."""
    path = root / ANNOTATIONS
    images = read_images(path, read_file(path, MUPOTS.parts)[0], {}, skip_broken)
    return np.array([frame_key(name.decode()) for name in images["file_name"].tolist()], dtype=str)


def predicted_people(camera: np.ndarray, source: Frames, skeleton: Skeleton) -> People:
    """Predictions ``(N, P, 3)`` in camera millimetres of the people of ``source``, in the evaluator's part order."""
    camera = camera[:, skeleton.places_of(MUPOTS.parts)].astype(np.float64)
    image = camera[..., :2] / camera[..., 2:] * source.focal[:, None] + source.principal[:, None]
    return People(frame_keys(source), image, camera)


def true_people(root: Path, annotated: Frames) -> tuple[People, str]:
    """Whom to compare with, and the name of the file that they are from.

    The evaluator's own ``annot.mat`` files where the set's folder holds them, all their people: as there, those of an
    image that ``MuPoTS-3D.json`` lacks are missed. Else ``annotated`` itself.

    Raises:
        PartnasError: Some sequences have an ``annot.mat`` and others not, or one is broken.
    """
    folder = root / FOLDER
    if not has_annotations(folder):
        return People(frame_keys(annotated), annotated.joints_image, annotated.joints_camera), "MuPoTS-3D.json"
    return read_annotations(folder, np.unique(annotated.action).tolist()), "annot.mat"


def check_annotations(root: Path) -> list[str]:
    """What is wrong with the ``annot.mat`` files of a MuPoTS-3D below ``root``; nothing where there are none.

    Raises:
        PartnasError: There are some, and scipy is missing.
    """
    folder = own_folder(root, "mupots") / FOLDER
    if not has_annotations(folder):
        return []
    scipy_io()
    try:
        read_annotations(folder, [path.name for path in sorted(folder.glob("TS*")) if path.is_dir()])
    except PartnasError as error:
        return [str(error)]
    return []


def table(result: dict[str, Any]) -> str:
    """The figures of ``evaluation.json`` that a person wants first."""
    lines = [f"{'people':<24}{result['people']:>10}", f"{'  matched':<24}{result['matched_people']:>10}", ""]
    lines.append(f"{'':<24}{'3DPCK':>10}{'AUC':>10}")
    for kind in ("relative", "absolute"):
        for mode in ("all", "matched"):
            figures = result[kind][mode]
            lines.append(f"{kind + ', ' + mode:<24}{_percent(figures['pck'])}{_percent(figures['auc'])}")
    lines += ["", f"{'relative, all':<24}{'3DPCK':>10}"]
    lines += [f"  {name:<22}{_percent(pck)}" for name, pck in result["relative"]["all"]["pck_per_joint"].items()]
    lines += [f"  {name:<22}{_percent(pck)}" for name, pck in result["relative"]["all"]["pck_per_sequence"].items()]
    return "\n".join(lines)


def _percent(figure: float | None) -> str:
    return f"{'–' if figure is None else f'{figure:.1f}':>10}"
