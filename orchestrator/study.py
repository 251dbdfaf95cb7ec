"""A study: searches as Ray Tune trials, then retrainings of the cells that are worth it, all of it resumable.

What is done is read from Optuna's storage and the journals; there is no other state that could disagree with them.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
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
from orchestrator.cluster import cluster
from orchestrator.config import StudySpec, load_study, search_options
from orchestrator.errors import OrchestratorError
from orchestrator.journal import Journal
from orchestrator.launch import TuneError, run_phase
from orchestrator.models import is_final, is_logged, log_child, read_state
from orchestrator.preflight import Needs, preflight
from orchestrator.progress import SilentView, StudyView
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
from orchestrator.samplers import create_optuna_study, load_optuna_study
from orchestrator.searcher import StudySearcher
from orchestrator.space import Scalar
from orchestrator.tracking import SEARCH_METRICS, Tracker, Unit, UnitKind, flatten, run_tags
from orchestrator.trainable import RetrainTrainable, SearchTrainable, from_plain
from orchestrator.yaml_file import dump_yaml
from search_core.data import ImageData, check_batch_size, load_data
from search_core.errors import OptionsError
from search_core.genotype import Genotype, load_genotype
from search_core.retrain import RetrainOptions, check_recipe

_MAX_LAUNCHES = 5


_STORAGE_ERRORS = (SQLAlchemyError, OSError, ValueError, ImportError, KeyError, RuntimeError)


class StudyInterrupted(OrchestratorError):
    """The user stopped the study; nothing is lost and `snas study resume` goes on."""


class StudyFailed(OrchestratorError):
    """Nothing came of a study: all its searches failed, or all its retrainings."""


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
        known = runs.study_names()
        if name not in known:
            shown = ", ".join(known) or "none"
            raise OrchestratorError(f"there is no study `{name}` in {runs.root}; studies there: {shown}")
        file = runs.study(name).spec_file
        spec = load_study(file)
        if spec.name != name:
            raise OrchestratorError(f"{file} must hold the study `{name}`, got `{spec.name}`: its folder was renamed")
        return cls(spec, runs)

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
        """The study in Optuna's storage.

        Raises:
            OrchestratorError: if the storage cannot be opened or has no such study.
        """
        url = self.runs.optuna_url(self.spec.storage.url)
        try:
            if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
                raise FileNotFoundError("there is no such file")  # opening it would make an empty one
            return load_optuna_study(self.spec, url)
        except _STORAGE_ERRORS as error:
            raise OrchestratorError(
                f"the Optuna storage {url} must hold the study `{self.spec.name}`, got: {_first_line(error)}"
            ) from error

    def trials(self) -> list[TrialRecord]:
        """All trials, by number."""
        return read_trials(self.optuna_study, self.folder)

    def retrain_jobs(self) -> list[RetrainJob]:
        """What is to be trained from scratch; known once the searches are done."""
        return retrain_jobs(self.optuna_study, self.spec, self.folder) if self.spec.retrain else []

    def retrains(self) -> list[RetrainRecord]:
        """State of the retrainings."""
        return read_retrains(self.retrain_jobs(), self.folder) if self.num_open_trials() == 0 else []

    def num_open_trials(self) -> int:
        """Searches that are unfinished or not yet begun."""
        return StudySearcher.num_open(self.optuna_study, self.spec)

    def run(self, view: StudyView | None = None, *, address: str | None = None) -> None:
        """Do all that is not done yet: searches, retrainings, summary.

        Everything that can be checked is checked before anything is written.

        Args:
            view: shows progress; default: nothing is shown.
            address: Ray cluster; None starts one on this machine.

        Raises:
            DataError: if the data set cannot be read.
            OptionsError: if the recipe does not fit the images.
            GenotypeError: if the cell that the study file names cannot be read.
            OrchestratorError: if a store or the cluster cannot be reached, or another driver runs the study.
            StudyInterrupted: if the user stopped it.
            StudyFailed: if all searches or all retrainings failed.
        """
        data = load_data(self.spec.search.dataset, torch.device("cpu"))
        self._check_work(data)
        if address is not None:  # before anything begins: a study that is refused leaves nothing behind
            preflight(address, Needs.of(self.spec, self.runs, data.digest))
        tracker = self._tracker(data)
        if not self.exists:
            self._begin(tracker)
        with self._driver_lock():
            parent = tracker.open_study(
                self.spec.name, self._description(), self._study_params(data), self.folder.spec_file
            )
            try:
                _Driver(self, tracker, view or SilentView(), parent, data).run(address)
            except (OrchestratorError, KeyboardInterrupt):
                with suppress(MlflowException):
                    tracker.suspend()
                raise

    def _check_work(self, data: ImageData) -> None:
        """Build what the trials will build, small and unused, so that a misfit shows before anything begins."""
        if self.spec.num_trials:
            check_batch_size(self.spec.search.batch_size, data)
        if self.spec.retrain is not None:
            check_recipe(self.spec.retrain, data)
            if self.spec.retrain.genotype is not None:
                load_genotype(self.spec.retrain.genotype)

    def _begin(self, tracker: Tracker) -> None:
        """Make the study in Optuna's storage and its folder; refuse a name that either store knows already."""
        name, url = self.spec.name, self.runs.optuna_url(self.spec.storage.url)
        taken = f"has a study `{name}` from elsewhere: choose another --name"
        if tracker.has_run("study"):
            raise OrchestratorError(f"the MLflow store {tracker.tracking_uri} {taken}")
        self.runs.root.mkdir(parents=True, exist_ok=True)
        try:
            create_optuna_study(self.spec, url)
        except optuna.exceptions.DuplicatedStudyError as error:
            raise OrchestratorError(f"the Optuna storage {url} {taken}") from error
        except _STORAGE_ERRORS as error:
            raise OrchestratorError(f"the Optuna storage {url} must be reachable, got: {_first_line(error)}") from error
        self.folder.path.mkdir(parents=True, exist_ok=True)
        draft = self.folder.spec_file.with_suffix(".tmp")
        draft.write_text(dump_yaml(self.spec.resolved()), encoding="utf-8")
        draft.replace(self.folder.spec_file)

    @contextmanager
    def _driver_lock(self) -> Iterator[None]:
        with self.folder.lock_file.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OrchestratorError(f"study `{self.spec.name}` is being run by another process") from error
            yield

    def _tracker(self, data: ImageData) -> Tracker:
        uri = self.runs.tracking_uri(self.spec.tracking.uri)
        tags = {"snas.study": self.spec.name, **run_tags(data)}
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
        self._trial_runs: dict[int, str] = {}

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
            self._view.warn(f"Ray gave up and is started again: {_last_line(error)}")
            return True
        return False

    def _open_retrains(self) -> list[RetrainJob]:
        return [job for job in self._study.retrain_jobs() if self._journal("retrain", job.label).end is None]

    def _journal(self, phase: UnitKind, label: str) -> Journal:
        journal = self._journals.get((phase, label)) or Journal(self._folder.journal(phase, label))
        # Only what still runs is kept: a driver's memory must not grow with the number of trials.
        if journal.end is None:
            self._journals[phase, label] = journal
        else:
            self._journals.pop((phase, label), None)
        return journal

    def _plain_job(self, job: RetrainJob) -> dict[str, Any]:
        section = self._spec.retrain
        assert section is not None
        dataset = section.dataset_for(self._spec.search.dataset)
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
            metrics = {*SEARCH_METRICS, *(objective.metric for objective in self._spec.objectives)}
            return Unit(
                label=f"trial-{label}",
                kind="search",
                parent=self._parent,
                params=flatten(job["options"]),
                tags=tags,
                metrics=sorted(metrics),
                primitives=self._spec.search.network.primitives,
            )
        trial = job["trial"]
        parent = self._parent if trial is None else self._run_of(trial)
        params = {
            **flatten(job["options"]),
            **flatten(job["dataset"], "dataset."),
            "seed": job["seed"],
            "trial": "none" if trial is None else trial,
        }
        genotype = Genotype.from_dict(job["genotype"])
        return Unit(
            label=f"retrain-{label}", kind="retrain", parent=parent, params=params, tags=tags, genotype=genotype
        )

    def _trial_unit(self, number: int, values: Mapping[str, Scalar]) -> Unit:
        options: Mapping[str, Any]
        try:
            options = asdict(search_options(self._spec, values))
        except OptionsError:  # such a trial has failed with this reason, and has its sampled values to show
            options = values
        return self._unit("search", {"label": trial_label(number), "options": options})

    def _run_of(self, number: int) -> str:
        """MLflow run of a trial; looked up once, since every report of a retraining asks for it."""
        if number not in self._trial_runs:
            trial = self._study.optuna_study.get_trials(deepcopy=False)[number]
            self._trial_runs[number] = self._tracker.run_id(self._trial_unit(number, trial.params))
        return self._trial_runs[number]

    def _finish(self) -> None:
        """Bring MLflow up to all journals, log models and the summary, close the parent run."""
        trials, jobs = self._study.trials(), self._study.retrain_jobs()
        for trial in trials:
            unit = self._trial_unit(trial.number, trial.values)
            self._tracker.sync(unit, self._journal("search", trial_label(trial.number)))
        for job in jobs:
            plain, journal = self._plain_job(job), self._journal("retrain", job.label)
            unit = self._unit("retrain", plain)
            self._tracker.sync(unit, journal)
            if journal.end == "complete":
                self._log_model(unit, job, plain)
        log_summary(self._tracker, self._parent, self._study)
        retrains = self._study.retrains()
        reasons = {
            kind: records[0].reason
            for kind, records in (("search", trials), ("retraining", retrains))
            if records and all(record.state == "failed" for record in records)
        }
        self._tracker.close_study(self._parent, complete=not reasons)
        for kind, reason in reasons.items():
            raise StudyFailed(f"every {kind} of study `{self._spec.name}` failed, the first because: {reason}")

    def _log_model(self, unit: Unit, job: RetrainJob, plain: dict[str, Any]) -> None:
        run_id = self._tracker.run_id(unit)
        if is_logged(self._tracker, run_id):
            return
        options = from_plain(RetrainOptions, plain["options"])
        final = next((state for state in map(read_state, plain["checkpoints"]) if is_final(state, options)), None)
        if final is None:
            self._view.warn(f"retraining {job.label} has no checkpoint of its last epoch: its model is not logged")
            return
        log_child(
            self._tracker,
            run_id,
            genotype=job.genotype,
            options=options,
            data=self._data,
            state=final,
            registered_name=self._spec.registered_name,
        )

    def _resume_hint(self) -> str:
        root = self._study.runs.root
        return f"`snas study resume {self._spec.name} --runs {root}` goes on where it stopped"


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


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
