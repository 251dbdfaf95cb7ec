"""The table of a study's trials: results first, the front on top, with filters, presets and a choice of columns."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dash_ag_grid
from dash import html

from dashboards.analysis.retrained import RetrainedCell, tests_by_trial
from dashboards.charts.chart import Chart
from dashboards.charts.theme import Theme
from dashboards.formatting import counted, metric_name, percent_with_spread, shown_metric, shown_number
from dashboards.pages.parts import choices, message, trial_address
from dashboards.pages.view import Component, Request, address
from dashboards.records import StudyRecord, Trial

#: Metrics in the table, results first.
_METRICS = ("child_val_error", "child_madds", "child_params", "discretization_gap", "supernet_val_accuracy")
#: Columns that are there but not shown at first: what a page of 1400 pixels has no room for.
_HIDDEN = ("supernet_val_accuracy", "edges", "epochs", "reason")
#: Conditions of a filter, of which it takes one, so that an address can hold them all.
_FILTERS: Mapping[str, Sequence[str]] = {
    "number": ("lessThanOrEqual", "greaterThanOrEqual", "equals", "inRange", "blank", "notBlank"),
    "text": ("contains", "notContains", "equals", "notEqual", "startsWith", "endsWith", "blank", "notBlank"),
}
#: Whose filter begins with "at least", since more is better; all others begin with "at most".
_AT_LEAST = ("supernet_val_accuracy",)
_ROWS: Mapping[str, str] = {
    "all": "all", "front": "front", "retrained": "retrained", "failed": "failed or collapsed", "starred": "starred",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Column:
    """One column: key in the rows, heading, width in pixels, and a trial's value and text; text is empty for words."""

    key: str
    heading: str
    width: int
    value: Callable[[Trial], float | str | None]
    text: Callable[[Trial], str] | None = None


def trials_chart(study: StudyRecord) -> Chart:
    """The numbers of all trials; params and metrics have prefixes, so that those of one name do not collide."""
    values = _swept(study)
    metrics = list(dict.fromkeys(name for trial in study.trials for name in trial.run.metrics))
    tests = tests_by_trial(study.retrainings)
    return Chart(
        key="trials",
        title="Trials",
        columns=("trial", "state", "on_front", "epochs", "run_id", *(f"param.{key}" for key in values),
                 *(f"metric.{name}" for name in metrics), "test_error", "reason"),
        rows=[
            (trial.number, trial.run.state, trial.on_front, trial.run.num_epochs, trial.run.run_id,
             *(trial.values.get(key) for key in values), *(trial.run.metrics.get(name) for name in metrics),
             _tested(trial, tests), trial.run.reason or trial.broken_limits)
            for trial in study.trials
        ],
    )  # fmt: skip


def trials_grid(study: StudyRecord, chart: Chart, request: Request) -> Component:
    """All trials, or those of a preset, with filter and sort; those that are chosen can be compared."""
    if not study.trials:
        return message("No trial yet", "The first search has not reported an epoch.")
    tests, columns = tests_by_trial(study.retrainings), _columns(study)
    chosen = request.option("rows", list(_ROWS))
    shown = [trial for trial in study.trials if _is_in(trial, chosen, tests)]
    shown.sort(key=lambda trial: _rank(trial, tests))
    rows = [_row(study, trial, columns) for trial in shown]
    grid = dash_ag_grid.AgGrid(
        id="trials",
        columnDefs=[_trial_column(), *map(_definition, columns)],
        rowData=rows,
        filterModel=_filters(request, columns),
        getRowId="params.data.run",
        defaultColDef={"sortable": True, "resizable": True, "floatingFilter": True,
                       "wrapHeaderText": True, "autoHeaderHeight": True},
        dashGridOptions={
            "rowSelection": {"mode": "multiRow", "enableClickSelection": False, "headerCheckbox": False},
            "theme": {"function": f"themeQuartz.withParams({json.dumps(_grid_colours(request.theme))})"},
            "selectionColumnDef": {"pinned": "left", "width": 46},
            "isExternalFilterPresent": {"function": "true"},
            "doesExternalFilterPass": {"function": "isChosen(params)"},
            "ensureDomOrder": True, "animateRows": False, "rowBuffer": 3, "enableCellTextSelection": True,
        },
        style={"height": f"{min(620, 140 + 42 * len(rows))}px"},
    )  # fmt: skip
    csv = html.A("CSV", href=address("csv", "study", study.overview.name, chart=chart.key), download="trials.csv")
    compare = html.Button(
        "Compare the chosen trials", id="compare-chosen", type="button", disabled=True,
        **{"data-study": study.overview.name, "aria-describedby": "compare-hint"},
    )  # fmt: skip
    hint = html.Span("Choose two or more with the boxes at the left.", id="compare-hint", className="note")
    return html.Section(
        [
            html.Div(
                [html.H2([counted(len(study.trials), "trial"), html.Span("", id="trials-count", className="muted")]),
                 html.Button("Show all trials", id="show-all", type="button", hidden=True),
                 choices("rows", "Rows", _ROWS, chosen, request), _chooser(columns)], className="table-head",
            ),
            html.Div([compare, hint, html.Div([csv], className="tools")], className="below"),
            grid,
        ],
        className="card wide",
    )  # fmt: skip


def _columns(study: StudyRecord) -> list[_Column]:
    """What is known of a trial: front, results, swept settings, then how it went."""
    tests = tests_by_trial(study.retrainings)

    def metric(name: str) -> _Column:
        return _Column(
            key=name,
            heading=metric_name(name).replace("validation ", ""),
            width=116 if name == "discretization_gap" else 108,
            value=lambda trial: _in_percent(name, trial.run.metrics.get(name)),
            text=lambda trial: shown_metric(name, trial.run.metrics.get(name)).replace(" percentage points", ""),
        )

    def swept(place: int, key: str) -> _Column:
        is_number = all(isinstance(trial.values.get(key, 0.0), float) for trial in study.trials)
        return _Column(
            key=f"p{place}",
            heading="η" if key == "penalty.strength" else key.replace(".", ".\u200b"),
            width=max(96, 40 + 8 * max(map(len, key.split(".")))),
            value=lambda trial: trial.values.get(key),
            text=(lambda trial: shown_number(trial.values.get(key))) if is_number else None,
        )

    results = [metric(name) for name in _METRICS]
    tested = _Column(
        key="test_error",
        heading="test error",
        width=134,
        value=lambda trial: _in_percent("child_val_error", _tested(trial, tests)),
        text=lambda trial: _tested_text(trial, tests),
    )
    return [
        _Column(key="front", heading="front", width=92, value=lambda trial: "on front" if trial.on_front else ""),
        *([tested] if tests else []),
        *results[:3],
        *(swept(place, key) for place, key in enumerate(_swept(study))),
        *results[3:],
        _Column(key="edges", heading="edges left", width=90, value=edges_left,
                text=lambda trial: shown_number(edges_left(trial))),
        _Column(key="epochs", heading="epochs", width=90, value=lambda trial: float(trial.run.num_epochs),
                text=lambda trial: str(trial.run.num_epochs)),
        _Column(key="state", heading="state", width=104, value=lambda trial: trial.run.state),
        _Column(key="reason", heading="reason", width=320,
                value=lambda trial: trial.run.reason or trial.broken_limits),
    ]  # fmt: skip


def _trial_column() -> dict[str, Any]:
    return {"field": "trial", "headerName": "trial", "cellRenderer": "TrialLink", "pinned": "left",
            "width": 96, **_filter("number", "equals")}  # fmt: skip


def _filter(kind: str, first: str) -> dict[str, Any]:
    """A column's filter; it begins with the first condition."""
    conditions = sorted(_FILTERS[kind], key=lambda condition: condition != first)
    params = {"filterOptions": conditions, "maxNumConditions": 1}
    return {"filter": f"ag{kind.title()}ColumnFilter", "filterParams": params}


def _filters(request: Request, columns: list[_Column]) -> dict[str, Any]:
    """The filters that the browser wrote into the address, by column; what the grid could not take is left out."""
    try:
        given = json.loads(request.query.get("filter", ["{}"])[0])
    except (ValueError, RecursionError):
        given = {}
    kinds = {column.key: "text" if column.text is None else "number" for column in columns} | {"trial": "number"}
    asked = given.items() if isinstance(given, dict) else ()
    return {key: value for key, value in asked if key in kinds and _is_filter(value, kinds[key])}


def _is_filter(value: Any, kind: str) -> bool:
    if not isinstance(value, dict) or value.get("filterType") != kind or value.get("type") not in _FILTERS[kind]:
        return False
    compared = [value[key] for key in ("filter", "filterTo") if value.get(key) is not None]
    return all(isinstance(entry, str if kind == "text" else int | float) for entry in compared)


def _definition(column: _Column) -> dict[str, Any]:
    """The column as the grid takes it: it shows the text of a number, and sorts and filters by the number."""
    common = {"field": column.key, "headerName": column.heading, "width": column.width,
              "hide": column.key in _HIDDEN}  # fmt: skip
    if column.text is None:
        return {**common, **_filter("text", "contains")}
    first = "greaterThanOrEqual" if column.key in _AT_LEAST else "lessThanOrEqual"
    return {
        **common, **_filter("number", first), "type": "rightAligned",
        "valueFormatter": {"function": f"params.data.shown['{column.key}']"},
    }  # fmt: skip


def _row(study: StudyRecord, trial: Trial, columns: list[_Column]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "trial": trial.number,
        "href": trial_address(study.overview.name, trial.number, trial.run.run_id),
        "run": trial.run.run_id,
        "label": trial.title + " ★" * trial.is_starred,
        "shown": {},
    }
    for column in columns:
        value = column.value(trial)
        row[column.key] = None if isinstance(value, float) and not math.isfinite(value) else value  # JSON has no others
        if column.text is not None:
            row["shown"][column.key] = "" if row[column.key] is None else column.text(trial)
    return row


def _chooser(columns: list[_Column]) -> Component:
    """Buttons that show and hide columns, in the browser alone."""
    buttons = [
        html.Button(column.heading, type="button",
                    **{"data-column": column.key, "aria-pressed": str(column.key not in _HIDDEN).lower()})
        for column in columns
    ]  # fmt: skip
    return html.Details([html.Summary("Columns"), html.Div(buttons)], className="chooser")


def _is_in(trial: Trial, preset: str, tests: Mapping[int, RetrainedCell]) -> bool:
    return {
        "all": True,
        "front": trial.on_front,
        "retrained": trial.number in tests,
        "failed": trial.run.state in ("failed", "collapsed"),
        "starred": trial.is_starred,
    }[preset]


def _rank(trial: Trial, tests: Mapping[int, RetrainedCell]) -> tuple[bool, bool, float, int]:
    """The front first, by test error where it is known, then by that of the child; what is no result last."""
    tested = _tested(trial, tests)
    error = trial.run.metrics.get("child_val_error", math.inf) if tested is None else tested - 1
    return not trial.on_front, not trial.is_result, error, -1 if trial.number is None else trial.number


def _swept(study: StudyRecord) -> list[str]:
    return list(dict.fromkeys(key for trial in study.trials for key in trial.values))


def _tested(trial: Trial, tests: Mapping[int, RetrainedCell]) -> float | None:
    cell = None if trial.number is None else tests.get(trial.number)
    return None if cell is None else cell.mean_error


def _tested_text(trial: Trial, tests: Mapping[int, RetrainedCell]) -> str:
    cell = None if trial.number is None else tests.get(trial.number)
    return "" if cell is None else percent_with_spread(cell.mean_error, cell.spread)


def _in_percent(metric: str, value: float | None) -> float | None:
    """A share as a filter takes it, in percent; counts as they are."""
    is_count = metric.startswith("child_") and metric not in ("child_val_error", "child_val_accuracy")
    return value if value is None or is_count else 100 * value


def edges_left(trial: Trial) -> float | None:
    """Edges that the cells of a trial still have; None before its first epoch."""
    metrics = trial.run.metrics
    return metrics["edges_normal"] + metrics.get("edges_reduce", 0.0) if "edges_normal" in metrics else None


def _grid_colours(theme: Theme) -> dict[str, Any]:
    """Look of the grid, so that it belongs to the page."""
    return {
        "backgroundColor": theme.surface,
        "foregroundColor": theme.ink,
        "headerTextColor": theme.ink,
        "accentColor": theme.categories[0],
        "borderColor": theme.grid,
        "browserColorScheme": theme.name,
        "fontFamily": "inherit",
        "fontSize": 13.5,
        "cellHorizontalPadding": 10,
    }
