"""Ray Tune trainables: a search, child or retraining, an epoch a step. Workers write checkpoints and nothing else."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from orchestrator.errors import OrchestratorError
from orchestrator.files.checkpoint import CheckpointFolder
from orchestrator.jobs import ChildJob, Job, JobReport, RetrainJob, SearchJob, TruthJob
from orchestrator.machine import machine_facts
from orchestrator.worker.permanent import PERMANENT, refusal
from search_core.data.dataset_options import DatasetOptions
from search_core.data.datasets import ImageData, load_data
from search_core.errors import ConstraintsError, NonFiniteLossError, StateError, is_out_of_gpu_memory
from search_core.ranks import ALONE
from search_core.search.child_training import ChildTraining
from search_core.search.search import Search
from search_core.training.ground_truth import GroundTruth
from search_core.training.retrain import Retrain


class MissingParentError(OrchestratorError):
    """A child or trial is to begin with a checkpoint that is not there; others may run all the same."""


class EpochTrainable(tune.Trainable):
    """Runs `self.work`, which its job describes, epoch by epoch.

    Ray starts it again after any fault, with the same configuration.
    """

    work: Search | ChildTraining | Retrain | GroundTruth

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """What Ray reserves for a trial: the `reservation` in its job."""
        reservation = Job.from_config(config).reservation
        wanted = {"CPU": reservation.cpu, "GPU": reservation.gpu, "memory": int((reservation.memory_gb or 0) * 1e9)}
        return tune.PlacementGroupFactory([{kind: amount for kind, amount in wanted.items() if amount}])

    def setup(self, config: dict[str, Any]) -> None:
        """Remember the job; the first step builds the work.

        Ray neither restarts a trial whose worker dies in here after others, nor reports that it hangs in here.
        """
        self._job: Job | None = Job.from_config(config)

    def begin(self) -> None:
        """Build the work and continue its newest whole checkpoint, once.

        Raises:
            StateError: if the checkpoint is that of another search, or of another version.
            LatencyError: if the latency table cannot be used here.
            RuntimeError: `is_out_of_gpu_memory`, if it does not fit.
        """
        if self._job is None:
            return
        job = self._job
        self._folder = self.checkpoints(job)
        self._last_epoch = job.epochs
        self._unsent: Mapping[str, Any] | None = None
        self._machine = machine_facts(self.device)
        self.work = self.build(job)
        found = self._folder.newest_whole()
        if found is not None:
            self.work.load_state_dict(dict(found.state))
            # Whether this report arrived before the fault is not known here; a repeat is recognised by the journal.
            self._unsent = found.record
        self._fork(job)
        self._job = None

    def _fork(self, job: Any) -> None:
        """Only searches grow from others."""

    def checkpoints(self, job: Job) -> CheckpointFolder:
        """Where the checkpoints are written and read."""
        return CheckpointFolder(job.checkpoints, every=job.keep_every if isinstance(job, SearchJob) else None)

    def build(self, job: Any) -> Search | ChildTraining | Retrain | GroundTruth:
        """The work that a job describes, at its beginning."""
        raise NotImplementedError

    def run_epoch(self) -> dict[str, Any]:
        """Run one epoch and return its record."""
        return self.work.run_epoch().to_dict()

    def step(self) -> dict[str, Any]:
        """As `report`, for Ray."""
        return self.report().to_result()

    def report(self) -> JobReport:
        """One epoch, or first the report of the checkpoint that is continued.

        A loss that is not finite, hard limits that no genotype keeps, a GPU that is too small and all that is
        `PERMANENT` end the trial with the reason. A checkpoint that cannot be written does not: a full disk costs the
        way back, not the search.
        """
        try:
            self.begin()
            if self._unsent is not None:
                record, self._unsent = self._unsent, None
                return self._of_epoch(record)
            record = {**self.run_epoch(), "machine": self._machine}
            state = self.work.state_dict()  # copies, for which there must be room as well
        except (NonFiniteLossError, ConstraintsError, MissingParentError) as error:
            return JobReport(fault="failed", reason=str(error))
        except PERMANENT as error:
            return refusal(error)
        except RuntimeError as error:
            if not is_out_of_gpu_memory(error):
                raise
            return JobReport(fault="out_of_memory", reason=str(error), kind="gpu")
        fault = ""
        try:
            self._folder.save(self.work.epoch, state, record)
        except OSError as error:
            fault = f"the checkpoint of epoch {self.work.epoch} could not be written: {error.strerror or error}"
        return replace(self._of_epoch(record), checkpoint_fault=fault)

    def _of_epoch(self, record: Mapping[str, Any]) -> JobReport:
        is_last = self.work.epoch >= self._last_epoch or "stopped" in record
        return JobReport(record=record, done=is_last)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Serve another trial in this process: starting one costs seconds."""
        vars(self).pop("work", None)
        gc.collect()
        _freeze_imports()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.setup(new_config)
        return True

    @property
    def device(self) -> torch.device:
        """The GPU that Ray gave this trial, else the CPU: a worker without a GPU of its own may still see all."""
        return torch.device("cuda" if ray.get_gpu_ids() else "cpu")


class SearchTrainable(EpochTrainable):
    """One search, or one child of a multi-trial search."""

    work: Search | ChildTraining
    _wants_scores = False

    def _fork(self, job: SearchJob | ChildJob) -> None:
        if isinstance(job, SearchJob) and job.trunk is not None and self.work.epoch == 0:
            assert isinstance(self.work, Search)
            found = CheckpointFolder(job.trunk).newest_whole()
            # From an older one its own values would begin too early.
            if found is None or found.epoch != job.trunk_epochs:
                whose = f"{job.trunk_epochs} shared epochs" if job.parent is None else str(job.parent)
                got = "none" if found is None else f"only that of {found.epoch}"
                kind = StateError if job.parent is None else MissingParentError
                raise kind(f"{job.trunk} must have a whole checkpoint of {whose}, got {got}")
            self.work.fork_from(dict(found.state))

    def build(self, job: SearchJob | ChildJob) -> Search | ChildTraining:
        """The search or child at its beginning."""
        data = _cached_data(job.options.dataset, self.device)
        if isinstance(job, ChildJob):
            return ChildTraining(job.options, data, job.order, self.device, parent=_trained_weights(job.parent))
        self._wants_scores = job.wants_scores
        return Search(job.options, data, self.device)

    def run_epoch(self) -> dict[str, Any]:
        """Run one epoch; in the last record, the scores if they are wanted."""
        record = super().run_epoch()
        if self._wants_scores and isinstance(self.work, Search) and self.work.epoch >= self.work.options.epochs:
            record["scores"] = self.work.scores()
        return record


class TruthTrainable(EpochTrainable):
    """A part of the ground truth, a training an epoch."""

    work: GroundTruth

    def build(self, job: TruthJob) -> GroundTruth:
        """The part at its beginning."""
        data = _cached_data(job.dataset, self.device)
        return GroundTruth(job.codes, job.network, job.options, data, self.device, seed=job.seed)


class RetrainTrainable(EpochTrainable):
    """One training of a child."""

    work: Retrain
    ranks = ALONE

    def build(self, job: RetrainJob) -> Retrain:
        """The training at its beginning."""
        data = _cached_data(job.dataset, self.device)
        return Retrain(
            job.genotype, job.recipe, data, self.device, seed=job.seed, choices=job.choices, ranks=self.ranks
        )

    def run_epoch(self) -> dict[str, Any]:
        """Run one epoch; after the last, the one look at the test split."""
        record = super().run_epoch()
        if self.work.epoch >= self.work.options.epochs:
            record["metrics"] |= self.work.final_metrics()
        return record


def _trained_weights(parent: Path | None) -> Mapping[str, torch.Tensor] | None:
    """Network of the child with these checkpoints; None without a parent.

    Raises:
        MissingParentError: if it has no checkpoint.
    """
    if parent is None:
        return None
    trained = CheckpointFolder(parent).newest_whole()
    if trained is None:
        raise MissingParentError(f"{parent} must have a whole checkpoint of the child's parent, got none")
    weights: Mapping[str, torch.Tensor] = trained.state["training"]["child"]
    return weights


@cache
def _freeze_imports() -> None:
    """Take what now lives, modules for the most part, out of the collector's sight: a quarter second a trial less."""
    gc.freeze()


@lru_cache(maxsize=1)
def _cached_data(options: DatasetOptions, device: torch.device) -> ImageData:
    """Data sets never travel through trial configurations; a worker loads its own, once."""
    return load_data(options, device)
