"""3D poses of the people in ordinary images."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from partnas.data import crop_image, expand_box, normalise, read_boxes, read_camera, read_image, voxels_to_camera
from partnas.distributed import join
from partnas.errors import PartnasError
from partnas.evaluate import project, write_jpeg
from partnas.inference import predict_voxels
from partnas.networks import for_inference, load_pose_network
from partnas.run import write_atomically, write_json
from partnas.skeleton import Skeleton
from partnas.viz.overlay import draw_pose
from partnas.viz.pose3d import write_html

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
PERSON_AREA_MM2 = 2000.0 * 2000.0


def image_files(path: Path) -> list[Path]:
    """The image itself, or the images of a folder in the order of their names."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise PartnasError(f"{path}: no such image or folder; check the path")
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise PartnasError(f"{path}: holds no image ({' '.join(sorted(IMAGE_SUFFIXES))}); name another folder")
    return found


def predict(
    run: Path,
    images: Path,
    out: Path,
    boxes: Path | None = None,
    camera: Path | None = None,
    flip_test: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """Predict every person in every image; write ``predictions.json``, overlays and rotatable 3D views under ``out``.

    A person is a box; without ``boxes`` the whole image is one. Where no root depth is given, it is estimated as
    sqrt(2000 mm * 2000 mm * fx * fy / area of the extended box), RootNet's k without its learned correction; errors of
    that depth scale the pose as a whole.

    Returns:
        What ``predictions.json`` holds.

    Raises:
        PartnasError: A missing or broken image, box file, camera file or checkpoint. Nothing is written then.
    """
    files = image_files(Path(images))
    people_of = read_boxes(boxes) if boxes else {}
    unknown = set(people_of) - {file.name for file in files}
    if unknown:
        raise PartnasError(f"{boxes}: names {sorted(unknown)[0]!r}, which is not among the images; mend the name")
    world = join(device)
    network = for_inference(load_pose_network(run)).to(world.device)
    skeleton = network.space.body
    records, pictures = [], []
    for file in tqdm(files, desc="predict", unit="image", disable=None if progress else True):
        image = read_image(file)
        height, width = image.shape[:2]
        focal, principal = read_camera(camera, (width, height))
        people = people_of.get(file.name) or ([] if boxes else [{"bbox": [0, 0, width, height]}])
        found = [
            predict_person(network, image, person, focal, principal, flip_test, world.device, f"{boxes}: {file.name}")
            for person in people
        ]
        records.append({"image": file.name, "width": width, "height": height, "people": found})
        pictures.append((file, image))
    result = {
        "format": "partnas.predictions",
        "version": 1,
        "skeleton": skeleton.name,
        "parts": list(skeleton.parts),
        "units": {"joints_camera": "millimetres", "joints_image": "pixels"},
        "axes": "camera: x to the right of the image, y down, z away from the camera; origin at the camera",
        "images": records,
    }
    for record, (file, image) in zip(records, pictures, strict=True):
        write_pictures(Path(out), file, image, record["people"], skeleton)
    write_json(Path(out) / "predictions.json", result)
    return result


def predict_person(
    network: torch.nn.Module,
    image: np.ndarray,
    person: dict[str, Any],
    focal: np.ndarray,
    principal: np.ndarray,
    flip_test: bool,
    device: torch.device,
    where: str,
) -> dict[str, Any]:
    """One person's entry in ``predictions.json``."""
    space = network.space
    height, width = image.shape[:2]
    box = expand_box(np.asarray(person["bbox"], dtype=np.float64), (width, height))
    if box is None:
        raise PartnasError(f"{where}: bbox {person['bbox']} lies outside the {width}x{height} image; mend the box")
    given_depth = person.get("root_depth")
    depth = given_depth or float(np.sqrt(PERSON_AREA_MM2 * focal[0] * focal[1] / (box[2] * box[3])))
    tensor = torch.from_numpy(normalise(crop_image(image, box, space.input_size)))[None].to(device)
    voxels = predict_voxels(network, tensor, flip_test, space.heatmap_size).float().cpu().numpy()
    joints = voxels_to_camera(
        voxels, box[None], focal[None], principal[None], np.array([depth]), space.heatmap_size, space.depth
    )[0]
    pixels = project(joints, focal, principal)
    parts = space.body.parts
    return {
        "bbox": [float(v) for v in person["bbox"]],
        "root_depth_mm": round(depth, 2),
        "root_depth_from": "boxes file" if given_depth else "box area",
        "joints_camera": {name: [round(float(v), 2) for v in joint] for name, joint in zip(parts, joints, strict=True)},
        "joints_image": {name: [round(float(v), 2) for v in joint] for name, joint in zip(parts, pixels, strict=True)},
    }


def write_pictures(out: Path, file: Path, image: np.ndarray, people: list[dict[str, Any]], skeleton: Skeleton) -> None:
    """The overlay of everybody in an image, and one rotatable 3D page."""
    overlay = image
    poses = []
    for place, person in enumerate(people):
        joints = np.array(list(person["joints_camera"].values()))
        overlay = draw_pose(overlay, np.array(list(person["joints_image"].values())), skeleton=skeleton)
        shown = joints - joints[skeleton.root] if len(people) == 1 else joints
        poses.append({"name": f"person {place + 1}", "joints_camera": shown})
    write_atomically(out / f"{file.stem}_overlay.jpg", lambda path: write_jpeg(path, overlay))
    if poses:
        write_html(out / f"{file.stem}_3d.html", poses, overlay, file.name, skeleton)
