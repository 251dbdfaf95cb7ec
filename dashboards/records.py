"""What is known of studies, searches and retrainings: frozen records, derived from MLflow's runs alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from dashboards.formatting import schedule_text

RunKind = Literal["study", "search", "retrain"]
#: `interrupted`: its driver was stopped, and a resumed study continues it. Else as in the journals.
State = Literal["running", "interrupted", "complete", "stopped", "collapsed", "cancelled", "failed"]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One MLflow run. Params and metrics are kept apart, so that those of one name do not collide.

    Attributes:
        run_id: MLflow's id.
        experiment_id: of the study's experiment.
        study: name of the experiment.
        label: tag `snas.unit`, unique in the experiment: `study`, `trial-0003`, `retrain-0003-seed0`.
        name: name of the run; users may change it in MLflow.
        kind: what the run stands for (tag `snas.kind`).
        status: MLflow's: RUNNING, FINISHED, FAILED, KILLED, SCHEDULED.
        parent_id: run id of the parent, None at the top.
        start_s: unix seconds.
        end_s: unix seconds; None while it runs.
        last_report_s: unix seconds of its newest metric; None before the first.
        num_epochs: epochs reported (newest step + 1; of a study: trials that are over).
        params: as text.
        metrics: newest values.
        tags: all.
    """

    run_id: str
    experiment_id: str
    study: str
    label: str
    name: str
    kind: RunKind
    status: str
    parent_id: str | None
    start_s: float
    end_s: float | None
    last_report_s: float | None
    num_epochs: int
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]

    @property
    def state(self) -> State:
        """How it stands, from the tag that the orchestrator sets at the end, else from MLflow's status."""
        end = self.tags.get("snas.end")
        if end in ("complete", "stopped", "collapsed", "cancelled", "failed"):
            return end  # type: ignore[return-value]  # mypy does not narrow by membership
        by_status: dict[str, State] = {"FINISHED": "complete", "FAILED": "failed", "KILLED": "interrupted"}
        return by_status.get(self.status, "running")

    @property
    def planned_epochs(self) -> int | None:
        """Epochs that a search or retraining was asked for."""
        epochs = _number(self.params.get("epochs"))
        return None if epochs is None else int(epochs)

    @property
    def time_left_s(self) -> float | None:
        """Epochs to go x mean seconds of an epoch since it began; None before the first, or if it does not run."""
        if self.state != "running" or not self.num_epochs or self.last_report_s is None or self.planned_epochs is None:
            return None
        return max(0, self.planned_epochs - self.num_epochs) * (self.last_report_s - self.start_s) / self.num_epochs

    @property
    def reason(self) -> str:
        """Why it ended early; empty if it did not."""
        return self.tags.get("snas.reason", "")


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a study optimises: a metric of the epoch report, and `min` or `max`."""

    metric: str
    mode: Literal["min", "max"]


#: Hard limits that a search may have; each bounds the metric `child_` and its name.
_LIMITED = ("madds", "params", "latency_ms")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One search of a study.

    Attributes:
        run: its MLflow run.
        number: in the study, from 0; None for a single search outside of studies.
        values: what was swept, by dotted key: a float where it is a number, else text.
        on_front: whether no other result is better in all objectives.
        counts_stopped: whether a search that a scheduler stopped is a result: with several objectives it is, in Optuna
            too.
    """

    run: RunRecord
    number: int | None
    values: Mapping[str, float | str] = field(default_factory=dict)
    on_front: bool = False
    counts_stopped: bool = False

    @cached_property
    def is_result(self) -> bool:
        """Whether it counts for the front, for the best and for importance; one that broke a limit does not."""
        return not self.broken_limits and self._is_counted

    @cached_property
    def broken_limits(self) -> str:
        """Which hard limits its child is above, in words; empty if it keeps them or is not over."""
        if not self._is_counted:
            return ""
        broken = []
        for name in _LIMITED:
            most = _number(self.run.params.get(f"constraints.{name}.max"))
            amount = self.run.metrics.get(f"child_{name}")
            if most and amount is not None and amount > most:
                broken.append(f"child_{name} is {amount / most - 1:.1%} above `constraints.{name}`")
        return f"no result: {' and '.join(broken)}" if broken else ""

    @property
    def _is_counted(self) -> bool:
        return self.run.state == "complete" or (self.counts_stopped and self.run.state == "stopped")

    @property
    def has_lost_a_cell(self) -> bool:
        """Whether it collapsed, or one of its cells has no edge left."""
        edges = (self.run.metrics.get(name) for name in ("edges_normal", "edges_reduce"))
        return self.run.state == "collapsed" or 0 in edges

    @property
    def is_starred(self) -> bool:
        """Whether somebody gave it a star (`snas trial star`)."""
        return "snas.star" in self.run.tags

    @property
    def title(self) -> str:
        """How people call it."""
        return self.run.label if self.number is None else f"trial {self.number}"

    @cached_property
    def eta(self) -> float | None:
        """Penalty strength, at least 0, the last one where a target steered it; None if the run does not say."""
        eta = _number(self.run.params.get("penalty.strength"))
        if any(name.startswith("penalty.target.") for name in self.run.params) and "eta" in self.run.metrics:
            eta = max(self.run.metrics["eta"], 0.0)
        return eta if eta is not None and 0 <= eta < math.inf else None

    @property
    def schedule_text(self) -> str:
        """Temperature schedule with its end, such as `linear to 0.03`."""
        start, end = (_number(self.run.params.get(f"temperature.{name}")) for name in ("start", "end"))
        return self.schedule if start is None or end is None else schedule_text(self.schedule, start, end)

    @property
    def schedule(self) -> str:
        """Kind of temperature schedule, such as `linear`."""
        return self.run.params.get("temperature.kind", "unknown")

    @property
    def strategy(self) -> str:
        """Kind of strategy, such as `snas`."""
        return self.run.params.get("strategy.kind", "unknown")

    @property
    def planned_epochs(self) -> int | None:
        """Epochs that the search was asked for."""
        return self.run.planned_epochs


@dataclass(frozen=True, kw_only=True)
class Retraining:
    """One training of a found cell from scratch.

    Attributes:
        run: its MLflow run.
        trial: number of the trial whose cell it is; None for a cell that was named by file or publication.
        seed: of the training; None if the run does not say.
    """

    run: RunRecord
    trial: int | None
    seed: int | None


@dataclass(frozen=True, kw_only=True)
class StudyOverview:
    """One line about a study, from its parent run and the runs that run.

    Attributes:
        name: of the study and its experiment.
        run: the parent run; None for an experiment that has single searches only.
        state: `complete` once all that was asked for is over.
        num_trials: searches asked for.
        ended: number of trials per way to end (complete, stopped, collapsed, cancelled, failed).
        retrained: retrainings that are over, and all that are known.
        best: best value so far per objective, first objective first.
        hours: what the trials reserved so far; `hours_unit` is "GPU hours" or "CPU core hours".
        hours_unit: see `hours`.
        time_left_s: estimate for the searches that are open, seconds; None if it cannot be said.
        last_report_s: unix seconds of the newest metric of any run that is known; None before the first. A study that
            runs and has not reported for long may have lost its driver: who is killed cannot close its runs.
    """

    name: str
    run: RunRecord | None
    state: State
    num_trials: int
    ended: Mapping[str, int]
    retrained: tuple[int, int]
    best: Mapping[str, float]
    hours: float | None
    hours_unit: str
    time_left_s: float | None
    last_report_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """A study with all its trials and retrainings.

    Attributes:
        overview: the line about it.
        objectives: what it optimises, first objective first.
        swept: dotted keys of what was swept, with a description of the range as JSON.
        trials: by number; searches outside of studies by start.
        retrainings: by trial, then seed.
        version: changes whenever anything in it changes, so that pages know whether to draw again.
        as_of_s: unix seconds at which the store was asked.
        notice: what the reader must know, such as that the store is away and this is what was known before.
    """

    overview: StudyOverview
    objectives: Sequence[Objective]
    swept: Mapping[str, str]
    trials: Sequence[Trial]
    retrainings: Sequence[Retraining]
    version: str
    as_of_s: float
    notice: str = ""

    @property
    def images(self) -> Mapping[str, int]:
        """Number of images by split, `train`, `validation` and `test`; empty of studies that did not log it."""
        params = {} if self.overview.run is None else self.overview.run.params
        sizes = {split: _number(params.get(f"images.{split}")) for split in ("train", "validation", "test")}
        return {split: int(size) for split, size in sizes.items() if size}


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """A version in MLflow's model registry."""

    name: str
    version: str
    run_id: str
    aliases: Sequence[str] = ()


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
