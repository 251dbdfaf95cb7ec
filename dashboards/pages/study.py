"""One study: where it stands, its front, what mattered, its trials."""

from __future__ import annotations

import json
import math
from typing import Any

import dash_ag_grid
from dash import html

from dashboards.analysis.study_answer import answer_of
from dashboards.charts.chart import Chart
from dashboards.charts.parallel import parallel_chart
from dashboards.charts.penalty import penalty_chart
from dashboards.charts.points import ColourBy
from dashboards.charts.study_charts import front_chart, importance_chart, known_costs
from dashboards.charts.theme import Theme
from dashboards.formatting import (
    MISSING,
    counted,
    duration,
    exact,
    metric_factor,
    metric_name,
    metric_title,
    moment,
    shown_metric,
)
from dashboards.mlflow_store.databases import snas_command
from dashboards.pages.answer import answer_card
from dashboards.pages.asked import asked
from dashboards.pages.parts import (
    badge,
    chart_card,
    choices,
    facts,
    link,
    message,
    notices,
    slot,
    study_tabs,
    table,
    trail,
    trial_address,
)
from dashboards.pages.view import Component, Request, View, address
from dashboards.records import StudyRecord, Trial
from dashboards.store import Store

#: States of searches that ended early.
_EARLY = ("failed", "collapsed", "cancelled", "stopped")
#: Metrics in the table of trials.
_GRID_METRICS = ("child_val_error", "supernet_val_accuracy", "discretization_gap", "child_madds", "child_params")
_MOST_FAILURES = 20
_SILENT_S = 1800.0  # a study that runs and has not reported for so long may have lost its driver


def study_view(store: Store, request: Request) -> View:
    """The study named in the path."""
    study = store.study(request.path[1])
    costs = known_costs(study) or ["child_madds"]
    colours: dict[ColourBy, str] = {"eta": "penalty strength", "schedule": "schedule"}
    if len({trial.strategy for trial in study.trials}) > 1:
        colours = {"strategy": "strategy", **colours}
    cost, colour_by = request.option("cost", costs), request.option("colour", list(colours))
    said: list[Component] = []
    published = asked(lambda: store.published(study), "The published cells cannot be shown", said) or {}
    front = front_chart(study, request.theme, cost=cost, colour_by=colour_by, published=published)  # type: ignore[arg-type]  # one of ColourBy
    answer = answer_of(study)
    penalty = penalty_chart(study, request.theme, cost=cost, colour_by=colour_by, answer=answer)  # type: ignore[arg-type]  # as above
    parallel, importance = parallel_chart(study, request.theme), importance_chart(study, request.theme)
    trials = _trials_table(study)
    controls = [
        choices("cost", "Cost", {name: metric_name(name) for name in costs}, cost, request),
        choices("colour", "Colour", {str(key): name for key, name in colours.items()}, colour_by, request),
    ]
    *above, numbers = head(study, "Study", store.location)
    body = [
        *above,
        slot([] if answer is None else [answer_card(study, answer, request)]),
        numbers,
        slot(said),
        html.Div(
            [
                chart_card(front, request, wide=True, controls=controls),
                chart_card(penalty, request, wide=True),
                chart_card(parallel, request),
                chart_card(importance, request),
            ],
            className="cards",
        ),
        _grid(study, trials, request),
        slot(_failures(study)),
    ]
    return View(
        name="study",
        title=study.overview.name,
        body=[html.Div(body, className="page")],
        charts=(front, penalty, parallel, importance, trials),
        is_live=study.overview.state == "running",
        version=study.version,
    )


def head(study: StudyRecord, chosen: str, location: str) -> list[Component]:
    """Name, state and facts of a study, with its tabs; the location is that of the store."""
    overview = study.overview
    over = sum(overview.ended.values())
    is_running = overview.state == "running"
    ending = overview.run.tags.get("snas.ending") if overview.run is not None else None
    goals = study.objectives if overview.run is not None else ()  # single searches have no best
    numbers = [
        *(
            (f"best {metric_name(goal.metric)}", shown_metric(goal.metric, overview.best.get(goal.metric)))
            for goal in goals
        ),
        ("reserved", MISSING if overview.hours is None else f"{overview.hours:.3g} {overview.hours_unit}"),
        ("time left for searches", duration(overview.time_left_s if over < overview.num_trials else None)),
        ("retrained", f"{overview.retrained[0]} of {overview.retrained[1]}" if overview.retrained[1] else MISSING),
        ("last report", moment(overview.last_report_s)),
    ]
    entries: list[tuple[str, Any]] = [
        ("state", badge(overview.state)),
        ("searches over", f"{over} of {overview.num_trials}"),
        *([("ended", ending)] if ending else []),
        # While it runs, what is not known yet has its place: a number that comes moves nothing below it.
        *((name, text) for name, text in numbers if is_running or text != MISSING),
        ("updated", moment(study.as_of_s)),
    ]
    silent_s = study.as_of_s - (overview.last_report_s or study.as_of_s)
    is_silent = is_running and silent_s > _SILENT_S
    aims = " and ".join(f"{goal.mode} {metric_name(goal.metric)}" for goal in study.objectives)
    return [
        trail(("Studies", "/"), (overview.name, "")),
        html.H1(overview.name),
        html.P(f"Objectives: {aims}. Swept: {', '.join(study.swept) or 'nothing'}.", className="subtitle"),
        study_tabs(study, chosen),
        slot([*notices(study), *([_silent(overview.name, silent_s, location)] if is_silent else [])]),
        facts(entries),
    ]


def _silent(name: str, seconds: float, location: str) -> Component:
    text = f"Nothing has been reported for {duration(seconds)}. If its driver was killed, "
    return message(
        "Is it still running?", f"{text}`{snas_command(location, 'study', 'resume', name)}` resumes it.", kind="notice"
    )


def _trials_table(study: StudyRecord) -> Chart:
    """The numbers of all trials; params and metrics have prefixes, so that those of one name do not collide."""
    values = list(dict.fromkeys(key for trial in study.trials for key in trial.values))
    metrics = list(dict.fromkeys(name for trial in study.trials for name in trial.run.metrics))
    return Chart(
        key="trials",
        title="Trials",
        columns=("trial", "state", "on_front", "epochs", "run_id", *(f"param.{key}" for key in values),
                 *(f"metric.{name}" for name in metrics), "reason"),
        rows=[
            (trial.number, trial.run.state, trial.on_front, trial.run.num_epochs, trial.run.run_id,
             *(trial.values.get(key) for key in values), *(trial.run.metrics.get(name) for name in metrics),
             trial.run.reason or trial.broken_limits)
            for trial in study.trials
        ],
    )  # fmt: skip


def _grid(study: StudyRecord, chart: Chart, request: Request) -> Component:
    """All trials with filter and sort; two to four that are chosen can be compared."""
    if not study.trials:
        return message("No trial yet", "The first search has not reported an epoch.")
    values = list(dict.fromkeys(key for trial in study.trials for key in trial.values))
    number = {
        "filter": "agNumberColumnFilter", "type": "rightAligned", "width": 148,
        "valueFormatter": {"function": "params.value == null ? '' : d3.format('.15~g')(params.value)"},
    }  # fmt: skip
    text = {"filter": "agTextColumnFilter", "width": 148}
    columns: list[dict[str, Any]] = [
        {"field": "trial", "headerName": "trial", "cellRenderer": "TrialLink", "pinned": "left",
         "filter": "agNumberColumnFilter", "width": 112},
        {"field": "state", "headerName": "state", **text},
        {"field": "front", "headerName": "front", **text},
        *({"field": f"p{place}", "headerName": key, **(number if _is_number(study, key) else text),
           "width": max(130, 62 + 8 * len(key))} for place, key in enumerate(values)),
        {"field": "epochs", "headerName": "epochs", **number},
        *({"field": name, "headerName": metric_title(name), **number} for name in _GRID_METRICS),
        {"field": "edges", "headerName": "edges left", **number},
        {"field": "reason", "headerName": "reason", **text, "width": 320},
    ]  # fmt: skip
    rows = [_grid_row(study, trial, values) for trial in study.trials]
    grid = dash_ag_grid.AgGrid(
        id="trials",
        columnDefs=columns,
        rowData=rows,
        getRowId="params.data.run",
        defaultColDef={"sortable": True, "resizable": True, "floatingFilter": True,
                       "wrapHeaderText": True, "autoHeaderHeight": True},
        dashGridOptions={
            "rowSelection": {"mode": "multiRow", "enableClickSelection": False, "headerCheckbox": False},
            "theme": {"function": f"themeQuartz.withParams({json.dumps(_grid_colours(request.theme))})"},
            "selectionColumnDef": {"pinned": "left", "width": 52},
            "ensureDomOrder": True, "animateRows": False, "rowBuffer": 3, "enableCellTextSelection": True,
        },
        style={"height": f"{min(620, 130 + 42 * len(rows))}px"},
    )  # fmt: skip
    csv = html.A("CSV", href=address("csv", "study", study.overview.name, chart=chart.key), download="trials.csv")
    compare = html.Button(
        "Compare the chosen trials", id="compare-chosen", type="button", disabled=True,
        **{"data-study": study.overview.name, "aria-describedby": "compare-hint"},
    )  # fmt: skip
    return html.Section(
        [
            html.H2(f"{counted(len(rows), 'trial')}"),
            html.Div(
                [compare, html.Span("Choose two to four with the boxes at the left.", id="compare-hint",
                                    className="note"), html.Div([csv], className="tools")],
                className="below",
            ),
            grid,
        ],
        className="card wide",
    )  # fmt: skip


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
    }


def _grid_row(study: StudyRecord, trial: Trial, values: list[str]) -> dict[str, Any]:
    metrics = trial.run.metrics
    row: dict[str, Any] = {
        "trial": trial.number,
        "href": trial_address(study.overview.name, trial.number, trial.run.run_id),
        "run": trial.run.run_id,
        "label": trial.title,
        "state": trial.run.state,
        "front": "on front" if trial.on_front else "",
        "epochs": trial.run.num_epochs,
        "reason": trial.run.reason or trial.broken_limits,
    }
    row |= {f"p{place}": _rounded(trial.values.get(key)) for place, key in enumerate(values)}
    row |= {name: _rounded(metrics[name] * metric_factor(name)) for name in _GRID_METRICS if name in metrics}
    if "edges_normal" in metrics:
        row["edges"] = _rounded(metrics["edges_normal"] + metrics.get("edges_reduce", 0.0))
    return row


def _rounded(value: float | str | None) -> float | str | None:
    if isinstance(value, float):
        return float(exact(value, 4)) if math.isfinite(value) else None  # JSON has no others
    return value


def _is_number(study: StudyRecord, key: str) -> bool:
    return all(isinstance(trial.values.get(key, 0.0), float) for trial in study.trials)


def _failures(study: StudyRecord) -> list[Component]:
    """What ended early, and why."""
    runs = [(trial.title, trial.run, trial_address(study.overview.name, trial.number, trial.run.run_id))
            for trial in study.trials if trial.run.state in _EARLY]  # fmt: skip
    failed = [(title, run, href) for title, run, href in runs if run.state != "stopped"]
    rows = [
        [link(title, href), badge(run.state), str(run.num_epochs), run.reason or MISSING] for title, run, href in failed
    ]
    rows += [
        [retraining.run.label, badge(retraining.run.state), str(retraining.run.num_epochs), retraining.run.reason]
        for retraining in study.retrainings
        if retraining.run.state == "failed"
    ]
    if not rows:
        return []
    title = f"{counted(len(rows), 'run')} ended badly"
    if len(rows) > _MOST_FAILURES:
        title += f"; the first {_MOST_FAILURES} of them, the table above filters for all"
        rows = rows[:_MOST_FAILURES]
    return [
        html.Section(
            [html.H2(title), table("Runs that failed or collapsed", ("run", "state", "epochs", "reason"), rows)],
            className="card wide",
        )
    ]
