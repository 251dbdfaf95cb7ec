"""Early stopping of trials by others, as Ray Tune asks for it; epochs are counted, not seconds.

What Ray's own schedulers have seen is gone with the driver, and a resumed trial is compared with those that reported
since. `FrontScheduler` and `PopulationScheduler` know what the journals say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from orchestrator.jobs import Job, Parent
from orchestrator.study.standing import dominates
from orchestrator.study_file.sections import Objective
from orchestrator.study_file.spec import StudySpec

#: Label of a trial, and the records of the epochs that it has run.
Recorded = Iterable[tuple[str, Sequence[Mapping[str, Any]]]]


class Replacing(Protocol):
    """What population-based training needs of the driver."""

    @property
    def replaced(self) -> set[int]:
        """Numbers of the trials in whose place others were forked."""

    def replace(self, trial: int, parent: Parent, draw: Callable[[], float]) -> None:
        """Ask for a trial that is forked from a better one in place of this one, with settings nearby."""


def make_scheduler(spec: StudySpec, recorded: Callable[[], Recorded], control: Replacing) -> TrialScheduler | None:
    """The study's scheduler; None for first in, first out.

    Args:
        spec: the study file.
        recorded: gives label and records of all trials that have begun.
        control: forks trials.
    """
    goal, options = spec.scheduler_goal, spec.scheduler
    if options.kind == "asha":
        return _halving(spec, options.grace_period)
    if options.kind == "hyperband":
        return HyperBandScheduler(spec)
    if options.kind == "front":
        return FrontScheduler(spec, recorded())
    if options.kind == "pbt":
        return PopulationScheduler(spec, recorded(), control)
    if options.kind == "median":
        return MedianStoppingRule(
            time_attr="epochs", metric=goal.metric, mode=goal.mode, grace_period=options.grace_period
        )
    return None


def _halving(spec: StudySpec, grace_period: int) -> AsyncHyperBandScheduler:
    return AsyncHyperBandScheduler(
        time_attr="epochs",
        metric=spec.scheduler_goal.metric,
        mode=spec.scheduler_goal.mode,
        max_t=spec.search.epochs,
        grace_period=min(grace_period, spec.search.epochs),
        reduction_factor=spec.scheduler.reduction_factor,
    )


class HyperBandScheduler(FIFOScheduler):
    """Hyperband (Li et al., JMLR 2018, algorithm 1) of brackets that halve asynchronously (ASHA, arXiv:1810.05934).

    A bracket of s halvings lets its trials run longer before the first than one of s + 1, and gets a share
    proportional to eta^s / (s + 1) of the trials, with eta the reduction factor; that of none stops nobody. Ray's own
    brackets are drawn from NumPy's global generator; here the number of a trial decides, so a resumed one stays in its
    bracket.

    Args:
        spec: the study file.
    """

    def __init__(self, spec: StudySpec) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        grace, factor = spec.scheduler.grace_period, spec.scheduler.reduction_factor
        rungs = []
        while grace < spec.search.epochs:
            rungs.append(grace)
            grace *= factor
        none = FIFOScheduler()  # type: ignore[no-untyped-call]
        self._brackets = [none, *(_halving(spec, rung) for rung in reversed(rungs))]  # by the number of halvings
        weights = [factor**halvings / (halvings + 1) for halvings in range(len(self._brackets))]
        self._shares = [weight / sum(weights) for weight in weights]
        self._places: list[int] = []  # bracket of each trial number

    def place(self, number: int) -> int:
        """How many halvings a trial meets: the bracket that lacks most of its share of the trials so far."""
        while len(self._places) <= number:
            lacks = [
                share * (len(self._places) + 1) - self._places.count(place) for place, share in enumerate(self._shares)
            ]
            self._places.append(lacks.index(max(lacks)))
        return self._places[number]

    def _bracket(self, trial: Trial) -> TrialScheduler:
        return self._brackets[self.place(int(Job.from_config(trial.config).label))]

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """A trial begins, or resumes."""
        self._bracket(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Whether a trial continues after a report."""
        return str(self._bracket(trial).on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """A trial is over."""
        self._bracket(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """A trial is taken back."""
        self._bracket(trial).on_trial_remove(tune_controller, trial)


class _Compared(FIFOScheduler):
    """Compares a trial with what all others had at the same epoch, in this launch or one before."""

    def __init__(self, objectives: Sequence[Objective], recorded: Recorded) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._objectives = objectives
        self._costs: dict[int, dict[str, tuple[float, ...]]] = {}  # by epochs done and label
        for label, records in recorded:
            for record in records:
                self._note(label, record["epoch"] + 1, record["metrics"])

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Whether a trial continues after a report."""
        epochs, job = result["epochs"], Job.from_config(trial.config)
        own = None if math.isnan(epochs) else self._note(job.label, epochs, result)
        is_stopped = own is not None and epochs < job.epochs and self._stops(job.label, epochs, own)
        return TrialScheduler.STOP if is_stopped else TrialScheduler.CONTINUE

    def _stops(self, label: str, epochs: int, own: tuple[float, ...]) -> bool:
        raise NotImplementedError

    def _note(self, label: str, epochs: int, metrics: Mapping[str, Any]) -> tuple[float, ...] | None:
        """What a trial costs after so many epochs; None if it is not known."""
        costs = costs_of(self._objectives, metrics)
        if not all(map(math.isfinite, costs)):
            return None
        return self._costs.setdefault(epochs, {}).setdefault(label, costs)


class FrontScheduler(_Compared):
    """Stops a trial that enough others dominate at the same epoch: better in one objective, worse in none.

    Dominance is that of the Pareto front (Deb et al. 2002, section III), so no objective has to be chosen, and what is
    on the front at an epoch is never stopped there.

    Args:
        spec: the study file.
        recorded: label and records of the trials that have begun.
    """

    def __init__(self, spec: StudySpec, recorded: Recorded) -> None:
        super().__init__(spec.objectives, recorded)
        self._options = spec.scheduler

    def _stops(self, label: str, epochs: int, own: tuple[float, ...]) -> bool:
        better = sum(dominates(other, own) for other in self._costs[epochs].values())
        return epochs >= self._options.grace_period and better >= self._options.dominated_by


class PopulationScheduler(_Compared):
    """Population-based training (Jaderberg et al., arXiv:1711.09846, algorithm 1), with truncation selection.

    After every `interval` epochs a trial among the worst `quantile` of those that got so far is stopped, and another is
    forked in its place: from one of the best, drawn at random, at its checkpoint of that epoch, with settings nearby
    (`forking.explored`). What is forked is a trial of its own, so the history of a trial is that of its forks.

    Args:
        spec: the study file.
        recorded: label and records of the trials that have begun.
        control: forks trials.
    """

    def __init__(self, spec: StudySpec, recorded: Recorded, control: Replacing) -> None:
        super().__init__([spec.scheduler_goal], recorded)
        self._options, self._seed, self._control = spec.scheduler, spec.seed, control

    def __getstate__(self) -> dict[str, Any]:
        # Ray pickles it for its own restore, which is not used here: the journals and decisions are the state.
        return {}

    def _stops(self, label: str, epochs: int, own: tuple[float, ...]) -> bool:
        trial, costs = int(label), self._costs[epochs]
        if trial in self._control.replaced:
            return True  # the driver was killed before it had stopped
        ranked = sorted(costs, key=lambda other: (costs[other], other))
        count = int(len(ranked) * self._options.quantile)
        if epochs % self._options.interval or label not in ranked[len(ranked) - count :]:
            return False
        generator = np.random.default_rng([self._seed, trial, epochs])
        self._control.replace(trial, Parent(int(ranked[generator.integers(count)]), epochs), generator.random)
        return True


def costs_of(objectives: Sequence[Objective], metrics: Mapping[str, Any]) -> tuple[float, ...]:
    """The objectives as numbers of which less is better; NaN where one is not known."""
    signs = [1.0 if objective.mode == "min" else -1.0 for objective in objectives]
    values = [float(metrics.get(objective.metric, math.nan)) for objective in objectives]
    return tuple(sign * value for sign, value in zip(signs, values, strict=True))
