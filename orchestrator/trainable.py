"""Ray Tune trainables: one search, or one retraining, an epoch a step. Workers write checkpoints and nothing else."""

from __future__ import annotations

import gc
import math
import pickle
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import pydantic
import ray
import torch
from ray import tune

from orchestrator.runs import CHECKPOINT_FILE
from search_core.data import DatasetOptions, ImageData, load_data
from search_core.errors import NonFiniteLossError, StateError
from search_core.genotype import Genotype
from search_core.reports import METRICS
from search_core.retrain import Retrain, RetrainOptions
from search_core.search import Search, SearchOptions

Options = TypeVar("Options")


#: What a torn checkpoint file may raise.
LOAD_ERRORS = (OSError, EOFError, RuntimeError, KeyError, pickle.UnpicklingError)


class EpochTrainable(tune.Trainable):
    """Runs `self.work` epoch by epoch. The `job` in its configuration holds, besides what to run:

    - `label`: its name in the study;
    - `recorded`: how many epochs the journal holds already;
    - `checkpoints`: checkpoint files of earlier launches, newest first; the first that loads is continued.
    """

    work: Search | Retrain

    def setup(self, config: dict[str, Any]) -> None:
        """Build the work and continue its newest whole checkpoint."""
        job = config["job"]
        self.work = self.build(job)
        for file in job["checkpoints"]:
            if self._continues(file, job["recorded"]):
                return
        if job["checkpoints"]:  # a torn one may have been taken over in part
            self.work = self.build(job)

    def build(self, job: dict[str, Any]) -> Search | Retrain:
        """The work that a job describes, at its beginning."""
        raise NotImplementedError

    def result(self) -> dict[str, Any]:
        """Run one epoch and return its record."""
        return self.work.run_epoch().to_dict()

    def step(self) -> dict[str, Any]:
        """One epoch; a loss that is not finite ends the trial as failed, with the reason."""
        if self.work.epoch >= self.work.options.epochs:  # the driver was killed between the last report and the end
            return self._end_result()
        try:
            record = self.result()
        except NonFiniteLossError as error:
            return self._end_result(failure=str(error))
        is_last = self.work.epoch >= self.work.options.epochs
        return {"record": record, "epochs": self.work.epoch, **record["metrics"], "done": is_last}

    def _end_result(self, **what: str) -> dict[str, Any]:
        """The end of a trial without another epoch; Ray and its schedulers want every metric in every result."""
        return {**dict.fromkeys(METRICS, math.nan), "epochs": self.work.epoch, **what, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the state of the work."""
        torch.save(self.work.state_dict(), Path(checkpoint_dir) / CHECKPOINT_FILE)

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Take over a state that `save_checkpoint` wrote; Ray gives the folder."""
        self.work.load_state_dict(load_state(Path(checkpoint) / CHECKPOINT_FILE))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Serve another trial in this process: starting one costs seconds."""
        del self.work
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.setup(new_config)
        return True

    @property
    def device(self) -> torch.device:
        """The GPU that Ray gave this trial, else the CPU: a worker without a GPU of its own may still see all."""
        return torch.device("cuda" if ray.get_gpu_ids() else "cpu")

    def _continues(self, file: str, recorded: int) -> bool:
        """Whether the work now continues this checkpoint; a torn one, or one ahead of the journal, is passed over."""
        try:
            state = load_state(Path(file))
            if state["epoch"] > recorded:
                return False
            self.work.load_state_dict(state)
        except (*LOAD_ERRORS, StateError):
            return False
        return True


class SearchTrainable(EpochTrainable):
    """One search. Job: `options` as plain data."""

    def build(self, job: dict[str, Any]) -> Search:
        """The search at its beginning."""
        options = from_plain(SearchOptions, job["options"])
        return Search(options, _cached_data(options.dataset, self.device), self.device)


class RetrainTrainable(EpochTrainable):
    """One training of a child. Job: `genotype`, `options` and `dataset` as plain data, `seed`."""

    work: Retrain

    def build(self, job: dict[str, Any]) -> Retrain:
        """The training at its beginning."""
        data = _cached_data(from_plain(DatasetOptions, job["dataset"]), self.device)
        options = from_plain(RetrainOptions, job["options"])
        return Retrain(Genotype.from_dict(job["genotype"]), options, data, self.device, seed=job["seed"])

    def result(self) -> dict[str, Any]:
        """Run one epoch; after the last, the one look at the test split."""
        record = self.work.run_epoch().to_dict()
        if self.work.epoch >= self.work.options.epochs:
            record["metrics"] |= self.work.final_metrics()
        return record


def from_plain(options_class: type[Options], data: Mapping[str, Any]) -> Options:
    """Options from the plain data of `dataclasses.asdict`."""
    return pydantic.TypeAdapter(options_class).validate_python(data)


def load_state(path: Path) -> dict[str, Any]:
    """Read a checkpoint file to CPU memory, tensors and plain values only."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


@lru_cache(maxsize=1)
def _cached_data(options: DatasetOptions, device: torch.device) -> ImageData:
    """Data sets never travel through trial configurations; a worker loads its own, once."""
    return load_data(options, device)
