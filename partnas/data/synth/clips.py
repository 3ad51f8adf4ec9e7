"""The DeepMimic motion-capture clips, read from the installed ``pybullet_data`` (never copied)."""

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from partnas.data.synth import rotations
from partnas.errors import PartnasError

LINKS = (
    "root", "chest", "neck", "right_hip", "right_knee", "right_ankle", "right_shoulder", "right_elbow",
    "left_hip", "left_knee", "left_ankle", "left_shoulder", "left_elbow",
)  # fmt: skip
HINGES = {"right_knee": -1, "left_knee": -1, "right_elbow": 1, "left_elbow": 1}
"""Links with one angle about z, and the sign of its flexion."""
PARENTS = {
    "chest": "root", "neck": "chest", "right_hip": "root", "right_knee": "right_hip", "right_ankle": "right_knee",
    "right_shoulder": "chest", "right_elbow": "right_shoulder", "left_hip": "root", "left_knee": "left_hip",
    "left_ankle": "left_knee", "left_shoulder": "chest", "left_elbow": "left_shoulder",
}  # fmt: skip
NUMBERS = 44
"""Numbers in a frame: duration, root position 3, root quaternion 4, then LINKS[1:] (hinges 1, others 4)."""
LEG_LENGTH = 0.8314
"""Metres from hip to ankle in the clips' humanoid (0.421640 + 0.409870)."""


@dataclass(frozen=True)
class Pose:
    """One instant of a clip: ``root`` [3] metres (y up), ``rotations`` [13, 4] in the order of LINKS, to the parent."""

    root: np.ndarray
    rotations: np.ndarray


@dataclass(frozen=True)
class Clip:
    """A motion: ``times`` [F] s, ``roots`` [F, 3] metres (y up, x forward), ``rotations`` [F, 13, 4] (w, x, y, z)."""

    name: str
    times: np.ndarray
    roots: np.ndarray
    rotations: np.ndarray

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the last."""
        return float(self.times[-1])

    def sample(self, time: float) -> Pose:
        """The pose at ``time`` seconds (clamped), interpolated between the two frames around it."""
        time = float(np.clip(time, 0, self.duration))
        after = int(np.clip(np.searchsorted(self.times, time, side="right"), 1, len(self.times) - 1))
        before = after - 1
        share = (time - self.times[before]) / max(self.times[after] - self.times[before], 1e-9)
        root = (1 - share) * self.roots[before] + share * self.roots[after]
        return Pose(root, rotations.slerp(self.rotations[before], self.rotations[after], share))


def parse_clip(text: str, source: str, name: str) -> Clip:
    """Read the text of a DeepMimic motion file.

    Raises:
        PartnasError: not JSON, no "Frames", or a frame that has not 44 numbers.
    """
    try:
        frames = np.asarray(json.loads(text)["Frames"], dtype=np.float64)
    except (ValueError, KeyError, TypeError) as error:
        raise PartnasError(f'{source}: no readable list "Frames" of equal rows; reinstall pybullet') from error
    if frames.ndim != 2 or frames.shape[1] != NUMBERS or len(frames) < 2:
        raise PartnasError(f'{source}: field "Frames" has shape {frames.shape}, wanted (2 or more, {NUMBERS})')
    times = np.concatenate([[0.0], np.cumsum(np.maximum(frames[:-1, 0], 1e-4))])
    quaternions, column = [rotations.normalise(frames[:, 4:8])], 8
    for link in LINKS[1:]:
        if link in HINGES:
            quaternions.append(rotations.from_axis_angle(np.array([0.0, 0.0, 1.0]), frames[:, column]))
            column += 1
        else:
            quaternions.append(rotations.normalise(frames[:, column : column + 4]))
            column += 4
    return Clip(name, times, frames[:, 1:4], np.stack(quaternions, axis=1))


def load_clip(name: str) -> Clip:
    """Read clip ``name`` ("walk", …) from the installed pybullet.

    Raises:
        PartnasError: pybullet is not installed, or it has no such clip.
    """
    # The folder is found without importing it: only its data files are wanted.
    spec = importlib.util.find_spec("pybullet_data")
    if spec is None or spec.origin is None:
        raise PartnasError(
            "pybullet is not installed, and the motion clips are read from it: pip install 'partnas[synth]'"
        )
    path = Path(spec.origin).parent / "data" / "motions" / f"humanoid3d_{name}.txt"
    if not path.is_file():
        raise PartnasError(f"{path}: no such motion clip; reinstall pybullet")
    return parse_clip(path.read_text(), str(path), name)
