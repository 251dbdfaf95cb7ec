"""The cell player: one HTML file in which a search can be watched edge by edge, epoch by epoch.

The file asks nothing of any network, so that it opens from a disk, in MLflow's artifact view and in a sandboxed frame.
Behind `#` its address takes `theme=dark|light` (else the reader chooses), `epoch=N|last` and `compact` (no curves).
"""

from __future__ import annotations

import json
from importlib import resources

from dashboards.history import History
from dashboards.player.payload import player_data

_SCRIPTS = (
    "data.js",
    "changes.js",
    "cells.js",
    "details.js",
    "curves.js",
    "player.js",
)  # in the order in which they need each other


def render_player(history: History, *, title: str, subtitle: str = "") -> str:
    """The history of a search as a self-contained HTML page with both cells, controls, curves and details per edge.

    An edge shows the operation that the derived genotype keeps there, else its most probable one; it is vanished where
    that is `none`. All names are untrusted: they are data in the page and become text only.

    Args:
        history: of a search; epochs are shown by their numbers, as in MLflow.
        title: heading, such as `trial 3`.
        subtitle: line below it, such as what was swept.

    Returns:
        The page; about 200 KB for 150 epochs of two cells with 14 edges and 8 operations.

    Raises:
        ValueError: if the history has no cells or no epochs, if its shapes or genotypes do not fit together, or if a
            probability lies outside of [0, 1].
    """
    # The data comes last, so that nothing in it is taken for a mark.
    return player_template().replace("/*DATA*/", player_json(history, title=title, subtitle=subtitle))


def player_template(wishes: str = "") -> str:
    """The page of any search, with the mark `/*DATA*/` where `player_json` goes.

    Args:
        wishes: what stands behind `#`, for a page that has no address of its own.
    """
    page = _template("player.html").replace("/*STYLE*/", _template("player.css")).replace("/*WISHES*/", wishes)
    return page.replace("/*SCRIPT*/", "".join(_template(name) for name in _SCRIPTS))


def player_json(history: History, *, title: str, subtitle: str = "") -> str:
    """The data of a search for `player_template`; arguments and errors as those of `render_player`."""
    data = player_data(history, title=title, subtitle=subtitle)
    return inside_script(json.dumps(data, separators=(",", ":"), allow_nan=False))


def _template(name: str) -> str:
    return resources.files("dashboards").joinpath("player", name).read_text(encoding="utf-8")


def inside_script(text: str) -> str:
    """JSON that cannot end the script element around it; `json.dumps` has escaped all but ASCII, U+2028 included."""
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
