"""What retraining gave: test error with its spread over seeds, curves, registered models, and how to resume."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

from dash import html

from dashboards.analysis.retrained import RetrainedCell, retrained_cells, said_error
from dashboards.charts.curve_charts import retrain_curves
from dashboards.charts.retrain_charts import test_error_chart
from dashboards.formatting import MISSING, interval_text, shown_metric
from dashboards.history import History
from dashboards.pages.asked import asked
from dashboards.pages.parts import (
    badge,
    chart_card,
    copied_command,
    keep_commands,
    link,
    message,
    slot,
    table,
    trial_address,
)
from dashboards.pages.study import head
from dashboards.pages.view import Component, Request, View
from dashboards.records import ModelRecord, Retraining, StudyRecord, Trial
from dashboards.store import Store

_COLUMNS = (
    "cell",
    "test error",
    "95% interval",
    "seeds",
    "validation",
    "parameters",
    "multiply-adds",
    "child before retraining",
)
_RUN_COLUMNS = ("run", "state", "epochs", "validation", "test", "registered model", "load it in Python")
_MOST_CURVES = 21


def retrain_view(store: Store, request: Request) -> View:
    """Retrainings of the study named in the path."""
    study = store.study(request.path[1])
    body: list[Component] = head(study, "Retrain", store.location)
    if not study.retrainings:
        body.append(
            message(
                "Nothing is retrained yet",
                "Retraining begins when all searches are over, if the study file has a `retrain` section; "
                "any cell can be retrained with the command on its trial's page.",
            )
        )
        return _view(study, body, ())
    cells = retrained_cells(study.retrainings)
    histories, faults = _histories(store, study)
    models = asked(lambda: store.models(study), "The registered models cannot be shown", faults) or {}
    body.append(slot(faults))
    is_cifar10 = any(retraining.run.params.get("dataset.name") == "cifar10" for retraining in study.retrainings)
    charts = (test_error_chart(cells, request.theme, is_cifar10=is_cifar10), retrain_curves(histories, request.theme))
    rows = [_row(study, cell) for cell in sorted(cells, key=_place)]
    body += [
        html.Div([chart_card(chart, request) for chart in charts], className="cards"),
        html.Section(
            [html.H2("Cells"), table("Retrained cells, the best first", _COLUMNS, rows)], className="card wide"
        ),
        html.Section(
            [
                html.H2("Runs and models"),
                table("Retrainings", _RUN_COLUMNS, [_run_row(r, models, request) for r in study.retrainings]),
            ],
            className="card wide",
        ),
    ]
    best = min(cells, key=_place)
    trial = _found_by(study, best)
    run = trial.run if trial else best.retrainings[0].run
    tested = best.best.run if best.test_errors else None
    body.append(keep_commands(run, request, in_study=trial is not None, retrained=tested))
    return _view(study, body, charts)


def _view(study: StudyRecord, body: list[Component], charts: tuple[object, ...]) -> View:
    return View(
        name="retrain",
        title=f"Retraining of {study.overview.name}",
        body=[html.Div(body, className="page")],
        charts=charts,  # type: ignore[arg-type]  # of Chart
        is_live=study.overview.state == "running",
        version=study.version,
    )


def _histories(store: Store, study: StudyRecord) -> tuple[dict[str, History], list[Component]]:
    """Histories by label, and messages about those that cannot be read."""
    histories: dict[str, History] = {}
    faults: list[Component] = []
    for run in [retraining.run for retraining in study.retrainings[:_MOST_CURVES]]:
        history = asked(partial(store.history, run), f"The history of {run.label} cannot be shown", faults)
        if history is not None:
            histories[run.label.removeprefix("retrain-")] = history
    return histories, faults


def _place(cell: RetrainedCell) -> float:
    """Its test error; cells without one come last."""
    return math.inf if cell.mean_error is None else cell.mean_error


def _found_by(study: StudyRecord, cell: RetrainedCell) -> Trial | None:
    """The search that found a cell; None for a cell that was named, which searches without a number did not find."""
    return next((trial for trial in study.trials if trial.number is not None and trial.number == cell.trial), None)


def _row(study: StudyRecord, cell: RetrainedCell) -> list[Component]:
    trial = _found_by(study, cell)
    name: Component = cell.name
    if trial is not None:
        name = link(cell.name, href=trial_address(study.overview.name, trial.number, trial.run.run_id))
    before = shown_metric("child_val_accuracy", trial.run.metrics.get("child_val_accuracy")) if trial else MISSING
    return [
        name,
        said_error(cell),
        interval_text(cell.estimate(study.images.get("test")).interval) if cell.test_errors else MISSING,
        f"{len(cell.test_errors)} of {len(cell.retrainings)}",
        shown_metric("val_accuracy", cell.metric("val_accuracy")),
        shown_metric("params", cell.metric("params")),
        shown_metric("madds", cell.metric("madds")),
        before,
    ]


def _run_row(retraining: Retraining, models: Mapping[str, ModelRecord], request: Request) -> list[Component]:
    run, model = retraining.run, models.get(retraining.run.run_id)
    load: Component = MISSING
    if model is not None:
        code = f"mlflow.pytorch.load_model({f'models:/{model.name}/{model.version}'!r})"
        load = copied_command(f"load version {model.version} in Python", code)
    return [
        run.label,
        badge(run.state),
        str(run.num_epochs),
        shown_metric("val_accuracy", run.metrics.get("val_accuracy")),
        shown_metric("test_accuracy", run.metrics.get("test_accuracy")),
        MISSING if model is None else f"{model.name} version {model.version}",
        load,
    ]
