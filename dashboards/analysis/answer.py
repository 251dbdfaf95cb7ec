"""Which cell to keep and which eta to use: one rule for the pages, the terminal, MLflow and `study show --json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np

from dashboards.analysis.front import front_mask
from dashboards.analysis.noise import Estimate, estimate, is_beyond_noise

Role = Literal["knee", "most accurate", "cheapest", "as good"]

#: Costs of the child, those first that every search reports.
COSTS = ("child_madds", "child_params", "child_memory_access", "child_latency_ms")
_ERRORS = ("child_val_error", "child_val_accuracy", "child_val_accuracy_recalibrated")
_CELLS = ("edges_normal", "edges_reduce")
#: Metrics of a search's last epoch that the rule may read.
READ_METRICS = (*_ERRORS, *COSTS, *_CELLS)
_WINDOWS = 32  # neighbours of a search, by eta, are a thirty-second of all on either side


class _Goal(Protocol):
    @property
    def metric(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A search that is over.

    Attributes:
        trial: number in the study.
        eta: penalty strength; None if it is not known.
        schedule: of the temperature, in words.
        strategy: kind.
        error: of the child before retraining, a fraction; NaN if it has no usable cell.
        cost: of the child at the size of the search.
        tests: test error of each retraining of its cell by the study's recipe, fractions.
    """

    trial: int
    eta: float | None
    schedule: str
    strategy: str
    error: float
    cost: float
    tests: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pick:
    """A cell that is worth keeping.

    Attributes:
        trial: number of the search that found it.
        roles: what it is on the front.
        eta: penalty strength; None if it is not known.
        schedule: of the temperature, in words.
        strategy: kind.
        error: of the retrained cell on test images, or that of the child on validation images (`Answer.is_tested`).
        child_error: of the child before retraining, on validation images.
        cost: of the child at the size of the search.
        differs: whether `error` differs from that of the cell to keep beyond the noise; None if that cannot be said.
    """

    trial: int
    roles: tuple[Role, ...]
    eta: float | None
    schedule: str
    strategy: str
    error: Estimate
    child_error: Estimate
    cost: float
    differs: bool | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a study says about which cell to keep.

    Attributes:
        picks: the cell to keep first, then what else the most accurate and the cheapest are.
        is_tested: whether errors are those of retrained cells on test images.
        cost_metric: which cost the front is over.
        etas: least and largest penalty strength around that of the cell to keep at which most cells are not worse
            beyond the noise; None if eta was not swept or that cannot be said.
        compared: cells among which was chosen.
        close: trials of the others whose error does not differ from that of the cell to keep beyond the noise.
        strategies: number of strategies that have found them.
        is_over: whether nothing more is to come.
    """

    picks: tuple[Pick, ...]
    is_tested: bool
    cost_metric: str
    etas: tuple[float, float] | None
    compared: int
    close: tuple[int, ...]
    strategies: int
    is_over: bool

    @property
    def keep(self) -> Pick:
        """The cell to keep."""
        return self.picks[0]

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def goals_of(objectives: Sequence[_Goal]) -> tuple[str, str]:
    """Metrics of a study's error and cost: those that it optimises, else the child's error and multiply-adds."""
    named = [objective.metric for objective in objectives]
    return (
        next((name for name in named if name in _ERRORS), _ERRORS[0]),
        next((name for name in named if name in COSTS), COSTS[0]),
    )


def measured(metrics: Mapping[str, float], objectives: Sequence[_Goal]) -> tuple[float, float]:
    """Error and cost of a child, from the metrics of the last epoch.

    The error is NaN of a child with a cell without any edge: it computes nothing, whatever it costs.
    """
    error, cost = goals_of(objectives)
    if any(metrics.get(name) == 0 for name in _CELLS):
        return math.nan, math.nan
    found = metrics.get(error, math.nan)
    return found if error == _ERRORS[0] else 1 - found, metrics.get(cost, math.nan)


def find_answer(
    candidates: Sequence[Candidate], objectives: Sequence[_Goal], images: Mapping[str, int], *, is_over: bool
) -> Answer | None:
    """The answer of a study; None before a search has found a usable cell.

    Once two cells are retrained only these are compared, by their test error; before, all results by the error of
    their child. On the front of error and cost, the knee is the cell furthest below the line from the cheapest to the
    most accurate, both axes from 0 to 1 (Das, Structural Optimization 1999). It is the cell to keep. A front without a
    knee gives its cheapest cell that is not worse than the most accurate one beyond the noise.

    Args:
        candidates: results; others may be among them with NaN as error, which only limit the range of eta.
        objectives: of the study.
        images: number of images by split, `validation` and `test`; splits that are not known may lack.
        is_over: whether all searches and retrainings are over.
    """
    known = [entry for entry in candidates if math.isfinite(entry.error) and math.isfinite(entry.cost)]
    tested = [entry for entry in known if entry.tests]
    is_tested = len(tested) > 1
    compared = tested if is_tested else known
    if not compared:
        return None
    split = "test" if is_tested else "validation"
    errors = {
        entry.trial: estimate(entry.tests if is_tested else [entry.error], images.get(split)) for entry in compared
    }
    front = _front(compared, errors)
    best, cheapest, knee = front[-1], front[0], _knee(front, errors)
    close = (entry for entry in front if is_beyond_noise(errors[entry.trial], errors[best.trial]) is False)
    kept = knee or next(close, best)
    roles: dict[int, list[Role]] = {kept.trial: [] if kept in (knee, best, cheapest) else ["as good"]}
    named: tuple[tuple[Role, Candidate | None], ...] = (("knee", knee), ("most accurate", best), ("cheapest", cheapest))
    for role, entry in named:
        if entry is not None:
            roles.setdefault(entry.trial, []).append(role)
    by_trial = {entry.trial: entry for entry in front}
    return Answer(
        picks=tuple(
            _pick(by_trial[trial], tuple(its), errors, kept, images.get("validation")) for trial, its in roles.items()
        ),
        is_tested=is_tested,
        cost_metric=goals_of(objectives)[1],
        etas=_good_etas(candidates, kept, images, is_tested=is_tested),
        compared=len(compared),
        close=tuple(
            entry.trial
            for entry in compared
            if entry.trial not in roles and is_beyond_noise(errors[entry.trial], errors[kept.trial]) is False
        ),
        strategies=len({entry.strategy for entry in compared}),
        is_over=is_over,
    )


def _pick(
    entry: Candidate,
    roles: tuple[Role, ...],
    errors: Mapping[int, Estimate],
    kept: Candidate,
    validation_images: int | None,
) -> Pick:
    error = errors[entry.trial]
    return Pick(
        trial=entry.trial,
        roles=roles,
        eta=entry.eta,
        schedule=entry.schedule,
        strategy=entry.strategy,
        error=error,
        child_error=estimate([entry.error], validation_images),
        cost=entry.cost,
        differs=None if entry is kept else is_beyond_noise(error, errors[kept.trial]),
    )


def _front(entries: Sequence[Candidate], errors: Mapping[int, Estimate]) -> list[Candidate]:
    """Cells that no other beats in cost and error, the cheapest first; of equal ones that of the first search."""
    points = np.array([(entry.cost, errors[entry.trial].value) for entry in entries])
    mask = front_mask(points, ("min", "min"))
    best = sorted((entry for entry, is_best in zip(entries, mask, strict=True) if is_best), key=lambda e: e.trial)
    by_point = {(entry.cost, errors[entry.trial].value): entry for entry in reversed(best)}
    return [by_point[point] for point in sorted(by_point)]


def _knee(front: Sequence[Candidate], errors: Mapping[int, Estimate]) -> Candidate | None:
    """The cell furthest below the line between the ends of the front; None if it does not bend inwards."""
    first, last = front[0], front[-1]
    least = errors[last.trial].value
    span = errors[first.trial].value - least
    depths = {
        entry.trial: (last.cost - entry.cost) / (last.cost - first.cost) - (errors[entry.trial].value - least) / span
        for entry in front[1:-1]
    }
    deepest = max(front[1:-1], key=lambda entry: depths[entry.trial], default=None)
    return deepest if deepest is not None and depths[deepest.trial] > 0 else None


def _good_etas(
    candidates: Sequence[Candidate], kept: Candidate, images: Mapping[str, int], *, is_tested: bool
) -> tuple[float, float] | None:
    """Penalty strengths around that of the kept cell that are not worse beyond the noise.

    A cell is held against the kept one by its test error where both have one, else by that of its child. The range goes
    on while most of a cell and its neighbours are not worse, for other settings are swept too; it ends with a cell that
    is not worse itself.
    """
    swept = [entry for entry in candidates if entry.eta is not None and entry.strategy == kept.strategy]
    swept.sort(key=lambda entry: (entry.eta, entry.trial))
    if not images or kept.eta is None or len({entry.eta for entry in swept}) < 2:
        return None
    own = estimate([kept.error], images.get("validation"))
    tested = estimate(kept.tests, images.get("test")) if is_tested else own

    def is_good(entry: Candidate) -> bool:
        if is_tested and entry.tests:
            found, against = estimate(entry.tests, images.get("test")), tested
        elif math.isnan(entry.error):
            return False
        else:
            found, against = estimate([entry.error], images.get("validation")), own
        return found.value <= against.value or is_beyond_noise(found, against) is False

    good = [is_good(entry) for entry in swept]
    reach = max(1, len(swept) // _WINDOWS)

    def is_mostly_good(place: int) -> bool:
        around = good[max(0, place - reach) : place + reach + 1]
        return 2 * sum(around) > len(around)

    low = high = swept.index(kept)
    while low > 0 and is_mostly_good(low - 1):
        low -= 1
    while high < len(swept) - 1 and is_mostly_good(high + 1):
        high += 1
    ends = [entry.eta for entry, is_one in zip(swept[low : high + 1], good[low : high + 1], strict=True) if is_one]
    assert ends[0] is not None
    assert ends[-1] is not None
    return ends[0], ends[-1]
