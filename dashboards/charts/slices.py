"""Slices: each swept setting against the first objective, a panel each, as in Optuna's slice plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dashboards.charts.chart import Chart
from dashboards.charts.parallel import thinned, varied
from dashboards.charts.points import escaped, eta_scale, spread_axis
from dashboards.charts.theme import Theme, axis, layout, log_ticks
from dashboards.formatting import counted, metric_factor, metric_name, metric_title, shown_number
from dashboards.records import StudyRecord, Trial

_COLUMNS, _ROW_PX = 3, 260


def slices_chart(study: StudyRecord, theme: Theme) -> Chart:
    """Every complete trial as a point in a panel for each swept setting, coloured by its penalty strength."""
    metric = study.objectives[0].metric
    complete = [trial for trial in study.trials if trial.is_result and math.isfinite(_metric(trial, metric))]
    trials, key, title = thinned(complete, study), "slices", f"Each swept setting against {metric_name(metric)}"
    keys = varied(study, trials)
    if not trials or not keys:
        reason = "No search is complete yet." if not trials else "This study sweeps nothing."
        return Chart(key=key, title=title, empty=reason)
    columns = min(_COLUMNS, len(keys))
    rows = -(-len(keys) // columns)
    data: list[dict[str, Any]] = []
    palette = eta_scale([math.log10(trial.eta) for trial in trials if trial.eta], theme)
    figure_layout = layout(theme, height=60 + _ROW_PX * rows, hovermode="closest")
    figure_layout["margin"] = {"l": 64, "r": 16, "t": 12, "b": 52}
    for place, name in enumerate(keys):
        number = "" if place == 0 else str(place + 1)
        with_it = [trial for trial in trials if trial.values.get(name) is not None]
        values = [trial.values[name] for trial in with_it]
        data += _traces(with_it, name, metric, theme, number, {**palette, "showscale": place == 0})
        row, column = divmod(place, columns)
        figure_layout[f"xaxis{number}"] = axis(
            theme, escaped(name), domain=_part(column, columns, 0.05), anchor=f"y{number}", **_axis_of(values)
        )
        figure_layout[f"yaxis{number}"] = axis(
            theme,
            escaped(metric_title(metric)) if column == 0 else "",
            domain=_part(rows - 1 - row, rows, 0.12),
            anchor=f"x{number}",
            **({} if place == 0 else {"matches": "y"}),
        )
    return Chart(
        key=key,
        title=title,
        summary=f"{counted(len(complete), 'complete search', 'complete searches')}: {metric_name(metric)} over each of "
        f"{', '.join(keys)}.",
        figure={"data": data, "layout": figure_layout},
        columns=("trial", *(f"param {name}" for name in keys), f"metric {metric}"),
        rows=[(one.number, *(one.values.get(name) for name in keys), _metric(one, metric)) for one in complete],
        note="Colour: the penalty strength η; grey and hollow: without a penalty.",
    )


def _metric(trial: Trial, metric: str) -> float:
    return trial.run.metrics.get(metric, math.nan)


def _traces(
    trials: Sequence[Trial], name: str, metric: str, theme: Theme, number: str, palette: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Points of one panel: those with a penalty by its palette, others without colour."""
    penalised = [trial for trial in trials if trial.eta]
    logarithms = [math.log10(trial.eta) for trial in penalised if trial.eta]
    scale = {**palette, "color": logarithms}
    free = [trial for trial in trials if not trial.eta]
    groups = [("by η", penalised, scale), ("no penalty", free, {"color": theme.muted, "symbol": "circle-open"})]
    return [
        {
            "type": "scatter", "mode": "markers", "name": group, "xaxis": f"x{number}", "yaxis": f"y{number}",
            "x": [_place(trial.values[name]) for trial in members],
            "y": [_metric(trial, metric) * metric_factor(metric) for trial in members],
            "text": [f"{escaped(trial.title)}: {escaped(shown_number(trial.values[name]))}" for trial in members],
            "customdata": [trial.number for trial in members],
            "hovertemplate": "%{text}, %{y:.4g}<extra></extra>",
            "marker": {"size": 7.5, "line": {"width": 0.4, "color": theme.ink}, **marker},
        }
        for group, members, marker in groups if members
    ]  # fmt: skip


def _place(value: object) -> float | str:
    return value if isinstance(value, float) and math.isfinite(value) else escaped(str(value))


def _axis_of(values: Sequence[object]) -> dict[str, Any]:
    numbers = [value for value in values if isinstance(value, float) and math.isfinite(value)]
    if len(numbers) < len(values):
        return {"type": "category"}
    found = spread_axis(numbers)
    if found.get("type") != "log":
        return found
    ticks, texts = log_ticks(math.log10(min(numbers)), math.log10(max(numbers)))
    return {"type": "log", "tickvals": [10**tick for tick in ticks], "ticktext": texts}


def _part(index: int, count: int, gap: float) -> list[float]:
    """Which part of the width or height a panel has."""
    size = (1 - gap * (count - 1)) / count
    start = index * (size + gap)
    return [round(start, 4), round(min(1.0, start + size), 4)]
