"""What the HTML pages have in common: their templates, plotly, and pictures and data inside the page."""

import base64
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
import plotly.graph_objects as go
import plotly.offline
from markupsafe import Markup
from plotly.io.json import to_json_plotly

from partnas.files import write_text
from partnas.viz import colours

FOLDER = Path(__file__).parent
PLOTLY_FILE = "plotly.min.js"
"""The name by which plotly's ``include_plotlyjs="directory"`` looks for its source beside a page."""

CONFIG = {"responsive": True, "displaylogo": False, "showSendToCloud": False}
"""Of every plotly figure; nothing on a page sends its data anywhere."""

_AXIS = {
    "gridcolor": colours.RULE, "linecolor": colours.RULE, "zeroline": False, "tickcolor": colours.RULE,
    "tickfont": {"color": colours.FAINT_INK}, "title": {"font": {"color": colours.FAINT_INK, "size": 12}, "standoff": 8},
}  # fmt: skip
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": colours.INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "colorway": colours.CURVES,
        "xaxis": {**_AXIS, "showgrid": False, "showline": True, "ticks": "outside", "ticklen": 4},
        "yaxis": _AXIS,
        "hoverlabel": {"bgcolor": "white", "font": {"color": colours.INK}},
        "dragmode": False,
    }
)
"""How every plotly figure looks. Dragging is left to scrolling, but for 3D views."""


def write_page(path: Path, template: str, **values: Any) -> None:
    """Fill a template, which escapes every value that is not ``Markup``, and write the page whole or not at all."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    sides = (("right side", colours.RIGHT), ("left side", colours.LEFT), ("trunk", colours.TRUNK))
    write_text(path, environment.get_template(template).render(sides=sides, **values))


def write_plotly(folder: Path) -> None:
    """Put plotly's source into a folder whose pages refer to it, unless it is there already."""
    path, source = folder / PLOTLY_FILE, plotly_source()
    if not path.exists() or path.read_text(encoding="utf-8") != source:
        write_text(path, source)


def plotly_source() -> Markup:
    return Markup(plotly.offline.get_plotlyjs())


def embed(figure: go.Figure, name: str, height: str, plotly_beside: bool = False, bar: bool = False) -> Markup:
    """A figure as an HTML element with a script that draws it.

    Args:
        figure: What to draw.
        name: The element's id.
        height: With its unit, as in CSS.
        plotly_beside: Load plotly from the file that :func:`write_plotly` writes; else the page holds it already.
        bar: Show plotly's buttons to who points at the figure.
    """
    return Markup(
        figure.to_html(
            full_html=False, include_plotlyjs="directory" if plotly_beside else False, div_id=name,
            default_height=height, config=CONFIG | {"displayModeBar": "hover" if bar else False},
        )
    )  # fmt: skip


def as_script(value: Any) -> Markup:
    """Figures and plain values as JSON that cannot end the script element it stands in."""
    return Markup(to_json_plotly(value))


def data_url(image: np.ndarray) -> str:
    """An ``(H, W, 3)`` RGB uint8 picture as a JPEG inside a URL."""
    encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()
