"""What the driver does with every report of a Tune trial: journal, MLflow, progress view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlflow.exceptions import MlflowException
from ray.tune import Callback
from ray.tune.experiment import Trial
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.journal import Journal
from orchestrator.launch import job_label
from orchestrator.progress import StudyView
from orchestrator.tracking import Tracker, Unit


class PhaseCallback(Callback):
    """Serves one phase of a study.

    The journal is written first and MLflow is brought up to it, so that a tracking server that is away for a while
    costs nothing but a warning.

    Args:
        epochs: epochs of a trial with a given job.
        open_journal: journal by label.
        make_unit: MLflow run of a job.
        tracker: MLflow.
        view: shows progress.
    """

    def __init__(
        self,
        *,
        epochs: Callable[[dict[str, Any]], int],
        open_journal: Callable[[str], Journal],
        make_unit: Callable[[dict[str, Any]], Unit],
        tracker: Tracker,
        view: StudyView,
    ) -> None:
        self._epochs, self._open_journal, self._make_unit = epochs, open_journal, make_unit
        self._tracker, self._view = tracker, view

    def __getstate__(self) -> dict[str, Any]:
        # Ray pickles it for its own restore, which is not used here: the storage and the journals are the state.
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Show that a trial runs."""
        self._view.started(job_label(trial), self._epochs(trial.config["job"]))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Record an epoch, and the end if this is the last one."""
        label, job = job_label(trial), trial.config["job"]
        journal, epochs = self._open_journal(label), self._epochs(job)
        if "failure" in result:
            journal.finish("failed", result["failure"])
        elif "record" in result:
            journal.append_epoch(result["record"])
        if len(journal.epochs) >= epochs:
            journal.finish("complete")
        elif result.get("done"):
            journal.finish("stopped", f"stopped by the scheduler after {len(journal.epochs)} of {epochs} epochs")
        self.track(job, journal)
        if journal.end is not None:
            self._view.ended(label, journal)
        else:
            self._view.epoch(label, journal)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Record that a trial failed for good, and why."""
        label, job = job_label(trial), trial.config["job"]
        journal = self._open_journal(label)
        journal.finish("failed", _reason(trial))
        self.track(job, journal)
        self._view.ended(label, journal)

    def track(self, job: dict[str, Any], journal: Journal) -> None:
        """Bring MLflow up to the journal, or say that it is behind."""
        try:
            self._tracker.sync(self._make_unit(job), journal)
        except (MlflowException, OSError, SQLAlchemyError) as error:  # requests' errors are OSErrors
            self._view.warn(f"MLflow is behind and will be brought up later: {(str(error).splitlines() or [''])[0]}")


def _reason(trial: Trial) -> str:
    """Last line of what a trial died of."""
    error = trial.get_pickled_error()
    if error is None:
        return "the worker died without a message"
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1].strip() if lines else 'no message'}"
