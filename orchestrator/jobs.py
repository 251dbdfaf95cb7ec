"""What a driver gives its workers to do and what they report, one value each in the dictionaries of Ray Tune."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dashboards.formatting import counted
from orchestrator.study_file.sections import RetrainSection
from orchestrator.study_file.validation import from_plain
from search_core.data.dataset_options import DatasetOptions
from search_core.search.options import SearchOptions
from search_core.search.reports import FINAL_METRICS, METRICS, OPTIONAL_METRICS
from search_core.space.choices import CellChoices
from search_core.space.code_space import Code
from search_core.space.genotype import Genotype
from search_core.space.plan import NetworkOptions
from search_core.training.ground_truth_options import GroundTruthOptions
from search_core.training.retrain_options import RetrainOptions

if TYPE_CHECKING:
    from search_core.search.child_training import ChildOrder


@dataclass(frozen=True)
class Reservation:
    """What Ray reserves for one trial.

    Attributes:
        cpu: CPU cores.
        gpu: GPUs; below 1 the part of one.
        memory_gb: memory in GB; None for no reservation.
        explanation: where the numbers come from, for people.
    """

    cpu: float
    gpu: float
    memory_gb: float | None
    explanation: str = field(default="as the study file says", compare=False)


@dataclass(frozen=True)
class Parent:
    """The trial at whose checkpoint another was forked.

    Attributes:
        trial: its number.
        epoch: how many of its epochs the other takes over.
    """

    trial: int
    epoch: int

    def __str__(self) -> str:
        return f"trial {self.trial} after {counted(self.epoch, 'epoch')}"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a Tune trial does.

    Attributes:
        label: its name in the study.
        checkpoints: folder of its checkpoints, which every node sees; the newest whole one is continued.
        epochs: how many it has.
        workers: processes that share every batch.
        reservation: what each worker takes of its node; set by the driver when it launches the trial.
    """

    label: str
    checkpoints: Path
    epochs: int
    workers: int = 1
    reservation: Reservation = Reservation(cpu=0.0, gpu=0.0, memory_gb=None)

    def to_config(self) -> dict[str, Any]:
        """The configuration of its Tune trial; Ray puts off all but plain values until it has named the trial."""
        return {"job": {"label": self.label, "whole": self}}

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> Job:
        """The job of a Tune trial."""
        job: Job = config["job"]["whole"]
        return job


@dataclass(frozen=True, kw_only=True)
class SearchJob(Job):
    """One search, or the epochs that forked trials share.

    Attributes:
        options: of the search.
        wants_scores: whether the last record says what the strategy thinks of every genotype.
        keep_every: its checkpoints after every so many epochs stay; None for none.
        trunk: checkpoints of the epochs of another from which it grows as long as it has none of its own.
        trunk_epochs: how many these are.
        parent: whose they are; None for the shared epochs.
    """

    options: SearchOptions
    wants_scores: bool = False
    keep_every: int | None = None
    trunk: Path | None = None
    trunk_epochs: int = 0
    parent: Parent | None = None


@dataclass(frozen=True, kw_only=True)
class ChildJob(Job):
    """One child of a multi-trial search.

    Attributes:
        options: of the search.
        order: the child.
        parent: checkpoints of the child with whose weights it begins; None for fresh ones.
    """

    options: SearchOptions
    order: ChildOrder
    parent: Path | None = None


@dataclass(frozen=True, kw_only=True)
class RetrainJob(Job):
    """One training of a cell from scratch.

    Attributes:
        trial: number of the trial whose cell it is; None for a cell that the study file names.
        genotype: the cell.
        seed: of the training.
        options: as the study file says.
        dataset: its images.
        choices: channels and bits of its cells, if the search chose them.
    """

    trial: int | None
    genotype: Genotype
    seed: int
    options: RetrainSection
    dataset: DatasetOptions
    choices: CellChoices | None = None

    @property
    def recipe(self) -> RetrainOptions:
        """The options that steer the training itself, which its checkpoints name."""
        return from_plain(RetrainOptions, asdict(self.options))


@dataclass(frozen=True, kw_only=True)
class TruthJob(Job):
    """A part of the ground truth, a training an epoch.

    Attributes:
        codes: the genotypes.
        network: their search space.
        options: how each is trained.
        dataset: images.
        seed: of the first training of each.
    """

    codes: tuple[Code, ...]
    network: NetworkOptions
    options: GroundTruthOptions
    dataset: DatasetOptions
    seed: int


@dataclass(frozen=True, kw_only=True)
class JobReport:
    """What a step of a trial reports: an epoch, or why there is none.

    Attributes:
        record: the epoch as plain data, with the `machine` that computed it; None with a fault.
        done: whether the trial ends with it.
        fault: `failed`; `refused` by an error that another attempt would meet again; `out_of_memory`; `died`: a worker
            of a group, whose trial is tried again.
        reason: of the fault, for people.
        kind: of the fault: the class of the error if it is refused; `gpu` or `host` by the memory that ran out.
        checkpoint_fault: why the checkpoint of the epoch could not be written; empty if it was.
    """

    record: Mapping[str, Any] | None = None
    done: bool = True
    fault: Literal["failed", "refused", "out_of_memory", "died"] | None = None
    reason: str = ""
    kind: str = ""
    checkpoint_fault: str = ""

    def to_result(self) -> dict[str, Any]:
        """The result of a Tune trial: Ray and its schedulers want every metric of a search in every one."""
        epochs, metrics = (math.nan, {}) if self.record is None else (self.record["epoch"] + 1, self.record["metrics"])
        unknown = dict.fromkeys((*METRICS, *OPTIONAL_METRICS, *FINAL_METRICS), math.nan)
        return {**unknown, **metrics, "epochs": epochs, "done": self.done, "report": self}

    @staticmethod
    def from_result(result: Mapping[str, Any]) -> JobReport:
        """The report in a result, done if Ray says so too: its stopper or scheduler may have ended the trial."""
        report: JobReport = result["report"]
        return replace(report, done=bool(result["done"]))
