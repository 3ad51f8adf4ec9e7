"""MPJPE and PA-MPJPE of Human3.6M (section 4.1 of the paper), in millimetres."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from partnas.skeleton import HUMAN36M, Skeleton


def part_errors(predicted: np.ndarray, target: np.ndarray, skeleton: Skeleton = HUMAN36M) -> np.ndarray:
    """Distances after moving both pelves to the origin.

    Args:
        predicted: ``(N, P, 3)`` camera millimetres.
        target: ``(N, P, 3)`` camera millimetres.
        skeleton: Whose parts they are.

    Returns:
        ``(N, E)`` millimetres of the skeleton's evaluated parts; of Human3.6M's, the pelvis is counted and Thorax is not.
    """
    predicted, target = (np.asarray(poses, dtype=np.float64) for poses in (predicted, target))
    root = [skeleton.root]
    difference = (predicted - predicted[:, root]) - (target - target[:, root])
    return np.linalg.norm(difference[:, skeleton.evaluated], axis=-1)


def mpjpe(predicted: np.ndarray, target: np.ndarray, skeleton: Skeleton = HUMAN36M) -> float:
    """Mean of :func:`part_errors` over parts and frames, in millimetres."""
    return float(part_errors(predicted, target, skeleton).mean())


def procrustes(predicted: np.ndarray, target: np.ndarray, scale: bool) -> np.ndarray:
    """Each predicted pose moved onto its target by the best rotation and translation, and scale where asked.

    Args:
        predicted: ``(N, P, 3)``.
        target: ``(N, P, 3)``.
        scale: Whether the size is fitted too.

    Returns:
        ``(N, P, 3)`` float64, in the target's frame. Reflections are never used.
    """
    predicted, target = (np.asarray(poses, dtype=np.float64) for poses in (predicted, target))
    centre_predicted, centre_target = predicted.mean(1, keepdims=True), target.mean(1, keepdims=True)
    a, b = predicted - centre_predicted, target - centre_target
    u, singular, vt = np.linalg.svd(np.swapaxes(a, 1, 2) @ b)  # [N, 3, 3]
    sign = np.ones_like(singular)
    sign[:, 2] = np.sign(np.linalg.det(u @ vt))
    rotation = (u * sign[:, None]) @ vt  # row vectors: a @ rotation
    size = np.ones((len(a), 1, 1))
    if scale:
        energy = (a**2).sum((1, 2))
        size = ((singular * sign).sum(1) / np.where(energy > 0, energy, 1))[:, None, None]
    return size * a @ rotation + centre_target


def aligned_part_errors(
    predicted: np.ndarray, target: np.ndarray, scale: bool, skeleton: Skeleton = HUMAN36M
) -> np.ndarray:
    """Distances of the evaluated parts ``(N, E)`` in millimetres after :func:`procrustes`.

    The public baseline of Moon et al. aligns all 18 parts of Human3.6M, without scale, and then averages over 17; most
    others fit the scale as well. The alignment here is on all parts both ways.
    """
    return np.linalg.norm(procrustes(predicted, target, scale) - target, axis=-1)[:, skeleton.evaluated]


def pa_mpjpe(predicted: np.ndarray, target: np.ndarray, scale: bool, skeleton: Skeleton = HUMAN36M) -> float:
    """Mean of :func:`aligned_part_errors` over parts and frames, in millimetres."""
    return float(aligned_part_errors(predicted, target, scale, skeleton).mean())


def per_action(errors: np.ndarray, actions: np.ndarray) -> dict[str, float]:
    """Mean of the errors ``(N, E)`` of each action's frames, by name."""
    return {str(name): float(errors[actions == name].mean()) for name in np.unique(actions)}


def pose_report(
    predicted: np.ndarray,
    target: np.ndarray,
    actions: Sequence[str] | np.ndarray,
    groups: Sequence[Sequence[int]] | None = None,
    mean_pose: np.ndarray | None = None,
    skeleton: Skeleton = HUMAN36M,
) -> dict[str, Any]:
    """All figures of an evaluation, means over frames.

    Args:
        predicted: ``(N, P, 3)`` camera millimetres.
        target: ``(N, P, 3)`` camera millimetres.
        actions: ``(N,)`` names.
        groups: Part groups, for the mean error of each.
        mean_pose: ``(P, 3)`` root-relative; what a predictor that ignores the image would say, whose
            ``mean_pose_mpjpe_mm`` is None where this is.
        skeleton: Whose parts they are.
    """
    evaluated = skeleton.evaluated
    errors = part_errors(predicted, target, skeleton)  # [N, E]
    aligned = aligned_part_errors(predicted, target, False, skeleton)
    scaled = aligned_part_errors(predicted, target, True, skeleton)
    actions = np.asarray(actions)
    report: dict[str, Any] = {
        "frames": len(errors),
        "mpjpe_mm": float(errors.mean()),
        "pa_mpjpe_mm": float(aligned.mean()),
        "pa_mpjpe_scaled_mm": float(scaled.mean()),
        "per_part_mm": {skeleton.parts[part]: float(errors[:, place].mean()) for place, part in enumerate(evaluated)},
        "per_action_mm": per_action(errors, actions),
        "per_action_pa_mm": per_action(aligned, actions),
        "per_action_pa_scaled_mm": per_action(scaled, actions),
    }
    if groups is not None:
        places = [[evaluated.index(part) for part in group if part in evaluated] for group in groups]
        report["per_group_mm"] = [float(errors[:, place].mean()) if place else None for place in places]
    report["mean_pose_mpjpe_mm"] = (
        None if mean_pose is None else mpjpe(np.broadcast_to(mean_pose, np.shape(target)), target, skeleton)
    )
    return report
