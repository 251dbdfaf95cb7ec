"""Ray Tune trainables: a search, child or retraining, an epoch a step. Workers write checkpoints and nothing else."""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from orchestrator.errors import OrchestratorError
from orchestrator.files.checkpoint import CheckpointFolder
from orchestrator.study_file.validation import from_plain
from orchestrator.worker.permanent import PERMANENT, refusal
from search_core.data.dataset_options import DatasetOptions
from search_core.data.datasets import ImageData, load_data
from search_core.errors import ConstraintsError, NonFiniteLossError, StateError
from search_core.ranks import ALONE
from search_core.search.child_training import ChildOrder, ChildTraining
from search_core.search.options import SearchOptions
from search_core.search.reports import METRICS, OPTIONAL_METRICS
from search_core.search.search import Search
from search_core.space.genotype import Genotype
from search_core.space.plan import NetworkOptions
from search_core.training.ground_truth import GroundTruth
from search_core.training.ground_truth_options import GroundTruthOptions
from search_core.training.retrain import Retrain
from search_core.training.retrain_options import RetrainOptions

#: Every metric of a search.
_UNKNOWN = dict.fromkeys((*METRICS, *OPTIONAL_METRICS), math.nan)


class MissingParentError(OrchestratorError):
    """A child is to begin with weights that are not there; another child may be trained all the same."""


class EpochTrainable(tune.Trainable):
    """Runs `self.work` epoch by epoch. The `job` in its configuration holds, besides what to run:

    - `label`: its name in the study;
    - `share`: what it takes of its node, as the fields of `packing.Share`;
    - `checkpoints`: folder of its checkpoints, which every node sees; the newest whole one is continued.

    Ray starts it anew after any fault, with the same configuration.
    """

    work: Search | ChildTraining | Retrain | GroundTruth

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """What Ray reserves for a trial: the `share` in its job."""
        share = config["job"]["share"]
        wanted = {"CPU": share["cpu"], "GPU": share["gpu"], "memory": int((share["memory_gb"] or 0) * 1e9)}
        return tune.PlacementGroupFactory([{kind: amount for kind, amount in wanted.items() if amount}])

    def setup(self, config: dict[str, Any]) -> None:
        """Remember the job; the first step builds the work.

        Ray neither restarts a trial whose worker dies in here after others, nor tells anybody that it hangs in here.
        """
        self._job: dict[str, Any] | None = config["job"]

    def begin(self) -> None:
        """Build the work and continue its newest whole checkpoint, once.

        Raises:
            StateError: if the checkpoint is that of another search, or of another version.
            LatencyError: if the latency table cannot be used here.
            torch.OutOfMemoryError: if it does not fit.
        """
        if self._job is None:
            return
        job = self._job
        self._folder = self.checkpoints(Path(job["checkpoints"]))
        self._last_epoch = last_epoch(job)
        self._unsent: Mapping[str, Any] | None = None
        self.work = self.build(job)
        found = self._folder.newest_whole()
        if found is not None:
            self.work.load_state_dict(dict(found.state))
            # Whether this report arrived before the fault is not known here; a repeat is recognised by the journal.
            self._unsent = found.record
        self._fork(job)
        self._job = None

    def _fork(self, job: dict[str, Any]) -> None:
        """Only searches grow from others."""

    def checkpoints(self, path: Path) -> CheckpointFolder:
        """Where the checkpoints are written and read."""
        return CheckpointFolder(path)

    def build(self, job: dict[str, Any]) -> Search | ChildTraining | Retrain | GroundTruth:
        """The work that a job describes, at its beginning."""
        raise NotImplementedError

    def result(self) -> dict[str, Any]:
        """Run one epoch and return its record."""
        return self.work.run_epoch().to_dict()

    def step(self) -> dict[str, Any]:
        """One epoch, or first the report of the checkpoint that is continued.

        A loss that is not finite, hard limits that no genotype keeps, a GPU that is too small and all that is
        `PERMANENT` end the trial with the reason. A checkpoint that cannot be written does not: a full disk costs the
        way back, not the search.
        """
        try:
            self.begin()
            if self._unsent is not None:
                record, self._unsent = self._unsent, None
                return self._epoch_result(record)
            record = self.result()
        except (NonFiniteLossError, ConstraintsError, MissingParentError) as error:
            return self._end_result(failure=str(error))
        except torch.OutOfMemoryError as error:
            return self._end_result(out_of_memory=str(error))
        except PERMANENT as error:
            return self._end_result(**refusal(error))
        try:
            self._folder.save(self.work.epoch, self.work.state_dict(), record)
        except OSError as error:
            fault = f"the checkpoint of epoch {self.work.epoch} could not be written: {error.strerror or error}"
            return self._epoch_result(record) | {"checkpoint_fault": fault}
        return self._epoch_result(record)

    def _epoch_result(self, record: Mapping[str, Any]) -> dict[str, Any]:
        is_last = self.work.epoch >= self._last_epoch or "stopped" in record
        return {"record": record, "epochs": self.work.epoch, **record["metrics"], "done": is_last}

    def _end_result(self, **what: str) -> dict[str, Any]:
        """The end of a trial without another epoch; Ray and its schedulers want every metric in every result."""
        return {**_UNKNOWN, "epochs": math.nan, **what, "done": True}

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
    """One search, or with `child` in the job one child of a multi-trial search.

    Job: `options` of the search as plain data; perhaps `until`, the number of epochs after which it ends; perhaps
    `scores`, to have the last record say what the strategy thinks of every genotype.

    Perhaps also `fork`: the folder `checkpoints` and the number `epochs` of the shared epochs from which it grows as
    long as it has no checkpoint of its own.

    For a child, `child` is a `ChildOrder` as plain data; `parent` the folder of the checkpoints of the child with whose
    weights it begins, if it does.
    """

    work: Search | ChildTraining
    _wants_scores = False

    def _fork(self, job: dict[str, Any]) -> None:
        if "fork" in job and self.work.epoch == 0:
            assert isinstance(self.work, Search)
            folder, epochs = Path(job["fork"]["checkpoints"]), job["fork"]["epochs"]
            trunk = CheckpointFolder(folder).newest_whole()
            if trunk is None or trunk.epoch != epochs:  # an older one would let its own values begin too early
                got = "none" if trunk is None else f"only that of {trunk.epoch}"
                raise StateError(f"{folder} must have a whole checkpoint of {epochs} shared epochs, got {got}")
            self.work.fork_from(dict(trunk.state))

    def build(self, job: dict[str, Any]) -> Search | ChildTraining:
        """The search or child at its beginning."""
        self._wants_scores = job.get("scores", False)
        options = from_plain(SearchOptions, job["options"])
        data = _cached_data(options.dataset, self.device)
        if "child" not in job:
            return Search(options, data, self.device)
        order = from_plain(ChildOrder, job["child"])
        return ChildTraining(options, data, order, self.device, parent=_trained_weights(job))

    def _epoch_result(self, record: Mapping[str, Any]) -> dict[str, Any]:
        # Ray and its schedulers want every metric of a search in every result; a child has others.
        unknown = _UNKNOWN if isinstance(self.work, ChildTraining) else {}
        return {**unknown, **super()._epoch_result(record)}

    def result(self) -> dict[str, Any]:
        """Run one epoch and return its record."""
        record = super().result()
        if self._wants_scores and isinstance(self.work, Search) and self.work.epoch >= self.work.options.epochs:
            record["scores"] = self.work.scores()
        return record


class TruthTrainable(EpochTrainable):
    """A share of the ground truth, a training an epoch. Job: `codes`, `network`, `options`, `dataset`, `seed`."""

    work: GroundTruth

    def build(self, job: dict[str, Any]) -> GroundTruth:
        """The share at its beginning."""
        data = _cached_data(from_plain(DatasetOptions, job["dataset"]), self.device)
        codes = [tuple(code) for code in job["codes"]]
        network, options = from_plain(NetworkOptions, job["network"]), from_plain(GroundTruthOptions, job["options"])
        return GroundTruth(codes, network, options, data, self.device, seed=job["seed"])


class RetrainTrainable(EpochTrainable):
    """One training of a child. Job: `genotype`, `options` and `dataset` as plain data, `seed`."""

    work: Retrain
    ranks = ALONE

    def build(self, job: dict[str, Any]) -> Retrain:
        """The training at its beginning."""
        data = _cached_data(from_plain(DatasetOptions, job["dataset"]), self.device)
        options = from_plain(RetrainOptions, job["options"])
        genotype = Genotype.from_dict(job["genotype"])
        return Retrain(genotype, options, data, self.device, seed=job["seed"], ranks=self.ranks)

    def result(self) -> dict[str, Any]:
        """Run one epoch; after the last, the one look at the test split."""
        record = self.work.run_epoch().to_dict()
        if self.work.epoch >= self.work.options.epochs:
            record["metrics"] |= self.work.final_metrics()
        return record


def _trained_weights(job: Mapping[str, Any]) -> Mapping[str, torch.Tensor] | None:
    """Network of the child that is named as parent; None if none is.

    Raises:
        MissingParentError: if it has no checkpoint.
    """
    if "parent" not in job:
        return None
    folder = Path(job["parent"])
    trained = CheckpointFolder(folder).newest_whole()
    if trained is None:
        raise MissingParentError(f"{folder} must have a whole checkpoint of the child's parent, got none")
    weights: Mapping[str, torch.Tensor] = trained.state["training"]["child"]
    return weights


def last_epoch(job: Mapping[str, Any]) -> int:
    """How many epochs a job has."""
    return int(job.get("until", job["options"]["epochs"]))


@cache
def _freeze_imports() -> None:
    """Take what now lives, modules for the most part, out of the collector's sight: a quarter second a trial less."""
    gc.freeze()


@lru_cache(maxsize=1)
def _cached_data(options: DatasetOptions, device: torch.device) -> ImageData:
    """Data sets never travel through trial configurations; a worker loads its own, once."""
    return load_data(options, device)
