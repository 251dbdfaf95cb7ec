"""Colours and layout that all charts share, for light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

ThemeName = Literal["light", "dark"]

#: Okabe and Ito's colours, apart under the common colour deficiencies; on dark paper the dark ones are lightened.
_CATEGORIES: dict[ThemeName, tuple[str, ...]] = {
    "light": ("#0072B2", "#C14E00", "#00795A", "#A8447D", "#8A5A00", "#4B5B8C", "#545E68"),
    "dark": ("#56B4E9", "#F0863A", "#2FC796", "#E09AC1", "#E6B422", "#A4B4E8", "#B3BDC6"),
}
#: Marker and dash of the same series, so that a chart reads without colours.
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "5px,2px,1px,2px")

#: From a weak penalty to a strong one; plasma without the end that is too faint on the paper.
_SEQUENTIAL: dict[ThemeName, tuple[str, ...]] = {
    "light": ("#DE7418", "#E16462", "#B12A90", "#6A00A8", "#0D0887"),
    "dark": ("#A66BE8", "#D6568C", "#F48849", "#FDBC2B", "#F0F921"),
}
_DIVERGING: dict[ThemeName, tuple[str, str, str]] = {
    "light": ("#B2470C", "#FFFFFF", "#1F5FA8"),
    "dark": ("#F0863A", "#1B2128", "#56B4E9"),
}


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours of one appearance."""

    name: ThemeName
    ink: str
    muted: str
    grid: str
    surface: str

    @property
    def categories(self) -> Sequence[str]:
        """Colours of series that have no order."""
        return _CATEGORIES[self.name]

    @property
    def sequential(self) -> list[list[Any]]:
        """Colour scale from low to high, as Plotly takes it."""
        return _scale(_SEQUENTIAL[self.name])

    @property
    def intensity(self) -> list[list[Any]]:
        """Colour scale from the paper to a strong colour, for probabilities and other amounts."""
        return _scale((self.surface, "#7FB3D9" if self.name == "light" else "#2D5F86", self.categories[0], self.ink))

    @property
    def diverging(self) -> list[list[Any]]:
        """Colour scale around zero, which has the colour of the paper."""
        return _scale(_DIVERGING[self.name])


THEMES: dict[ThemeName, Theme] = {
    "light": Theme(name="light", ink="#1F2A33", muted="#56636E", grid="#E3E8EC", surface="#FFFFFF"),
    "dark": Theme(name="dark", ink="#E4E9ED", muted="#A3AFBA", grid="#313B45", surface="#1B2128"),
}

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def layout(theme: Theme, *, x: str = "", y: str = "", height: int = 360, **more: Any) -> dict[str, Any]:
    """Layout of a figure; the title stands above it on the page, and is put into pictures that are downloaded.

    Args:
        theme: colours.
        x: title of the x axis, with its unit.
        y: title of the y axis, with its unit.
        height: pixels.
        more: further entries of Plotly's layout; `xaxis` and `yaxis` are merged into the defaults.
    """
    x_axis = axis(theme, x, **more.pop("xaxis", {}))
    y_axis = axis(theme, y, **more.pop("yaxis", {}))
    return {
        "height": height,
        "margin": {"l": 64, "r": 16, "t": 12, "b": 52},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 12.5, "color": theme.ink},
        "xaxis": x_axis,
        "yaxis": y_axis,
        "hoverlabel": {
            "bgcolor": theme.surface,
            "bordercolor": theme.muted,
            "font": {"color": theme.ink, "family": FONT, "size": 12.5},
            "align": "left",
        },
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "font": {"color": theme.ink}},
        "showlegend": False,
        "uirevision": "kept",
        **more,
    }


def axis(theme: Theme, title: str = "", **more: Any) -> dict[str, Any]:
    """One axis in the house style; margins are set, since Plotly would draw everything twice to find them."""
    return {
        "title": {"text": title, "font": {"size": 12.5, "color": theme.ink}, "standoff": 8},
        "gridcolor": theme.grid,
        "linecolor": theme.muted,
        "zeroline": False,
        "showline": True,
        "ticks": "outside",
        "tickcolor": theme.muted,
        "ticklen": 4,
        "tickfont": {"color": theme.muted, "size": 11.5},
        **more,
    }


def log_ticks(low: float, high: float) -> tuple[list[float], list[str]]:
    """Positions (powers of ten as exponents) and texts of ticks for a colour bar over logarithms."""
    first, last = math.floor(low), math.ceil(high)
    steps = (1, 3) if last - first <= 3 else (1,)
    values = [math.log10(step) + power for power in range(first, last + 1) for step in steps]
    shown = [value for value in values if low - 0.05 <= value <= high + 0.05] or [low, high]
    return shown, [f"{10**value:.0e}".replace("e-0", "e-").replace("e+0", "e") for value in shown]


def faint(colour: str, opacity: float) -> str:
    """A colour `#RRGGBB` that lets through what lies below."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def _scale(colours: Sequence[str]) -> list[list[Any]]:
    return [[index / (len(colours) - 1), colour] for index, colour in enumerate(colours)]
