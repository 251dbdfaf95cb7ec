"""Look of the operations: colour, dashes and short name, and how probability shows in them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

Colour = tuple[float, float, float]

#: The picture is 8 inches wide and 800 layout units.
UNITS_PER_INCH = 100.0

_FONT = "DejaVu Sans"  # comes with matplotlib, so that every machine draws the same picture


@dataclass(frozen=True)
class OperationStyle:
    """Look of one primitive: `label` on its edges, `colour`, `dashes` as on-off lengths in points (empty: solid)."""

    label: str
    colour: str
    dashes: tuple[float, ...] = ()


#: Okabe and Ito's palette, which stays apart under the common colour deficiencies, and two of Tol's for the rare ones.
STYLES: dict[str, OperationStyle] = {
    "max_pool_3x3": OperationStyle("max 3x3", "#D55E00", (6, 2)),
    "avg_pool_3x3": OperationStyle("avg 3x3", "#E69F00", (3, 1.6)),
    "skip_connect": OperationStyle("skip", "#545E68"),
    "sep_conv_3x3": OperationStyle("sep 3x3", "#0072B2"),
    "sep_conv_5x5": OperationStyle("sep 5x5", "#56B4E9", (12, 2)),
    "dil_conv_3x3": OperationStyle("dil 3x3", "#009E73", (9, 2, 2, 2)),
    "dil_conv_5x5": OperationStyle("dil 5x5", "#CC79A7", (9, 2, 2, 2, 2, 2)),
    "sep_conv_7x7": OperationStyle("sep 7x7", "#332288", (18, 2)),
    "conv_7x1_1x7": OperationStyle("7x1 1x7", "#882255", (12, 2, 2, 2)),
}


def edge_width(probability: float) -> float:
    """Line width in points of an edge whose operation has this probability."""
    return 0.8 + 1.6 * probability


def edge_colour(primitive: str, probability: float) -> Colour:
    """Colour of an edge, paler when less probable; a tint, because transparent dashes would show what lies below."""
    return _mixed(STYLES[primitive].colour, "white", 0.62 * (1 - probability))


def label_colour(primitive: str, probability: float) -> Colour:
    """Colour of an edge's name; darker than the edge, because small letters need more contrast than lines."""
    return _mixed(_mixed(STYLES[primitive].colour, "black", 0.4), "white", 0.3 * (1 - probability))


@lru_cache(maxsize=16)
def font(size: float) -> FontProperties:
    """The font of every text, `size` in points."""
    return FontProperties(family=_FONT, size=size)


@lru_cache(maxsize=256)
def text_width(text: str, size: float) -> float:
    """Width in layout units of a text of `size` points."""
    width_pt, _, _ = text_to_path.get_text_width_height_descent(text, font(size), ismath=False)
    return float(width_pt) * UNITS_PER_INCH / 72


def _mixed(colour: str | Colour, other: str, share: float) -> Colour:
    red, green, blue = (
        (1 - share) * own + share * mixed for own, mixed in zip(to_rgb(colour), to_rgb(other), strict=True)
    )
    return red, green, blue
