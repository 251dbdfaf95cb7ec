"""Curves over epochs: of one search, of a few, of retrainings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dashboards.charts.chart import Chart
from dashboards.charts.points import escaped
from dashboards.charts.theme import DASHES, SYMBOLS, Theme, axis, layout
from dashboards.formatting import counted, metric_factor, metric_name, metric_title, shown_metric
from dashboards.history import History

_FEW = 7  # series that still get a colour and a dash of their own

#: Panels of a search: title with unit, and the metrics in it.
_SEARCH_PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("accuracy (%)", ("supernet_val_accuracy", "child_val_accuracy", "child_val_accuracy_recalibrated")),
    ("discretization gap (percentage points)", ("discretization_gap",)),
    ("loss (nats)", ("train_loss", "supernet_val_loss", "child_val_loss")),
    ("entropy (nats)", ("entropy_normal", "entropy_reduce")),
    ("pruned networks' divergence (nats)", ("pruned_kl",)),
    ("temperature", ("temperature",)),
    ("expected multiply-adds (millions)", ("expected_cost_madds",)),
    ("child's multiply-adds (millions)", ("child_madds",)),
)

#: Names of metrics beside the title of their panel, and pictures of the first dashes.
_SHORT = {
    "supernet_val_accuracy": "supernet",
    "child_val_accuracy": "child",
    "child_val_accuracy_recalibrated": "recalibrated",
    "train_loss": "training",
    "supernet_val_loss": "supernet",
    "child_val_loss": "child",
    "entropy_normal": "normal cell",
    "entropy_reduce": "reduction cell",
}
_STROKES = ("\N{EM DASH}", "\N{EN DASH}\N{THIN SPACE}\N{EN DASH}", "\N{HORIZONTAL ELLIPSIS}")


def retrain_curves(histories: Mapping[str, History], theme: Theme) -> Chart:
    """Validation accuracy of several retrainings per epoch."""
    return compared_curves(histories, "val_accuracy", theme, key="retrain-curves")


def compared_curves(
    histories: Mapping[str, History], metric: str, theme: Theme, *, key: str = "", height: int = 300
) -> Chart:
    """One metric of a few series over epochs, each with its own colour and dash."""
    key = key or f"compare-{metric.replace('_', '-')}"
    shown = {name: history for name, history in histories.items() if metric in history.metrics}
    title = f"{metric_name(metric).capitalize()} per epoch"
    if not shown:
        return Chart(key=key, title=title, empty="No epoch has been recorded yet.")
    data = []
    for place, (name, history) in enumerate(shown.items()):
        values = history.metrics[metric] * metric_factor(metric)
        data.append(_line(history.epochs, values, name, place, theme))
    ends = {name: shown_metric(metric, _last(history.metrics[metric])) for name, history in shown.items()}
    return Chart(
        key=key,
        title=title,
        summary=f"{title}; at the end " + ", ".join(f"{name}: {end}" for name, end in ends.items()) + ".",
        figure={"data": data, "layout": layout(theme, x="epoch", y=metric_title(metric), height=height,
                                               showlegend=True, hovermode="x unified")},
        columns=("series", "epoch", metric),
        rows=[
            (name, int(epoch), float(value))
            for name, history in shown.items()
            for epoch, value in zip(history.epochs, history.metrics[metric], strict=True)
        ],
    )  # fmt: skip


def colour_and_dash(place: int, theme: Theme) -> tuple[str, str]:
    """Of the series at this place: after the last colour comes the first with another dash."""
    return theme.categories[place % _FEW], DASHES[(place + place // _FEW) % _FEW]


def search_curves(history: History, theme: Theme) -> Chart:
    """The course of one search in small panels, each with its own legend in its title."""
    key, title = "curves", "The course of the search"
    present = [(name, [m for m in metrics if m in history.metrics]) for name, metrics in _SEARCH_PANELS]
    present = [(name, metrics) for name, metrics in present if metrics]
    if not len(history.epochs) or not present:
        return Chart(key=key, title=title, empty="No epoch has been recorded yet.")
    columns = min(4, len(present))
    rows = -(-len(present) // columns)
    figure_layout = layout(theme, height=50 + 225 * rows, hovermode="x", margin={"l": 44, "r": 12, "t": 8, "b": 44})
    del figure_layout["xaxis"], figure_layout["yaxis"]
    data, annotations = [], []
    for place, (name, metrics) in enumerate(present):
        suffix = "" if place == 0 else str(place + 1)
        row, column = divmod(place, columns)
        width, height = 1 / columns, 1 / rows
        x_axis = axis(theme, "epoch" if row == rows - 1 else "", domain=[column * width, (column + 0.86) * width])
        top = 1 - row * height - 0.2 * height  # above it stands the panel's title
        figure_layout[f"xaxis{suffix}"] = x_axis | {"anchor": f"y{suffix}"}
        figure_layout[f"yaxis{suffix}"] = axis(theme, anchor=f"x{suffix}", domain=[top - 0.6 * height, top])
        annotations.append(
            {"text": _panel_title(name, metrics, theme), "xref": f"x{suffix} domain", "yref": f"y{suffix} domain",
             "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom", "showarrow": False, "align": "left",
             "font": {"size": 12, "color": theme.ink}}
        )  # fmt: skip
        for index, metric in enumerate(metrics):
            values = history.metrics[metric] * metric_factor(metric)
            trace = _line(history.epochs, values, metric_name(metric), index, theme)
            data.append(trace | {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"})
    figure_layout["annotations"] = annotations
    names = [metric for _, metrics in present for metric in metrics]
    ends = ", ".join(f"{metric_name(name)} {shown_metric(name, _last(history.metrics[name]))}" for name in names)
    return Chart(
        key=key,
        title=f"{title}: {counted(len(history.epochs), 'epoch')}",
        summary=f"Curves over {counted(len(history.epochs), 'epoch')}; at the end: {ends}.",
        figure={"data": data, "layout": figure_layout},
        columns=("epoch", *history.metrics),
        rows=[
            (int(epoch), *(float(values[index]) for values in history.metrics.values()))
            for index, epoch in enumerate(history.epochs)
        ],
        note="Expected multiply-adds are those of the searched edges; the child's are of its whole network.",
    )


def _panel_title(name: str, metrics: Sequence[str], theme: Theme) -> str:
    """Title of a panel; with several lines, what each is, in its colour and with its dash."""
    if len(metrics) == 1:
        return name
    parts = [
        f'<span style="color:{colour}">{stroke} {_SHORT.get(metric, metric_name(metric))}</span>'
        for metric, colour, stroke in zip(metrics, theme.categories, _STROKES, strict=False)
    ]
    return f"{name}<br>{'  '.join(parts)}"


def _line(epochs: np.ndarray, values: np.ndarray, name: str, place: int, theme: Theme) -> dict[str, Any]:
    colour, dash = colour_and_dash(place, theme)
    return {
        "type": "scatter", "mode": "lines+markers" if len(epochs) <= 30 else "lines", "name": escaped(name),
        "x": epochs.tolist(), "y": floats(values),
        "line": {"color": colour, "dash": dash, "width": 2},
        "marker": {"symbol": SYMBOLS[(place + 2 * (place // _FEW)) % _FEW], "size": 5},
        "hovertemplate": "%{y:.4g}<extra>%{fullData.name}</extra>",
    }  # fmt: skip


def floats(values: np.ndarray) -> list[float | None]:
    """Numbers for JSON with six figures; gaps where there is none."""
    return [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.tolist()]


def _last(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite[-1]) if len(finite) else math.nan
