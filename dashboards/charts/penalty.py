"""What the penalty strength buys: error, cost of the child, edges left and discretization gap against eta."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dashboards.analysis.answer import Answer
from dashboards.analysis.importance import MIN_RELATED, rank_correlation
from dashboards.analysis.noise import Estimate
from dashboards.analysis.retrained import tests_by_trial
from dashboards.charts.chart import Chart
from dashboards.charts.points import ERRORS_SPREAD, ColourBy, points, spread_axis, zero_tick
from dashboards.charts.theme import Theme, axis, faint, layout
from dashboards.formatting import metric_factor, metric_name, metric_title, percent_with_interval, shown_number
from dashboards.records import StudyRecord, Trial

_MOST_POINTS = 200  # per panel; more hide each other, and take a browser long
_BINS = 16
_GAP = 0.065  # between panels, as a share of the width
_ERROR_DOMAIN, _LOWER_DOMAIN = (0.58, 1.0), (0.0, 0.36)


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """One quantity over eta: heading, a value per trial, and where it stands on the figure."""

    heading: str
    values: Sequence[float]
    x: tuple[float, float]
    y: tuple[float, float]


def penalty_chart(study: StudyRecord, theme: Theme, *, cost: str, colour_by: ColourBy, answer: Answer | None) -> Chart:
    """Error over the penalty strength, then what it costs; with many trials the median and the middle 80 %.

    Args:
        study: the study.
        theme: colours.
        cost: metric of the second panel.
        colour_by: what colours points.
        answer: of the study, for the range of good penalty strengths.
    """
    key, title = "penalty", "What the penalty strength η buys"
    known = [trial for trial in study.trials if math.isfinite(trial.run.metrics.get(cost, math.nan))]
    trials = [trial for trial in known if trial.eta is not None]
    if not trials:
        return Chart(key=key, title=title, empty="No search has reported an epoch yet.")
    results = [trial for trial in trials if trial.is_result]
    if len(results) >= MIN_RELATED and len({trial.eta for trial in results}) == 1:
        return Chart(key=key, title=title, empty=f"All searches have the same penalty strength, {results[0].eta:g}.")
    tests = {
        number: cell.estimate(study.images.get("test")) for number, cell in tests_by_trial(study.retrainings).items()
    }
    etas, lost = None if answer is None else answer.etas, _lost_from(trials)
    said = _said(results, cost, etas, lost)
    is_many = len(trials) > _MOST_POINTS
    return Chart(
        key=key,
        title=f"{title}: {said}",
        summary=f"Error, {metric_name(cost)}, edges left and discretization gap against penalty strength: {said}.",
        figure=_figure(trials, cost, tests, theme, colour_by, etas, lost),
        columns=("trial", "eta", "child_val_error", "child_val_error_recalibrated", "test_error", "test_error_low",
                 "test_error_high", cost, "edges", "discretization_gap"),
        rows=[
            (trial.number, trial.eta, trial.run.metrics.get("child_val_error"), _recalibrated(trial),
             *_test_row(tests.get(-1 if trial.number is None else trial.number)), trial.run.metrics[cost],
             _edges(trial), trial.run.metrics.get("discretization_gap"))
            for trial in trials
        ],
        note=(f"Line: median of {len(trials)} searches; band: the middle 80% of them; "
              "points: those that the table lists, once it leaves out some. " if is_many else "")
        + ("Bars: 95% intervals of the test error, by images and seeds. " if tests else "")
        + ("Blue: most cells are not worse than the one to keep, beyond the noise. " if etas else "")
        + ("Orange: most searches lose a cell." if lost else ""),
    )  # fmt: skip


def _said(results: Sequence[Trial], cost: str, etas: tuple[float, float] | None, lost: float | None) -> str:
    """What the panels show, in words."""
    correlations = _correlations(results, cost)
    parts = [
        f"good from {shown_number(etas[0])} to {shown_number(etas[1])}" if etas else "",
        f"most cells are lost from {shown_number(lost)}" if lost else "",
        f"rank correlation with {metric_name(cost)} {correlations}" if correlations else "",
    ]
    return "; ".join(filter(None, parts)) or "too few results to say"


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
    cost: str,
    tests: Mapping[int, Estimate],
    theme: Theme,
    colour_by: ColourBy,
    etas: tuple[float, float] | None,
    lost: float | None,
) -> dict[str, Any]:
    positive = [trial.eta for trial in trials if trial.eta]
    zero_at = min(positive) / 10 if positive else 1e-6
    x = [trial.eta or zero_at for trial in trials]
    ticks = zero_tick([trial.eta or 0.0 for trial in trials], zero_at)
    panels = _panels(trials, cost)
    figure_layout = layout(theme, height=600, hovermode="closest", margin={"l": 56, "r": 16, "t": 30, "b": 56})
    del figure_layout["xaxis"], figure_layout["yaxis"]
    data, annotations = [], []
    for place, panel in enumerate(panels):
        suffix = "" if place == 0 else str(place + 1)
        ends = [math.log10(end) for end in (min(x) / 1.5, max(x) * 1.5)]
        figure_layout[f"xaxis{suffix}"] = axis(
            theme, "penalty strength η", type="log", domain=panel.x, anchor=f"y{suffix}", range=ends, **ticks
        )
        figure_layout[f"yaxis{suffix}"] = axis(theme, "", anchor=f"x{suffix}", domain=panel.y, rangemode="tozero")
        annotations.append(
            {"text": panel.heading, "xref": f"x{suffix} domain", "yref": f"y{suffix} domain", "x": 0, "y": 1.02,
             "xanchor": "left", "yanchor": "bottom", "showarrow": False, "font": {"size": 12, "color": theme.ink}}
        )  # fmt: skip
        if len(trials) <= _MOST_POINTS:
            traces = points(trials, x, panel.values, [], theme, colour_by, brief=True)
        else:
            traces = _bands(x, panel.values, zero_at, theme)
            traces += _listed(trials, x, panel.values, theme, colour_by) if place == 0 else []
        traces += _beside_the_child(trials, x, tests, theme) if place == 0 else []
        data += [trace | {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}", "showlegend": False} for trace in traces]
    errors = [value for value in panels[0].values if math.isfinite(value)] + [100 * t.value for t in tests.values()]
    figure_layout["yaxis"] |= spread_axis(errors, beyond=ERRORS_SPREAD)
    figure_layout["shapes"] = _ranges(len(panels), x, zero_at, etas, lost, theme)
    return {"data": data, "layout": {**figure_layout, "annotations": annotations}}


def _panels(trials: Sequence[Trial], cost: str) -> list[_Panel]:
    """Error over the whole width, and below it what a penalty is paid for."""
    width = (1 - 2 * _GAP) / 3
    below: tuple[tuple[str, list[float]], ...] = (
        (metric_title(cost), [trial.run.metrics[cost] * metric_factor(cost) for trial in trials]),
        ("edges left, both cells", [_edges(trial) for trial in trials]),
        ("discretization gap (percentage points)",
         [100 * trial.run.metrics.get("discretization_gap", math.nan) for trial in trials]),
    )  # fmt: skip
    errors = [100 * trial.run.metrics.get("child_val_error", math.nan) for trial in trials]
    heading = "error (%):  ● child   ◇ child, batch norm recalibrated   ■ retrained, on test images"
    return [
        _Panel(heading=heading, values=errors, x=(0.0, 1.0), y=_ERROR_DOMAIN),
        *(
            _Panel(heading=name, values=values, x=(left := place * (width + _GAP), left + width), y=_LOWER_DOMAIN)
            for place, (name, values) in enumerate(below)
        ),
    ]


def _listed(
    trials: Sequence[Trial], x: Sequence[float], y: Sequence[float], theme: Theme, colour_by: ColourBy
) -> list[dict[str, Any]]:
    """Points that are shown beside the bands only while the table of trials leaves out others (`choice.js`)."""
    traces = points(trials, x, y, [], theme, colour_by, late=range(len(trials)))
    return [trace | {"meta": "listed", "unselected": {"marker": {"opacity": 0}}} for trace in traces]


def _beside_the_child(
    trials: Sequence[Trial], x: Sequence[float], tests: Mapping[int, Estimate], theme: Theme
) -> list[dict[str, Any]]:
    """What the same cells err by after recalibration and after retraining, with intervals."""
    traces: list[dict[str, Any]] = []
    if len(trials) <= _MOST_POINTS:
        marker = {"symbol": "diamond-open", "size": 6, "color": theme.muted, "line": {"width": 1}}
        values = [_recalibrated(trial) for trial in trials]
        traces.append(
            {"type": "scatter", "mode": "markers", "name": "recalibrated", "marker": marker,
             "x": list(x), "y": [value and 100 * value for value in values],
             "customdata": [trial.number for trial in trials],
             "hovertemplate": "trial %{customdata}, recalibrated: %{y:.2f}%<extra></extra>"}
        )  # fmt: skip
    numbers = [(place, trial.number) for place, trial in enumerate(trials)]
    tested = [(place, tests[number]) for place, number in numbers if number is not None and number in tests]
    if tested:
        spans = [(found.value, *(found.interval or (found.value, found.value))) for _, found in tested]
        traces.append(
            {"type": "scatter", "mode": "markers", "name": "retrained", "x": [x[place] for place, _ in tested],
             "y": [100 * found.value for _, found in tested],
             "marker": {"symbol": "square-dot", "size": 11, "color": theme.ink},
             "error_y": {"type": "data", "symmetric": False, "color": theme.ink, "thickness": 1.4, "width": 5,
                         "array": [100 * (high - value) for value, _, high in spans],
                         "arrayminus": [100 * (value - low) for value, low, _ in spans]},
             "customdata": [trials[place].number for place, _ in tested],
             "hovertext": [f"<b>{trials[place].title}</b><br>test error "
                           f"{percent_with_interval(found.value, found.interval)}" for place, found in tested],
             "hoverinfo": "text"}
        )  # fmt: skip
    return traces


def _ranges(
    panels: int,
    x: Sequence[float],
    zero_at: float,
    etas: tuple[float, float] | None,
    lost: float | None,
    theme: Theme,
) -> list[dict[str, Any]]:
    """Bands behind all panels: good penalty strengths, and those at which most searches lose a cell."""
    spans = [] if etas is None else [(etas[0] or zero_at, etas[1] or zero_at, faint(theme.categories[0], 0.12))]
    if lost is not None:
        below = [value for value in x if value < lost]
        spans.append((math.sqrt(lost * max(below)) if below else lost, max(x) * 1.5, faint(theme.categories[1], 0.16)))
    return [
        {"type": "rect", "xref": f"x{suffix}", "yref": f"y{suffix} domain", "x0": low, "x1": high, "y0": 0, "y1": 1,
         "fillcolor": colour, "line": {"width": 0}, "layer": "below"}
        for suffix in ["", *map(str, range(2, panels + 1))] for low, high, colour in spans
    ]  # fmt: skip


def _bands(x: Sequence[float], y: Sequence[float], zero_at: float, theme: Theme) -> list[dict[str, Any]]:
    """Median, tenth and ninetieth percentile in bins of as many trials each; those without penalty are one bin."""
    pairs = np.array(sorted((a, b) for a, b in zip(x, y, strict=True) if math.isfinite(b))).reshape(-1, 2)
    unpenalised = pairs[:, 0] <= zero_at
    bins = [part for part in (pairs[unpenalised], *np.array_split(pairs[~unpenalised], _BINS)) if len(part)]
    centres = [float(10 ** np.log10(part[:, 0]).mean()) for part in bins]
    low, middle, high = ([float(np.quantile(part[:, 1], share)) for part in bins] for share in (0.1, 0.5, 0.9))
    band = {"type": "scatter", "mode": "lines", "x": centres, "hoverinfo": "skip", "line": {"width": 0}}
    return [
        {**band, "y": low},
        {**band, "y": high, "fill": "tonexty", "fillcolor": faint(theme.categories[0], 0.22)},
        {"type": "scatter", "mode": "lines+markers", "x": centres, "y": middle, "marker": {"size": 5},
         "line": {"color": theme.categories[0], "width": 2},
         "hovertemplate": "median %{y:.4g} around η %{x:.2g}<extra></extra>"},
    ]  # fmt: skip


def _edges(trial: Trial) -> float:
    return trial.run.metrics.get("edges_normal", math.nan) + trial.run.metrics.get("edges_reduce", math.nan)


def _recalibrated(trial: Trial) -> float | None:
    accuracy = trial.run.metrics.get("child_val_accuracy_recalibrated", math.nan)
    return 1 - accuracy if math.isfinite(accuracy) else None


def _test_row(found: Estimate | None) -> tuple[float | None, float | None, float | None]:
    if found is None:
        return None, None, None
    return found.value, *(found.interval or (None, None))


def _lost_from(trials: Sequence[Trial]) -> float | None:
    """The least penalty strength from which on at least half of the searches end with an empty cell."""
    ordered = sorted((trial for trial in trials if trial.eta), key=lambda trial: trial.eta or 0.0)
    lost = [trial.has_lost_a_cell for trial in ordered]
    for place, trial in enumerate(ordered):
        if lost[place] and 2 * sum(lost[place:]) >= len(lost) - place:
            return trial.eta
    return None
