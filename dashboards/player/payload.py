"""What the cell player shows, as plain data for its page: places, styles, curves and the packed numbers of all epochs.

Numbers travel as base64 of little-endian arrays in the order (epoch, edge, operation): a search of 150 epochs with two
cells of 14 edges and 8 operations takes about 150 KB.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dashboards.history import CellHistory, History
from dashboards.pictures.cell_layout import HEAD_LENGTH, WIDTH, CellLayout, Point, Route, cell_edges, cell_layout
from dashboards.pictures.cell_style import readable_colour, styles_of
from search_core.primitives.base import Style
from search_core.space.chain import kernel_size
from search_core.space.genotype import CELL_TYPES, CellType

#: Probabilities are whole thousandths; this one stands for "not a number".
PROBABILITY_STEPS, PROBABILITY_UNKNOWN = 1000, 65535
#: In the array of shown operations: an edge without any number.
OPERATION_UNKNOWN = 255
#: Backgrounds of the graphs in light and dark, as in player.css; colours are chosen to be read on them.
BACKGROUNDS = ("#ffffff", "#171e26")

_CELL_NAMES: dict[CellType, str] = {"normal": "Normal cell", "reduce": "Reduction cell"}
_NEUTRAL = "#6B7680"  # of operations that have no style of their own
_NEUTRAL_DASHES = (4.0, 2.0)
_POINT = 100 / 72  # layout units; dashes are in points
_TEXT_CONTRAST, _LINE_CONTRAST = 5.0, 4.0  # a little above what WCAG 2 asks of small text (4.5) and graphics (3)
_HEAD_HALF = 4.8

#: Curves: title, unit, scale of the values, whether to draw zero, and lines of (label, metric).
_CURVES: tuple[tuple[str, str, float, bool, tuple[tuple[str, str], ...]], ...] = (
    ("Entropy", "nats", 1.0, False, (("normal", "entropy_normal"), ("reduction", "entropy_reduce"))),
    ("Temperature", "", 1.0, False, (("", "temperature"),)),
    ("Penalty strength η", "", 1.0, False, (("", "eta"),)),
    ("Discretization gap", "percentage points", 100.0, True, (("", "discretization_gap"),)),
    (
        "Validation accuracy",
        "%",
        100.0,
        False,
        (("supernet", "supernet_val_accuracy"), ("child", "child_val_accuracy")),
    ),
)
_COSTS = {
    "expected_cost_madds": "multiply-adds",
    "expected_cost_params": "parameters",
    "expected_cost_memory_access": "elements moved",
}
_COST_POSITION = 3  # among the curves


def player_data(history: History, *, title: str, subtitle: str) -> dict[str, Any]:
    """All that the page needs, ready for `json.dumps`.

    Args:
        history: of a search, at least one epoch.
        title: heading.
        subtitle: line below it.

    Raises:
        ValueError: if the history has no cells or epochs, or if its parts do not fit together.
    """
    if not history.cells or len(history.epochs) == 0:
        raise ValueError("the player must get a history with cells and at least one epoch: only searches have them")
    genotypes = [_genotype(text, int(epoch)) for text, epoch in zip(history.genotypes, history.epochs, strict=False)]
    if len(genotypes) != len(history.epochs):
        raise ValueError(
            f"a history must have one genotype per epoch, got {len(history.genotypes)} for {len(history.epochs)} epochs"
        )
    if len(history.primitives) >= OPERATION_UNKNOWN:
        raise ValueError(f"the player shows at most {OPERATION_UNKNOWN - 1} operations, got {len(history.primitives)}")
    styles = styles_of(history.primitives)
    return {
        "title": title,
        "subtitle": subtitle,
        "epochs": [int(epoch) for epoch in history.epochs],
        "operations": [_operation(name, styles.get(name)) for name in history.primitives],
        "cells": [
            _cell(cell_type, history.cells[cell_type], history.primitives, genotypes)
            for cell_type in CELL_TYPES
            if cell_type in history.cells
        ],
        "curves": _curves(history.metrics),
    }


def packed(array: np.ndarray, kind: str) -> str:
    """Base64 of an array in row-major order; `kind` is NumPy's name of a little-endian type, such as `<f4`."""
    return base64.b64encode(np.ascontiguousarray(array, dtype=kind).tobytes()).decode("ascii")


def thousandths(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities as whole thousandths, at most 0.0005 off; NaN becomes `PROBABILITY_UNKNOWN`.

    Raises:
        ValueError: if a value lies outside of [0, 1] by more than the rounding of single precision.
    """
    known = np.isfinite(probabilities)
    values = np.where(known, probabilities, 0.0)
    if not np.all((values >= -1e-5) & (values <= 1 + 1e-5)):
        raise ValueError(f"probabilities must lie in [0, 1], got {values.min()} to {values.max()}")
    steps = np.rint(np.clip(values, 0.0, 1.0) * PROBABILITY_STEPS)
    return np.where(known, steps, PROBABILITY_UNKNOWN).astype(np.uint16)


def _cell(
    cell_type: CellType, cell: CellHistory, primitives: Sequence[str], genotypes: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """One cell: where everything lies, and the numbers of all epochs."""
    num_epochs = len(genotypes)
    num_edges = cell.probabilities.shape[1] if cell.probabilities.ndim == 3 else 0
    layout = cell_layout(_num_nodes(cell_type, num_edges))
    expected = (num_epochs, num_edges, len(primitives))
    for name, array, shape in (
        ("probabilities", cell.probabilities, expected),
        ("entropy", cell.entropy, expected[:2]),
        ("credit", cell.credit, expected[:2]),
        ("resource_credit", cell.resource_credit, expected[:2]),
    ):
        if array.shape != shape:
            raise ValueError(f"`{name}` of the {cell_type} cell must have the shape {shape}, got {array.shape}")
    # Chosen from the full numbers: thousandths may be equal where the probabilities are not.
    known = np.isfinite(cell.probabilities).all(axis=2)
    likeliest = np.argmax(np.where(known[..., None], cell.probabilities, 0.0), axis=2)
    kept, concat = _derived(genotypes, cell_type, layout.num_nodes, primitives)
    is_chain = any(map(kernel_size, primitives))
    shown = np.where(kept >= 0, kept, np.where(known, likeliest, OPERATION_UNKNOWN))
    return {
        "type": cell_type,
        "name": "Chain of layers" if is_chain else _CELL_NAMES[cell_type],
        "ends": ["image", "\N{EN DASH}", "output"] if is_chain else [],
        **_places(layout),
        "probabilities": packed(thousandths(cell.probabilities), "<u2"),
        "entropy": packed(cell.entropy, "<f4"),
        "credit": packed(cell.full_credit, "<f4"),
        "resource": packed(cell.resource_credit, "<f4"),  # of it that of the penalty
        "shown": packed(shown, "<u1"),  # operation in the picture: that of the genotype, else the likeliest
        "kept": packed(kept >= 0, "<u1"),
        "concat": packed(concat, "<u1"),
    }


def _num_nodes(cell_type: CellType, num_edges: int) -> int:
    num_nodes = 1
    while len(cell_edges(num_nodes)) < num_edges:
        num_nodes += 1
    if len(cell_edges(num_nodes)) != num_edges:
        raise ValueError(f"the {cell_type} cell must have 2, 5, 9, 14, 20, ... edges, got {num_edges}")
    return num_nodes


def _genotype(text: str, epoch: int) -> Mapping[str, Any]:
    """The document of an epoch; read without `Genotype`, which accepts this project's operations only."""
    try:
        document = json.loads(text)
        for cell_type in CELL_TYPES:
            for name, source, target in document[cell_type]:
                if not (isinstance(name, str) and type(source) is type(target) is int):
                    raise TypeError(f"edge {[name, source, target]}")
            if not all(type(node) is int for node in document[f"{cell_type}_concat"]):
                raise TypeError(f"{cell_type}_concat {document[f'{cell_type}_concat']}")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(
            f"the genotype of epoch {epoch} must list edges [primitive, source, target]: {error}"
        ) from error
    assert isinstance(document, dict)
    return document


def _derived(
    genotypes: Sequence[Mapping[str, Any]], cell_type: CellType, num_nodes: int, primitives: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """What the derived cells keep: operation per epoch and edge or -1, (T, E); nodes in the output or not, (T, B).

    Of two operations on one edge, as cells of NASNet and ENAS have them, the first counts: an edge has one place.
    """
    edges = {edge: position for position, edge in enumerate(cell_edges(num_nodes))}
    numbers = {name: number for number, name in enumerate(primitives)}
    kept = np.full((len(genotypes), len(edges)), -1)
    concat = np.zeros((len(genotypes), num_nodes), dtype=bool)
    for epoch, genotype in enumerate(genotypes):
        for name, source, target in genotype[cell_type]:
            if name not in numbers or (source, target) not in edges:
                raise ValueError(
                    "a derived cell must keep candidates of the searchable cell's edges, got "
                    f"{name!r} from node {source} to {target} in the {cell_type} cell"
                )
            if kept[epoch, edges[source, target]] < 0:
                kept[epoch, edges[source, target]] = numbers[name]
        for node in genotype[f"{cell_type}_concat"]:
            if not 2 <= node < num_nodes + 2:
                raise ValueError(f"the output must join nodes 2 to {num_nodes + 1}, got {node} in the {cell_type} cell")
            concat[epoch, node - 2] = True
    return kept, concat


def _operation(name: str, style: Style | None) -> dict[str, Any]:
    """How an operation looks, its colours for light and dark."""
    colour = style.colour if style else _NEUTRAL
    dashes = style.dashes if style else _NEUTRAL_DASHES
    return {
        "name": name,
        "label": style.label if style else name,
        # Light keeps the palette as it is in all pictures; on dark its deepest colours would be lost.
        "line": [colour.lower(), readable_colour(colour, BACKGROUNDS[1], _LINE_CONTRAST)],
        "text": [readable_colour(colour, ground, _TEXT_CONTRAST) for ground in BACKGROUNDS],
        "dashes": [round(length * _POINT, 1) for length in dashes],
    }


def _curves(metrics: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """The curves of which at least one line has a number."""
    specs = list(_CURVES)
    cost = next((name for name in _COSTS if name in metrics), None)
    if cost is not None:
        specs.insert(_COST_POSITION, ("Expected cost, searched edges", _COSTS[cost], 1.0, False, (("", cost),)))
    curves = []
    for title, unit, scale, zero, lines in specs:
        known = [(label, metrics[name] * scale) for label, name in lines if name in metrics]
        known = [(label, values) for label, values in known if np.isfinite(values).any()]
        if known:
            drawn = [{"label": label, "values": packed(values, "<f8")} for label, values in known]
            curves.append({"title": title, "unit": unit, "zero": zero, "lines": drawn})
    return curves


def _places(layout: CellLayout) -> dict[str, Any]:
    """Geometry of a cell as SVG: y points down, from the panel's upper border."""

    def flip(point: Point) -> Point:
        return round(point[0], 1), round(layout.height - point[1], 1)

    def drawn(route: Route) -> dict[str, Any]:
        return {"path": _path(route, flip), "head": _head(route, flip), "label": flip(route.label)}

    return {
        "width": WIDTH,
        "height": layout.height,
        "places": [flip(layout.places[node]) for node in range(layout.num_nodes + 3)],
        "edges": [
            {"source": source, "target": target, **drawn(layout.route(source, target))}
            for source, target in cell_edges(layout.num_nodes)
        ],
        "outputs": [drawn(layout.concat_route(node)) for node in range(2, layout.num_nodes + 2)],
    }


def _path(route: Route, flip: Callable[[Point], Point]) -> str:
    def text(point: Point) -> str:
        return "{:g} {:g}".format(*flip(point))

    pieces = ["C" + ", ".join(text(point) for point in curve) for curve in route.curves]
    return f"M{text(route.start)}" + "".join(pieces)


def _head(route: Route, flip: Callable[[Point], Point]) -> str:
    """Corners of the arrow head, as the attribute `points` of a polygon."""
    (x, y), (dx, dy) = route.tip, route.direction
    base = (x - HEAD_LENGTH * dx, y - HEAD_LENGTH * dy)
    left = (base[0] - _HEAD_HALF * dy, base[1] + _HEAD_HALF * dx)
    right = (base[0] + _HEAD_HALF * dy, base[1] - _HEAD_HALF * dx)
    return " ".join("{:g},{:g}".format(*flip(point)) for point in ((x, y), left, right))
