"""A study: searches as Ray Tune trials, then retrainings of the cells that are worth it, all of it resumable.

What is done is read from Optuna's storage and the journals; there is no other state that could disagree with them.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TextIO

import optuna
import torch
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.config import StudySpec, load_study
from orchestrator.driver import Driver
from orchestrator.errors import OrchestratorError, first_line
from orchestrator.journal import Journal
from orchestrator.preflight import Needs, preflight
from orchestrator.progress import SilentView, StudyView
from orchestrator.records import (
    ForkSavings,
    RetrainJob,
    RetrainRecord,
    TrialRecord,
    fork_savings,
    read_retrains,
    read_trials,
    retrain_jobs,
)
from orchestrator.runs import TRUNK, Runs, StudyFolder
from orchestrator.samplers import create_optuna_study, load_optuna_study, open_storage
from orchestrator.searcher import StudySearcher
from orchestrator.sweep_check import strategy_corners
from orchestrator.tracking import Tracker
from orchestrator.units import flatten, run_tags
from orchestrator.warm_start import check_warm_start
from orchestrator.yaml_file import dump_yaml
from search_core.child_search import check_estimate
from search_core.constraints import ChildLimits
from search_core.data import ImageData, check_batch_size, load_data
from search_core.genotype import load_genotype
from search_core.genotype_space import GenotypeSpace
from search_core.held_out import SearchImages
from search_core.latency import table_for
from search_core.latency_measure import latency_of_children
from search_core.retrain import check_recipe
from search_core.search import SearchOptions
from search_core.strategies.over_trials import OverTrialsOptions
from search_core.strategies.spos import SposOptions

_STORAGE_ERRORS = (
    SQLAlchemyError,
    optuna.exceptions.StorageInternalError,
    OSError,
    ValueError,
    ImportError,
    KeyError,
    RuntimeError,
)
#: How long another process may hold the lock before it counts as a driver: a doctor has it for a moment.
_LOCK_PATIENCE_S = 2.0
#: What the images of a study are known by, in the tags of its parent run.
_IMAGES = ("dataset.digest", "dataset.split_digest")


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
                f"the Optuna storage {url} must hold the study `{self.spec.name}`, got: {first_line(error)}"
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

    def fork_savings(self) -> ForkSavings | None:
        """What running the shared epochs once saved; None without `fork`, or before they are over."""
        return fork_savings(self.optuna_study, self.spec, self.folder)

    @property
    def trunk_failure(self) -> str:
        """Why the shared epochs failed; empty if they did not. No trial can begin then."""
        journal = Journal(self.folder.journal("trunk", TRUNK))
        return journal.reason if journal.end == "failed" else ""

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
            LatencyError: if the latency table cannot be read or lacks a part of the search space.
            ConstraintsError: if a strategy chooses genotypes and none keeps the hard limits.
            GenotypeError: if the cell that the study file names cannot be read.
            OrchestratorError: if a store or the cluster cannot be reached, if the images are not those that the study
                began with, or if another driver runs the study.
            StudyInterrupted: if the user stopped it.
            StudyFailed: if all searches or all retrainings failed.
        """
        data = load_data(self.spec.search.dataset, torch.device("cpu"))
        self._check_work(data)
        if address is not None:  # before anything begins: a study that is refused leaves nothing behind
            preflight(address, Needs.of(self.spec, self.runs, data.digest))
        if not self.exists:
            self._check_new()
        tracker = self._tracker(data)
        if self.exists:
            self._check_images(tracker, data)
        else:
            self._begin(tracker)
        with self._driver_lock():
            parent = tracker.open_study(self.spec.name, self._study_params(data), self.folder.spec_file)
            try:
                Driver(self, tracker, view or SilentView(), parent, data).run(address)
            except (OrchestratorError, KeyboardInterrupt):
                with suppress(MlflowException):
                    tracker.suspend()
                raise

    def _check_work(self, data: ImageData) -> None:
        """Build what the trials will build, small and unused, so that a misfit shows before anything begins."""
        if self.spec.num_trials:
            check_batch_size(self.spec.search.batch_size, data)
            search = self.spec.search
            anywhere = dataclasses.replace(search.latency, same_device=False)  # the trials may run elsewhere
            size = (search.network, data.input_shape, data.num_classes)
            table = table_for(anywhere, *size, torch.device("cpu"))
            corners = list(strategy_corners(search, self.spec.sweep))
            if not self._sweeps_limits and any(map(_keeps_limits, corners)):
                latency = latency_of_children(anywhere, table, *size, torch.device("cpu"), is_measured=False)
                limits = ChildLimits(search.constraints, *size, latency)
                limits.sample(GenotypeSpace(search.network), torch.Generator().manual_seed(search.seed))
            for options in corners:
                if isinstance(options.strategy, OverTrialsOptions):
                    check_estimate(options, data)
                else:
                    fraction = options.strategy.held_out_fraction
                    SearchImages.of(data, fraction, batch_size=options.batch_size, recalibration_batches=1)
        if self.spec.retrain is not None:
            check_recipe(self.spec.retrain, data, self.spec.retrain.workers)
            if self.spec.retrain.genotype is not None:
                load_genotype(self.spec.retrain.genotype)

    @property
    def _sweeps_limits(self) -> bool:
        """Whether trials differ in their hard limits or in what children cost: then each is for itself."""
        sections = ("constraints.", "network.", "dataset.", "latency.")
        return any(key.startswith(sections) for key in self.spec.sweep)

    def _check_images(self, tracker: Tracker, data: ImageData) -> None:
        """Refuse other images than those the study began with: its trials could not be compared."""
        try:
            # None: a driver was killed before it made the run, and nothing was searched.
            for run in tracker.client.search_runs([tracker.experiment_id], "tags.`snas.unit` = 'study'", max_results=1):
                before, now = run.data.tags, run_tags(data)
                for tag in _IMAGES:
                    if before.get(tag, now[tag]) != now[tag]:
                        raise OrchestratorError(
                            f"the images of study `{self.spec.name}` must be those it began with "
                            f"({tag.removeprefix('dataset.')} {before[tag]}), got {now[tag]}"
                        )
        except MlflowException as error:
            raise OrchestratorError(
                f"the MLflow store {tracker.tracking_uri} must be reachable, got: {first_line(error)}"
            ) from error

    def _check_new(self) -> None:
        """Refuse what can be refused before any store is touched."""
        url = self.runs.optuna_url(self.spec.storage.url)
        try:
            check_warm_start(self.spec, url)
        except _STORAGE_ERRORS as error:
            raise OrchestratorError(f"the Optuna storage {url} must be reachable, got: {first_line(error)}") from error
        storage = self.folder.storage(self.spec)
        if storage.exists() and any(storage.iterdir()):  # they would be taken for this study's
            raise OrchestratorError(
                f"the folder {storage} has checkpoints of a study `{self.spec.name}`: choose another --name"
            )

    def _begin(self, tracker: Tracker) -> None:
        """Make the study in Optuna's storage and its folder; refuse a name that either store knows already.

        The folder first: a full disk must not leave a study in Optuna's storage, whose name could not be used again.
        """
        name, url = self.spec.name, self.runs.optuna_url(self.spec.storage.url)
        taken = f"has a study `{name}` from elsewhere: choose another --name"
        if tracker.has_run("study"):
            raise OrchestratorError(f"the MLflow store {tracker.tracking_uri} {taken}")
        with self._draft() as draft:
            try:
                create_optuna_study(self.spec, url)
            except optuna.exceptions.DuplicatedStudyError as error:
                raise OrchestratorError(f"the Optuna storage {url} {taken}") from error
            except _STORAGE_ERRORS as error:
                raise OrchestratorError(
                    f"the Optuna storage {url} must be reachable, got: {first_line(error)}"
                ) from error
            try:
                draft.replace(self.folder.spec_file)
            except BaseException:
                with suppress(*_STORAGE_ERRORS):
                    optuna.delete_study(study_name=name, storage=open_storage(url))
                raise

    @contextmanager
    def _draft(self) -> Iterator[Path]:
        """The study file beside its place; if it does not get there, nothing is left."""
        draft = self.folder.path / f"study-{os.getpid()}.tmp"  # another driver may begin a study of this name
        self.folder.path.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(dump_yaml(self.spec.resolved()), encoding="utf-8")
            yield draft
        except BaseException:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
                self.folder.path.rmdir()  # unless it holds anything
            raise

    @contextmanager
    def _driver_lock(self) -> Iterator[None]:
        deadline = time.monotonic() + _LOCK_PATIENCE_S
        with self.folder.lock_file.open("w") as lock:
            while not _take(lock):
                if time.monotonic() > deadline:
                    raise OrchestratorError(f"study `{self.spec.name}` is being run by another process")
                time.sleep(_LOCK_PATIENCE_S / 20)
            yield

    def _tracker(self, data: ImageData) -> Tracker:
        uri = self.runs.tracking_uri(self.spec.tracking.uri)
        tags = {"snas.study": self.spec.name, **run_tags(data)}
        try:
            location = self.runs.artifact_location(uri, self.spec.name)
            return Tracker(
                uri,
                self.spec.name,
                artifact_location=location,
                tags=tags,
            )
        except MlflowException as error:
            raise OrchestratorError(f"the MLflow store {uri} must be reachable, got: {error}") from error

    def _study_params(self, data: ImageData) -> dict[str, object]:
        spec = self.spec
        sweep = {f"sweep.{key}": json.dumps(entry.to_data()) for key, entry in spec.sweep.items()}
        sizes = {f"images.{split}": size for split, size in data.sizes.items()}
        return {
            "name": spec.name,
            "seed": spec.seed,
            "sampler": spec.sampler,
            "trials": spec.num_trials,
            "objectives": json.dumps([asdict(objective) for objective in spec.objectives]),
            **flatten(asdict(spec.search), "search."),
            **sweep,
            **sizes,
        }


def _keeps_limits(search: SearchOptions) -> bool:
    """Whether a search cannot begin without a genotype of full size that keeps the hard limits."""
    strategy = search.strategy
    is_narrow = isinstance(strategy, SposOptions) and min(strategy.channels) < 1  # a child with fewer channels may do
    return "constraints" in strategy.uses and not is_narrow


def _take(lock: TextIO) -> bool:
    """Take the lock of an open file, unless somebody has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
