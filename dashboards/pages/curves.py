"""Curves of many trials of one study."""

from __future__ import annotations

from typing import get_args

from dash import html

from dashboards.charts.many_curves import Axis, CurveLook, Scale, Show, many_curves
from dashboards.formatting import metric_name
from dashboards.pages.asked import asked
from dashboards.pages.parts import chart_card, choices, prose, slot
from dashboards.pages.study import head
from dashboards.pages.view import Component, Request, View
from dashboards.records import StudyRecord, Trial
from dashboards.store import Store

METRICS = (
    "child_val_error",
    "discretization_gap",
    "entropy_total",
    "supernet_val_accuracy",
    "train_loss",
    "pruned_kl",
    "temperature",
    "expected_cost_madds",
    "child_madds",
)
#: Of these only what a chosen search reported is offered: a few strategies have them.
OPTIONAL = ("pruned_kl",)
_MOST = 100
_SMOOTHING = {"1": "none", "5": "5 epochs", "15": "15 epochs"}


def curves_view(store: Store, request: Request) -> View:
    """One metric over epochs, of the front and others, or of the trials in the address."""
    study = store.study(request.path[1])
    metric = request.option("metric", METRICS)
    chosen = _chosen(study, request.query.get("trials", [""])[0])
    numbers = [trial.number for trial in chosen if trial.number is not None]
    body: list[Component] = head(study, "Curves", store.location)
    said: list[Component] = []
    curves = asked(lambda: store.curves(study, numbers), "Some curves cannot be shown", said) or {}
    body.append(slot(said))
    look = CurveLook(
        along=request.option("x", get_args(Axis)),  # type: ignore[arg-type]
        scale=request.option("scale", get_args(Scale)),  # type: ignore[arg-type]
        smoothing=int(request.option("smoothing", tuple(_SMOOTHING))),
        show=request.option("show", get_args(Show)),  # type: ignore[arg-type]
    )
    chart = many_curves(chosen, curves, metric, request.theme, look)
    reported = {name for trial in chosen for name in trial.run.metrics} | {metric}
    offered = [name for name in METRICS if name in reported or name not in OPTIONAL]
    control = choices("metric", "Metric", {name: metric_name(name) for name in offered}, metric, request)
    controls = [control, html.Div(_looks(look, request), className="looks")]
    body.append(html.Div([chart_card(chart, request, wide=True, controls=controls)], className="cards"))
    if len(chosen) < len(study.trials):
        body.append(
            html.P(
                prose(
                    f"{len(chosen)} of {len(study.trials)} searches, those on the front first; `?trials=0-99,120` in "
                    f"the address chooses others, at most {_MOST}."
                ),
                className="note",
            )
        )
    return View(
        name="curves",
        title=f"Curves of {study.overview.name}",
        body=[html.Div(body, className="page")],
        charts=(chart,),
        is_live=study.overview.state == "running",
        version=study.version,
    )


def _looks(look: CurveLook, request: Request) -> list[Component]:
    """How the curves are drawn; quartiles are over epochs."""
    show = choices("show", "Show", {"searches": "every search", "quartiles": "quartiles"}, look.show, request)
    x = choices("x", "Along", {"epoch": "epochs", "time": "time"}, look.along, request)
    return [
        show,
        *([x] if look.show == "searches" else []),
        choices("scale", "Scale", {"linear": "linear", "log": "logarithmic"}, look.scale, request),
        choices("smoothing", "Smoothing", _SMOOTHING, str(look.smoothing), request),
    ]


def _chosen(study: StudyRecord, words: str) -> list[Trial]:
    """Trials by ranges such as `0-99,120`; without any, the front and the others by number; at most a hundred."""
    wanted: set[int] = set()
    for word in words.split(","):
        first, _, last = word.partition("-")
        if first.isascii() and first.isdigit() and (not last or (last.isascii() and last.isdigit())):
            wanted |= {*range(int(first[:9]), min(int(last[:9] or first[:9]), int(first[:9]) + 10_000) + 1)}
    known = [trial for trial in study.trials if trial.number is not None]
    if wanted:
        return [trial for trial in known if trial.number in wanted][:_MOST]
    return sorted(known, key=lambda trial: not trial.on_front)[:_MOST]
