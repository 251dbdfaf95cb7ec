"""Hours of a study's searches, predicted from measured steps, and what fits a budget.

Every prediction is a span: low by the fastest epoch measured of the quickest settings of the sweep, high by the slowest
epoch of the longest, expected by median epochs, half-way between the quickest and the longest settings.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from orchestrator.cluster.connection import Node
from orchestrator.cluster.pace_trial import Measure
from orchestrator.cluster.packing import work_kind
from orchestrator.jobs import Reservation
from orchestrator.study_file.spec import StudySpec, search_options
from orchestrator.study_file.sweep import grid_points
from search_core.search.options import SearchOptions
from search_core.strategies.multi_trial.options import MultiTrialOptions


@dataclass(frozen=True)
class Span:
    """A prediction with its range, low <= expected <= high."""

    low: float
    expected: float
    high: float

    def times(self, factor: float) -> Span:
        """Each multiplied."""
        return Span(factor * self.low, factor * self.expected, factor * self.high)

    def plus(self, other: Span) -> Span:
        """The sums."""
        return Span(self.low + other.low, self.expected + other.expected, self.high + other.high)


def places(nodes: Sequence[Node], reserved: Reservation, workers: int = 1) -> int:
    """How many trials, each of so many workers, the cluster has room for at a time."""
    wanted = {"CPU": reserved.cpu, "GPU": reserved.gpu, "memory": 1e9 * (reserved.memory_gb or 0)}
    # A small tolerance: fractions such as 0.1 are not exact.
    room = (min(node.resources.get(name, 0) / amount for name, amount in wanted.items() if amount) for node in nodes)
    return sum(int(one + 1e-6) for one in room) // workers


def clock_s(units: Iterable[tuple[int, float]], num_places: int) -> float:
    """Seconds until all units are done, each begun in their order in the place that is free first.

    Args:
        units: (number, seconds of each).
        num_places: how many run at a time.
    """
    free, end = [0.0] * num_places, 0.0
    for count, seconds in units:
        for _ in range(count):
            at = heapq.heappop(free) + seconds
            heapq.heappush(free, at)
            end = max(end, at)
    return end


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """What fits the hours of a budget.

    Attributes:
        trials: most trials, with all epochs; 0 if not even one fits.
        epochs: most epochs, with all trials; 0 likewise, None if `epochs` is swept.
    """

    trials: int
    epochs: int | None


@dataclass(frozen=True, kw_only=True)
class Searches:
    """Predicts the searches of a study.

    Attributes:
        spec: the study file.
        ends: of each kind of work, its quickest and longest settings, by `work_kind`.
        measures: of these settings in their order, two for each kind, on each kind of node.
        num_places: how many searches, or children, the cluster has room for at a time.
        gpu: GPUs that each reserves.
    """

    spec: StudySpec
    ends: Mapping[object, tuple[SearchOptions, SearchOptions]]
    measures: Sequence[Sequence[Measure]]
    num_places: int
    gpu: float = 0.0

    @property
    def num_trials(self) -> int:
        """Searches that are begun at most."""
        return min(self.spec.num_trials, self.spec.budget.trials or self.spec.num_trials)

    @property
    def at_once(self) -> int:
        """How many units run at a time."""
        trials = min(self.num_trials, self.spec.max_concurrent or self.num_trials)
        open_each = max(
            options.strategy.at_once if isinstance(options.strategy, MultiTrialOptions) else 1
            for options, _ in self.ends.values()
        )
        return min(self.num_places, trials * open_each)

    def trial_s(self) -> Span:
        """Seconds of one search in one place; the children of a multi-trial one are added up."""
        works = [self._work(kind, None) for kind in self._kinds(self.num_trials)]
        low, expected, high = ([count * seconds for count, seconds in work] for work in zip(*works, strict=True))
        return Span(min(low), sum(expected) / len(expected), max(high))

    def clock_s(self, trials: int | None = None, epochs: int | None = None) -> Span:
        """Seconds of the clock for all searches, or for another number of them, or of epochs of each."""
        works = [self._work(kind, epochs) for kind in self._kinds(trials or self.num_trials)]
        ends = (clock_s(work, self.at_once) for work in zip(*works, strict=True))
        return Span(*ends).plus(self._trunk_s)

    def place_s(self, trials: int | None = None, epochs: int | None = None) -> Span:
        """Seconds of all searches added up; each takes the reservation of one."""
        works = [self._work(kind, epochs) for kind in self._kinds(trials or self.num_trials)]
        sums = (sum(count * seconds for count, seconds in work) for work in zip(*works, strict=True))
        return Span(*sums).plus(self._trunk_s)

    def fitting(self) -> Fitting | None:
        """The most trials, and the most epochs, with which the expected searches keep the hours of the budget."""
        budget = self.spec.budget
        if budget.hours is None and budget.gpu_hours is None:
            return None

        def fits(trials: int, epochs: int | None) -> bool:
            used = self.place_s(trials, epochs).expected * self.gpu
            return (budget.hours is None or self.clock_s(trials, epochs).expected <= 3600 * budget.hours) and (
                budget.gpu_hours is None or used <= 3600 * budget.gpu_hours
            )

        trials = _most(range(1, self.num_trials + 1), lambda count: fits(count, None))
        first = 1 if self.spec.fork is None else self.spec.fork.epoch + 1
        given = range(first, self.spec.search.epochs + 1)
        epochs = None if "epochs" in self.spec.sweep else _most(given, lambda count: fits(self.num_trials, count))
        return Fitting(trials=trials, epochs=epochs)

    @property
    def _trunk_s(self) -> Span:
        """Seconds of the epochs that all trials share."""
        fork = self.spec.fork
        return Span(0, 0, 0) if fork is None else Span(*seconds([one[0] for one in self.measures], fork.epoch))

    def _kinds(self, count: int) -> list[int]:
        """Which kind of work each trial is: by the points of a grid, else in turns."""
        order = list(self.ends)
        if self.spec.sampler == "grid":
            points = grid_points(self.spec.sweep, limit=count)
            return [order.index(work_kind(search_options(self.spec, point))) for point in points]
        return list(islice(cycle(range(len(order))), count))

    def _work(self, kind: int, epochs: int | None) -> list[tuple[int, float]]:
        """(Number of units, seconds of each) of a trial: low, expected, high."""
        ends = [
            self._of(options, [of_node[2 * kind + index] for of_node in self.measures], epochs)
            for index, options in enumerate(list(self.ends.values())[kind])
        ]
        (quick, quick_s), (long, long_s) = ends
        middle = (quick_s[1] + long_s[1]) / 2
        # Two ends that hardly differ may be measured the other way round.
        low, high = min(quick_s[0], long_s[0]), max(quick_s[2], long_s[2])
        return [(quick, low), (round((quick + long) / 2), middle), (long, high)]

    def _of(
        self, options: SearchOptions, measures: Sequence[Measure], epochs: int | None
    ) -> tuple[int, tuple[float, float, float]]:
        epochs = epochs or options.epochs
        if isinstance(options.strategy, MultiTrialOptions):
            return epochs * options.strategy.children, seconds(measures, options.strategy.estimate.epochs)
        own = epochs - (self.spec.fork.epoch if self.spec.fork else 0)
        low, expected, high = seconds(measures, own)
        if self.spec.scheduler.kind != "none":
            low, _, _ = seconds(measures, min(own, self.spec.scheduler.grace_period))
        return 1, (low, expected, high)


def seconds(measures: Sequence[Measure], epochs: int) -> tuple[float, float, float]:
    """Seconds of a unit: on the fastest kind of node, mean over kinds, on the slowest."""
    low, expected, high = zip(*(one.pace.unit_s(epochs) for one in measures), strict=True)
    return min(low), sum(expected) / len(expected), max(high)


def _most(counts: range, fits: Callable[[int], bool]) -> int:
    """The largest of some ascending counts that fits, 0 for none; what is below a count that fits does so, too."""
    index = bisect_left(counts, True, key=lambda count: not fits(count))
    return counts[index - 1] if index else 0
