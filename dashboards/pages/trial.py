"""One search: its cells in motion, its curves, where alpha went, what its settings were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from dash import html

from dashboards.analysis.retrained import said_test, tested_cell
from dashboards.charts.chart import Chart
from dashboards.charts.curve_charts import search_curves
from dashboards.charts.heat_charts import Quantity, alpha_chart, credit_chart
from dashboards.errors import NotFoundError
from dashboards.formatting import HOURS, MISSING, counted, duration, hours_text, metric_name, shown_metric, shown_number
from dashboards.history import History
from dashboards.mlflow_store.databases import snas_command
from dashboards.pages.asked import asked
from dashboards.pages.parts import (
    badge,
    chart_card,
    choices,
    facts,
    keep_commands,
    link,
    message,
    notices,
    slot,
    table,
    trail,
    trial_address,
)
from dashboards.pages.view import Component, Request, View, address
from dashboards.records import StudyRecord, Trial
from dashboards.store import Store
from search_core.space.genotype import CELL_TYPES

#: Metrics that say what a search found, on pages of one trial and of several.
FACTS = (
    "child_val_error",
    "supernet_val_accuracy",
    "discretization_gap",
    "discretization_gap_recalibrated",
    "child_madds",
    "child_params",
)
_ORIGINS = ("version.", "dataset", "git.", "machine.")


def trial_view(store: Store, request: Request) -> View:
    """The trial named in the path, by number or by run."""
    study = store.study(request.path[1])
    trial = find_trial(study, request.path[2], request.path[3])
    faults: list[Component] = []
    history = asked(lambda: store.history(trial.run), "The history cannot be shown", faults)
    charts = _charts(history, request)
    said = [*notices(study), *faults]
    if history is None and not faults:
        said.append(_without_history(trial))
    body = [*_head(study, trial), slot(said), _player(trial, history, request), slot(_cards(charts, request))]
    tested, in_study = tested_cell(study, trial), trial.number is not None
    retrained = None if tested is None else tested.best.run
    keep = [keep_commands(trial.run, request, in_study=in_study, retrained=retrained)] if _has_cell(trial) else []
    body += [slot(_genotype(store, trial)), slot(keep), _configuration(trial)]
    return View(
        name="trial",
        title=f"{trial.title} of {study.overview.name}",
        body=[html.Div(body, className="page")],
        charts=charts,
        is_live=trial.run.state == "running",
        version=f"{trial.run.run_id}{trial.run.num_epochs}{trial.run.state}{study.notice}",
    )


def _without_history(trial: Trial) -> Component:
    """Why there are neither curves nor cells."""
    if trial.run.state == "running":
        return message("The first epoch is not over", "Curves and cells come with the first epochs written to MLflow.")
    if trial.run.num_epochs == 0:
        return message("No epoch was reported", "This search ended before its first epoch was over.")
    return message("The history is missing", "`history.parquet` is not among the files of this run in MLflow.")


def find_trial(study: StudyRecord, kind: str, name: str) -> Trial:
    """A trial by number (`kind` trial) or by run id (`kind` run).

    Raises:
        NotFoundError: if the study has none.
    """
    for trial in study.trials:
        known = trial.run.run_id if kind == "run" else None if trial.number is None else str(trial.number)
        if name == known:
            return trial
    raise NotFoundError(f"study {study.overview.name} has no {kind} {name}; it has {len(study.trials)} searches")


def player_frame(trial: Trial, history: History | None, request: Request, *, compact: bool = False) -> Component:
    """The cell player of a search in a frame that may run its own script and nothing else."""
    options = f"theme={request.theme.name}" + ("&compact" if compact else "")
    # The address of a live search changes when there is more to show, and not before: player and history are written
    # together, and a frame that is loaded again loses the epoch at which its reader is.
    epochs = 0 if history is None else len(history.epochs)
    return html.Iframe(
        src=address("player", trial.run.study, trial.run.run_id, epochs=str(epochs)) + f"#{options}",
        sandbox="allow-scripts",
        title=f"Cells of {trial.title}, epoch by epoch",
        className="player compact" if compact else "player",
    )


def _charts(history: History | None, request: Request) -> tuple[Chart, ...]:
    quantity = request.option("show", get_args(Quantity))
    if history is None:
        return ()
    cell_types = tuple(history.cells) or CELL_TYPES
    return (
        search_curves(history, request.theme),
        *(alpha_chart(history, cell_type, quantity, request.theme) for cell_type in cell_types),  # type: ignore[arg-type]
        *(credit_chart(history, cell_type, request.theme) for cell_type in cell_types),
    )


def _cards(charts: tuple[Chart, ...], request: Request) -> list[Component]:
    if not charts:
        return []
    curves, *heat = charts
    shown = request.option("show", get_args(Quantity))
    options = {
        "operation": "the most probable",
        "probability": "all probabilities",
        "alpha": "\N{GREEK SMALL LETTER ALPHA}",
    }
    control = choices("show", "Show", options, shown, request)
    return [
        html.Div([chart_card(curves, request, wide=True)], className="cards"),
        html.Div(
            [chart_card(chart, request, controls=[control] if chart.key.startswith("alpha") else []) for chart in heat],
            className="cards",
        ),
    ]


def _head(study: StudyRecord, trial: Trial) -> list[Component]:
    run, name, tested = trial.run, study.overview.name, tested_cell(study, trial)
    entries = [
        ("state", badge(run.state)),
        ("epochs", f"{run.num_epochs} of {trial.planned_epochs or MISSING}"),
        *((key, shown_number(value)) for key, value in trial.values.items()),
        *([("forked from", _parent(name, run.tags))] if "snas.fork.trial" in run.tags else []),
        *([] if tested is None else [("test error, retrained", said_test(study, tested))]),
        *((metric_name(key), shown_metric(key, run.metrics[key])) for key in FACTS if key in run.metrics),
        *(("reserved", hours_text(key, run.metrics[key])) for key in HOURS if key in run.metrics),
        ("took", duration(run.end_s - run.start_s if run.end_s else None)),
    ]  # fmt: skip
    numbers = [known.number for known in study.trials if known.number is not None]
    links: list[Component] = []
    if trial.number is not None and trial.number in numbers:
        place = numbers.index(trial.number)
        around = [("previous trial", place - 1), ("next trial", place + 1)]
        links += [
            link(text, href=trial_address(name, numbers[index], ""))
            for text, index in around if 0 <= index < len(numbers)
        ]  # fmt: skip
        links.append(link("compare", href=address("compare", trial=f"{name}:{trial.number}")))
    said = " on the front" * trial.on_front + " ★" * trial.is_starred
    note = run.tags.get("snas.note")
    noted = [message("Note", note, kind="notice")] if note else []
    reason = [message("Why it ended", run.reason, kind="notice")] if run.reason else []
    return [
        trail(("Studies", "/"), (name, address("study", name)), (trial.title, "")),
        html.H1([trial.title.capitalize(), html.Span(said, className="muted")]),
        html.Nav(links, className="tabs", **{"aria-label": "Other trials"}),
        facts(entries),
        slot([*reason, *noted]),
    ]


def _parent(study: str, tags: Mapping[str, str]) -> Component:
    """The trial at whose checkpoint this one began."""
    number, epochs = tags["snas.fork.trial"], int(tags["snas.fork.epoch"])
    return link(f"trial {number} after {counted(epochs, 'epoch')}", href=trial_address(study, int(number), ""))


def _player(trial: Trial, history: History | None, request: Request) -> Component:
    return html.Section(
        [
            html.H2("The cells, epoch by epoch", className="hidden-title"),
            player_frame(trial, history, request, compact=True),
        ],
        className="card wide player-card",
    )


def _has_cell(trial: Trial) -> bool:
    """Whether the run has its genotype, which is written when a search with an epoch is over."""
    return trial.run.num_epochs > 0 and trial.run.state not in ("running", "interrupted")


def _genotype(store: Store, trial: Trial) -> list[Component]:
    """Links to the run and the genotype; what is wrong with the genotype, if anything."""
    links: list[Component] = []
    url = store.run_url(trial.run)
    if url:
        links.append(html.A("this run in MLflow", href=url, target="_blank", rel="noopener noreferrer"))
    else:
        links.append(
            html.Span(
                ["no MLflow server here; ", html.Code(snas_command(store.location, "ui")), " serves MLflow's pages"]
            )
        )
    warning: list[Component] = []
    if asked(lambda: store.genotype(trial.run), "The genotype cannot be used", warning) is not None:
        href = address("genotype", trial.run.study, trial.run.run_id)
        links.append(html.A("genotype.json", href=href, download=f"{trial.run.label}-genotype.json"))
    parts: list[Component] = []
    for entry in links:
        parts += [entry, " · "]
    return [html.P(parts[:-1], className="links"), *warning]


def _configuration(trial: Trial) -> Component:
    rows = [[key, html.Code(value)] for key, value in sorted(trial.run.params.items())]
    versions = [[key, html.Code(value)] for key, value in sorted(trial.run.tags.items()) if key.startswith(_ORIGINS)]
    return html.Details(
        [
            html.Summary(f"Configuration: {len(rows)} settings"),
            table("Settings of this search", ("setting", "value"), rows),
            table("Data and versions", ("what", "value"), versions),
        ],
        className="card wide",
    )
