"""What the penalty strength buys: edges left, cost of the child and discretization gap against eta."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dashboards.analysis.importance import MIN_RELATED, rank_correlation
from dashboards.charts.chart import Chart
from dashboards.charts.points import ColourBy, points, zero_tick
from dashboards.charts.theme import Theme, axis, layout
from dashboards.formatting import metric_factor, metric_name, metric_title
from dashboards.records import StudyRecord, Trial

_MOST_POINTS = 200  # per panel; more hide each other, and take a browser long
_BINS = 16


def penalty_chart(study: StudyRecord, theme: Theme, *, cost: str, colour_by: ColourBy) -> Chart:
    """Three panels over the penalty strength; with many trials the median and the middle 80% instead of points."""
    key, title = "penalty", "What the penalty strength η buys"
    known = [trial for trial in study.trials if math.isfinite(trial.run.metrics.get(cost, math.nan))]
    trials = [trial for trial in known if trial.eta is not None]
    if not trials:
        return Chart(key=key, title=title, empty="No search has reported an epoch yet.")
    etas = [float(trial.eta or 0.0) for trial in trials]
    panels: list[tuple[str, list[float]]] = [
        ("edges left, both cells", [_edges(trial) for trial in trials]),
        (metric_title(cost), [trial.run.metrics[cost] * metric_factor(cost) for trial in trials]),
        ("discretization gap (percentage points)",
         [100 * trial.run.metrics.get("discretization_gap", math.nan) for trial in trials]),
    ]  # fmt: skip
    results = [trial for trial in trials if trial.is_result]
    if len(results) >= MIN_RELATED and len({trial.eta for trial in results}) == 1:
        return Chart(key=key, title=title, empty=f"All searches have the same penalty strength, {results[0].eta:g}.")
    correlations = _correlations(results, cost)
    said = f"rank correlation with {metric_name(cost)} {correlations}" if correlations else "too few results to say"
    is_many = len(trials) > _MOST_POINTS
    return Chart(
        key=key,
        title=f"{title}: {said}",
        summary=f"Edges left, {metric_name(cost)} and discretization gap against penalty strength; {said}.",
        figure=_figure(trials, etas, panels, theme, colour_by),
        columns=("trial", "eta", "edges", cost, "discretization_gap"),
        rows=[
            (trial.number, trial.eta, _edges(trial), trial.run.metrics[cost],
             trial.run.metrics.get("discretization_gap"))
            for trial in trials
        ],
        note=f"Line: median of {len(trials)} searches; band: the middle 80% of them." if is_many else "",
    )  # fmt: skip


def _correlations(results: Sequence[Trial], cost: str) -> str:
    """Rank correlation of penalty and cost within each strategy that has several penalties; empty with too few."""
    by_strategy: dict[str, list[tuple[float, float]]] = {}
    for trial in results:
        by_strategy.setdefault(trial.strategy, []).append((float(trial.eta or 0.0), trial.run.metrics[cost]))
    found = {
        strategy: rank_correlation(*zip(*pairs, strict=True))
        for strategy, pairs in by_strategy.items()
        if len(pairs) >= MIN_RELATED
    }
    return ", ".join(
        f"{value:+.2f}" + (f" ({strategy})" if len(by_strategy) > 1 else "")
        for strategy, value in found.items()
        if value is not None
    )


def _figure(
    trials: Sequence[Trial],
    etas: Sequence[float],
    panels: Sequence[tuple[str, list[float]]],
    theme: Theme,
    colour_by: ColourBy,
) -> dict[str, Any]:
    positive = [eta for eta in etas if eta > 0]
    zero_at = min(positive) / 10 if positive else 1e-6
    x = [eta or zero_at for eta in etas]
    figure_layout = layout(theme, height=330, hovermode="closest", margin={"l": 56, "r": 16, "t": 30, "b": 56})
    del figure_layout["xaxis"], figure_layout["yaxis"]
    data, annotations = [], []
    for place, (name, values) in enumerate(panels):
        suffix = "" if place == 0 else str(place + 1)
        left = place * 0.355
        figure_layout[f"xaxis{suffix}"] = axis(
            theme, "penalty strength η", type="log", domain=[left, left + 0.29], anchor=f"y{suffix}",
            **zero_tick(etas, zero_at),
        )  # fmt: skip
        figure_layout[f"yaxis{suffix}"] = axis(theme, "", anchor=f"x{suffix}", rangemode="tozero")
        annotations.append(
            {"text": name, "xref": f"x{suffix} domain", "yref": f"y{suffix} domain", "x": 0, "y": 1.02,
             "xanchor": "left", "yanchor": "bottom", "showarrow": False, "font": {"size": 12, "color": theme.ink}}
        )  # fmt: skip
        traces = (
            _bands(etas, x, values, theme)
            if len(trials) > _MOST_POINTS
            else points(trials, x, values, [], theme, colour_by, brief=True)
        )
        data += [trace | {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}", "showlegend": False} for trace in traces]
    return {"data": data, "layout": {**figure_layout, "annotations": annotations}}


def _bands(etas: Sequence[float], x: Sequence[float], y: Sequence[float], theme: Theme) -> list[dict[str, Any]]:
    """Median, tenth and ninetieth percentile in bins of as many trials each; those without penalty are one bin."""
    pairs = np.array(sorted((a, b) for a, b in zip(x, y, strict=True) if math.isfinite(b))).reshape(-1, 2)
    unpenalised = pairs[:, 0] < min((eta for eta in etas if eta > 0), default=math.inf)
    bins = [part for part in (pairs[unpenalised], *np.array_split(pairs[~unpenalised], _BINS)) if len(part)]
    centres = [float(10 ** np.log10(part[:, 0]).mean()) for part in bins]
    low, middle, high = ([float(np.quantile(part[:, 1], share)) for part in bins] for share in (0.1, 0.5, 0.9))
    band = {"type": "scatter", "mode": "lines", "x": centres, "hoverinfo": "skip", "line": {"width": 0}}
    red, green, blue = (int(theme.categories[0][place : place + 2], 16) for place in (1, 3, 5))
    return [
        {**band, "y": low},
        {**band, "y": high, "fill": "tonexty", "fillcolor": f"rgba({red},{green},{blue},0.22)"},
        {"type": "scatter", "mode": "lines+markers", "x": centres, "y": middle, "marker": {"size": 5},
         "line": {"color": theme.categories[0], "width": 2},
         "hovertemplate": "median %{y:.4g} around η %{x:.2g}<extra></extra>"},
    ]  # fmt: skip


def _edges(trial: Trial) -> float:
    return trial.run.metrics.get("edges_normal", math.nan) + trial.run.metrics.get("edges_reduce", math.nan)
