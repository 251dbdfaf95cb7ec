"""Heat maps of one search: every operation of every edge over epochs, and the credit of every edge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from dashboards.charts.chart import Chart
from dashboards.charts.points import escaped, finite
from dashboards.charts.theme import Theme, faint, layout
from dashboards.history import CellHistory, History
from dashboards.pictures.cell_layout import cell_edges
from dashboards.pictures.cell_style import readable_colour, styles_of
from search_core.space.chain import kernel_size
from search_core.space.genotype import CellType

Quantity = Literal["operation", "probability", "alpha"]

CELL_NAMES: dict[CellType, str] = {"normal": "normal cell", "reduce": "reduction cell"}


#: Least contrast of a colour with the paper (WCAG 2, graphics), and the faintest that a colour gets.
_CONTRAST, _FAINTEST = 3.0, 0.12


def alpha_chart(history: History, cell_type: CellType, quantity: Quantity, theme: Theme) -> Chart:
    """The operations of every edge of a cell over epochs: the most probable one, or all of them."""
    key = f"alpha-{cell_type}"
    name = "\N{GREEK SMALL LETTER ALPHA}" if quantity == "alpha" else "Probability"
    what = "Most probable operation of every edge" if quantity == "operation" else f"{name} of every operation"
    title = f"{what} in the {CELL_NAMES[cell_type]}"
    if cell_type not in history.cells or not len(history.epochs):
        return Chart(key=key, title=title, empty="No epoch has been recorded yet.")
    cell = history.cells[cell_type]
    values = cell.alpha if quantity == "alpha" else cell.probabilities
    edges = edge_names(values.shape[1], history.primitives)
    if quantity == "operation":
        figure = _likeliest(history, cell, edges, theme)
    else:
        figure = _all_operations(history, values, edges, name, theme, is_alpha=quantity == "alpha")
    return Chart(
        key=key,
        title=title,
        summary=f"{title} per epoch. At the end: {_ends(cell, history, edges)}.",
        figure=figure,
        columns=("epoch", "edge", "operation", "alpha" if quantity == "alpha" else "probability"),
        rows=[
            (int(epoch), edge, operation, float(values[t, e, o]))
            for t, epoch in enumerate(history.epochs)
            for e, edge in enumerate(edges)
            for o, operation in enumerate(history.primitives)
        ],
        note="Colour says the operation, its strength how probable it is." if quantity == "operation" else "",
    )


def _likeliest(history: History, cell: CellHistory, edges: list[str], theme: Theme) -> dict[str, Any]:
    """A row per edge, whose colour says which operation is the most probable, and its strength how probable."""
    known = np.isfinite(cell.probabilities).all(axis=2)
    best = np.argmax(np.where(known[..., None], cell.probabilities, 0.0), axis=2)
    most = np.take_along_axis(cell.probabilities, best[..., None], axis=2)[..., 0]
    # Operation o takes the numbers from o to o + 1.
    z = np.where(known, best + np.clip(most, 0.0, 0.999), np.nan)
    num_ops, styles = len(history.primitives), styles_of(history.primitives)
    colours = [  # an edge that has vanished is as good as blank
        readable_colour(styles[name].colour, theme.surface, _CONTRAST) if name in styles else theme.grid
        for name in history.primitives
    ]
    scale = [
        [(place + end) / num_ops, faint(colour, opacity)]
        for place, colour in enumerate(colours)
        for end, opacity in ((0, _FAINTEST), (1, 1.0))
    ]
    figure = _heat(
        history, z.T, edges, {"colorscale": scale, "zmin": 0, "zmax": num_ops, "showscale": False}, "", theme,
        height=150 + 19 * len(edges),
    )  # fmt: skip
    said = [
        [f"{history.primitives[o]} {p:.3f}" for o, p in zip(*row, strict=True)]
        for row in zip(best.T, most.T, strict=True)
    ]
    figure["data"][0] |= {"text": said, "hovertemplate": "epoch %{x}<br>%{y}<br>%{text}<extra></extra>"}
    shown = set(best[known].tolist())
    figure["data"] += [
        {"type": "scatter", "mode": "markers", "x": [None], "y": [None], "name": escaped(name),
         "marker": {"symbol": "square", "size": 11, "color": colours[place]}}
        for place, name in enumerate(history.primitives) if place in shown
    ]  # fmt: skip
    figure["layout"] |= {"showlegend": True, "margin": {"l": 64, "r": 16, "t": 12 + 19 * -(-len(shown) // 2), "b": 48}}
    return figure


def _all_operations(
    history: History, values: np.ndarray, edges: list[str], name: str, theme: Theme, *, is_alpha: bool
) -> dict[str, Any]:
    """A row per operation of each edge, named; `values` is (T, E, O)."""
    num_ops = len(history.primitives)
    labels = [f"{edge} · {operation}" for edge in edges for operation in history.primitives]
    z = _rounded(values.reshape(len(values), -1).T)
    bound = _largest(z)
    scale = (
        {"colorscale": theme.diverging, "zmin": -bound, "zmax": bound}
        if is_alpha
        else {"colorscale": theme.intensity, "zmin": 0, "zmax": 1}
    )
    figure = _heat(history, z, labels, scale, name, theme, height=90 + 11 * len(labels))
    names = [escaped(operation) for operation in history.primitives]
    ticks = [f"<b>{edge}</b>  {op}" if place == 0 else op for edge in edges for place, op in enumerate(names)]
    figure["layout"]["yaxis"] |= {
        "tickvals": list(range(len(labels))),
        "ticktext": ticks,
        "tickfont": {"color": theme.muted, "size": 9},
    }
    figure["layout"]["margin"] |= {"l": 150}
    figure["layout"]["shapes"] = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": edge * num_ops - 0.5, "y1": edge * num_ops - 0.5,
         "line": {"color": theme.grid, "width": 1}}
        for edge in range(1, len(edges))
    ]  # fmt: skip
    return figure


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
                     "title": {"text": name, "side": "top"}},
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
