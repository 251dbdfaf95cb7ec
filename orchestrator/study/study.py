"""A study as its readers see it: what is asked for, what is done; `driver.start` runs it.

What is done is read from Optuna's storage and the journals; there is no other state that could disagree with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import optuna

from dashboards.mlflow_store.databases import sqlite_file
from orchestrator.errors import OrchestratorError, first_line
from orchestrator.files.decisions import Decisions, Ending
from orchestrator.files.journal import Journal
from orchestrator.files.layout import TRUNK, Runs, StudyFolder
from orchestrator.jobs import Parent, RetrainJob
from orchestrator.sampling.ranking import front_volume
from orchestrator.sampling.samplers import STORAGE_ERRORS, load_optuna_study, patiently
from orchestrator.study.lineage import parent_of
from orchestrator.study.records import (
    IMAGES,
    ForkSavings,
    RetrainRecord,
    TrialRecord,
    fork_savings,
    num_open,
    read_retrains,
    read_trials,
    retrain_jobs,
)
from orchestrator.study_file.loading import load_study
from orchestrator.study_file.spec import StudySpec

if TYPE_CHECKING:
    import pandas as pd


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
    def load(cls, name: str, runs: Runs, settings: Sequence[str] = ()) -> Study:
        """A study that was run before.

        Args:
            name: of the study.
            runs: the folder of all runs.
            settings: `key=value`, in the place of what its file says.

        Raises:
            OrchestratorError: if there is none of this name.
            ConfigError: if a setting does not fit.
        """
        known = runs.study_names()
        if name not in known:
            shown = ", ".join(known) or "none"
            raise OrchestratorError(f"there is no study `{name}` in {runs.root}; studies there: {shown}")
        file = runs.study(name).spec_file
        spec = load_study(file, settings)
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

    def front_volume(self) -> float | None:
        """How much of what is possible the front dominates (`ranking.front_volume`); None with one objective."""
        return front_volume(self.optuna_study)

    def trials_dataframe(self) -> pd.DataFrame:
        """A row a trial (`frames.trials_frame`)."""
        from orchestrator.study import frames  # few need pandas, which takes a second

        return frames.trials_frame(self.trials())

    def epochs_dataframe(self) -> pd.DataFrame:
        """A row an epoch of a trial (`frames.epochs_frame`)."""
        from orchestrator.study import frames

        return frames.epochs_frame(self.trials(), self.folder)

    def retrains_dataframe(self) -> pd.DataFrame:
        """A row a retraining (`frames.retrains_frame`)."""
        from orchestrator.study import frames

        return frames.retrains_frame(self.retrains())

    def fork_savings(self) -> ForkSavings | None:
        """What running the shared epochs once saved; None without `fork`, or before they are over."""
        return fork_savings(self.optuna_study, self.spec, self.folder)

    def parent(self, trial: int) -> Parent | None:
        """Where a trial was forked from another; None if it was not."""
        return parent_of(patiently(lambda: self.optuna_study.get_trials(deepcopy=False))[trial])

    @property
    def trunk_failure(self) -> str:
        """Why the shared epochs failed; empty if they did not. No trial can begin then."""
        journal = Journal(self.folder.journal("trunk", TRUNK))
        return journal.reason if journal.end == "failed" else ""

    @property
    def resume_hint(self) -> str:
        """The command that resumes the study, and that it does."""
        return f"`{self.runs.command('study', 'resume', self.spec.name)}` resumes where it stopped"

    @property
    def images(self) -> Mapping[str, int]:
        """Number of images by split; empty of a study that no driver has run since they are noted."""
        sizes: dict[str, int] = self.optuna_study.user_attrs.get(IMAGES, {})
        return sizes

    def num_open_trials(self) -> int:
        """Searches that are unfinished or not yet begun."""
        return num_open(self.optuna_study, self.spec, self.ending)

    @property
    def ending(self) -> Ending | None:
        """Why the searches are over though not all trials were run, or rest; None if they are not."""
        return Decisions(self.folder.decisions_file).ending
