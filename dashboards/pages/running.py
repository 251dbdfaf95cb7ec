"""What of a study runs now: how far each search and retraining is, how long it will take, and what was said."""

from __future__ import annotations

from dash import html

from dashboards.formatting import MISSING, counted, duration, epoch_text, shown_metric
from dashboards.pages.parts import link, table, trial_address
from dashboards.pages.view import Component
from dashboards.records import RunRecord, StudyRecord

_MOST = 20
_COLUMNS = ("run", "epochs", "validation accuracy", "multiply-adds", "time left")


def running_runs(study: StudyRecord) -> list[Component]:
    """A row for each search and retraining that runs; nothing if none does."""
    name = study.overview.name
    rows = [
        _row(link(trial.title, trial_address(name, trial.number, trial.run.run_id)), trial.run)
        for trial in study.trials
        if trial.run.state == "running"
    ]
    rows += [_row(one.run.label, one.run) for one in study.retrainings if one.run.state == "running"]
    if not rows or study.overview.state != "running":
        return []
    title = f"{counted(len(rows), 'run')} at work" + (f"; {_MOST} of them" if len(rows) > _MOST else "")
    note = "Time left: epochs to go x mean time of an epoch so far, in which a pause of the study counts."
    content = [html.H2(title), table("Runs at work", _COLUMNS, rows[:_MOST]), html.P(note, className="note")]
    parent = study.overview.run
    if parent is not None and (lines := parent.tags.get("snas.lines")):
        content += [html.H3("Latest lines of the terminal (UTC)"), html.Pre(lines, className="lines", tabIndex=0)]
    return [html.Section(content, className="card wide at-work")]


def _row(title: Component, run: RunRecord) -> list[Component]:
    accuracy = next((run.metrics[name] for name in ("child_val_accuracy", "val_accuracy") if name in run.metrics), None)
    planned = run.planned_epochs
    bar = html.Progress(
        value=str(run.num_epochs), max=str(max(1, planned or 1)), **{"aria-label": f"epochs of {run.label}"}
    )
    epochs = [bar, html.Span(epoch_text(run.num_epochs, planned))]
    left = run.time_left_s
    return [
        title,
        html.Div(epochs, className="progress"),
        shown_metric("val_accuracy", accuracy),
        shown_metric("child_madds", run.metrics.get("child_madds")),
        MISSING if left is None else f"about {duration(left)}",
    ]
