"""Poses in 3D: the plot's axes, rotatable figures, and a page of its own for one."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from partnas.errors import PartnasError
from partnas.skeleton import HUMAN36M, Skeleton
from partnas.viz.colours import FAINT_INK, RULE, bone_colour, side_colour
from partnas.viz.page import TEMPLATE, data_url, embed, write_page, write_plotly

MARGIN_MM = 100.0
BONE_WIDTH, PLAIN_WIDTH = 8.0, 6.0
AXES = {"xaxis": "x, right (mm)", "yaxis": "z, away (mm)", "zaxis": "−y, up (mm)"}
DIAGONAL = 1.45
EYE = {"x": 0.65, "y": -1.9, "z": 0.35}
"""The scene's size and where it is seen from, in plotly's units: the camera's side, a little to the right and above."""


def upright(joints_camera: np.ndarray) -> np.ndarray:
    """Camera axes (x right, y down, z away) turned to plot axes: x right, y away from the camera, z up."""
    joints = np.asarray(joints_camera, dtype=np.float64)
    return np.stack([joints[..., 0], joints[..., 2], -joints[..., 1]], axis=-1)


def seen_from(points: np.ndarray, turn: float, tilt: float) -> np.ndarray:
    """Plot axes ``(..., 3)`` as ``(..., 3)`` right, up and away for a viewer who went ``turn`` to the right and ``tilt`` up.

    Both in degrees; at 0 and 0 the view is the camera's, without perspective.
    """
    turn, tilt = np.radians((turn, tilt))
    x, y, z = np.moveaxis(np.asarray(points, dtype=np.float64), -1, 0)
    right = np.cos(turn) * x + np.sin(turn) * y
    away = np.cos(turn) * y - np.sin(turn) * x
    return np.stack([right, np.cos(tilt) * z + np.sin(tilt) * away, np.cos(tilt) * away - np.sin(tilt) * z], axis=-1)


def traces(pose: dict[str, Any], skeleton: Skeleton = HUMAN36M) -> list[go.Scatter3d]:
    """A pose as two traces, bones and joints; pointing at a joint tells its part, its camera coordinates and its error.

    Args:
        pose: ``name``; ``joints_camera`` ``(P, 3)`` in millimetres; optionally ``colour``, without which the person's
            right side is orange, the left blue and the trunk green; and optionally ``compared``, ``(P, 3)`` joints of
            the same person, the distance to which is the error.
        skeleton: Whose parts they are.

    Raises:
        PartnasError: A pose has another shape, or one of its coordinates is not finite.
    """
    camera = _joints(pose, "joints_camera", skeleton)
    joints = upright(camera).round(1)
    colour = pose.get("colour")
    labels = [
        f"<b>{name.replace('_', ' ')}</b><br>({x:.0f}, {y:.0f}, {z:.0f}) mm"
        for name, (x, y, z) in zip(skeleton.parts, camera, strict=True)
    ]
    if pose.get("compared") is not None:
        errors = np.linalg.norm(camera - _joints(pose, "compared", skeleton), axis=1)
        labels = [f"{label}<br>error {error:.0f} mm" for label, error in zip(labels, errors, strict=True)]
    ends = [
        [*joints[list(bone)].tolist(), [None] * 3] for bone in skeleton.bones
    ]  # None breaks the line between two bones
    x, y, z = zip(*(end for bone in ends for end in bone), strict=True)
    name = html.escape(pose["name"], quote=False)
    return [
        go.Scatter3d(
            x=x, y=y, z=z, mode="lines", name=name, hoverinfo="skip",
            line={
                "color": colour or [bone_colour(bone, skeleton) for bone in skeleton.bones for _ in range(3)],
                "width": PLAIN_WIDTH if colour else BONE_WIDTH,
            },
        ),
        go.Scatter3d(
            x=joints[:, 0].tolist(), y=joints[:, 1].tolist(), z=joints[:, 2].tolist(), mode="markers", name=name,
            marker={"size": 4, "color": colour or [side_colour(part) for part in skeleton.parts]},
            text=labels, hovertemplate="%{text}<extra>" + name + "</extra>",
        ),
    ]  # fmt: skip


def scene(poses: Sequence[dict[str, Any]], skeleton: Skeleton = HUMAN36M) -> dict[str, Any]:
    """Axes that hold all of the poses, one millimetre as long on each, seen from the camera's side."""
    points = upright(np.concatenate([_joints(pose, "joints_camera", skeleton) for pose in poses]))
    low, high = np.floor(points.min(0) - MARGIN_MM), np.ceil(points.max(0) + MARGIN_MM)
    axes = {
        name: {
            "title": {"text": title, "font": {"size": 12}},
            "range": [low[place], high[place]],
            "color": FAINT_INK,
            "tickfont": {"size": 10},
            "nticks": 6,
            "showbackground": True,
            "backgroundcolor": "#F5F7F9",
            "gridcolor": RULE,
            "zeroline": False,
            "showspikes": False,
        }
        for place, (name, title) in enumerate(AXES.items())
    }
    # The diagonal has one length whatever the poses, so that turning never takes the box out of the view.
    ratio = DIAGONAL * (high - low) / np.linalg.norm(high - low)
    return {
        **axes,
        "dragmode": "orbit",
        "aspectmode": "manual",
        "aspectratio": dict(zip("xyz", ratio.tolist(), strict=True)),
        "camera": {"eye": EYE, "center": {"x": 0, "y": 0, "z": -0.1}, "up": {"x": 0, "y": 0, "z": 1}},
    }


def figure(poses: Sequence[dict[str, Any]], skeleton: Skeleton = HUMAN36M) -> go.Figure:
    """A rotatable figure of ``poses``, see :func:`traces`. Another one in its place keeps the view that it was turned to.

    Raises:
        PartnasError: There is no pose; or see :func:`traces`.
    """
    if not len(poses):
        raise PartnasError("poses: none given; give at least one")
    return go.Figure(
        data=[trace for pose in poses for trace in traces(pose, skeleton)],
        layout={
            "template": TEMPLATE,
            "scene": scene(poses, skeleton),
            "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
            "showlegend": False,
            "uirevision": "kept",
        },
    )


def write_html(
    path: Path,
    poses: Sequence[dict[str, Any]],
    image: np.ndarray | None = None,
    title: str = "3D pose",
    skeleton: Skeleton = HUMAN36M,
) -> None:
    """A page readable offline: the picture, where there is one, beside the rotatable view.

    The pages of a folder share the ``plotly.min.js`` that the first one puts beside itself.

    Args:
        path: Written whole or not at all.
        poses: See :func:`traces`.
        image: ``(H, W, 3)`` RGB uint8.
        title: Of the page.
        skeleton: Whose parts they are.

    Raises:
        PartnasError: See :func:`figure`.
    """
    path = Path(path)
    view = embed(figure(poses, skeleton), "pose", "min(78vh, 95vw)", plotly_beside=True, bar=True)
    write_plotly(path.parent)
    write_page(
        path,
        "pose.html.j2",
        title=title,
        picture=data_url(image) if image is not None else "",
        sided=not all(pose.get("colour") for pose in poses),
        view=view,
    )


def _joints(pose: dict[str, Any], field: str, skeleton: Skeleton) -> np.ndarray:
    joints = np.asarray(pose[field], dtype=np.float64)
    count = len(skeleton.parts)
    if joints.shape != (count, 3) or not np.isfinite(joints).all():
        raise PartnasError(
            f"poses: {pose['name']!r}: {field} has shape {joints.shape}; give ({count}, 3) finite millimetres"
        )
    return joints
