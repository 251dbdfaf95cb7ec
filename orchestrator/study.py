"""A study: searches as Ray Tune trials, then retrainings of the cells that are worth it, all of it resumable.

What is done is read from Optuna's storage and the journals; there is no other state that could disagree with them.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
import torch
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from dashboards.figures import figure_png
from dashboards.summary import TrialPoint, render_study
from orchestrator.callback import PhaseCallback
from orchestrator.config import StudySpec, load_study, search_options
from orchestrator.errors import OrchestratorError
from orchestrator.journal import Journal
from orchestrator.launch import TuneError, cluster, run_phase
from orchestrator.models import log_child
from orchestrator.progress import StudyView
from orchestrator.records import (
    RetrainJob,
    RetrainRecord,
    TrialRecord,
    front_rows,
    read_retrains,
    read_trials,
    retrain_jobs,
)
from orchestrator.runs import Runs, StudyFolder, trial_label
from orchestrator.samplers import open_optuna_study
from orchestrator.searcher import StudySearcher
from orchestrator.tracking import SEARCH_METRICS, Tracker, Unit, UnitKind, environment_tags, flatten
from orchestrator.trainable import RetrainTrainable, SearchTrainable, from_plain
from orchestrator.yaml_file import dump_yaml
from search_core.data import ImageData, load_data
from search_core.retrain import RetrainOptions

_MAX_LAUNCHES = 5


class StudyInterrupted(OrchestratorError):
    """The user stopped the study; nothing is lost and `snas study resume` goes on."""


@dataclass(frozen=True)
class Study:
    """One study in a folder of runs.

    Args:
        spec: the study file.
        runs: the folder of all runs.
    """

    spec: StudySpec
    runs: Runs

    @classmethod
    def load(cls, name: str, runs: Runs) -> Study:
        """A study that was run before.

        Raises:
            OrchestratorError: if there is none of this name.
        """
        file = runs.study(name).spec_file
        if not file.is_file():
            known = ", ".join(runs.study_names()) or "none"
            raise OrchestratorError(f"there is no study `{name}` in {runs.root}; studies there: {known}")
        return cls(load_study(file), runs)

    @property
    def folder(self) -> StudyFolder:
        """Where the study's files lie."""
        return self.runs.study(self.spec.name)

    @property
    def exists(self) -> bool:
        """Whether the study was started before."""
        return self.folder.spec_file.is_file()

    @cached_property
    def optuna_study(self) -> optuna.Study:
        """The study in Optuna's storage; made if it does not exist.

        Raises:
            OrchestratorError: if the storage cannot be opened.
        """
        url = self.runs.optuna_url(self.spec.storage.url)
        self.runs.root.mkdir(parents=True, exist_ok=True)
        try:
            return open_optuna_study(self.spec, url)
        except (SQLAlchemyError, ValueError, ImportError) as error:
            raise OrchestratorError(f"the Optuna storage {url} must be reachable, got: {error}") from error

    def trials(self) -> list[TrialRecord]:
        """All trials, by number."""
        return read_trials(self.optuna_study, self.spec, self.folder)

    def retrain_jobs(self) -> list[RetrainJob]:
        """What is to be trained from scratch; known once the searches are done."""
        return retrain_jobs(self.optuna_study, self.spec, self.folder) if self.spec.retrain else []

    def retrains(self) -> list[RetrainRecord]:
        """State of the retrainings."""
        return read_retrains(self.retrain_jobs(), self.folder) if self.num_open_trials() == 0 else []

    def num_open_trials(self) -> int:
        """Searches that are unfinished or not yet begun."""
        return StudySearcher.num_open(self.optuna_study, self.spec)

    def run(self, view: StudyView, *, address: str | None = None) -> None:
        """Do all that is not done yet: searches, retrainings, summary.

        Args:
            view: shows progress.
            address: Ray cluster; None starts one on this machine.

        Raises:
            DataError: if the data set cannot be read.
            OrchestratorError: if a store or the cluster cannot be reached, or another driver runs the study.
            StudyInterrupted: if the user stopped it.
        """
        data = load_data(self.spec.search.dataset, torch.device("cpu"))
        with self._driver_lock():
            tracker = self._tracker(data)
            if not self.exists:
                self.folder.spec_file.write_text(dump_yaml(self.spec.resolved()), encoding="utf-8")
            parent = tracker.open_study(
                self.spec.name, self._description(), self._study_params(data), self.folder.spec_file
            )
            try:
                _Driver(self, tracker, view, parent, data).run(address)
            except (OrchestratorError, KeyboardInterrupt):
                tracker.suspend()
                raise

    @contextmanager
    def _driver_lock(self) -> Iterator[None]:
        self.folder.path.mkdir(parents=True, exist_ok=True)
        with self.folder.lock_file.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OrchestratorError(f"study `{self.spec.name}` is being run by another process") from error
            yield

    def _tracker(self, data: ImageData) -> Tracker:
        uri = self.runs.tracking_uri(self.spec.tracking.uri)
        tags = {
            "snas.study": self.spec.name,
            "dataset": data.name,
            "dataset.digest": data.digest,
            "dataset.split_digest": data.split_digest,
            **environment_tags(),
        }
        try:
            location = self.runs.artifact_location(uri, self.spec.name)
            return Tracker(uri, self.spec.name, artifact_location=location, tags=tags)
        except MlflowException as error:
            raise OrchestratorError(f"the MLflow store {uri} must be reachable, got: {error}") from error

    def _description(self) -> str:
        sweep = "".join(f"\n- `{key}`: {entry.to_data()}" for key, entry in self.spec.sweep.items())
        goals = " and ".join(f"{objective.mode} `{objective.metric}`" for objective in self.spec.objectives)
        return f"SNAS searches on {self.spec.search.dataset.name}: {goals}.\n\nSwept:{sweep or ' nothing'}\n"

    def _study_params(self, data: ImageData) -> dict[str, object]:
        spec = self.spec
        sweep = {f"sweep.{key}": entry.to_data() for key, entry in spec.sweep.items()}
        sizes = {f"images.{split}": size for split, size in data.sizes.items()}
        return {
            "name": spec.name,
            "seed": spec.seed,
            "sampler": spec.sampler,
            "trials": spec.num_trials,
            **flatten(asdict(spec.search), "search."),
            **sweep,
            **sizes,
        }


class _Driver:
    """The process that runs a study."""

    def __init__(self, study: Study, tracker: Tracker, view: StudyView, parent: str, data: ImageData) -> None:
        self._study, self._spec, self._folder = study, study.spec, study.folder
        self._tracker, self._view, self._parent, self._data = tracker, view, parent, data
        self._journals: dict[tuple[UnitKind, str], Journal] = {}

    def run(self, address: str | None) -> None:
        num_open = self._study.num_open_trials()
        if num_open:
            with cluster(address):
                self._search()
                self._retrain()
        elif any(record.state == "running" for record in self._study.retrains()):
            with cluster(address):
                self._retrain()
        self._finish()

    def _search(self) -> None:
        optuna_study, total = self._study.optuna_study, self._spec.num_trials
        self._view.phase("search", total - self._study.num_open_trials(), total)
        for _ in range(_MAX_LAUNCHES):
            searcher = StudySearcher(
                optuna_study,
                self._spec,
                lambda number: self._journal("search", trial_label(number)),
                lambda number: self._folder.checkpoints(self._spec, "search", trial_label(number)),
            )
            gave_up = self._launch("search", SearchTrainable, searcher=searcher)
            if self._study.num_open_trials() == 0:
                return
            if not gave_up:
                raise StudyInterrupted(self._resume_hint())
        raise OrchestratorError(f"Ray gave up {_MAX_LAUNCHES} times; {self._resume_hint()}")

    def _retrain(self) -> None:
        jobs = self._study.retrain_jobs()
        if not jobs:
            return
        self._view.phase("retrain", len(jobs) - len(self._open_retrains()), len(jobs))
        for _ in range(_MAX_LAUNCHES):
            remaining = self._open_retrains()
            if not remaining:
                return
            gave_up = self._launch("retrain", RetrainTrainable, jobs=[self._plain_job(job) for job in remaining])
            if self._open_retrains() and not gave_up:
                raise StudyInterrupted(self._resume_hint())
        if self._open_retrains():
            raise OrchestratorError(f"Ray gave up {_MAX_LAUNCHES} times; {self._resume_hint()}")

    def _launch(self, phase: UnitKind, trainable: type[Any], **work: Any) -> bool:
        """Run one Tune experiment; True if Ray gave up on it, as it does after its memory monitor killed a trial."""
        callback = PhaseCallback(
            epochs=lambda job: int(job["options"]["epochs"]),
            open_journal=lambda label: self._journal(phase, label),
            make_unit=lambda job: self._unit(phase, job),
            tracker=self._tracker,
            view=self._view,
        )
        storage = self._folder.ray_storage(self._spec)
        launch = self._folder.next_launch(self._spec, phase)
        try:
            run_phase(self._spec, trainable, storage=storage, launch=launch, callback=callback, **work)
        except TuneError as error:
            self._view.warn(f"Ray gave up and is started again: {str(error).splitlines()[0]}")
            return True
        return False

    def _open_retrains(self) -> list[RetrainJob]:
        return [job for job in self._study.retrain_jobs() if self._journal("retrain", job.label).end is None]

    def _journal(self, phase: UnitKind, label: str) -> Journal:
        if (phase, label) not in self._journals:
            self._journals[phase, label] = Journal(self._folder.journal(phase, label))
        return self._journals[phase, label]

    def _plain_job(self, job: RetrainJob) -> dict[str, Any]:
        section = self._spec.retrain
        assert section is not None
        dataset = self._spec.search.dataset
        if section.validation_fraction is not None:
            dataset = replace(dataset, validation_fraction=section.validation_fraction)
        return {
            "label": job.label,
            "trial": job.trial,
            "genotype": job.genotype.to_dict(),
            "options": asdict(section),
            "dataset": asdict(dataset),
            "seed": job.seed,
            "recorded": len(self._journal("retrain", job.label).epochs),
            "checkpoints": self._folder.checkpoints(self._spec, "retrain", job.label),
        }

    def _unit(self, phase: UnitKind, job: dict[str, Any]) -> Unit:
        """The MLflow run of a job."""
        label = job["label"]
        checkpoints = self._folder.checkpoints(self._spec, phase, label)
        tags = {"snas.checkpoint": checkpoints[0]} if checkpoints else {}
        if phase == "search":
            options = job["options"]
            metrics = {*SEARCH_METRICS, *(objective.metric for objective in self._spec.objectives)}
            return Unit(
                label=f"trial-{label}",
                kind="search",
                parent=self._parent,
                params=flatten(options),
                tags=tags,
                metrics=sorted(metrics),
                primitives=options["network"]["primitives"],
            )
        trial = job["trial"]
        parent = self._parent if trial is None else self._tracker.run_id(self._trial_unit(trial))
        params = {**flatten(job["options"]), "seed": job["seed"], "trial": "none" if trial is None else trial}
        return Unit(label=f"retrain-{label}", kind="retrain", parent=parent, params=params, tags=tags)

    def _trial_unit(self, number: int) -> Unit:
        trial = next(trial for trial in self._study.optuna_study.get_trials(deepcopy=False) if trial.number == number)
        options = asdict(search_options(self._spec, trial.params))
        return self._unit("search", {"label": trial_label(number), "options": options})

    def _finish(self) -> None:
        """Bring MLflow up to all journals, log models and the summary, close the parent run."""
        trials, jobs = self._study.trials(), self._study.retrain_jobs()
        for trial in trials:
            self._tracker.sync(self._trial_unit(trial.number), self._journal("search", trial_label(trial.number)))
        for job in jobs:
            plain, journal = self._plain_job(job), self._journal("retrain", job.label)
            unit = self._unit("retrain", plain)
            self._tracker.sync(unit, journal)
            if journal.end == "complete":
                self._log_model(unit, job, plain)
        log_summary(self._tracker, self._parent, self._study)
        self._tracker.close_study(
            self._parent, complete=any(trial.state == "complete" for trial in trials) or not trials
        )

    def _log_model(self, unit: Unit, job: RetrainJob, plain: dict[str, Any]) -> None:
        log_child(
            self._tracker,
            self._tracker.run_id(unit),
            genotype=job.genotype,
            options=from_plain(RetrainOptions, plain["options"]),
            data=self._data,
            checkpoint=plain["checkpoints"][0],
            registered_name=self._spec.registered_name,
        )

    def _resume_hint(self) -> str:
        root = self._study.runs.root
        return f"`snas study resume {self._spec.name} --runs {root}` goes on where it stopped"


def log_summary(tracker: Tracker, run_id: str, study: Study) -> None:
    """Log the one-page picture and the table of the front to the parent run."""
    trials = study.trials()
    document = {"study": study.spec.name, "front": front_rows(trials, study.retrains(), study.spec)}
    tracker.client.log_dict(run_id, document, "front.json")
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
