"""3D poses of the people in ordinary images."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from partnas.data import (
    crop_image,
    expand_box,
    k_values,
    normalise,
    read_boxes,
    read_camera,
    read_image,
    roots_to_camera,
    voxels_to_camera,
)
from partnas.distributed import join
from partnas.errors import PartnasError
from partnas.evaluate import project, write_jpeg
from partnas.files import require_writable
from partnas.inference import predict_roots, predict_voxels
from partnas.networks import for_inference, load_pose_network, load_root_network
from partnas.nn import RootNet
from partnas.run import write_atomically, write_json
from partnas.skeleton import Skeleton
from partnas.viz.overlay import draw_pose
from partnas.viz.pose3d import write_html

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


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


def names_of(files: list[Path]) -> list[str]:
    """What the pictures of each image are named by: its name without the suffix, or with it where that is needed to tell
    two images apart."""
    stems, names = Counter(file.stem for file in files), {file.name for file in files}
    return [file.name if stems[file.stem] > 1 or file.stem in names else file.stem for file in files]


def require_apart(files: list[Path], out: Path) -> None:
    """See that the pictures do not go among the images, where the next run would take them for images.

    Raises:
        PartnasError: They would.
    """
    if files[0].parent.resolve() == out.resolve():
        raise PartnasError(
            f"{out}: is the folder of the images, among which the overlays would be; choose another --out"
        )


def predict(
    run: Path,
    images: Path,
    out: Path,
    boxes: Path | None = None,
    camera: Path | None = None,
    root_net: Path | None = None,
    flip_test: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """Predict every person in every image; write ``predictions.json``, overlays and rotatable 3D views under ``out``.

    A person is a box; without ``boxes`` the whole image is one. His root's depth is what the file of boxes says, or else
    what the network of the run ``root_net`` predicts, or else k (see :func:`partnas.data.k_values`), which is that
    network's estimate without its learned correction; errors of the depth scale the pose as a whole. The poses are
    absolute, so that the people of an image stand together in the camera's space.

    Returns:
        What ``predictions.json`` holds.

    Raises:
        PartnasError: A missing or broken image, box file, camera file or checkpoint, or ``out`` cannot be written or is
            the folder of the images. Nothing is written then.
    """
    files, out = image_files(Path(images)), Path(out)
    require_apart(files, out)
    require_writable(out)
    people_of = read_boxes(boxes) if boxes else {}
    unknown = set(people_of) - {file.name for file in files}
    if unknown:
        raise PartnasError(f"{boxes}: names {sorted(unknown)[0]!r}, which is not among the images; mend the name")
    world = join(device)
    network = for_inference(load_pose_network(run)).to(world.device)
    root_network = for_inference(load_root_network(root_net)).to(world.device) if root_net else None
    skeleton = network.space.body
    records, pictures = [], []
    for file in tqdm(files, desc="predict", unit="image", disable=None if progress else True):
        image = read_image(file, upright=True)
        height, width = image.shape[:2]
        focal, principal = read_camera(camera, (width, height))
        people = people_of.get(file.name) or ([] if boxes else [{"bbox": [0, 0, width, height]}])
        found = [
            predict_person(
                network, root_network, image, person, focal, principal, flip_test, world.device, f"{boxes}: {file.name}"
            )
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
    for record, name, (file, image) in zip(records, names_of(files), pictures, strict=True):
        write_pictures(out, name, file.name, image, record["people"], skeleton)
    write_json(out / "predictions.json", result)
    return result


def predict_person(
    network: torch.nn.Module,
    root_network: RootNet | None,
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
    box = crop_box(person, image, where)
    if "root_depth" in person:
        depth, depth_from = person["root_depth"], "boxes file"
    elif root_network is not None:
        crop = as_input(image, box, root_network.input_size, device)
        found = predict_roots(root_network, crop, flip_test, root_network.heatmap_size).float().cpu().numpy()
        root = roots_to_camera(found, box[None], focal[None], principal[None], root_network.heatmap_size)[0]
        depth, depth_from = float(root[2]), "root net"
        if not depth > 0:
            raise PartnasError(
                f"{where}: bbox {person['bbox']}: the root network's depth is {depth:.0f} mm; train it for longer, or "
                "leave out --root-net"
            )
    else:
        depth, depth_from = float(k_values(box[2] * box[3], focal)), "box area"
    crop = as_input(image, box, space.input_size, device)
    voxels = predict_voxels(network, crop, flip_test, space.heatmap_size).float().cpu().numpy()
    joints = voxels_to_camera(
        voxels, box[None], focal[None], principal[None], np.array([depth]), space.heatmap_size, space.depth
    )[0]
    pixels = project(joints, focal, principal)
    parts = space.body.parts
    return {
        "bbox": [float(v) for v in person["bbox"]],
        "root_depth_mm": round(depth, 2),
        "root_depth_from": depth_from,
        "joints_camera": {name: [round(float(v), 2) for v in joint] for name, joint in zip(parts, joints, strict=True)},
        "joints_image": {name: [round(float(v), 2) for v in joint] for name, joint in zip(parts, pixels, strict=True)},
    }


def crop_box(person: dict[str, Any], image: np.ndarray, where: str) -> np.ndarray:
    """The extended box ``(4,)`` of a person; one that comes with a root is extended already."""
    bbox, (height, width) = np.asarray(person["bbox"], dtype=np.float64), image.shape[:2]
    box = expand_box(bbox, (width, height))
    if box is None:
        raise PartnasError(f"{where}: bbox {person['bbox']} lies outside the {width}x{height} image; mend the box")
    return bbox if "root_depth" in person else box


def as_input(image: np.ndarray, box: np.ndarray, size: int, device: torch.device) -> torch.Tensor:
    """The crop of a box as a batch of one, ``(1, 3, size, size)``."""
    return torch.from_numpy(normalise(crop_image(image, box, size)))[None].to(device)


def write_pictures(
    out: Path, name: str, title: str, image: np.ndarray, people: list[dict[str, Any]], skeleton: Skeleton
) -> None:
    """The overlay of everybody in an image, ``NAME_overlay.jpg``, and one rotatable 3D page, ``NAME_3d.html``."""
    overlay = image
    for person in sorted(people, key=lambda person: -person["root_depth_mm"]):  # the nearest is drawn last
        overlay = draw_pose(overlay, np.array(list(person["joints_image"].values())), skeleton=skeleton)
    poses = []
    for place, person in enumerate(people):
        joints = np.array(list(person["joints_camera"].values()))
        shown = joints - joints[skeleton.root] if len(people) == 1 else joints
        poses.append({"name": f"person {place + 1}", "joints_camera": shown})
    write_atomically(out / f"{name}_overlay.jpg", lambda path: write_jpeg(path, overlay))
    if poses:
        write_html(out / f"{name}_3d.html", poses, overlay, title, skeleton)
