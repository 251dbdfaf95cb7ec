"""How a study stands: what is over, the front, the hours, the time left; counted as it happens, never read again.

A driver that resumes a study reads the journals of what ended before once; they are the truth.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dashboards.analysis.answer import READ_METRICS, Answer, Candidate, find_answer, measured
from dashboards.formatting import HOURS
from orchestrator.files.journal import End, Journal
from orchestrator.sampling.constraints import broken_limits, excesses, plain_limits
from orchestrator.sampling.ranking import is_result
from orchestrator.study.hours import hours_of
from orchestrator.study.records import described, reported_cell
from orchestrator.study_file.spec import StudySpec
from search_core.cost.penalty_options import final_strength
from search_core.search.temperature import TemperatureOptions

ENDS: tuple[End, ...] = ("complete", "stopped", "collapsed", "cancelled", "failed")


@dataclass(frozen=True, kw_only=True)
class EndedTrial:
    """A search that is over.

    Attributes:
        number: in the study.
        end: how it ended.
        reason: why, unless it is complete; which limits it broke.
        values: of the objectives, if they count as a result and keep the limits; else empty.
        metrics: a few of the last epoch; empty without one.
        hours: name of the metric (`hours.HOURS`) and how many it reserved; None if not known.
        seconds: of its epochs.
        eta: penalty strength, None if its values did not fit together.
        temperature: its schedule in words, likewise.
        strategy: kind, likewise; empty then.
        cell: stands for its cell: equal for equal cells.
    """

    number: int
    end: End
    reason: str
    values: tuple[float, ...]
    metrics: Mapping[str, float]
    hours: tuple[str, float] | None
    seconds: float
    eta: float | None
    temperature: str
    strategy: str
    cell: int | None


@dataclass(frozen=True, kw_only=True)
class EndedRetraining:
    """A retraining that is over: whose cell it trained (None: one that was named), how it ended, and what it gave."""

    label: str
    trial: int | None
    end: End
    reason: str
    test_accuracy: float | None


class Tally:
    """Counts of one study; added to in one thread and read in another, from a `snapshot`.

    Args:
        spec: the study file.

    Attributes:
        trials: searches that are over, by number.
        retrainings: retrainings that are over, by label.
        num_retrainings: all that the study asks for; None before that is known.
        shared_hours: hours of the epochs that forked trials share, which each of them counts.
        shared_seconds: seconds of these epochs, likewise.
        at_once: most searches that ran at a time.
        is_ended: whether the searches are over though not all were run, as when a budget is spent.
        images: number of images by split, by which the answer says how sure an error is; empty: not known.
    """

    def __init__(self, spec: StudySpec) -> None:
        self._spec = spec
        self._signs = tuple(1 if objective.mode == "min" else -1 for objective in spec.objectives)
        self._lock = threading.Lock()
        self._front: list[EndedTrial] = []
        self.trials: dict[int, EndedTrial] = {}
        self.retrainings: dict[str, EndedRetraining] = {}
        self.num_retrainings: int | None = None
        self.shared_hours = self.shared_seconds = 0.0
        self.at_once, self.is_ended = 1, False
        self.images: Mapping[str, int] = {}

    def add_trial(self, number: int, options: Mapping[str, Any], journal: Journal) -> None:
        """Count a search that is over, unless it is.

        Args:
            number: in the study.
            options: plain data of its options.
            journal: closed.
        """
        assert journal.end is not None
        if number in self.trials:
            return
        last = journal.epochs[-1] if journal.epochs else {"metrics": {}}
        values = tuple(journal.last_metric(objective.metric) for objective in self._spec.objectives)
        counts = is_result(journal.end, len(values))
        found = excesses(plain_limits(options), last["metrics"]) if counts else {}
        broken = {name: amount for name, amount in found.items() if amount > 0}
        temperature, penalty, strategy = (options.get(key) for key in ("temperature", "penalty", "strategy"))
        trial = EndedTrial(
            number=number,
            end=journal.end,
            reason=journal.reason or broken_limits(broken),
            values=values if counts and not broken and all(map(math.isfinite, values)) else (),
            metrics={name: last["metrics"][name] for name in READ_METRICS if name in last["metrics"]},
            hours=hours_of(last["metrics"]),
            seconds=sum(record["metrics"].get("seconds", 0.0) for record in journal.epochs),
            eta=final_strength(penalty, last["metrics"]) if isinstance(penalty, Mapping) else None,
            temperature=described(TemperatureOptions(**temperature)) if isinstance(temperature, Mapping) else "",
            strategy=strategy["kind"] if isinstance(strategy, Mapping) else "",
            cell=hash(reported_cell(last)) if "genotype" in last else None,
        )
        with self._lock:
            if number not in self.trials:
                self.trials[number] = trial
                self._place(trial)

    def add_retraining(self, label: str, trial: int | None, journal: Journal) -> None:
        """Count a retraining that is over, unless it is."""
        assert journal.end is not None
        accuracy = journal.epochs[-1]["metrics"].get("test_accuracy") if journal.epochs else None
        record = EndedRetraining(
            label=label, trial=trial, end=journal.end, reason=journal.reason, test_accuracy=accuracy
        )
        with self._lock:
            self.retrainings.setdefault(label, record)

    def snapshot(self) -> Tally:
        """A copy that stays as it is."""
        other = Tally(self._spec)
        with self._lock:
            other._front, other.trials, other.retrainings = self._front, dict(self.trials), dict(self.retrainings)
        other.shared_hours, other.shared_seconds = self.shared_hours, self.shared_seconds
        other.num_retrainings, other.at_once, other.images = self.num_retrainings, self.at_once, self.images
        other.is_ended = self.is_ended
        return other

    @property
    def front(self) -> list[EndedTrial]:
        """Searches that no other beats in all objectives, by the first objective."""
        return sorted(self._front, key=lambda trial: (self._costs(trial), trial.number))

    @property
    def ends(self) -> dict[End, int]:
        """How many searches ended in each way."""
        counts = Counter(trial.end for trial in self.trials.values())
        return {end: counts[end] for end in ENDS}

    @property
    def hours(self) -> tuple[str, float] | None:
        """Unit and sum of what the searches reserved, the shared epochs once; None if it is not known of any."""
        sums = reserved_hours((trial.hours for trial in self.trials.values()), self.shared_hours)
        return next(iter(sums.items()), None)

    @property
    def time_left_s(self) -> float | None:
        """As `time_left_s` of this module."""
        seconds = (trial.seconds for trial in self.trials.values())
        return time_left_s(self._spec.num_trials - len(self.trials), seconds, self.shared_seconds, self.at_once)

    def answer(self) -> Answer | None:
        """Which cell to keep so far; None before a search has found a usable one."""
        tests: dict[int | None, list[float]] = {}
        for record in self.retrainings.values():
            if record.test_accuracy is not None:
                tests.setdefault(record.trial, []).append(1 - record.test_accuracy)
        candidates = []
        for trial in self.trials.values():
            error, cost = measured(trial.metrics, self._spec.objectives)
            if trial.values or trial.end == "collapsed":
                candidates.append(
                    Candidate(
                        trial=trial.number,
                        eta=trial.eta,
                        schedule=trial.temperature,
                        strategy=trial.strategy,
                        error=error if trial.values else math.nan,
                        cost=cost,
                        tests=tuple(tests.get(trial.number, ())),
                    )
                )
        wanted = 0 if self._spec.retrain is None else self.num_retrainings
        is_over = (self.is_ended or len(self.trials) == self._spec.num_trials) and len(self.retrainings) == wanted
        return find_answer(candidates, self._spec.objectives, self.images, is_over=is_over)

    def trial_metrics(self) -> dict[str, float]:
        """Metrics of the study when a search is over."""
        metrics = {f"trials_{end}": float(count) for end, count in self.ends.items() if count or end != "cancelled"}
        for index, objective in enumerate(self._spec.objectives):
            values = [trial.values[index] for trial in self._front]  # the best of each objective is on the front
            if values:
                metrics[f"best_{objective.metric}"] = min(values) if self._signs[index] == 1 else max(values)
        if self.hours is not None:
            metrics[self.hours[0]] = self.hours[1]
        if self.time_left_s is not None:
            metrics["time_left_s"] = self.time_left_s
        return metrics

    def retraining_metrics(self) -> dict[str, float]:
        """Metrics of the study when a retraining is over, or when it is known how many there are."""
        counts = Counter(record.end for record in self.retrainings.values())
        metrics = {f"retrainings_{end}": float(counts[end]) for end in ("complete", "failed")}
        if self.num_retrainings is not None:
            metrics["retrainings_total"] = float(self.num_retrainings)
        return metrics

    def _place(self, trial: EndedTrial) -> None:
        """Bring the front up to one more search."""
        if not trial.values or any(self._dominates(other, trial) for other in self._front):
            return
        self._front = [other for other in self._front if not self._dominates(trial, other)] + [trial]

    def _dominates(self, one: EndedTrial, other: EndedTrial) -> bool:
        return dominates(self._costs(one), self._costs(other))

    def _costs(self, trial: EndedTrial) -> tuple[float, ...]:
        return tuple(sign * value for sign, value in zip(self._signs, trial.values, strict=True))


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether costs are lower in one place and higher in none."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def reserved_hours(hours: Iterable[tuple[str, float] | None], shared: float) -> dict[str, float]:
    """What searches reserved, by metric; the `shared` hours that all of them count are counted once."""
    known = [found for found in hours if found is not None]
    sums = {metric: [value - shared for name, value in known if name == metric] for metric in HOURS}
    return {metric: math.fsum(own) + shared for metric, own in sums.items() if own}


def time_left_s(num_open: int, seconds: Iterable[float], shared_s: float, at_once: int) -> float | None:
    """Searches that are open x mean seconds of those that are over / searches at a time; None before one is over.

    The `shared_s` seconds that forked trials share are not counted: open searches do not run them again.
    """
    own = [one - shared_s for one in seconds if one > shared_s]
    return num_open * math.fsum(own) / len(own) / at_once if own else None
