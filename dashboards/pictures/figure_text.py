"""Text in matplotlib's figures: one font everywhere, and how wide it runs."""

from __future__ import annotations

from functools import lru_cache

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

#: The picture of cells is 8 inches wide and 800 layout units.
UNITS_PER_INCH = 100.0

_FONT = "DejaVu Sans"  # comes with matplotlib, so that every machine draws the same picture


@lru_cache(maxsize=16)
def font(size: float) -> FontProperties:
    """The font of every text, `size` in points."""
    return FontProperties(family=_FONT, size=size)


@lru_cache(maxsize=256)
def text_width(text: str, size: float) -> float:
    """Width in layout units of a text of `size` points."""
    width_pt, _, _ = text_to_path.get_text_width_height_descent(text, font(size), ismath=False)
    return float(width_pt) * UNITS_PER_INCH / 72
