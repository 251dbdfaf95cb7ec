"""One study: where it stands, its front, what mattered, its trials."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from dash import html

from dashboards.analysis.study_answer import answer_of
from dashboards.charts.chart import Chart
from dashboards.charts.parallel import parallel_chart
from dashboards.charts.penalty import penalty_chart
from dashboards.charts.points import ColourBy
from dashboards.charts.slices import slices_chart
from dashboards.charts.study_charts import front_chart, importance_chart, known_costs, known_errors
from dashboards.charts.volume import volume_chart
from dashboards.formatting import (
    MISSING,
    counted,
    duration,
    metric_name,
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
from dashboards.pages.running import running_runs
from dashboards.pages.trials_table import trials_chart, trials_grid
from dashboards.pages.view import Component, Request, View
from dashboards.records import StudyRecord
from dashboards.store import Store

#: States of searches that ended early.
_EARLY = ("failed", "collapsed", "cancelled", "stopped")
_PUBLISHED = ("hide", "show")
_MOST_FAILURES = 20
_SILENT_S = 1800.0  # a study that runs and has not reported for so long may have lost its driver


def study_view(store: Store, request: Request) -> View:
    """The study named in the path."""
    study = store.study(request.path[1])
    said: list[Component] = []
    published = None
    if request.option("published", _PUBLISHED) == "show":
        published = asked(lambda: store.published(study), "The published cells cannot be shown", said)
    options = tuple((name, tuple(values)) for name, values in request.query.items())
    key = (study.overview.name, study.version, request.location, request.theme.name, options)
    drawn = _drawn(_Shown(key=(*key, published is None), study=study, request=request, published=published or {}))
    *above, numbers = head(study, "Study", store.location)
    body = [*above, drawn.answer, numbers, slot(running_runs(study)), slot(said), *drawn.below]
    return View(
        name="study",
        title=study.overview.name,
        body=[html.Div(body, className="page")],
        charts=drawn.charts,
        is_live=study.overview.state == "running",
        version=study.version,
    )


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """What is drawn of a study; equal as long as it would look the same."""

    key: tuple[Hashable, ...]
    study: StudyRecord = field(compare=False)
    request: Request = field(compare=False)
    published: Mapping[str, Mapping[str, float]] = field(compare=False)


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """The parts of the page that take long."""

    answer: Component
    below: Sequence[Component]
    charts: Sequence[Chart]


@lru_cache(maxsize=4)  # a live page asks every few seconds, mostly for what it has
def _drawn(shown: _Shown) -> _Drawn:
    study, request = shown.study, shown.request
    costs = known_costs(study) or ["child_madds"]
    colours: dict[ColourBy, str] = {"eta": "penalty strength", "schedule": "schedule"}
    if len({trial.strategy for trial in study.trials}) > 1:
        colours = {"strategy": "strategy", **colours}
    cost, colour_by = request.option("cost", costs), request.option("colour", list(colours))
    errors = known_errors(study)
    error = request.option("error", list(errors))
    front = front_chart(study, request.theme, cost=cost, colour_by=colour_by, published=shown.published, error=error)  # type: ignore[arg-type]  # of ColourBy and ErrorKind
    answer = answer_of(study)
    penalty = penalty_chart(study, request.theme, cost=cost, colour_by=colour_by, answer=answer)  # type: ignore[arg-type]  # as above
    parallel, importance = parallel_chart(study, request.theme), importance_chart(study, request.theme)
    slices, volume = slices_chart(study, request.theme), volume_chart(study, request.theme)
    trials = trials_chart(study)
    controls = [
        choices("error", "Error", {str(kind): str(kind) for kind in errors}, error, request),
        choices("cost", "Cost", {name: metric_name(name) for name in costs}, cost, request),
        choices(
            "published",
            "Published cells",
            {name: name for name in _PUBLISHED},
            request.option("published", _PUBLISHED),
            request,
        ),
        choices("colour", "Colour", {str(key): name for key, name in colours.items()}, colour_by, request),
    ]
    below = [
        html.Div(
            [
                chart_card(
                    front,
                    request,
                    wide=True,
                    controls=controls,
                    drag="lasso",
                    below=[html.Div([], id="chosen-cells", className="strip")],
                ),
                chart_card(penalty, request, wide=True),
                chart_card(parallel, request, drag="select"),
                chart_card(importance, request),
                chart_card(slices, request, wide=True),
                *([chart_card(volume, request, wide=True)] if volume.figure else []),
            ],
            className="cards",
        ),
        trials_grid(study, trials, request),
        slot(_failures(study)),
    ]
    charts = (front, penalty, parallel, importance, slices, volume, trials)
    return _Drawn(
        answer=slot([] if answer is None else [answer_card(study, answer, request)]), below=below, charts=charts
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
