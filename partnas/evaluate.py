"""Measuring a trained network on the test subjects of a protocol (sections 4.1 and 4.2 of the paper)."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from partnas import datasets, flops
from partnas.config import DataConfig
from partnas.data import Frames, PoseDataset, crop_image, mean_pose, read_image
from partnas.distributed import join
from partnas.errors import PartnasError
from partnas.files import require_writable
from partnas.inference import predict_set
from partnas.metrics import mpjpe, pose_report
from partnas.networks import for_inference, load_trained_network
from partnas.nn import RootNet
from partnas.protocol_tables import human36m_table
from partnas.protocols import require_unseen, trained_on
from partnas.roots import evaluate_roots, roots_table
from partnas.run import write_atomically, write_json
from partnas.skeleton import Skeleton

EXAMPLES = 12
EXAMPLE_SIDE = 256


def evaluate(
    run: Path,
    data: DataConfig,
    out: Path,
    flip_test: bool = False,
    batch_size: int = 32,
    device: str = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """Evaluate a run's network and write ``evaluation.json``, ``predictions.json`` and ``examples/`` under ``out``; of a
    root network (see :func:`partnas.roots.evaluate_roots`) ``evaluation.json`` alone.

    ``table5`` (protocol 1) or ``table6`` (protocol 2), as ``.md`` and ``.csv``, is the paper's table with this network
    in a row of its own.

    The poses are compared in camera millimetres relative to the pelvis, back-projected at the root depth of the
    annotation. ``mean_pose_mpjpe_mm`` is what predicting the mean pose of the training subjects would give; None
    where their files are not there. ``trained_on`` is what :func:`partnas.protocols.trained_on` finds.

    Returns:
        What ``evaluation.json`` holds.

    Raises:
        PartnasError: The checkpoint or the data set is broken or missing, the run was trained on one of the test
            subjects, or ``out`` cannot be written.
    """
    require_writable(out)
    trained = trained_on(run)
    require_unseen(run, trained, data)
    world = join(device)
    network = load_trained_network(run).to(world.device)
    if isinstance(network, RootNet):
        result = evaluate_roots(network, data, batch_size, world.device, flip_test, progress)
        result["trained_on"] = trained
        write_json(out / "evaluation.json", result)
        return result
    space = network.space
    test, training = datasets.frames(data, datasets.TEST), datasets.training_frames(data)
    require_skeleton(space.body, test.skeleton, run)
    require_root_depths(test, data.roots)
    dataset = datasets.as_dataset(test, space, data)
    title = "evaluate" if progress else None
    predicted = predict_set(for_inference(network), dataset, batch_size, world.device, flip_test, data.workers, title)
    target = dataset.source.joints_camera
    skeleton = dataset.source.skeleton
    groups = space.part_groups()
    mean = None if training is None else mean_pose(training)
    result = pose_report(predicted, target, dataset.source.action, groups, mean, skeleton)
    result |= {
        "skeleton": skeleton.name,
        "part_groups": [[skeleton.parts[part] for part in group] for group in groups],
        "protocol": data.protocol,
        "trained_on": trained,
        "test_stride": data.test_stride,
        "flip_test": flip_test,
        "data": datasets.name_of(data),
        "roots": Path(data.roots).name if data.roots else "annotation",
        "skipped": test.skipped,
        "left_out": test.left_out,
        **flops.count(network, space.input_size),
    }
    write_examples(out, dataset, predicted)
    human36m_table(result, str(run)).write(out, "table5" if data.protocol == 1 else "table6")
    write_json(out / "evaluation.json", result)
    return result


def require_skeleton(predicted: Skeleton, annotated: Skeleton, run: Path) -> None:
    """See that a network predicts the parts that a set annotates.

    Raises:
        PartnasError: They differ.
    """
    if predicted != annotated:
        raise PartnasError(
            f"{run}: predicts the parts of {predicted.name}, the set annotates those of {annotated.name}; evaluate on a "
            "set like the one that it was trained on"
        )


def require_root_depths(people: Frames, roots: str | None) -> None:
    """See that everybody's root depth is known.

    Raises:
        PartnasError: Somebody's is not.
    """
    unknown = np.flatnonzero(np.isnan(people.root_depth))
    if len(unknown):
        raise PartnasError(
            f"{roots}: image_id {people.image_ids[unknown[0]]}: field 'root_cam' is missing; give [X, Y, Z] in millimetres"
        )


def write_examples(out: Path, dataset: PoseDataset, predicted: np.ndarray) -> None:
    """Write the crops and poses of evenly spaced frames for the report."""
    source, skeleton = dataset.source, dataset.source.skeleton
    chosen = np.unique(np.linspace(0, len(source) - 1, EXAMPLES).round().astype(int))
    examples = []
    for place, frame in enumerate(chosen):
        box = dataset.boxes[frame]
        picture = crop_image(read_image(source.image_paths[frame]), box, EXAMPLE_SIDE)
        name = f"examples/{place:02d}.jpg"
        write_atomically(out / name, lambda path, picture=picture: write_jpeg(path, picture))
        to_crop = EXAMPLE_SIDE / box[2:]
        target = source.joints_camera[frame]
        projected = project(predicted[frame], source.focal[frame], source.principal[frame])
        examples.append(
            {
                "image": name,
                "source": Path(source.image_paths[frame]).name,
                "action": str(source.action[frame]),
                "joints_image": ((projected - box[:2]) * to_crop).round(2).tolist(),
                "target_image": ((source.joints_image[frame] - box[:2]) * to_crop).round(2).tolist(),
                "predicted_mm": (predicted[frame] - predicted[frame][skeleton.root]).round(2).tolist(),
                "target_mm": (target - target[skeleton.root]).round(2).tolist(),
                "mpjpe_mm": round(float(mpjpe(predicted[frame][None], target[None], skeleton)), 2),
            }
        )
    write_json(out / "predictions.json", examples)


def project(joints_camera: np.ndarray, focal: np.ndarray, principal: np.ndarray) -> np.ndarray:
    """Pixels ``(P, 2)`` of camera points ``(P, 3)`` in millimetres."""
    return joints_camera[:, :2] / joints_camera[:, 2:] * focal + principal


def write_jpeg(path: Path, picture: np.ndarray) -> None:
    encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    path.write_bytes(encoded.tobytes())


def table(result: dict[str, Any]) -> str:
    """The figures of ``evaluation.json`` that a person wants first."""
    if "mrpe_mm" in result:
        return roots_table(result)
    rows = [
        ("frames", f"{result['frames']}"),
        ("MPJPE", f"{result['mpjpe_mm']:.1f} mm"),
    ]
    if (mean := result["mean_pose_mpjpe_mm"]) is not None:
        rows += [("  of the mean training pose", f"{mean:.1f} mm"), ("  ratio", f"{result['mpjpe_mm'] / mean:.3f}")]
    rows += [
        ("PA-MPJPE, rotation and translation", f"{result['pa_mpjpe_mm']:.1f} mm"),
        ("PA-MPJPE, with scale", f"{result['pa_mpjpe_scaled_mm']:.1f} mm"),
    ]
    rows += [(f"  {action}", f"{error:.1f} mm") for action, error in result["per_action_mm"].items()]
    return "\n".join(f"{name:<36}{value:>12}" for name, value in rows)
