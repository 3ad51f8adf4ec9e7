"""Rotatable 3D views of poses."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import plotly.graph_objects as go

from partnas.skeleton import BONES, PARTS
from partnas.viz.colours import bone_colour

MARGIN_MM = 100.0


def upright(joints_camera: np.ndarray) -> np.ndarray:
    """Camera axes (x right, y down, z away) turned to plot axes: x right, y away from the camera, z up."""
    joints = np.asarray(joints_camera, dtype=np.float64)
    return np.stack([joints[..., 0], joints[..., 2], -joints[..., 1]], axis=-1)


def traces(pose: dict[str, Any]) -> list[dict[str, Any]]:
    """A pose as two plotly traces, bones and joints.

    Args:
        pose: ``name``, ``joints_camera`` ``(18, 3)`` in millimetres, and optionally ``colour``; without one the right
            side is orange, the left blue and the trunk green.
    """
    joints = upright(pose["joints_camera"])
    colour = pose.get("colour")
    lines: list[list[float | None]] = [[], [], []]
    colours: list[str] = []
    for bone in BONES:
        for part in (*bone, None):
            for axis in range(3):
                lines[axis].append(None if part is None else round(float(joints[part, axis]), 1))
            colours.append(colour or bone_colour(bone))
    labels = [
        f"{name}<br>({x:.0f}, {y:.0f}, {z:.0f}) mm"
        for name, (x, y, z) in zip(PARTS, pose["joints_camera"], strict=True)
    ]
    shared = {"type": "scatter3d", "name": pose["name"], "legendgroup": pose["name"]}
    return [
        {
            **shared,
            "mode": "lines",
            "x": lines[0], "y": lines[1], "z": lines[2],
            "line": {"color": colour or colours, "width": 7},
            "hoverinfo": "skip",
            "showlegend": bool(colour),
        },
        {
            **shared,
            "mode": "markers",
            "x": joints[:, 0].round(1).tolist(), "y": joints[:, 1].round(1).tolist(), "z": joints[:, 2].round(1).tolist(),
            "marker": {"size": 3.5, "color": colour or "#333333"},
            "text": labels,
            "hovertemplate": "%{text}<extra>" + html.escape(pose["name"]) + "</extra>",
            "showlegend": False,
        },
    ]  # fmt: skip


def scene(poses: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The plotly scene that shows all of the poses at one scale, seen from the camera's side."""
    points = np.concatenate([upright(pose["joints_camera"]) for pose in poses])
    low, high = points.min(0) - MARGIN_MM, points.max(0) + MARGIN_MM
    half = (high - low).max() / 2
    middle = (low + high) / 2
    axes = {}
    for place, (name, title) in enumerate((("xaxis", "x right (mm)"), ("yaxis", "z away (mm)"), ("zaxis", "up (mm)"))):
        axes[name] = {
            "title": {"text": title},
            "range": [round(float(middle[place] - half)), round(float(middle[place] + half))],
            "backgroundcolor": "#F4F6F8",
            "gridcolor": "#D5DAE0",
            "zeroline": False,
        }
    return {
        **axes,
        "aspectmode": "cube",
        "camera": {"eye": {"x": 0.5, "y": -1.7, "z": 0.45}, "up": {"x": 0, "y": 0, "z": 1}},
    }


def figure(poses: Sequence[dict[str, Any]]) -> go.Figure:
    """A rotatable figure of one or several poses; see :func:`traces` for their form."""
    layout = {
        "scene": scene(poses),
        "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
        "legend": {"x": 0.02, "y": 0.98},
        "paper_bgcolor": "white",
    }
    return go.Figure({"data": [trace for pose in poses for trace in traces(pose)], "layout": layout})


def write_html(
    path: Path, poses: Sequence[dict[str, Any]], image: np.ndarray | None = None, title: str = "3D pose"
) -> None:
    """A page of its own, readable offline: the picture, where there is one, beside the rotatable view."""
    view = figure(poses).to_html(
        full_html=False, include_plotlyjs=True, default_height="80vh", config={"displaylogo": False}
    )
    picture = f'<img src="{data_url(image)}" alt="">' if image is not None else ""
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>body{{font:16px system-ui,sans-serif;margin:1.5rem;color:#1f2933}} main{{display:flex;flex-wrap:wrap;gap:1.5rem}}
img{{flex:1 1 300px;max-width:min(100%,45vw);max-height:80vh;object-fit:contain;border-radius:8px}}
main>div{{flex:1 1 420px;min-width:300px}}</style></head>
<body><h1>{html.escape(title)}</h1><main>{picture}{view}</main>
<p>Drag to turn, scroll to zoom. Camera axes in millimetres; the person's right side is orange, the left blue.</p></body></html>
"""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(page, encoding="utf-8")


def data_url(image: np.ndarray) -> str:
    """An RGB picture as a JPEG inside a URL."""
    encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()
