"""Dash's component trees as the JSON that a browser gets, and walks over them."""

import json
from collections.abc import Iterator
from typing import Any

import plotly


def plain(view) -> list[Any]:
    """The body of a view as a browser gets it."""
    return json.loads(json.dumps(list(view.body), cls=plotly.utils.PlotlyJSONEncoder))


def components(tree) -> Iterator[dict[str, Any]]:
    """All components of a tree, those inside of others included."""
    if isinstance(tree, list):
        for child in tree:
            yield from components(child)
    elif isinstance(tree, dict) and "props" in tree:
        yield tree
        yield from components(tree["props"].get("children"))


def words(tree) -> str:
    """All text of a tree."""
    if isinstance(tree, list):
        return " ".join(filter(None, map(words, tree)))
    if isinstance(tree, dict):
        return words(tree["props"].get("children"))
    return "" if tree is None else str(tree)


def props(tree, name) -> list[Any]:
    """One property of all components that have it."""
    return [component["props"][name] for component in components(tree) if name in component["props"]]
