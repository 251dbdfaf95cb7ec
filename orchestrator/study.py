"""A study as its readers see it: what is asked for, what is done; `start` runs it.

What is done is read from Optuna's storage and the journals; there is no other state that could disagree with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import optuna

from dashboards.databases import sqlite_file
from orchestrator.config import StudySpec, load_study
from orchestrator.errors import OrchestratorError, first_line
from orchestrator.journal import Journal
from orchestrator.records import (
    ForkSavings,
    RetrainJob,
    RetrainRecord,
    TrialRecord,
    fork_savings,
    num_open,
    read_retrains,
    read_trials,
    retrain_jobs,
)
from orchestrator.runs import TRUNK, Runs, StudyFolder
from orchestrator.samplers import STORAGE_ERRORS, load_optuna_study

if TYPE_CHECKING:
    from orchestrator.progress import StudyView


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
            if (file := sqlite_file(url)) is not None and not file.exists():
                raise FileNotFoundError("there is no such file")  # opening it would make an empty one
            return load_optuna_study(self.spec, url)
        except STORAGE_ERRORS as error:
            raise OrchestratorError(
                f"the Optuna storage {url} must hold the study `{self.spec.name}`, got: {first_line(error)}"
            ) from error

    @property
    def tracking_uri(self) -> str:
        """MLflow store of the study."""
        return self.runs.tracking_uri(self.spec.tracking.uri)

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

    @property
    def resume_hint(self) -> str:
        """The command that goes on with the study, and that it does."""
        return f"`{self.runs.command('study', 'resume', self.spec.name)}` goes on where it stopped"

    def num_open_trials(self) -> int:
        """Searches that are unfinished or not yet begun."""
        return num_open(self.optuna_study, self.spec)

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
            ConfigError: if the study began with other settings.
            OrchestratorError: if a store or the cluster cannot be reached, if the images are not those that the study
                began with, or if another driver runs the study.
            StudyInterrupted: if a signal stopped it.
            StudyFailed: if all searches or all retrainings failed.
        """
        if view is not None:
            view.step("loading PyTorch, Ray and MLflow")
        from orchestrator.start import start  # not above: readers need neither Ray nor PyTorch, which take seconds

        start(self, view, address=address)
