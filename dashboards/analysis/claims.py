"""Two strategies held against the claims of the SNAS paper, each claim with its evidence.

(a) asks for a gap near 0 from both directions: a child far above its supernet says that the supernet is judged with
averaged batch norm statistics, and then the gap with statistics recalibrated on both sides decides. (c) asks for edges
removed in number: the interval of edges left at the strongest penalty minus those at the weakest lies below 0, and
edges or nodes at least halve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev
from typing import Literal

from dashboards.analysis.importance import rank_correlation
from dashboards.formatting import counted
from dashboards.history import History
from dashboards.records import Trial

Verdict = Literal["holds", "does not hold", "cannot be said"]

#: A child keeps its accuracy if it is at most so far from that of the supernet, a fraction.
_KEPT = 0.02
#: Confidence of the interval of edges removed.
_CONFIDENCE = 0.95
#: A rank correlation that counts as monotonic over a handful of trials.
_MONOTONIC = 0.7


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim about two strategies.

    Attributes:
        letter: a to d, as in docs/results.md, "Claims of the SNAS paper".
        text: what is claimed.
        verdict: whether it holds here.
        evidence: the numbers, in a sentence.
    """

    letter: str
    text: str
    verdict: Verdict
    evidence: str


@dataclass(frozen=True, kw_only=True)
class Searched:
    """A complete search, as far as the claims speak of it.

    Attributes:
        strategy: its kind, such as `snas`.
        eta: penalty strength; None if it is not known.
        num_epochs: epochs that it took.
        metrics: of the last epoch; NaN or missing where not known.
        accuracies: supernet validation accuracy of each epoch, NaN where an epoch has none; empty if not known.
    """

    strategy: str
    eta: float | None
    num_epochs: int
    metrics: Mapping[str, float]
    accuracies: Sequence[float] = ()


def searches_of(trials: Sequence[Trial], curves: Mapping[str, History]) -> list[Searched]:
    """Those of some trials that are results.

    Args:
        trials: of the studies that are compared.
        curves: metrics per epoch by run id, as far as they are known.
    """
    found = []
    for trial in trials:
        history = curves.get(trial.run.run_id)
        curves_of = {} if history is None else history.metrics
        values = curves_of.get("supernet_val_accuracy")
        last = {name: float(curve[-1]) for name, curve in curves_of.items() if len(curve)}  # more than MLflow has
        if trial.is_result:
            found.append(
                Searched(
                    strategy=trial.strategy,
                    eta=trial.eta,
                    num_epochs=trial.run.num_epochs,
                    metrics={**last, **trial.run.metrics},
                    accuracies=() if values is None else values.tolist(),
                )
            )
    return found


def claims(searches: Sequence[Searched], ours: str, other: str) -> list[Claim]:
    """Hold two strategies against the claims.

    Args:
        searches: those that are compared.
        ours: strategy of which the claims speak, such as `snas`.
        other: strategy it is compared with.
    """
    mine = [search for search in searches if search.strategy == ours]
    theirs = [search for search in searches if search.strategy == other]
    return [
        _keeps_accuracy(mine, theirs, ours, other),
        _lower_entropy(mine, theirs, ours, other),
        _smaller_children(mine, ours),
        _fewer_epochs(mine, theirs, ours, other),
    ]


def _keeps_accuracy(mine: Sequence[Searched], theirs: Sequence[Searched], ours: str, other: str) -> Claim:
    text = f"the {ours} child keeps the supernet's accuracy without retraining, the {other} child does not"
    first, second = (_metric(of, "discretization_gap") for of in (mine, theirs))
    also_first, also_second = (_metric(of, "discretization_gap_recalibrated") for of in (mine, theirs))
    evidence = (
        f"supernet minus child accuracy: {ours} {_points(first)}, {other} {_points(second)}; with batch norm "
        f"recalibrated on both sides: {ours} {_points(also_first)}, {other} {_points(also_second)}; "
        f"kept means at most {100 * _KEPT:g} points"
    )
    above = [name for name, gaps in ((ours, first), (other, second)) if gaps and mean(gaps) < -_KEPT]
    if above:
        evidence += (
            f"; far above its supernet: {' and '.join(above)}, as the supernet is judged with averaged statistics, so "
            "the recalibrated gap decides"
        )
        first, second = also_first, also_second
    return Claim(letter="a", text=text, verdict=_kept(first, second), evidence=evidence)


def _kept(first: Sequence[float], second: Sequence[float]) -> Verdict:
    """Whether the first child keeps its accuracy and the second loses it; gaps beyond 0 by as much say neither."""
    if not first or not second or min(mean(first), mean(second)) < -_KEPT:
        return "cannot be said"
    return "holds" if mean(first) <= _KEPT < mean(second) else "does not hold"


def _lower_entropy(mine: Sequence[Searched], theirs: Sequence[Searched], ours: str, other: str) -> Claim:
    text = f"after the same epochs the entropy of {ours}'s distribution is below {other}'s"
    common = {search.num_epochs for search in mine} & {search.num_epochs for search in theirs}
    verdict, evidence = _said_nothing(mine, theirs, ours, other)
    if mine and theirs and not common:
        evidence = "no two searches have the same number of epochs"
    elif common:
        epochs = max(common)
        first = _nats(mine, epochs)
        second = _nats(theirs, epochs)
        if first and second:
            verdict = "holds" if mean(first) < mean(second) else "does not hold"
            evidence = f"after {epochs} epochs: {ours} {_spread(first)} nats, {other} {_spread(second)} nats"
    return Claim(letter="b", text=text, verdict=verdict, evidence=evidence)


def _smaller_children(mine: Sequence[Searched], ours: str) -> Claim:
    text = f"a growing penalty strength gives monotonically smaller {ours} children, with edges removed"
    known = [
        search
        for search in mine
        if search.eta is not None and math.isfinite(search.metrics.get("child_madds", math.nan))
    ]
    etas = [search.eta or 0.0 for search in known]
    costs = rank_correlation(etas, [search.metrics["child_madds"] for search in known])
    verdict: Verdict = "cannot be said"
    searches = counted(len(known), "complete search", "complete searches")
    evidence = f"{searches} of {ours} with {len(set(etas))} different penalties are too few; three are needed"
    if len(set(etas)) >= 3 and costs is None:
        verdict, evidence = "does not hold", f"all {len(known)} children have the same multiply-adds"
    elif len(set(etas)) >= 3 and costs is not None:
        removed, said = _edges_removed(known)
        verdict = removed if costs <= -_MONOTONIC else "does not hold"
        evidence = (
            f"rank correlation of the penalty with multiply-adds {costs:+.2f} "
            f"({len(known)} searches; at most -{_MONOTONIC:g} counts as monotonic); {said}"
        )
    return Claim(letter="c", text=text, verdict=verdict, evidence=evidence)


def _edges_removed(known: Sequence[Searched]) -> tuple[Verdict, str]:
    """Whether a strong penalty removes edges in number, and the numbers in words."""
    ordered = sorted(known, key=lambda search: search.eta or 0.0)
    weak, strong = _end(ordered), _end(ordered[::-1])
    before, after = (_left(searches, "edges") for searches in (weak, strong))
    if min(len(before), len(after)) < 2:
        return "cannot be said", "for an interval of the edges left both ends of the sweep need two searches"
    low, high = _difference(before, after)
    counts = {"edges": (before, after), "nodes": (_left(weak, "nodes"), _left(strong, "nodes"))}
    halved = any(first and last and mean(last) <= mean(first) / 2 for first, last in counts.values())
    said = ", ".join(
        f"{name} left {_spread(first)} at the weakest and {_spread(last)} at the strongest penalties"
        for name, (first, last) in counts.items()
        if first and last
    )
    evidence = (
        f"{said}; {_CONFIDENCE:.0%} interval of the difference in edges {low:+.3g} to {high:+.3g}; removed means that "
        "it is below 0 and that edges or nodes at least halve"
    )
    return "holds" if high < 0 and halved else "does not hold", evidence


def _end(ordered: Sequence[Searched]) -> Sequence[Searched]:
    """Searches with the first penalty; the first third where it was tried once, as in a continuous sweep."""
    first = [search for search in ordered if search.eta == ordered[0].eta]
    third = [search for search in ordered[: len(ordered) // 3] if search.eta != ordered[-1].eta]
    return first if len(first) > 1 else third


def _left(searches: Sequence[Searched], what: str) -> list[float]:
    """Edges or nodes of both cells together, of the searches that report both."""
    return _sums(searches, f"{what}_normal", f"{what}_reduce")


def _difference(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Welch's interval (Biometrika 1947) of the mean of `after` minus that of `before`, each of at least two values."""
    from scipy.special import stdtrit  # a tenth of a second that pages without claims do not take

    errors = [stdev(values) ** 2 / len(values) for values in (before, after)]
    freedom = [error**2 / (len(values) - 1) for error, values in zip(errors, (before, after), strict=True)]
    shift = mean(after) - mean(before)
    if not sum(errors):
        return shift, shift
    half = stdtrit(sum(errors) ** 2 / sum(freedom), (1 + _CONFIDENCE) / 2) * math.sqrt(sum(errors))
    return float(shift - half), float(shift + half)


def _fewer_epochs(mine: Sequence[Searched], theirs: Sequence[Searched], ours: str, other: str) -> Claim:
    text = f"{ours} needs fewer epochs than {other} for the same validation accuracy"
    first = [values for search in mine if (values := _accuracies(search))]
    second = [values for search in theirs if (values := _accuracies(search))]
    verdict, evidence = _said_nothing(mine, theirs, ours, other)
    if first and second:
        # What both reach at their best: the lower of the two means of best accuracies.
        goal = min(mean(max(values) for values in first), mean(max(values) for values in second))
        mine_needs, theirs_need = _epochs_to(first, goal), _epochs_to(second, goal)
        # A search that never gets there has no number of epochs: medians can bear fewer than half of such.
        middle, others = median(mine_needs), median(theirs_need)
        if math.isfinite(min(middle, others)):
            verdict = "holds" if middle < others else "does not hold"
        evidence = (
            f"median of epochs to {100 * goal:.3g}% supernet validation accuracy, which both reach on average at their "
            f"best: {ours} {_reached(mine_needs)}, {other} {_reached(theirs_need)}"
        )
    return Claim(letter="d", text=text, verdict=verdict, evidence=evidence)


def _said_nothing(mine: Sequence[object], theirs: Sequence[object], ours: str, other: str) -> tuple[Verdict, str]:
    missing = [name for name, known in ((ours, mine), (other, theirs)) if not known]
    return "cannot be said", f"no complete search of {' or '.join(missing)} here" if missing else "no such metric"


def _epochs_to(searches: Sequence[Sequence[float]], goal: float) -> list[float]:
    """Epochs until each search reaches an accuracy; infinite for one that never does."""
    return [
        float(next((epoch + 1 for epoch, value in enumerate(values) if value >= goal), math.inf)) for values in searches
    ]


def _reached(epochs: Sequence[float]) -> str:
    middle = median(epochs)
    shown = f"{middle:g}" if math.isfinite(middle) else "not by half of them"
    return f"{shown} ({sum(map(math.isfinite, epochs))} of {len(epochs)} reach it)"


def _accuracies(search: Searched) -> list[float]:
    """Accuracy per epoch; none where no epoch has one, and below all others where one epoch has none."""
    if not any(map(math.isfinite, search.accuracies)):
        return []
    return [value if math.isfinite(value) else -math.inf for value in search.accuracies]


def _nats(searches: Sequence[Searched], epochs: int) -> list[float]:
    """Entropy of both cells after so many epochs."""
    return _sums([search for search in searches if search.num_epochs == epochs], "entropy_normal", "entropy_reduce")


def _sums(searches: Sequence[Searched], *names: str) -> list[float]:
    """Sum of some metrics, of the searches that report all of them."""
    sums = [sum(search.metrics.get(name, math.nan) for name in names) for search in searches]
    return [value for value in sums if math.isfinite(value)]


def _metric(searches: Sequence[Searched], name: str) -> list[float]:
    return [value for search in searches if math.isfinite(value := search.metrics.get(name, math.nan))]


def _points(values: Sequence[float]) -> str:
    return f"{_spread([100 * value for value in values])} points" if values else "not known"


def _spread(values: Sequence[float]) -> str:
    spread = f" ± {stdev(values):.2g}" if len(values) > 1 else ""
    return f"{mean(values):.3g}{spread} (n = {len(values)})"
