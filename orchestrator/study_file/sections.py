"""The sections of a study file besides `search` and `sweep`: one frozen options class each."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import pydantic

from orchestrator.credentials import has_password, masked
from orchestrator.errors import did_you_mean
from orchestrator.study_file.yaml_file import describe
from search_core.data.dataset_options import DatasetOptions
from search_core.errors import Rule, require
from search_core.search.reports import METRICS, OPTIONAL_METRICS
from search_core.training.retrain_options import RetrainOptions, workers_rules

#: Numbers of an epoch's report that an objective or a scheduler may follow: not the schedules, not the clock, and not
#: what says nothing of the child.
REPORT_METRICS: tuple[str, ...] = tuple(
    name
    for name in (*METRICS, *OPTIONAL_METRICS)
    if name not in ("temperature", "eta", "seconds", "images_per_s", "train_accuracy", "train_penalty", "pruned_kl")
)

Mode = Literal["min", "max"]


def _metric_rule(metric: str) -> Rule:
    known = ", ".join(REPORT_METRICS)
    hint = did_you_mean(metric, REPORT_METRICS) or ";"
    return (
        "metric",
        metric in REPORT_METRICS,
        f"must be a metric of the epoch report, got `{metric}`{hint} metrics: {known}",
    )


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A metric of the epoch report that the study minimises or maximises."""

    metric: str
    mode: Mode

    def __post_init__(self) -> None:
        require(_metric_rule(self.metric))


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """Early stopping of trials; in a file, the bare kind is short for `{kind: ...}`.

    Attributes:
        kind: `none`; `asha` (successive halving); `hyperband` (several of these, which let a trial run for different
            times before the first halving); `median` (stop below the median of the others); `front` (stop what enough
            others beat in all objectives); or `pbt` (population-based training: fork the better in place of the worse).
        metric: what is compared; default: the study's first objective. `front` compares all objectives.
        mode: given with `metric`, and only then.
        grace_period: epochs that each trial may run, at least 1.
        reduction_factor: for `asha` and `hyperband`, one of this many trials continues at each rung, at least 2.
        dominated_by: for `front`, how many others must be better in one objective and worse in none at the same epoch
            for a trial to be stopped, at least 1.
        interval: for `pbt`, epochs from one comparison of the trials to the next, at least 1.
        quantile: for `pbt`, the worst share of those that got so far, which is stopped, and the best, which is forked
            in its place; above 0, at most 0.5.
    """

    kind: Literal["none", "asha", "hyperband", "median", "front", "pbt"] = "none"
    metric: str | None = None
    mode: Mode | None = None
    grace_period: int = 1
    reduction_factor: int = 4
    dominated_by: int = 3
    interval: int = 5
    quantile: float = 0.25

    def __post_init__(self) -> None:
        require(
            _metric_rule(self.metric or REPORT_METRICS[0]),
            (
                "mode",
                (self.mode is None) == (self.metric is None),
                "must be given together with `metric`, or neither",
                "metric",
            ),
            ("grace_period", self.grace_period >= 1, f"must be at least 1 epoch, got {self.grace_period}"),
            ("reduction_factor", self.reduction_factor >= 2, f"must be at least 2, got {self.reduction_factor}"),
            ("dominated_by", self.dominated_by >= 1, f"must be at least 1, got {self.dominated_by}"),
            ("interval", self.interval >= 1, f"must be at least 1 epoch, got {self.interval}"),
            ("quantile", 0 < self.quantile <= 0.5, f"must be above 0 and at most 0.5, got {self.quantile}"),
            (
                "metric",
                self.kind != "front" or self.metric is None,
                f"must be left out with `kind` front, which compares all objectives, got {self.metric}",
                "kind",
            ),
        )


def _check_auto(value: object) -> object:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number and value != "auto":
        raise ValueError(f"must be `auto` or a number, got {describe(value)}")
    return value


#: An amount that a user gives or leaves to a measurement.
AutoOrNumber = Annotated[Literal["auto"] | float, pydantic.BeforeValidator(_check_auto)]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What Ray reserves for one trial.

    Attributes:
        cpu: CPU cores, above 0; fractions share a core.
        gpu: GPUs, 0 or above; a fraction shares one GPU, above 1 only whole numbers. `auto`: a short run of one search
            measures how many fit on a GPU.
        memory_gb: memory in GB, above 0; default: not reserved. `auto`: measured likewise.
    """

    cpu: float = 1.0
    gpu: AutoOrNumber = 0.0
    memory_gb: AutoOrNumber | None = None

    @property
    def uses_gpu(self) -> bool:
        """Whether a trial has a GPU or a part of one."""
        return self.gpu == "auto" or self.gpu > 0

    def __post_init__(self) -> None:
        gpu = 0.0 if self.gpu == "auto" else self.gpu
        memory = None if self.memory_gb == "auto" else self.memory_gb
        require(
            ("cpu", 0 < self.cpu < math.inf, f"must be a finite number above 0, got {self.cpu}"),
            ("gpu", 0 <= gpu < math.inf, f"must be `auto` or a finite number of at least 0, got {gpu}"),
            ("gpu", gpu <= 1 or gpu % 1 == 0, f"must be a fraction of 1 or a whole number, got {gpu}"),
            (
                "memory_gb",
                memory is None or 0 < memory < math.inf,
                f"must be `auto` or a finite number above 0, got {memory}",
            ),
        )


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """Begin with the best values of a finished study in the same Optuna storage.

    Attributes:
        experiment: name of that study, which is also that of its MLflow experiment.
        top: how many of its best trials at most; no more than this study has trials.
    """

    experiment: str
    top: int = 5

    def __post_init__(self) -> None:
        require(
            ("experiment", self.experiment.strip() != "", "must be the name of a study, got nothing"),
            ("top", self.top >= 1, f"must be at least 1, got {self.top}"),
        )


@dataclass(frozen=True, kw_only=True)
class Fork:
    """Let all trials share their first epochs, which are run once, with the settings of `search`.

    Attributes:
        epoch: how many epochs they share, at least 1; their own values of the penalty and temperature hold from there.
    """

    epoch: int

    def __post_init__(self) -> None:
        require(("epoch", self.epoch >= 1, f"must be at least 1, got {self.epoch}"))


@dataclass(frozen=True, kw_only=True)
class Target:
    """A value of an objective with which the searches have done enough.

    Attributes:
        metric: one of the study's objectives.
        value: what a trial must reach at its end: at most this if the metric is minimised, at least this otherwise.
    """

    metric: str
    value: float

    def __post_init__(self) -> None:
        require(
            _metric_rule(self.metric),
            ("value", math.isfinite(self.value), f"must be a finite number, got {self.value}"),
        )


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the searches may take; the first that is spent ends them. Retrainings come after, and are not counted.

    Attributes:
        hours: hours of the clock in which a driver works on the searches, all launches together, above 0.
        gpu_hours: hours of reserved GPUs of all searches together, as `snas study show` adds them up, above 0.
        trials: searches that are begun, at least 1.
        target: a trial that is a result and reaches it is enough; default: none is.
        on_end: what becomes of trials that run then: `finish`: they run to their end; `checkpoint`: they wait at their
            newest checkpoint, for a larger budget; `run_on`: nothing ends, it is only said.
    """

    hours: float | None = None
    gpu_hours: float | None = None
    trials: int | None = None
    target: Target | None = None
    on_end: Literal["finish", "checkpoint", "run_on"] = "finish"

    def __post_init__(self) -> None:
        hours = {"hours": self.hours, "gpu_hours": self.gpu_hours}
        require(
            *(
                (name, value is None or 0 < value < math.inf, f"must be a finite number above 0, got {value}")
                for name, value in hours.items()
            ),
            ("trials", self.trials is None or self.trials >= 1, f"must be at least 1, got {self.trials}"),
        )


def _check_top(value: object) -> object:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not is_count and value not in ("front", "all"):
        raise ValueError(f"must be `front`, `all` or a whole number of at least 1, got {describe(value)}")
    return value


@dataclass(frozen=True, kw_only=True)
class RetrainSection(RetrainOptions):
    """Which cells are trained from scratch, and how (`RetrainOptions`).

    Attributes:
        top: `front` for the Pareto front of the study, `all` for the cell of every complete trial, or the number of
            best trials by the first objective.
        seeds: trainings of each cell, with consecutive seeds.
        workers: processes that share every batch of one training, each with the `resources` of a trial and, if those
            ask for any GPU, with one whole GPU; `batch_size` must divide by it.
        register_as: name of the registered model; default `<study name>-child`.
        genotype: genotype file or name of a published cell to retrain, for studies that search nothing.
    """

    top: Annotated[Literal["front", "all"] | int, pydantic.BeforeValidator(_check_top)] = "front"
    seeds: int = 1
    workers: int = 1
    register_as: str | None = None
    genotype: str | None = None

    def dataset_for(self, search: DatasetOptions) -> DatasetOptions:
        """The search's images, with this section's own share for validation."""
        if self.validation_fraction is None:
            return search
        return replace(search, validation_fraction=self.validation_fraction)

    def __post_init__(self) -> None:
        super().__post_init__()
        name = self.register_as
        require(
            ("seeds", self.seeds >= 1, f"must be at least 1, got {self.seeds}"),
            ("workers", self.workers >= 1, f"must be at least 1, got {self.workers}"),
            *workers_rules(self, max(self.workers, 1)),
            (
                "register_as",
                name is None or (name.strip() != "" and not set(name) & set("/:")),
                f"must be a name without / and :, got `{name}`",
            ),
            ("genotype", self.genotype is None or self.genotype.strip() != "", "must be a file or a published name"),
            (
                "top",
                self.genotype is None or self.top == "front",
                f"must be left out with `genotype`, which is the only cell, got {self.top}",
                "genotype",
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Where and what MLflow keeps of the study.

    Attributes:
        uri: the store, without a password, since the study file is kept; default: `MLFLOW_TRACKING_URI`, or else SQLite
            under the runs folder.
        picture_every: epochs from one picture of a search's cells to the next, 0 for none in its course; default: about
            ten pictures over a search.
    """

    uri: str | None = None
    picture_every: int | None = None

    def __post_init__(self) -> None:
        require(
            (
                "uri",
                self.uri is None or not has_password(self.uri),
                "must not hold a password or token, since this file is kept: set MLFLOW_TRACKING_USERNAME and "
                f"MLFLOW_TRACKING_PASSWORD (PGPASSWORD for PostgreSQL), got {masked(self.uri or '')}",
            ),
            ("picture_every", (self.picture_every or 0) >= 0, f"must be at least 0, got {self.picture_every}"),
        )


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What happens to a trial whose worker dies or is silent.

    Attributes:
        max_failures: how many times a trial resumes from its checkpoint before it counts as failed, at least 0.
        timeout_s: seconds without a report, above 0, after which its worker is killed; default: never. It must
            leave room for an epoch, and for the first one to load the data and compile kernels.
    """

    max_failures: int = 3
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        timeout = self.timeout_s
        require(
            ("max_failures", self.max_failures >= 0, f"must be at least 0, got {self.max_failures}"),
            ("timeout_s", timeout is None or 0 < timeout < math.inf, f"must be a finite number above 0, got {timeout}"),
        )


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Which checkpoints of a search stay; in a file, the bare kind is short for `{kind: ...}`.

    Attributes:
        kind: the `last` one of a search that is over, or its `newest` three, which a search that runs always has.
        every: each multiple of this number of epochs, at least 1, keeps its checkpoint too, from which
            `snas trial fork` can begin; default: none.
    """

    kind: Literal["last", "newest"] = "last"
    every: int | None = None

    def __post_init__(self) -> None:
        require(("every", self.every is None or self.every >= 1, f"must be at least 1, got {self.every}"))


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Where the study's state is kept; default: under the runs folder.

    Attributes:
        url: Optuna storage URL, without a password, since the study file is kept; default: `OPTUNA_STORAGE`, or else
            SQLite under the runs folder.
        path: directory of checkpoints, shared by all nodes of a cluster.
        keep: which checkpoints of a search stay.
    """

    url: str | None = None
    path: str | None = None
    keep: Keep = Keep()

    def __post_init__(self) -> None:
        require(
            (
                "url",
                self.url is None or not has_password(self.url),
                "must not hold a password, since this file is kept: set PGPASSWORD (or ~/.pgpass), or give the whole "
                f"URL in OPTUNA_STORAGE, got {masked(self.url or '')}",
            ),
            (
                "path",
                self.path is None or "://" not in self.path,
                f"must be a folder that every node has mounted, got the address `{self.path}`",
            ),
        )
