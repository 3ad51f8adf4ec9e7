"""The anny body: shapes, surface fields for clothes and hair, posing, and the 17 joints of Human3.6M.

Heavy packages (torch, anny) are imported when a body is made. No network is used.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from partnas.data.synth import rotations
from partnas.data.synth.clips import LEG_LENGTH, Pose
from partnas.data.synth.retarget import bone_turns
from partnas.errors import PartnasError

HEAD_TOP, NOSE = 881, 297
"""Vertices of anny's own topology."""
JOINT_BONES = {
    1: "upperleg01.R", 2: "lowerleg01.R", 3: "foot.R", 4: "upperleg01.L", 5: "lowerleg01.L", 6: "foot.L",
    7: "spine02", 8: "neck01", 11: "upperarm01.L", 12: "lowerarm01.L", 13: "wrist.L",
    14: "upperarm01.R", 15: "lowerarm01.R", 16: "wrist.R",
}  # fmt: skip
"""Joint index in Human3.6M order -> the bone whose head it is."""
AVERAGE = {"gender": 0.5, "age": 0.7, "muscle": 0.5, "weight": 0.5, "height": 0.4, "proportions": 0.6}
GROUND_SLACK = 0.08
"""Metres that a body may hover by retargeting alone: a smaller gap to the ground is closed."""


def cache_folder() -> Path:
    """Where the body model's cache lies: ``$ANNY_CACHE_DIR``, or partnas' own folder in the user's cache directory."""
    if os.environ.get("ANNY_CACHE_DIR"):
        return Path(os.environ["ANNY_CACHE_DIR"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "partnas" / "anny"


@dataclass(frozen=True)
class Surface:
    """What does not change with pose: ``canonical`` [V, 3] metres of an average body standing on z = 0, ``arm`` [V]
    (0 at the shoulder, 1 at the wrist, −1 off the arms), ``part`` [V, 3] weights of head, foot and eye,
    ``faces`` [F, 3], ``landmarks`` name -> [3] in canonical metres."""

    canonical: np.ndarray
    arm: np.ndarray
    part: np.ndarray
    faces: np.ndarray
    landmarks: dict


@dataclass(frozen=True)
class Posed:
    """A posed body, z up, ground at z = 0, root over the origin: ``vertices`` [V, 3] and ``joints`` [17, 3] in metres,
    and the head's rigid motion ``head`` [4, 4] from rest with the resting ``eyes`` midpoint [3]."""

    vertices: np.ndarray
    joints: np.ndarray
    head: np.ndarray
    eyes: np.ndarray


class Body:
    """The anny model, loaded once a process (the first load ever takes about a minute and fills ``cache_folder()``)."""

    def __init__(self):
        try:
            import anny
            import torch
            from anny.paths import set_anny_cache_path
        except ImportError as error:
            raise PartnasError(f"{error.name} is not installed: pip install 'partnas[synth]'") from error
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        set_anny_cache_path(folder)
        self._torch = torch
        with torch.no_grad():
            self._model = anny.Anny(pose_parameterization="world-orient")
        # Only the compact basis is read again; the two files it was made from weigh 740 MB.
        if not os.environ.get("ANNY_CACHE_DIR"):
            for pattern in ("load_data_*", "build_model_data_*"):
                for path in folder.glob(f"*/{pattern}"):
                    path.unlink(missing_ok=True)
        self.labels = list(self._model.bone_labels)
        self.parents = [int(parent) for parent in self._model.bone_parents]
        self.surface = self._surface()

    def rest(self, shape: dict[str, float]) -> dict:
        """Rest vertices [V, 3], bone heads by name and bone poses [J, 4, 4] of a shape (anny's phenotype values)."""
        torch, model = self._torch, self._model
        with torch.no_grad():
            parameters = model._parse_parameter_kwargs(shape, model.phenotype_labels, 0.5, "shape")
            none = torch.zeros(1, 0, dtype=parameters.dtype)
            coefficients = model._get_phenotype_blendshape_coefficients(parameters, none, none)
            rest = model.get_rest_model(coefficients)
        heads = rest["rest_bone_heads"][0].numpy()
        return {
            "vertices": rest["rest_vertices"][0].numpy(),
            "heads": dict(zip(self.labels, heads, strict=True)),
            "poses": rest["rest_bone_poses"][0].numpy(),
        }

    def pose(self, rest: dict, pose: Pose, thickness=None) -> Posed:
        """Pose a resting body; ``thickness`` [V] metres of cloth and hair pushes the skin outward along its normals."""
        torch, model = self._torch, self._model
        turns = bone_turns(pose, rest["heads"], self.labels, self.parents)
        delta = np.tile(np.eye(4), (len(self.labels), 1, 1))
        delta[:, :3, :3] = turns @ rest["poses"][:, :3, :3]
        vertices = rest["vertices"]
        if thickness is not None:
            vertices = vertices + thickness[:, None] * vertex_normals(vertices, self.surface.faces)
        with torch.no_grad():
            transforms, poses = model.get_bone_transforms(
                torch.from_numpy(delta)[None], torch.from_numpy(rest["poses"])[None]
            )
            skinned = model.get_skinned_vertices(torch.from_numpy(vertices)[None], transforms)[0].numpy()
        heads = poses[0, :, :3, 3].numpy()
        joints = np.empty((17, 3))
        for joint, bone in JOINT_BONES.items():
            joints[joint] = heads[self.labels.index(bone)]
        joints[0] = (joints[1] + joints[4]) / 2
        joints[9], joints[10] = skinned[NOSE], skinned[HEAD_TOP]
        head = transforms[0, self.labels.index("head")].numpy()
        legs = [rest["heads"][f"{bone}.L"] for bone in ("upperleg01", "lowerleg01", "foot")]
        leg = np.linalg.norm(legs[1] - legs[0]) + np.linalg.norm(legs[2] - legs[1])
        offset = ground_offset(skinned, joints[0], pose.root[1] * leg / LEG_LENGTH)
        head = head.copy()
        head[:3, 3] += offset
        eyes = (rest["heads"]["eye.L"] + rest["heads"]["eye.R"]) / 2
        return Posed(skinned + offset, joints + offset, head, eyes)

    def _surface(self) -> Surface:
        rest = self.rest(AVERAGE)
        floor = rest["vertices"][:, 2].min()
        canonical = rest["vertices"] - [0, 0, floor]
        heads = {name: head - [0, 0, floor] for name, head in rest["heads"].items()}
        weights = np.zeros((len(canonical), len(self.labels)))
        index = self._model.vertex_bone_indices.numpy()
        np.add.at(weights, (np.arange(len(canonical))[:, None], index), self._model.vertex_bone_weights.numpy())

        def share(*starts):
            chosen = [i for i, label in enumerate(self.labels) if label.startswith(starts)]
            return weights[:, chosen].sum(1)

        part = np.stack([share("head", "neck02", "neck03", "eye"), share("foot", "toe"), share("eye")], axis=1)
        on_arm = share("upperarm", "lowerarm", "wrist", "finger", "metacarpal")
        arm = np.full(len(canonical), -1.0)
        for side, sign in (("L", 1), ("R", -1)):
            shoulder, elbow, wrist = (heads[f"{bone}.{side}"] for bone in ("upperarm01", "lowerarm01", "wrist"))
            along = _along(canonical, shoulder, elbow, wrist)
            mine = (on_arm > 0.3) & (canonical[:, 0] * sign > 0)
            arm[mine] = along[mine]
        landmarks = {
            "eyes": (heads["eye.L"] + heads["eye.R"]) / 2,
            "hip": heads["upperleg01.L"], "knee": heads["lowerleg01.L"], "ankle": heads["foot.L"],
            "neck": heads["neck01"], "shoulder": heads["upperarm01.L"], "crown": canonical[HEAD_TOP],
            "nose": canonical[NOSE],
        }  # fmt: skip
        return Surface(canonical, arm, part, self._model.get_triangular_faces().numpy().astype(np.int32), landmarks)


def _along(points, shoulder, elbow, wrist):
    """Position [V] along an arm: 0 shoulder, 0.5 elbow, 1 wrist, more on the hand."""
    result = np.empty(len(points))
    upper, lower = elbow - shoulder, wrist - elbow
    first = (points - shoulder) @ upper / (upper @ upper)
    second = (points - elbow) @ lower / (lower @ lower)
    bisector = rotations.normalise(rotations.normalise(upper) + rotations.normalise(lower))
    beyond = (points - elbow) @ bisector > 0
    result[:] = np.where(beyond, 0.5 + 0.5 * np.maximum(second, 0), 0.5 * np.minimum(first, 1))
    return result


def ground_offset(vertices, pelvis, height):
    """Translation [3] that puts the pelvis over the origin at ``height`` metres and the body on or above z = 0.

    A sunken body is lifted, and one that hovers by at most GROUND_SLACK is set down (a higher one is in flight).
    """
    lowest = vertices[:, 2].min() - pelvis[2] + height
    correction = -lowest if lowest < 0 else -min(lowest, GROUND_SLACK)
    return np.array([-pelvis[0], -pelvis[1], height - pelvis[2] + correction])


def vertex_normals(vertices, faces):
    """Unit normals [V, 3], outward, by the area-weighted mean of the faces around each vertex."""
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = np.stack(
        [np.bincount(faces.ravel(), np.repeat(normals[:, axis], 3), len(vertices)) for axis in range(3)], axis=1
    )
    return rotations.normalise(total)
