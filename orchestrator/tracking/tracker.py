"""MLflow: one experiment per study, a parent run, a run per trial, a run per retraining below its trial's.

All is written by the driver, from journals. A run is found by its tag before it is created, and only what the journal
has beyond the run's last step is logged: after any restart the runs continue, without repeats and holes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alembic.util.exc import CommandError as AlembicError
from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from dashboards.mlflow_store.databases import experiment_fault
from dashboards.mlflow_store.mlflow_access import search_all
from dashboards.mlflow_store.store_lock import checked_store
from orchestrator.errors import StoreStateError, first_line
from orchestrator.files.journal import Journal
from orchestrator.tracking.artifacts import log_history, log_picture, log_results, picture_steps
from orchestrator.tracking.descriptions import describe_run
from orchestrator.tracking.markdown import RUN_LIMIT, RunAddress, plain
from orchestrator.tracking.model_versions import existing_run
from orchestrator.tracking.run_spec import Unit, UnitKind, machine_tags

#: Metric of every epoch that shows how far a run has been logged.
_MARKERS: dict[UnitKind, str] = {"search": "child_val_error", "retrain": "val_accuracy"}

#: MLflow's UI then shows the experiment as model training rather than as a language application.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}

#: Tag of a study's run: its folder, by which a copy of it is known.
STUDY_FOLDER = "snas.folder"
#: Tags of a study's run: its number of trials, if it had fewer at first; why its searches end, if not all were run.
NUM_TRIALS, ENDING = "snas.trials", "snas.ending"
_PARENT = "mlflow.parentRunId"
_NOTE = "mlflow.note.content"  # the tag that MLflow's pages show as description
_WRITTEN = "snas.description"  # digest of the description that was written from here: another one is a person's

_MAX_BATCH = 100  # params and tags that one request may carry
_MAX_EPOCHS = 20  # epochs that one request may carry, of at most 1,000 metrics
_PAGE = 1000  # runs


@dataclass
class _OpenRun:
    """How far a run is logged: its next epoch, and the epochs that have a picture; and its tags when it was found."""

    run_id: str
    next_epoch: int
    is_closed: bool
    pictures: set[int]
    tags: Mapping[str, str] = field(default_factory=dict)


class Tracker:
    """Brings the runs of one experiment up to the journals.

    Args:
        tracking_uri: MLflow store.
        experiment: name; created if it does not exist.
        artifact_location: folder of the experiment's artifacts, None where a server decides.
        tags: tags of every run, such as versions.
        dataset: the images of every run; default: none is logged.
        is_new: whether the experiment must be a new one.

    Raises:
        MlflowException: if the store cannot be reached.
        StoreStateError: if the experiment was deleted, or if an older or newer MLflow made the store.
    """

    def __init__(
        self,
        tracking_uri: str,
        experiment: str,
        *,
        artifact_location: str | None,
        tags: Mapping[str, str],
        dataset: DatasetInput | None = None,
        is_new: bool = False,
    ) -> None:
        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        # MLflow's own retries send a `runs/create` again whose answer was lost, and a trial has two runs.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # the progress view has the terminal
        self.tracking_uri = tracking_uri
        self._tags = dict(tags)
        self._datasets = [] if dataset is None else [dataset]
        self._runs: dict[str, _OpenRun] = {}
        self._listed: dict[str, _OpenRun] | None = None
        self._spare: dict[str, list[str]] = {}  # empty further runs of a label
        try:
            with checked_store("MLflow", tracking_uri) as fault:
                if fault is not None:
                    raise StoreStateError(fault)
                self.client = MlflowClient(tracking_uri)
            found = self.client.get_experiment_by_name(experiment)
        except (SQLAlchemyError, AlembicError) as error:
            raise MlflowException(first_line(error)) from error
        if found is not None and found.lifecycle_stage != "active":
            raise StoreStateError(experiment_fault(tracking_uri, experiment, found.experiment_id, is_new=is_new))
        self.experiment_id: str = (
            found.experiment_id if found is not None else self._make_experiment(experiment, artifact_location)
        )

    def _make_experiment(self, name: str, artifact_location: str | None) -> str:
        try:
            made: str = self.client.create_experiment(name, artifact_location=artifact_location, tags=_EXPERIMENT_TAGS)
        except MlflowException:
            found = self.client.get_experiment_by_name(name)
            if found is None:  # else another process was faster
                raise
            made = found.experiment_id
        return made

    def open_study(self, name: str, params: Mapping[str, object], spec_file: Path) -> str:
        """Find or create the parent run of a study, and mark it as running.

        Returns:
            Its run id.
        """
        found, place = self._adopt("study"), {STUDY_FOLDER: str(spec_file.parent)}
        if found is None:
            tags = {"snas.unit": "study", "snas.kind": "study", **self._tags, **place}
            run_id: str = self.client.create_run(self.experiment_id, tags=tags, run_name=name).info.run_id
            known: Mapping[str, str] = {}
            self._listed = None
        else:
            run_id, known = found.run_id, self.client.get_run(found.run_id).data.params
            self._set_tags(found, place)
            if _PARENT in found.tags:
                self.client.delete_tag(run_id, _PARENT)
            if ENDING in found.tags:
                self.client.delete_tag(run_id, ENDING)
        self._log_missing(run_id, params, known)
        if "trials" in known and known["trials"] != str(params["trials"]):
            self.client.set_tag(run_id, NUM_TRIALS, str(params["trials"]))
        self.client.log_artifact(run_id, str(spec_file))
        self.client.update_run(run_id, status="RUNNING")
        return run_id

    def grow_study(self, run_id: str, num_trials: int, spec_file: Path) -> None:
        """Log that a study has more trials than before."""
        self.client.set_tag(run_id, NUM_TRIALS, str(num_trials))
        self.client.log_artifact(run_id, str(spec_file))

    def has_run(self, label: str) -> bool:
        """Whether the experiment has a run of this label, perhaps from another folder of runs."""
        return self._find(label) is not None

    def is_closed(self, label: str) -> bool:
        """Whether a run has all of its journal."""
        run = self._runs.get(label) or self._find(label)
        return run is not None and run.is_closed

    def run_id(self, unit: Unit) -> str:
        """The run of a unit, found or created."""
        return self._open(unit).run_id

    def sync(self, unit: Unit, journal: Journal) -> None:
        """Log what the journal has beyond the run, and close the run if the journal is closed.

        After an error the store is asked again how far the run is: a request may have arrived whose answer was lost.
        """
        is_over = journal.end is not None  # asked first: the journal may grow meanwhile
        try:
            run = self._open(unit, journal.epochs)
            if run.is_closed:
                return
            behind = journal.epochs[run.next_epoch :]
            if unit.kind == "search":
                self._log_cells(run, unit, behind, journal)
            for first in range(0, len(behind), _MAX_EPOCHS):
                records = behind[first : first + _MAX_EPOCHS]
                self._log_metrics(run.run_id, unit, records)
                run.next_epoch += len(records)
            if is_over:
                self._close(run, unit, journal)
        except BaseException:
            self._runs.pop(unit.label, None)
            self._listed = None
            raise

    def close_study(self, run_id: str, *, complete: bool, ending: str = "") -> None:
        """Mark the parent run as finished, or as failed if something is missing; delete runs that were made twice.

        With an `ending`, the reason why not all searches were run, those that wait at their checkpoints are suspended.

        A server that is slow may make a run after the request was given up and a second one was sent.
        """
        self._listed = None
        self._find("study")
        for label in list(self._spare):
            self._delete_spare(label)
        self._adopt_orphans()
        if ending:
            self.client.set_tag(run_id, ENDING, ending)
            self.suspend()
        self.client.set_terminated(run_id, "FINISHED" if complete else "FAILED")

    def describe_study(self, run_id: str, note: str) -> None:
        """Set the description of the experiment and of the parent run, in markdown, unless a person has edited it."""
        if _is_ours(self.client.get_run(run_id).data.tags):
            self.client.log_batch(run_id, tags=_described(note))
        if _is_ours(self.client.get_experiment(self.experiment_id).tags):
            for tag in _described(note):
                self.client.set_experiment_tag(self.experiment_id, tag.key, tag.value)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int) -> None:
        """Log metrics of one step, now."""
        now = int(time.time() * 1000)
        self.client.log_batch(run_id, [Metric(name, value, now, step) for name, value in metrics.items()])

    def last_step(self, run_id: str, metric: str) -> int:
        """Newest step of a metric; -1 before the first."""
        return max((point.step for point in self.client.get_metric_history(run_id, metric)), default=-1)

    def known_run(self, label: str) -> str | None:
        """Id of the run of a label, if there is one."""
        run = self._runs.get(label) or self._find(label)
        return run.run_id if run is not None else None

    def suspend(self) -> None:
        """Mark all running runs of the experiment as killed, until a resumed study continues them."""
        running = self.client.search_runs([self.experiment_id], "attributes.status = 'RUNNING'", max_results=5000)
        for run in running:
            self.client.set_terminated(run.info.run_id, "KILLED")

    def _open(self, unit: Unit, records: Sequence[Mapping[str, Any]] = ()) -> _OpenRun:
        if unit.label not in self._runs:
            found = self._adopt(unit.label)
            if found is not None:
                self._set_tags(found, _lasting_tags(unit))
            if found is None:
                self._runs[unit.label] = _OpenRun(self._create(unit, records), 0, False, set())
            elif found.is_closed:
                self._runs[unit.label] = found
            else:
                self._runs[unit.label] = self._reopen(found.run_id, unit)
        return self._runs[unit.label]

    def _reopen(self, run_id: str, unit: Unit) -> _OpenRun:
        """Resume a run that a driver left open."""
        next_epoch = self.last_step(run_id, _MARKERS[unit.kind]) + 1
        self._log_missing(run_id, unit.params, known=self.client.get_run(run_id).data.params)
        self.client.update_run(run_id, status="RUNNING")
        return _OpenRun(run_id, next_epoch, False, picture_steps(self.client, run_id))

    def _find(self, label: str) -> _OpenRun | None:
        """The run of a label, from one list of all runs: a query each would keep a resumed study waiting."""
        if self._listed is None:
            by_label: dict[str, list[Run]] = {}
            for run in search_all(self.client, [self.experiment_id], "", _PAGE):
                if "snas.unit" in run.data.tags:
                    by_label.setdefault(run.data.tags["snas.unit"], []).append(run)
            self._listed, self._spare = {}, {}
            for known, runs in by_label.items():
                kept = kept_run(runs)
                self._listed[known] = _OpenRun(kept.info.run_id, 0, _is_closed(kept), set(), kept.data.tags)
                spare = [run.info.run_id for run in runs if run is not kept and _is_empty(run)]
                if spare:
                    self._spare[known] = spare
        return self._listed.get(label)

    def _adopt(self, label: str) -> _OpenRun | None:
        """Find the run of a label, and delete its empty doubles."""
        found = self._find(label)
        self._delete_spare(label)
        return found

    def _delete_spare(self, label: str) -> None:
        for run_id in self._spare.pop(label, []):
            with suppress(MlflowException):  # the right to write does not always include the right to delete
                self.client.delete_run(run_id)

    def _adopt_orphans(self) -> None:
        """Put runs whose parent was deleted below the run that was made in its place: those made by hand, too."""
        listed = self._listed or {}
        active = {run.run_id for run in listed.values()}
        for run in listed.values():
            parent = run.tags.get(_PARENT)
            if parent is None or parent in active:
                continue
            deleted = existing_run(self.client, parent)
            label = deleted.data.tags.get("snas.unit") if deleted is not None else None
            if label in listed:
                self._set_tags(run, {_PARENT: listed[label].run_id})

    def _set_tags(self, run: _OpenRun, tags: Mapping[str, str]) -> None:
        for key, text in tags.items():
            if run.tags.get(key) != text:
                self.client.set_tag(run.run_id, key, text)

    def _create(self, unit: Unit, records: Sequence[Mapping[str, Any]]) -> str:
        """A new run, which began with the first of these epochs rather than with its report."""
        tags = {"snas.unit": unit.label, "snas.kind": unit.kind, **self._tags, **_lasting_tags(unit)}
        if unit.about:
            tags |= {tag.key: tag.value for tag in _described(plain(unit.about))}
        began_s = records[0]["time"] - records[0]["metrics"].get("seconds", 0.0) if records else time.time()
        made = self.client.create_run(self.experiment_id, int(began_s * 1000), tags, unit.label)
        run_id: str = made.info.run_id
        self._log_missing(run_id, unit.params, known={})
        return run_id

    def _log_missing(self, run_id: str, params: Mapping[str, object], known: Mapping[str, str]) -> None:
        """Log images and parameters that the run has not: a driver may be killed right after it created the run."""
        if self._datasets:  # MLflow knows again what it has
            self.client.log_inputs(run_id, self._datasets)
        entries = [Param(key, str(value)) for key, value in params.items() if key not in known]
        for first in range(0, len(entries), _MAX_BATCH):
            self.client.log_batch(run_id, params=entries[first : first + _MAX_BATCH])

    def _log_metrics(self, run_id: str, unit: Unit, records: Sequence[Mapping[str, Any]]) -> None:
        """Log several epochs in one request, which MLflow takes as a whole or not at all."""
        # The journal's time: MLflow recognises the same value at the same time, so sending twice logs once.
        metrics = [
            Metric(name, value, int(record["time"] * 1000), record["epoch"])
            for record in records
            for name, value in record["metrics"].items()
            if not unit.metrics or name in unit.metrics
        ]
        self.client.log_batch(run_id, metrics)

    def _log_cells(self, run: _OpenRun, unit: Unit, behind: Sequence[Mapping[str, Any]], journal: Journal) -> None:
        """Pictures of the epochs that are due, and the history and the player up to the last epoch that is due.

        Before the metrics of these epochs, which show how far a run is: what is interrupted here is done again.
        """
        for record in behind:
            if record["epoch"] in unit.pictures and record["epoch"] not in run.pictures:
                log_picture(self.client, run.run_id, unit, record)
        due = [record["epoch"] for record in behind if record["epoch"] in unit.histories]
        if due and journal.end is None:  # else they are written when the run is closed
            log_history(self.client, run.run_id, unit, journal.epochs[: due[-1] + 1])

    def _close(self, run: _OpenRun, unit: Unit, journal: Journal) -> None:
        log_results(self.client, run.run_id, unit, journal)
        note = describe_run(unit, journal, RunAddress(self.experiment_id, run.run_id))
        tags = [RunTag("snas.end", str(journal.end))]
        if _is_ours(self.client.get_run(run.run_id).data.tags):
            tags += _described(note)
        tags += [RunTag(name, fact) for name, fact in machine_tags(journal).items()]
        if journal.reason:
            tags.append(RunTag("snas.reason", journal.reason[:RUN_LIMIT]))
        self.client.log_batch(run.run_id, tags=tags)
        self.client.set_terminated(run.run_id, "FAILED" if journal.end == "failed" else "FINISHED")
        run.is_closed = True


def _described(note: str) -> list[RunTag]:
    """Tags of a description that is written from here."""
    return [RunTag(_NOTE, note), RunTag(_WRITTEN, _digest(note))]


def _is_ours(tags: Mapping[str, str]) -> bool:
    """Whether a description is as it was written from here, or by a version that did not note what it wrote."""
    return _WRITTEN not in tags or _digest(tags.get(_NOTE, "")) == tags[_WRITTEN]


def _digest(note: str) -> str:
    return hashlib.sha256(note.encode()).hexdigest()[:16]


def _lasting_tags(unit: Unit) -> dict[str, str]:
    """Tags that are set again when a run is found: its parent may have been made again, its files moved."""
    return {**unit.tags, **({_PARENT: unit.parent} if unit.parent is not None else {})}


def kept_run(runs: Sequence[Run]) -> Run:
    """Which of several runs of a label is kept: one that is closed, else one that has something.

    Of empty ones it is the oldest. Of others it is the newest, as it was made in the place of one that was deleted, and
    that came back when its experiment was restored.
    """
    return min(runs, key=_rank)


def _rank(run: Run) -> tuple[bool, bool, int, str]:
    is_empty = _is_empty(run)
    return not _is_closed(run), is_empty, run.info.start_time * (1 if is_empty else -1), run.info.run_id


def _is_closed(run: Run) -> bool:
    return run.info.status in ("FINISHED", "FAILED")


def _is_empty(run: Run) -> bool:
    """Whether a run is as `runs/create` left it: all else is sent to the run whose id came back."""
    return not (run.data.params or run.data.metrics)
