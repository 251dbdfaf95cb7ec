"""Charts of a whole study: the front and what mattered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from dashboards.analysis.answer import COSTS
from dashboards.analysis.front import front_mask
from dashboards.analysis.importance import MIN_RATED, importances
from dashboards.analysis.retrained import RetrainedCell, tests_by_trial
from dashboards.charts.chart import Chart
from dashboards.charts.points import ERRORS_SPREAD, ColourBy, escaped, points, spread_axis, with_room
from dashboards.charts.theme import Theme, layout
from dashboards.formatting import counted, metric_factor, metric_name, metric_title, metric_unit
from dashboards.records import Objective, StudyRecord, Trial

ErrorKind = Literal["child", "recalibrated", "test"]
#: What each error is called.
ERRORS: dict[ErrorKind, str] = {
    "child": "child error",
    "recalibrated": "child error, batch norm recalibrated",
    "test": "test error of retrained cells",
}
_COLUMNS: dict[ErrorKind, str] = {
    "child": "child_val_error",
    "recalibrated": "child_val_error_recalibrated",
    "test": "test_error",
}
_LABEL_WIDTH = 0.11  # of a published cell's name, as a share of the axis
_MOST_OTHERS = 400  # points beside the front that are drawn at first
_PATTERNS = ("", "/", "x", ".", "-")  # of bars, an objective each


def known_costs(study: StudyRecord) -> list[str]:
    """Costs that the study's trials report."""
    return [cost for cost in COSTS if any(cost in trial.run.metrics for trial in study.trials)]


def known_errors(study: StudyRecord) -> dict[ErrorKind, str]:
    """Errors that the front can be drawn over: what they are called."""
    has_tests = bool(tests_by_trial(study.retrainings))
    return {kind: text for kind, text in ERRORS.items() if kind != "test" or has_tests}


def front_chart(
    study: StudyRecord,
    theme: Theme,
    *,
    cost: str,
    colour_by: ColourBy,
    published: Mapping[str, Mapping[str, float]],
    error: ErrorKind = "child",
) -> Chart:
    """Error against one cost, every trial a point, the front as a staircase, published cells as lines.

    Args:
        study: the study.
        theme: colours.
        cost: metric of the x axis.
        colour_by: what colours points.
        published: costs of published cells.
        error: of the y axis.
    """
    tests = tests_by_trial(study.retrainings)
    errors = {trial.run.run_id: value for trial in study.trials if (value := _error(trial, error, tests)) is not None}
    name, axis = metric_name(cost), ERRORS[error]
    shown = [trial for trial in study.trials if trial.run.run_id in errors and _has(trial, cost)]
    title = f"{axis[0].upper()}{axis[1:]} against {name}"
    key, columns = "front", ("trial", "state", "eta", "schedule", cost, _COLUMNS[error], "on_front")
    if not shown:
        return Chart(key=key, title=title, empty="No child has been evaluated yet.")
    x = [trial.run.metrics[cost] * metric_factor(cost) for trial in shown]
    y = [100 * errors[trial.run.run_id] for trial in shown]
    results = [index for index, trial in enumerate(shown) if trial.is_result]
    front = _front(results, x, y)
    data = points(shown, x, y, front, theme, colour_by, late=_late(len(shown), front))
    data.insert(0, _stairs([x[index] for index in front], [y[index] for index in front], theme))
    ringed = [index for index, trial in enumerate(shown) if trial.number in tests] if error != "test" else []
    if ringed:
        rings = _rings([x[index] for index in ringed], [y[index] for index in ringed], theme)
        data.insert(1, {**rings, "customdata": [shown[index].number for index in ringed]})
    references = _references(published, cost, x, theme)
    figure = {
        "data": data,
        "layout": layout(
            theme, x=metric_title(cost), y=f"{axis} (%)", height=430,
            showlegend=colour_by != "eta", hovermode="closest", shapes=references[0], annotations=references[1],
            margin={"l": 64, "r": 20, "t": 20 + max((a["yshift"] for a in references[1]), default=-4), "b": 52},
            xaxis=with_room(spread_axis(x), x), yaxis=spread_axis(y, beyond=ERRORS_SPREAD),
        ),
    }  # fmt: skip
    numbers = ", ".join(shown[index].title.removeprefix("trial ") for index in front)
    on_front = f"{len(front)} of {counted(len(results), 'search', 'searches')} on the front"
    title += f": {on_front if results else 'no result yet'}"
    best = min(front, key=lambda index: y[index], default=None)
    lowest = "" if best is None else f" The lowest error is {y[best]:.3g}% at {x[best]:.4g} {metric_unit(cost)}."
    return Chart(
        key=key,
        title=title,
        summary=f"{title}. Trials on the front by {name}: {numbers or 'none'}.{lowest}",
        figure=figure,
        columns=columns,
        rows=[
            (trial.number, trial.run.state, trial.eta, trial.schedule, trial.run.metrics[cost],
             errors[trial.run.run_id], index in front)
            for index, trial in enumerate(shown)
        ],
        note="Named points are on the front of the two axes shown; hollow ones are no results (yet)."
        + (" A ring: retrained." if ringed else "")
        + (" Dotted lines: cost of published cells at this search's size." if references[0] else ""),
    )  # fmt: skip


def importance_chart(study: StudyRecord, theme: Theme) -> Chart:
    """Which swept settings matter for each objective."""
    key, title = "importance", "What matters: importance of the swept settings"
    found = {objective.metric: _importances(study, objective) for objective in study.objectives}
    found = {metric: values for metric, values in found.items() if values}
    if not found:
        return Chart(
            key=key, title=title, empty=f"At least {MIN_RATED} complete searches with different settings are needed."
        )
    keys = list(dict.fromkeys(name for values in found.values() for name in values))
    data = [
        {
            "type": "bar", "orientation": "h", "name": escaped(f"for {metric_name(metric)}"),
            "y": [escaped(name) for name in keys[::-1]],
            "x": [values.get(name, 0.0) for name in keys[::-1]], "marker": {
                "color": theme.categories[place], "pattern": {
                    "shape": _PATTERNS[place % len(_PATTERNS)], "fgcolor": theme.surface, "fillmode": "overlay",
                },
            },
            "text": [f"{values.get(name, 0.0):.2f}" for name in keys[::-1]], "textposition": "outside",
            "cliponaxis": False, "hovertemplate": "%{y}: %{x:.3f}<extra></extra>",
        }
        for place, (metric, values) in enumerate(found.items())
    ]  # fmt: skip
    first = next(iter(found))
    top = max(found[first], key=lambda name: found[first][name])
    return Chart(
        key=key,
        title=f"What matters for {metric_name(first)}: {top} most ({found[first][top]:.0%})",
        summary=f"Importance of {', '.join(keys)} for {', '.join(map(metric_name, found))}, by PED-ANOVA.",
        figure={
            "data": data,
            "layout": layout(
                theme, x="importance (share)", height=120 + 60 * len(keys), showlegend=len(found) > 1, barmode="group",
                xaxis={"range": [0, 1.12], "tickvals": [0, 0.25, 0.5, 0.75, 1]},
                yaxis={"ticks": "", "automargin": True},
                margin={"l": 20, "r": 30, "t": 36 if len(found) > 1 else 12, "b": 52},
            ),
        },
        columns=("objective", "setting", "importance"),
        rows=[(metric, name, share) for metric, values in found.items() for name, share in values.items()],
        note="PED-ANOVA over complete searches; shares add up to 1.",
    )  # fmt: skip


#: Importances by study and metric, for one version of each study.
_computed: dict[tuple[str, str], tuple[str, dict[str, float]]] = {}


def _importances(study: StudyRecord, objective: Objective) -> dict[str, float]:
    """Importances, computed once for a state of a study: Optuna takes half a second for a thousand trials."""
    key = (study.overview.name, objective.metric)
    if key not in _computed or _computed[key][0] != study.version:
        _computed[key] = (study.version, importances(study.trials, objective))
    return _computed[key][1]


def _has(trial: Trial, metric: str) -> bool:
    return math.isfinite(trial.run.metrics.get(metric, math.nan))


def _late(count: int, front: Sequence[int]) -> set[int]:
    """Which points are drawn once the page is there: of very many beside the front, all but an even selection."""
    others = sorted(set(range(count)) - set(front))
    return set(others) - set(others[:: -(-len(others) // _MOST_OTHERS) or 1])


def _front(shown: Sequence[int], x: Sequence[float], y: Sequence[float]) -> list[int]:
    """Those of `shown` that no other beats in both coordinates, from left to right."""
    mask = front_mask(np.array([[x[index], y[index]] for index in shown]).reshape(-1, 2), ("min", "min"))
    best = [index for index, is_on_front in zip(shown, mask, strict=True) if is_on_front]
    return sorted(best, key=lambda index: (x[index], y[index]))


def _error(trial: Trial, error: ErrorKind, tests: Mapping[int, RetrainedCell]) -> float | None:
    """An error of a trial's cell, a fraction; None where there is none."""
    if error == "test":
        cell = None if trial.number is None else tests.get(trial.number)
        return None if cell is None else cell.mean_error
    if error == "recalibrated":
        found = 1 - trial.run.metrics.get("child_val_accuracy_recalibrated", math.nan)
    else:
        found = trial.run.metrics.get("child_val_error", math.nan)
    return found if math.isfinite(found) else None


def _rings(x: Sequence[float], y: Sequence[float], theme: Theme) -> dict[str, Any]:
    marker = {"symbol": "circle-open", "size": 19, "color": theme.ink, "line": {"width": 1.4}}
    return {"type": "scatter", "mode": "markers", "name": "retrained", "x": list(x), "y": list(y), "marker": marker,
            "hoverinfo": "skip", "showlegend": False}  # fmt: skip


def _stairs(x: Sequence[float], y: Sequence[float], theme: Theme) -> dict[str, Any]:
    line = {"color": theme.ink, "width": 1.4, "shape": "hv"}
    return {"type": "scatter", "mode": "lines", "x": list(x), "y": list(y), "line": line, "hoverinfo": "skip",
            "showlegend": False}  # fmt: skip


def _references(
    published: Mapping[str, Mapping[str, float]], cost: str, x: Sequence[float], theme: Theme
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A dotted line with its name per published cell that lies near what the study found."""
    costs = sorted((values[cost] * metric_factor(cost), name) for name, values in published.items() if cost in values)
    positive = [value for value in x if value > 0]
    if not positive:
        return [], []
    is_log = spread_axis(x).get("type") == "log"
    low, high = min(positive) / 1.5, max(positive) * 1.5
    near = [(value, name) for value, name in costs if low < value < high]
    shapes, labels = [], []
    ends: list[float] = []  # of the labels in each row, as shares of the axis
    for value, name in near:
        at = math.log(value / low) / math.log(high / low) if is_log else (value - low) / (high - low)
        row = next((index for index, end in enumerate(ends) if at - end > _LABEL_WIDTH), len(ends))
        ends[row : row + 1] = [at]
        line = {"color": theme.muted, "width": 1, "dash": "dot"}
        shapes.append({"type": "line", "x0": value, "x1": value, "yref": "paper", "y0": 0, "y1": 1, "line": line,
                       "layer": "below"})  # fmt: skip
        labels.append(
            {"x": math.log10(value) if is_log else value, "y": 1, "yref": "paper", "yanchor": "bottom",
             "yshift": 13 * row, "text": escaped(name.replace("_", " ")), "showarrow": False,
             "font": {"size": 10.5, "color": theme.muted}, "xanchor": "center"}
        )  # fmt: skip
    return shapes, labels
