"""Figures as PNG bytes and SVG text: the same bytes for the same picture, and never through pyplot's global state."""

from __future__ import annotations

import io
import threading
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, MUTED, FAINT = "#22303C", "#6B7680", "#B4BBC1"

# matplotlib takes these two settings from its global parameters only: text stays text (searchable, small files), and
# the salt makes the identifiers inside the file reproducible.
_SVG_SETTINGS: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "snas-orchestrator"}
_svg_lock = threading.Lock()


def figure_png(figure: Figure, dpi: float = 120.0) -> bytes:
    """Encode a figure as PNG.

    Args:
        figure: the figure; it keeps no trace of this call but its canvas.
        dpi: pixels per inch, above 0.

    Raises:
        ValueError: if `dpi` is not above 0.
    """
    if not dpi > 0:
        raise ValueError(f"`dpi` must be above 0, got {dpi}")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def figure_svg(figure: Figure) -> str:
    """Encode a figure as SVG, with text as text."""
    buffer = io.StringIO()
    with _svg_lock:
        before = {name: mpl.rcParams[name] for name in _SVG_SETTINGS}
        mpl.rcParams.update(_SVG_SETTINGS)
        try:
            FigureCanvasSVG(figure).print_figure(buffer, format="svg", metadata={"Date": None, "Creator": None})
        finally:
            mpl.rcParams.update(before)
    return buffer.getvalue()
