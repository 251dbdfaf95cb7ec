"""The study as a whole, on the parent run in MLflow: the table of the front and a picture of one page."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from dashboards.figures import figure_png
from dashboards.summary import TrialPoint, render_study
from orchestrator.config import search_options
from orchestrator.journal import Journal
from orchestrator.records import TrialRecord, front_rows
from orchestrator.runs import trial_label
from orchestrator.tracking import Tracker

if TYPE_CHECKING:
    from orchestrator.study import Study


def log_summary(tracker: Tracker, run_id: str, study: Study) -> None:
    """Log the one-page picture, the table of the front and what a fork saved to the parent run."""
    trials = study.trials()
    document = {"study": study.spec.name, "front": front_rows(trials, study.retrains(), study.spec)}
    tracker.client.log_dict(run_id, document, "front.json")
    savings = study.fork_savings()
    if savings is not None:
        tracker.client.set_tag(run_id, "snas.fork_savings", str(savings))
    points = [trial_point(trial, study) for trial in trials if trial.epochs]
    if points:
        figure = render_study(points, title=f"Study {study.spec.name}: {len(points)} searches")
        with TemporaryDirectory() as folder:
            file = Path(folder) / "summary.png"
            file.write_bytes(figure_png(figure))
            tracker.client.log_artifact(run_id, str(file))


def trial_point(trial: TrialRecord, study: Study) -> TrialPoint:
    """What the summary picture shows of one trial."""
    epochs = Journal(study.folder.journal("search", trial_label(trial.number))).epochs
    return TrialPoint(
        number=trial.number,
        eta=search_options(study.spec, trial.values).penalty.strength,
        error=trial.metrics["child_val_error"],
        madds=trial.metrics["child_madds"],
        on_front=trial.on_front,
        epochs=[record["epoch"] for record in epochs],
        entropy=[record["metrics"]["entropy_total"] for record in epochs],
        gap=[record["metrics"]["discretization_gap"] for record in epochs],
        temperature=[record["metrics"]["temperature"] for record in epochs],
    )
