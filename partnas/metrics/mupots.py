"""3DPCK of MuPoTS-3D (section 4.2 of the paper), as the data set's own evaluator computes it.

Per frame the annotated people are matched to predictions in 2D, predicted bones are brought to the annotated lengths,
and a joint counts as right where it is less than 150 mm off. Figures are per cent: of a sequence, then the mean over
the sequences. Joints are the 17 of :data:`partnas.skeleton.MUPOTS`, whose order is that of the evaluator.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from partnas.skeleton import MUPOTS

THRESHOLD = 150.0
"""Millimetres; the error must be below."""

AUC_THRESHOLDS = np.arange(0.0, 155.0, 5.0)
MATCHING_RADIUS = 40.0
"""Pixels, in x and in y; the distance must be below."""

MATCHING_JOINTS = slice(1, 14)
EVALUATED = slice(0, 14)
PARENTS = (1, 15, 1, 2, 3, 1, 5, 6, 14, 8, 9, 14, 11, 12, 14, 14, 1)
"""The joint from which each joint's bone comes; both heads hang on the thorax, and the pelvis on itself."""

FROM_ROOT_OUTWARD = (15, 1, 0, 16, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13)
JOINT_GROUPS = {
    "Head": (0,),
    "Neck": (1,),
    "Shoulders": (2, 5),
    "Elbows": (3, 6),
    "Wrists": (4, 7),
    "Hips": (8, 11),
    "Knees": (9, 12),
    "Ankles": (10, 13),
}


@dataclass(frozen=True)
class People:
    """People of many frames, annotated or predicted.

    Attributes:
        frames: ``(N,)`` names such as ``TS1_img_000000``; what comes before the first ``_`` is the sequence.
        image: ``(N, 17, 2)`` pixels.
        camera: ``(N, 17, 3)`` camera millimetres.
    """

    frames: np.ndarray
    image: np.ndarray
    camera: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)

    def by_frame(self) -> dict[str, np.ndarray]:
        """The places of each frame's people, in their order."""
        order = np.argsort(self.frames, kind="stable")
        names, starts = np.unique(self.frames[order], return_index=True)
        return dict(zip(names.tolist(), np.split(order, starts[1:]), strict=False))

    def sequences(self) -> np.ndarray:
        """``(N,)`` the sequence of each person."""
        return np.array([name.partition("_")[0] for name in self.frames.tolist()], dtype=str)


def match(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Which prediction belongs to which annotated person of one frame.

    In the order of the annotations, each takes the unused prediction with the most of 13 joints within 40 pixels in x
    and in y (the first of several); none where no joint is. A predicted joint at exactly (0, 0) counts as not predicted.

    Args:
        truth: ``(G, 17, 2)`` pixels.
        predicted: ``(M, 17, 2)`` pixels.

    Returns:
        ``(G,)`` places in ``predicted``, -1 for an unmatched person.
    """
    truth, predicted = truth[:, MATCHING_JOINTS], predicted[:, MATCHING_JOINTS]
    near = (np.abs(truth[:, None] - predicted[None]) < MATCHING_RADIUS).all(-1)  # [G, M, 13]
    scores = (near & predicted.any(-1)).sum(-1)  # [G, M]
    matched = np.full(len(truth), -1)
    if not len(predicted):
        return matched
    for person, score in enumerate(scores):
        best = score.argmax()
        if score[best] > 0:
            matched[person] = best
            scores[:, best] = 0
    return matched


def match_frames(truth: People, predicted: People) -> np.ndarray:
    """:func:`match` for every frame: ``(N,)`` places in ``predicted`` of the N annotated people, -1 for unmatched."""
    matched = np.full(len(truth), -1)
    predictions = predicted.by_frame()
    for frame, people in truth.by_frame().items():
        places = predictions.get(frame)
        if places is None:
            continue
        found = match(truth.image[people], predicted.image[places])
        matched[people] = np.where(found < 0, -1, places[found])
    return matched


def with_bones_of(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The predicted poses with the annotated bone lengths, from the pelvis outward; each bone keeps its direction.

    Args:
        predicted: ``(N, 17, 3)`` millimetres.
        truth: ``(N, 17, 3)`` millimetres.

    Returns:
        ``(N, 17, 3)`` millimetres, NaN beyond a predicted bone that has no length.
    """
    bones = predicted - predicted[:, PARENTS]
    length = np.linalg.norm(truth - truth[:, PARENTS], axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        bones = bones * (length / np.linalg.norm(bones, axis=-1, keepdims=True))
    rescaled = predicted.copy()
    for joint in FROM_ROOT_OUTWARD:
        rescaled[:, joint] = rescaled[:, PARENTS[joint]] + bones[:, joint]
    return rescaled


def joint_errors(truth: np.ndarray, predicted: np.ndarray, relative: bool) -> np.ndarray:
    """Distances of matched people after :func:`with_bones_of`.

    Args:
        truth: ``(N, 17, 3)`` camera millimetres.
        predicted: ``(N, 17, 3)`` camera millimetres.
        relative: Whether both pelves are moved to the origin first.

    Returns:
        ``(N, 14)`` millimetres. A NaN counts as missed: it is below no threshold.
    """
    truth, predicted = (np.asarray(poses, dtype=np.float64) for poses in (truth, predicted))
    if relative:
        truth, predicted = (poses - poses[:, [MUPOTS.root]] for poses in (truth, predicted))
    return np.linalg.norm(with_bones_of(predicted, truth) - truth, axis=-1)[:, EVALUATED]


def pck_report(truth: People, predicted: People) -> dict[str, Any]:
    """All figures of the evaluator.

    ``relative`` and ``absolute`` each hold ``all`` (an unmatched person is missed with all joints) and ``matched`` (is
    left out), and these ``pck``, ``auc``, ``pck_per_sequence``, ``auc_per_sequence`` and ``pck_per_joint``, in per
    cent. A sequence in which nobody was matched has no ``matched`` figure (None) and does not enter its mean.
    """
    matched = match_frames(truth, predicted)
    found = matched >= 0
    frames = set(truth.frames.tolist())
    report: dict[str, Any] = {
        "people": len(truth),
        "matched_people": int(found.sum()),
        "frames": len(frames),
        "frames_without_predictions": len(frames - set(predicted.frames.tolist())),
        "predictions": len(predicted),
    }
    for name, relative in (("relative", True), ("absolute", False)):
        errors = np.full((len(truth), 14), np.inf)
        errors[found] = joint_errors(truth.camera[found], predicted.camera[matched[found]], relative)
        sequences = truth.sequences()
        report[name] = {"all": _figures(errors, sequences, sequences)}
        report[name]["matched"] = _figures(errors[found], sequences[found], sequences)
    return report


def _figures(errors: np.ndarray, sequences: np.ndarray, all_sequences: np.ndarray) -> dict[str, Any]:
    """The figures of ``errors`` ``(N, 14)`` of people of the ``sequences`` ``(N,)``."""
    names = sorted(set(all_sequences.tolist()), key=lambda name: (len(name), name))
    parts = [errors[sequences == name] for name in names]
    pck = [_share(part < THRESHOLD) for part in parts]
    auc = [_share(part[..., None] < AUC_THRESHOLDS) for part in parts]
    return {
        "pck": _mean(pck),
        "auc": _mean(auc),
        "pck_per_sequence": dict(zip(names, pck, strict=True)),
        "auc_per_sequence": dict(zip(names, auc, strict=True)),
        "pck_per_joint": {
            group: _mean([_share(part[:, list(joints)] < THRESHOLD) for part in parts])
            for group, joints in JOINT_GROUPS.items()
        },
    }


def _share(right: np.ndarray) -> float | None:
    return 100 * float(right.mean()) if right.size else None


def _mean(figures: list[float | None]) -> float | None:
    known = [figure for figure in figures if figure is not None]
    return sum(known) / len(known) if known else None
