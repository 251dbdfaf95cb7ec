"""Keeps MLflow in step with a study while it runs: runs, curves, counts, models, summary; all in the background."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from orchestrator.credentials import masked
from orchestrator.files.checkpoint import Checkpoint, CheckpointFolder
from orchestrator.files.decisions import Ending
from orchestrator.files.journal import Journal
from orchestrator.files.layout import TRUNK, Phase, trial_label, unit_label
from orchestrator.jobs import Parent, RetrainJob, SearchJob
from orchestrator.sampling.samplers import patiently
from orchestrator.study.hours import shared_of
from orchestrator.study.lineage import fork_tags, parent_of
from orchestrator.study.records import TrialRecord
from orchestrator.study.standing import Tally
from orchestrator.study_file.spec import search_options
from orchestrator.study_file.sweep import Scalar
from orchestrator.tracking.curves import CurveFiles, file_of, logged_rows
from orchestrator.tracking.delivery import STORE_ERRORS, Delivery
from orchestrator.tracking.model_versions import drop_replaced
from orchestrator.tracking.models import is_logged, log_child
from orchestrator.tracking.run_spec import Unit, UnitKind, about_search, flatten, logged_metrics, picture_epochs
from orchestrator.tracking.study_artifacts import log_comparison, log_published, log_summary
from orchestrator.tracking.study_note import StudyProgress
from orchestrator.tracking.tracker import Tracker
from search_core.data.datasets import ImageData
from search_core.errors import OptionsError, StateError
from search_core.space.plan import NetworkOptions

if TYPE_CHECKING:
    from orchestrator.study.study import Study

#: How long the end of a study waits for MLflow.
_PATIENCE_S = 600.0
_LINES, _LINE_CHARS = 12, 300


class StudyLog:
    """What a driver reports to MLflow.

    Args:
        study: the study.
        tracker: MLflow.
        warn: is called with warnings.
        parent: MLflow run of the study.
        data: the data set, on the CPU.
        open_journal: journal by phase and label.
    """

    def __init__(
        self,
        study: Study,
        tracker: Tracker,
        warn: Callable[[str], None],
        parent: str,
        data: ImageData,
        open_journal: Callable[[Phase, str], Journal],
    ) -> None:
        self._study, self._spec, self._folder = study, study.spec, study.folder
        self._tracker, self._parent, self._data = tracker, parent, data
        self._journal = open_journal
        self._delivery = Delivery(masked(tracker.tracking_uri), warn)
        self._trial_runs: dict[int, str] = {}
        self._curves = CurveFiles(tracker.client, parent, self._folder, partial(open_journal, "search"))
        self._rows: dict[str, int] = {}  # of the files of curves that were written from here
        self._lines: deque[str] = deque(maxlen=_LINES)
        self.tally = Tally(self._spec)
        self.tally.images = data.sizes
        self._progress = StudyProgress(self._spec, self.tally, tracker, parent)

    def begin(self) -> None:
        """Log what is known before anything runs; what a driver before has counted is read in the background."""
        self._push("published cells", lambda: log_published(self._tracker, self._parent, self._spec, self._data))
        groups: dict[str, list[int]] = {}
        for trial in patiently(self._finished):
            groups.setdefault(file_of(trial.number), []).append(trial.number)
        for name, numbers in groups.items():  # a few at a time, so that a user who stops it need not wait for all
            self._push(f"counts of trials {Path(name).stem}", partial(self._count_searches, numbers))
        self._push("counts of retrainings", self._count_retrainings)
        self._push("study", self._progress.log)

    def log_reservation(self, explanation: str) -> None:
        """Log where measured reservations come from."""
        self._push("reservation", lambda: self._tracker.client.set_tag(self._parent, "snas.share", explanation))

    def said(self, line: str) -> None:
        """Log the latest lines of the terminal, for pages."""
        self._lines.append(f"{datetime.now(UTC):%H:%M:%S}  {line.strip()}"[:_LINE_CHARS])
        self._push("latest lines", self._log_lines)

    def track(self, job: SearchJob | RetrainJob) -> None:
        """Have the MLflow run of a job brought up to its journal."""
        if isinstance(job, RetrainJob):
            self._track("retrain", job.label, lambda: self._retrain_unit(job))
        else:
            self._track("search", job.label, lambda: self._search_unit(job.label, asdict(job.options), job.parent))

    def ended(self, job: SearchJob | RetrainJob, journal: Journal, at_once: int) -> None:
        """Count a unit that is over, and have the study's own run brought up to it.

        Args:
            job: the unit.
            journal: closed.
            at_once: most units that ran at a time in this launch.
        """
        if isinstance(job, RetrainJob):
            self.tally.add_retraining(job.label, job.trial, journal)
        else:
            number, self.tally.at_once = int(job.label), max(at_once, 1)
            self._know_shared()
            self.tally.add_trial(number, asdict(job.options), journal)
            self._push_curves(file_of(number))
        self._push("study", self._progress.log)

    def grown(self) -> None:
        """Log that the study has more trials than before."""

        def log() -> None:
            self._tracker.grow_study(self._parent, self._spec.num_trials, self._folder.spec_file)

        self._push("number of trials", log)
        self._push("study", self._progress.log)

    def expect_retrainings(self, count: int) -> None:
        """Log how many retrainings there will be."""
        self.tally.num_retrainings = count
        self._push("study", self._progress.log)

    def finish(self, jobs: Sequence[RetrainJob], ending: Ending | None = None) -> tuple[list[str], dict[str, str]]:
        """Bring MLflow up to all journals, then log the models, then the summary and the end of the study.

        Args:
            jobs: retrainings.
            ending: why the searches are over though not all were run; default: all were.

        Returns:
            What MLflow lacks, and the first reason of each kind of units that failed all.

        Raises:
            TrackingAwayError: if MLflow is away.
        """
        self.tally.is_ended = ending is not None
        trials = self._study.trials()
        for trial in trials:
            self._track("search", trial_label(trial.number), partial(self._trial_unit, trial))
        for job in jobs:
            self.track(job)
        missing = self._delivery.drain(_PATIENCE_S)
        for job in jobs:
            if self._journal("retrain", job.label).end == "complete":
                self._push(f"model-{job.label}", partial(self._log_model, job))
        if jobs:
            store, name = (self._tracker.client, self._tracker.experiment_id), self._spec.registered_name
            self._push("model versions", lambda: drop_replaced(*store, name))
        missing += self._delivery.drain(_PATIENCE_S)
        retrains = self._study.retrains()
        reasons = {
            kind: records[0].reason
            for kind, records in (("search", trials), ("retraining", retrains))
            if records and all(record.state == "failed" for record in records)
        }
        is_complete = not reasons and not missing
        if self._spec.retrain is not None:
            self.tally.num_retrainings = len(jobs)
        self._push("curves", lambda: self._complete_curves(trials))
        self._push("summary", self._log_summary)
        self._push("comparison", lambda: log_comparison(self._tracker, self._parent, self._study))
        self._push("counts", self._count_anew)
        reason = "" if ending is None else ending.reason
        self._push("end", lambda: self._tracker.close_study(self._parent, complete=is_complete, ending=reason))
        return [*missing, *self._delivery.drain(_PATIENCE_S)], reasons

    def lacks_model(self, job: RetrainJob) -> bool:
        """Whether a training that is over has neither its model in MLflow nor the checkpoint to make it of.

        False if MLflow is away: nothing is trained again on a guess. Only before `begin`.
        """
        try:
            run_id = self._tracker.known_run(unit_label("retrain", job.label))
            is_there = run_id is not None and is_logged(self._tracker, run_id)
        except STORE_ERRORS:
            return False
        return not is_there and _last_checkpoint(job) is None

    def drain(self) -> None:
        """Wait until MLflow has all that was pushed.

        Raises:
            TrackingAwayError: if MLflow is away.
        """
        self._delivery.drain(_PATIENCE_S)

    def stop(self) -> None:
        """Stop after what is being logged; the rest stays in the journals."""
        self._delivery.stop()

    def _track(self, phase: UnitKind, label: str, make_unit: Callable[[], Unit]) -> None:
        def bring_up() -> None:
            unit = make_unit()
            if self._tracker.is_closed(unit.label):  # its journal need not be read again
                self._tracker.run_id(unit)  # but its parent may be a new one
            else:
                self._tracker.sync(unit, self._journal(phase, label))

        self._push(unit_label(phase, label), bring_up)

    def _push(self, label: str, action: Callable[[], object]) -> None:
        self._delivery.push(label, action)

    def _push_curves(self, name: str) -> None:
        def write() -> None:
            self._rows[name] = self._curves.write(name)

        self._push(f"curves of trials {Path(name).stem}", write)

    def _complete_curves(self, trials: Sequence[TrialRecord]) -> None:
        """Write the files that lack epochs: a driver before may have been killed before it could."""
        wanted: dict[str, int] = {}
        for trial in trials:
            wanted[file_of(trial.number)] = wanted.get(file_of(trial.number), 0) + trial.epochs
        unsure = [name for name, rows in wanted.items() if self._rows.get(name) != rows]
        logged = logged_rows(self._tracker.client, self._parent, unsure)
        for name in unsure:
            if logged.get(name) != wanted[name]:
                self._rows[name] = self._curves.write(name)

    def _count_anew(self) -> None:
        """Count what ended without a call of `ended`, and log it."""
        self._count_searches([trial.number for trial in self._finished()])
        self._count_retrainings()
        self._progress.log()

    def _finished(self) -> list[FrozenTrial]:
        return [trial for trial in self._study.optuna_study.get_trials(deepcopy=False) if trial.state.is_finished()]

    def _count_searches(self, numbers: Sequence[int]) -> None:
        self._know_shared()
        trials = self._study.optuna_study.get_trials(deepcopy=False)
        for number in numbers:
            if number not in self.tally.trials:
                journal = Journal(self._folder.journal("search", trial_label(number)))
                if journal.end is not None:
                    self.tally.add_trial(number, self._plain_options(trials[number].params), journal)

    def _count_retrainings(self) -> None:
        for file in sorted(self._folder.journal("retrain", "any").parent.glob("*.jsonl")):
            if file.stem not in self.tally.retrainings and (journal := Journal(file)).end is not None:
                trial = file.stem.partition("-")[0]
                self.tally.add_retraining(file.stem, int(trial) if trial.isdigit() else None, journal)

    def _know_shared(self) -> None:
        if self._spec.fork is not None and not self.tally.shared_seconds:
            shared = shared_of(Journal(self._folder.journal("trunk", TRUNK)))
            self.tally.shared_seconds, self.tally.shared_hours = shared

    def _log_lines(self) -> None:
        self._tracker.client.set_tag(self._parent, "snas.lines", "\n".join(self._lines))

    def _log_summary(self) -> None:
        self._progress.has_picture = log_summary(self._tracker, self._parent, self._study)

    def _log_model(self, job: RetrainJob) -> None:
        run_id = self._tracker.run_id(self._retrain_unit(job))
        if is_logged(self._tracker, run_id):
            return
        final = _last_checkpoint(job)
        if final is None:
            raise StateError(f"there must be a checkpoint of the last epoch of {job.label} in {job.checkpoints}")
        log_child(
            self._tracker,
            run_id,
            genotype=job.genotype,
            options=job.recipe,
            data=self._data,
            state=final.state,
            registered_name=self._spec.registered_name,
            choices=job.choices,
        )

    def _trial_unit(self, trial: TrialRecord) -> Unit:
        return self._search_unit(trial_label(trial.number), self._plain_options(trial.values), trial.parent)

    def _search_unit(self, label: str, options: Mapping[str, Any], parent: Parent | None = None) -> Unit:
        """The MLflow run of a search."""
        forked = "" if parent is None else f", forked from {parent}"
        epochs = int(options.get("epochs", 1))
        return Unit(
            label=unit_label("search", label),
            kind="search",
            parent=self._parent,
            params=flatten(options),
            tags={
                "snas.checkpoints": str(self._folder.checkpoints(self._spec, "search", label)),
                **fork_tags(parent),
            },
            metrics=logged_metrics(*(objective.metric for objective in self._spec.objectives)),
            primitives=NetworkOptions.from_dict(options["network"]).operations if "network" in options else (),
            pictures=picture_epochs(self._spec.tracking.picture_every, epochs),
            histories=picture_epochs(None, epochs),
            about=about_search(options) + forked,
        )

    def _retrain_unit(self, job: RetrainJob) -> Unit:
        """The MLflow run of a retraining."""
        whose = "a named cell" if job.trial is None else f"the cell of trial {job.trial}"
        return Unit(
            label=unit_label("retrain", job.label),
            kind="retrain",
            parent=self._parent if job.trial is None else self._run_of(job.trial),
            params={
                **flatten(asdict(job.options)),
                **flatten(asdict(job.dataset), "dataset."),
                **flatten({} if job.choices is None else job.choices.to_dict(), "choices."),
                "seed": job.seed,
                "trial": "none" if job.trial is None else job.trial,
            },
            tags={"snas.checkpoints": str(job.checkpoints)},
            genotype=job.genotype,
            about=f"{whose}, trained from scratch with seed {job.seed}",
        )

    def _plain_options(self, values: Mapping[str, Scalar]) -> Mapping[str, Any]:
        """Plain data of a trial's options."""
        try:
            return asdict(search_options(self._spec, values))
        except OptionsError:  # such a trial has failed with this reason, and has its sampled values to show
            return values

    def _run_of(self, number: int) -> str:
        """MLflow run of a trial; looked up once, since every report of a retraining asks for it."""
        if number not in self._trial_runs:
            trial = self._study.optuna_study.get_trials(deepcopy=False)[number]
            unit = self._search_unit(trial_label(number), self._plain_options(trial.params), parent_of(trial))
            self._trial_runs[number] = self._tracker.run_id(unit)
        return self._trial_runs[number]


def _last_checkpoint(job: RetrainJob) -> Checkpoint | None:
    """Checkpoint of the last epoch of a retraining; None if it was not written, or is damaged."""
    newest = CheckpointFolder(job.checkpoints).newest_whole()
    return newest if newest is not None and newest.epoch == job.epochs else None
