"""Heat maps of one search: every operation of every edge over epochs, and the credit of every edge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from dashboards.charts.chart import Chart
from dashboards.charts.points import escaped, finite
from dashboards.charts.theme import Theme, layout
from dashboards.history import CellHistory, History
from dashboards.pictures.cell_layout import cell_edges
from search_core.space.chain import kernel_size
from search_core.space.genotype import CellType

Quantity = Literal["probability", "alpha"]

CELL_NAMES: dict[CellType, str] = {"normal": "normal cell", "reduce": "reduction cell"}


def alpha_chart(history: History, cell_type: CellType, quantity: Quantity, theme: Theme) -> Chart:
    """Every operation of every edge of a cell over epochs; edges are separated by lines."""
    key = f"alpha-{cell_type}"
    name = "Probability" if quantity == "probability" else "\N{GREEK SMALL LETTER ALPHA}"
    title = f"{name} of every operation in the {CELL_NAMES[cell_type]}"
    if cell_type not in history.cells or not len(history.epochs):
        return Chart(key=key, title=title, empty="No epoch has been recorded yet.")
    cell = history.cells[cell_type]
    values = cell.probabilities if quantity == "probability" else cell.alpha
    num_edges, num_ops = values.shape[1:]
    edges = edge_names(num_edges, history.primitives)
    labels = [f"{edge} · {operation}" for edge in edges for operation in history.primitives]
    z = _rounded(values.reshape(len(values), -1).T)
    bound = _largest(z)
    scale = (
        {"colorscale": theme.intensity, "zmin": 0, "zmax": 1}
        if quantity == "probability"
        else {"colorscale": theme.diverging, "zmin": -bound, "zmax": bound}
    )
    figure = _heat(history, z, labels, scale, name, theme, height=90 + 6 * num_edges * num_ops)
    figure["layout"]["yaxis"] |= {
        "tickvals": [(edge + 0.5) * num_ops - 0.5 for edge in range(num_edges)],
        "ticktext": edges,
    }
    figure["layout"]["shapes"] = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": edge * num_ops - 0.5, "y1": edge * num_ops - 0.5,
         "line": {"color": theme.grid, "width": 1}}
        for edge in range(1, num_edges)
    ]  # fmt: skip
    return Chart(
        key=key,
        title=title,
        summary=f"{title} per epoch. At the end: {_ends(cell, history, edges)}.",
        figure=figure,
        columns=("epoch", "edge", "operation", quantity),
        rows=[
            (int(epoch), edge, operation, float(values[t, e, o]))
            for t, epoch in enumerate(history.epochs)
            for e, edge in enumerate(edges)
            for o, operation in enumerate(history.primitives)
        ],
        note=f"Rows within an edge, from top to bottom: {', '.join(history.primitives)}.",
    )


def credit_chart(history: History, cell_type: CellType, theme: Theme) -> Chart:
    """Credit of every edge of a cell over epochs: of the task, and of the penalty (SNAS sections 2.3 and 2.4)."""
    key, title = f"credit-{cell_type}", f"Credit of every edge of the {CELL_NAMES[cell_type]}"
    if cell_type not in history.cells or not len(history.epochs):
        return Chart(key=key, title=title, empty="No epoch has been recorded yet.")
    cell = history.cells[cell_type]
    credit = cell.full_credit
    is_known = np.isfinite(cell.resource_credit).any()
    more = " by more than its share of the penalty adds" if is_known else "; the penalty's share was not recorded"
    edges = edge_names(credit.shape[1], history.primitives)
    z = credit.T.astype(np.float64)
    # The strongest hundredth would leave all others pale.
    known = np.abs(z[np.isfinite(z)])
    bound = (float(np.quantile(known, 0.99)) if known.size else 0.0) or _largest(z)
    scale = {"colorscale": theme.diverging, "zmin": -bound, "zmax": bound}
    rounded = _rounded(z)
    strongest = edges[int(np.argmax(np.nan_to_num(np.abs(credit[-1]), nan=-1.0)))]
    return Chart(
        key=key,
        title=f"{title}; strongest at the end: {strongest}",
        summary=f"{title} per epoch; the strongest at the end is that of {strongest}.",
        figure=_heat(history, rounded, edges, scale, "credit", theme, height=110 + 19 * len(edges)),
        columns=("epoch", "edge", "credit", "of the task", "of the penalty"),
        rows=[
            (int(epoch), edge, float(credit[t, e]), float(cell.credit[t, e]), float(cell.resource_credit[t, e]))
            for t, epoch in enumerate(history.epochs)
            for e, edge in enumerate(edges)
        ],
        note="Nats, mean of the epoch's steps. Positive credit: to first order, what the edge passes on lowers the loss"
        f"{more}. Colours end at the 99% quantile.",
    )


def edge_names(num_edges: int, primitives: Sequence[str] = ()) -> list[str]:
    """Names of a cell's edges in the order of the reports; inputs are k-2 and k-1, intermediate nodes count from 0.

    Of a chain of layers, which its operations tell, the first input is the image; the second is nobody's.
    """
    num_nodes = 1
    while len(cell_edges(num_nodes)) < num_edges:
        num_nodes += 1
    inputs = {0: "k\N{MINUS SIGN}2", 1: "k\N{MINUS SIGN}1"}
    if any(map(kernel_size, primitives)):
        inputs = {0: "image", 1: "\N{EN DASH}"}
    return [f"{inputs.get(source, str(source - 2))} → {target - 2}" for source, target in cell_edges(num_nodes)]


def _heat(
    history: History, z: np.ndarray, labels: list[str], scale: dict[str, Any], name: str, theme: Theme, *, height: int
) -> dict[str, Any]:
    trace = {
        "type": "heatmap", "x": history.epochs.tolist(), "y": [escaped(label) for label in labels], 
        "z": [[finite(value) for value in row] for row in z.tolist()],
        "hovertemplate": "epoch %{x}<br>%{y}<br>" + name + " %{z:.3g}<extra></extra>",
        "colorbar": {"thickness": 12, "outlinewidth": 0, "tickfont": {"color": theme.muted, "size": 11},
                     "title": {"text": name, "side": "right"}},
        **scale,
    }  # fmt: skip
    figure_layout = layout(theme, x="epoch", height=height, margin={"l": 64, "r": 8, "t": 8, "b": 48})
    figure_layout["yaxis"] |= {"type": "category", "autorange": "reversed", "showgrid": False, "ticks": ""}
    figure_layout["xaxis"] |= {"showgrid": False}
    return {"data": [trace], "layout": figure_layout}


def _rounded(z: np.ndarray) -> np.ndarray:
    """Four significant figures: the page need not carry more."""
    return np.array([[float(f"{value:.4g}") for value in row] for row in z.tolist()]).reshape(z.shape)


def _largest(z: np.ndarray) -> float:
    """Largest amount among finite numbers; 1 if all are zero or there is none."""
    return float(np.abs(z[np.isfinite(z)]).max(initial=0.0)) or 1.0


def _ends(cell: CellHistory, history: History, edges: list[str]) -> str:
    last = cell.probabilities[-1]
    best = last.argmax(axis=1)
    return ", ".join(
        f"{edge} {history.primitives[op]} ({last[place, op]:.0%})"
        for place, (edge, op) in enumerate(zip(edges, best.tolist(), strict=True))
    )
