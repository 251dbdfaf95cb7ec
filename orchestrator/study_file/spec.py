"""The study file: its schema, and its rules across sections.

`search` mirrors the options dataclasses of search_core and must be valid by itself; the values of `sweep` then replace
its own, trial by trial.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic

from orchestrator.errors import OrchestratorError
from orchestrator.study_file.sections import (
    Budget,
    Failure,
    Fork,
    Objective,
    Resources,
    RetrainSection,
    Scheduler,
    Storage,
    Tracking,
    WarmStart,
)
from orchestrator.study_file.sweep import Scalar, SweepEntry, grid_points
from orchestrator.study_file.sweep_check import apply_values, sweep_rules
from search_core.cost.latency_options import absolute_table
from search_core.cost.penalty_options import named_strength
from search_core.data.dataset_options import absolute_root
from search_core.errors import Rule, require
from search_core.search.collapse import StopOptions
from search_core.search.options import FORK_SECTIONS, SearchOptions
from search_core.search.reports import OPTIONAL_METRICS
from search_core.space.codes import genotype_space
from search_core.strategies.registry import MULTI_TRIAL_KINDS
from search_core.training.ground_truth_options import MOST_GENOTYPES, GroundTruthOptions
from search_core.training.retrain_options import chain_rules

#: Names of studies and runs: they become folders and MLflow tags.
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
#: What lies beside the studies in the folder of runs.
RESERVED_NAMES = ("searches", "retrains", "recurrent", "mlartifacts", "mlflow.db", "optuna.db")


def check_name(name: str, *suffixes: str) -> None:
    """Check a `--name` of the command line.

    Args:
        name: as the user gave it.
        suffixes: that runs add to it.

    Raises:
        OrchestratorError: if it cannot be the name of a folder.
    """
    longest = 80 - max(map(len, suffixes), default=0)
    if NAME_PATTERN.fullmatch(name) is None or len(name) > longest:
        rule = f"must be 1 to {longest} letters, digits, `.`, `_` and `-`, the first a letter or digit"
        raise OrchestratorError(f"--name {rule}, got `{name}`")


SweepField = Annotated[
    SweepEntry, pydantic.PlainValidator(SweepEntry.from_data), pydantic.PlainSerializer(SweepEntry.to_data)
]


class StudySpec(pydantic.BaseModel):
    """A whole study file.

    Attributes:
        name: letters, digits, `.`, `_` and `-`, at most 80.
        seed: seed of the searches, unless `seed` is swept, and of the sampler.
        search: fixed settings of every search.
        sweep: dotted key inside `search` -> what it may be.
        objectives: one to four.
        sampler: how Optuna chooses values. `grid` needs `choice` and `int` entries only.
        trials: how many searches at most; 0 with `retrain.genotype`. See `num_trials`.
        budget: what the searches may take; default: as much as they need.
        max_concurrent: trials at a time; default: as many as the resources allow.
        scheduler: early stopping; with several objectives it follows the first unless it names a metric, or is `front`.
        stop: when a search counts as collapsed and is stopped.
        warm_start: a finished study whose best values are tried first; default: none.
        fork: first epochs that all trials share; default: none.
        resources: what one trial takes.
        failure: what happens to a trial whose worker dies or is silent.
        ground_truth: train every genotype of the search space first, to judge the strategies by; default: no.
        retrain: what is trained from scratch after the search; default: nothing.
        tracking: where MLflow keeps the study.
        storage: where the study's state is kept.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    name: str
    seed: int = 0
    search: SearchOptions
    sweep: dict[str, SweepField] = pydantic.Field(default_factory=dict)
    objectives: tuple[Objective, ...] = (
        Objective(metric="child_val_error", mode="min"),
        Objective(metric="child_madds", mode="min"),
    )
    sampler: Literal["tpe", "nsga2", "gp", "random", "grid"] = "tpe"
    trials: int
    budget: Budget = Budget()
    max_concurrent: int | None = None
    scheduler: Scheduler = Scheduler()
    stop: StopOptions = StopOptions()
    warm_start: WarmStart | None = None
    fork: Fork | None = None
    resources: Resources = Resources()
    failure: Failure = Failure()
    ground_truth: GroundTruthOptions | None = None
    retrain: RetrainSection | None = None
    tracking: Tracking = Tracking()
    storage: Storage = Storage()

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        require(*self._rules(), *sweep_rules(self.search, self.sweep))
        # The idiom of frozen dataclasses: the study's seed is the only one, so `search` must not keep another; and
        # trials have other working directories.
        dataset, latency = absolute_root(self.search.dataset), absolute_table(self.search.latency)
        search = dataclasses.replace(self.search, seed=self.seed, dataset=dataset, latency=latency)
        object.__setattr__(self, "search", search)
        if "penalty.strength" in self.sweep:  # numbers, for samplers and charts
            entry = self.sweep["penalty.strength"]
            entry = dataclasses.replace(entry, values=tuple(map(named_strength, entry.values)))
            object.__setattr__(self, "sweep", {**self.sweep, "penalty.strength": entry})
        if self.retrain is not None and self.retrain.genotype is not None and Path(self.retrain.genotype).is_file():
            file = str(Path(self.retrain.genotype).absolute())
            object.__setattr__(self, "retrain", dataclasses.replace(self.retrain, genotype=file))
        return self

    def _rules(self) -> Iterator[Rule]:
        metrics = [objective.metric for objective in self.objectives]
        concurrent = self.max_concurrent
        yield (
            "name",
            NAME_PATTERN.fullmatch(self.name) is not None,
            f"must be 1 to 80 letters, digits, `.`, `_` and `-`, the first a letter or digit, got `{self.name}`",
        )
        yield (
            "name",
            self.name not in RESERVED_NAMES,
            f"must not be one of {', '.join(RESERVED_NAMES)}, got `{self.name}`",
        )
        yield "seed", 0 <= self.seed < 2**31, f"must be in [0, 2^31), got {self.seed}"
        yield "objectives", 1 <= len(metrics) <= 4, f"must be one to four, got {len(metrics)}"
        yield (
            "objectives",
            len(set(metrics)) == len(metrics),
            f"must differ in their metric, got {' and '.join(metrics)}",
        )
        yield "max_concurrent", concurrent is None or concurrent >= 1, f"must be at least 1, got {concurrent}"
        yield (
            "search.cuda_graph",
            self.search.cuda_graph is not True or self.resources.uses_gpu,
            f"needs a GPU, got true with `resources.gpu` {self.resources.gpu}",
            "resources.gpu",
        )
        yield (
            "search.precision",
            self.search.precision == "float32" or self.resources.uses_gpu,
            f"must be float32 with `resources.gpu` {self.resources.gpu}, got {self.search.precision}",
            "resources.gpu",
        )
        yield (
            "retrain.precision",
            self.retrain is None or self.retrain.precision == "float32" or self.resources.uses_gpu,
            f"must be float32 with `resources.gpu` {self.resources.gpu}, got bfloat16",
            "resources.gpu",
        )
        followed: list[tuple[str, str | None]] = [("objectives", metric) for metric in metrics]
        for place, name in (*followed, ("scheduler.metric", self.scheduler.metric)):
            is_reported = name not in OPTIONAL_METRICS or self.search.latency.table is not None
            rule = f"must not follow {name} without `search.latency.table`, which predicts it"
            yield place, is_reported, rule, "search.latency.table"
        yield from self._trial_rules()
        yield from self._chain_rules()
        yield from self._budget_rules()
        yield from self._warm_start_rules()
        yield from self._fork_rules()
        yield from self._population_rules()
        yield from self._ground_truth_rules()
        yield from self._multi_trial_rules()
        targets = [f"sweep.{key}" for key in self.sweep if key.startswith("penalty.target.")]
        targets += ["search.penalty.target"] if self.search.penalty.target is not None else []
        rule = "must be left out with `penalty.target`, which decides the strength itself: sweep one or the other"
        yield "sweep.penalty.strength", "penalty.strength" not in self.sweep or not targets, rule, *targets
        for key, entry in self.sweep.items():
            listable = self.sampler != "grid" or entry.is_finite
            yield (
                f"sweep.{key}",
                listable,
                f"must be a `choice` or `int` for sampler grid, got `{entry.kind}`",
                "sampler",
            )

    def _trial_rules(self) -> Iterator[Rule]:
        genotype = "retrain.genotype"
        if self.retrain is not None and self.retrain.genotype is not None:
            given = f"with `genotype` {self.retrain.genotype}, as there is nothing to look for"
            yield "trials", self.trials == 0, f"must be 0 {given}, got {self.trials}", genotype
            yield "sweep", not self.sweep, f"must be empty {given}, got {', '.join(self.sweep)}", genotype
            return
        rule = f"must be at least 1 (or 0 with `retrain.genotype`), got {self.trials}"
        yield "trials", self.trials >= 1, rule, genotype
        yield (
            "trials",
            self.trials <= 1 or bool(self.sweep),
            f"must be 1 with an empty `sweep`, since all trials would be identical, got {self.trials}; "
            "or sweep `seed`: {int: [0, 9]}",
            "sweep",
        )

    def _chain_rules(self) -> Iterator[Rule]:
        """A chain of layers is retrained without what only cells have."""
        swept = self.sweep.get("network.space")
        spaces = (self.search.network.space,) if swept is None else swept.values
        if self.retrain is None or "nas_chain" not in spaces or self.num_trials == 0:
            return
        place = "search.network.space" if swept is None else "sweep.network.space"
        for name, holds, message in chain_rules(self.retrain):
            yield f"retrain.{name}", holds, f"{message}, as `network.space` nas_chain gives", place

    def _budget_rules(self) -> Iterator[Rule]:
        target, metrics = self.budget.target, [objective.metric for objective in self.objectives]
        yield (
            "budget.gpu_hours",
            self.budget.gpu_hours is None or self.resources.uses_gpu,
            f"must be left out with `resources.gpu` {self.resources.gpu}: set `budget.hours`",
            "resources.gpu",
        )
        rule = f"must be an objective of the study ({' or '.join(metrics)}), got {target.metric if target else None}"
        yield "budget.target.metric", target is None or target.metric in metrics, rule, "objectives"

    def _warm_start_rules(self) -> Iterator[Rule]:
        if self.warm_start is None:
            return
        rule = "must be left out for sampler grid, which tries every point anyway"
        yield "warm_start", self.sampler != "grid", rule, "sampler"
        rule = "must be left out with an empty `sweep`: no value could be taken over"
        yield "warm_start", bool(self.sweep), rule, "sweep"
        yield (
            "warm_start.experiment",
            self.warm_start.experiment != self.name,
            f"must name another study than this one, got `{self.name}`",
            "name",
        )

    def _fork_rules(self) -> Iterator[Rule]:
        if self.fork is None:
            return
        epochs = self.search.epochs
        yield (
            "fork.epoch",
            self.fork.epoch < epochs,
            f"must be below `search.epochs` {epochs}, got {self.fork.epoch}",
            "search.epochs",
        )
        # Ray's ASHA would fill all rungs below it at once, and stop trials that hardly differ yet.
        grace = self.scheduler.grace_period
        yield (
            "scheduler.grace_period",
            self.scheduler.kind == "none" or grace > self.fork.epoch,
            f"must be above `fork.epoch` {self.fork.epoch}, up to which all trials are alike, got {grace}",
            "fork.epoch",
        )
        for key in self.sweep:
            yield (
                f"sweep.{key}",
                key.split(".")[0] in FORK_SECTIONS,
                f"must be a key of {', '.join(FORK_SECTIONS)} with `fork`: trials share their first epochs",
                "fork",
            )

    def _population_rules(self) -> Iterator[Rule]:
        if self.scheduler.kind != "pbt":
            return
        interval, every = self.scheduler.interval, self.storage.keep.every
        rule = "must be left out with scheduler pbt, which forks trials itself"
        yield "fork", self.fork is None, rule, "scheduler.kind"
        rule = "must not be grid with scheduler pbt, which tries other points"
        yield "sampler", self.sampler != "grid", rule, "scheduler.kind"
        rule = f"must have a key of {', '.join(FORK_SECTIONS)} with scheduler pbt, which changes these"
        yield "sweep", any(key.split(".")[0] in FORK_SECTIONS for key in self.sweep), rule, "scheduler.kind"
        rule = f"must divide `scheduler.interval` {interval}, after which trials are forked, got {every}"
        yield "storage.keep.every", every is None or interval % every == 0, rule, "scheduler.interval"

    def _ground_truth_rules(self) -> Iterator[Rule]:
        if self.ground_truth is None:
            return
        size = genotype_space(self.search.network).size
        yield (
            "ground_truth",
            size <= MOST_GENOTYPES,
            f"must be left out for a search space of more than {MOST_GENOTYPES:,} genotypes, got one of {size:,}: use "
            "fewer `search.network.nodes` or `primitives`",
            "search.network.nodes",
            "search.network.primitives",
        )
        for key in self.sweep:
            own = key.split(".")[0] not in ("dataset", "network")
            yield f"sweep.{key}", own, "must be left out with `ground_truth`, which is that of one space and its images"

    def _multi_trial_rules(self) -> Iterator[Rule]:
        """Each child of such a search is a trial for Ray: neither can be stopped by, or share epochs with, others."""
        kinds = [kind for kind in self.strategy_kinds if kind in MULTI_TRIAL_KINDS]
        decides = "sweep.strategy.kind" if "strategy.kind" in self.sweep else "search.strategy.kind"
        trained = f"with strategy {' and '.join(kinds)}, which trains every child independently"
        yield (
            "scheduler.kind",
            not kinds or self.scheduler.kind == "none",
            f"must be none {trained}, got {self.scheduler.kind}; `strategy.estimate.stop` stops poor children",
            decides,
        )
        yield "fork", not kinds or self.fork is None, f"must be left out {trained}", decides

    @property
    def strategy_kinds(self) -> tuple[str, ...]:
        """Strategies that the study's searches may have."""
        swept = self.sweep.get("strategy.kind")
        return (self.search.strategy.kind,) if swept is None else tuple(map(str, swept.values))

    @property
    def num_trials(self) -> int:
        """How many searches run: `trials`, or the size of the grid if that is smaller."""
        if self.sampler != "grid":
            return self.trials
        return len(grid_points(self.sweep, limit=self.trials))

    @property
    def keep_every(self) -> int | None:
        """After every how many epochs a checkpoint of a search stays; None for none."""
        return self.storage.keep.every or (self.scheduler.interval if self.scheduler.kind == "pbt" else None)

    @property
    def scheduler_goal(self) -> Objective:
        """What the scheduler compares: its own metric, or else the first objective."""
        if self.scheduler.metric is None or self.scheduler.mode is None:
            return self.objectives[0]
        return Objective(metric=self.scheduler.metric, mode=self.scheduler.mode)

    @property
    def registered_name(self) -> str:
        """Name under which retrained children are registered."""
        named = self.retrain.register_as if self.retrain else None
        return named or f"{self.name}-child"

    def resolved(self) -> dict[str, Any]:
        """Plain data with all defaults written out; `parse_study` reads it back to an equal study."""
        data: dict[str, Any] = _plain(self.model_dump())
        del data["search"]["seed"]
        return data


def search_options(spec: StudySpec, values: Mapping[str, Scalar]) -> SearchOptions:
    """The settings of one trial: those of the study, with its seed, and the sampled values in their place.

    Raises:
        OptionsError: if the values do not fit the settings.
    """
    return apply_values(spec.search, values)


def _plain(value: Any) -> Any:
    """Tuples as lists, at any depth."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
