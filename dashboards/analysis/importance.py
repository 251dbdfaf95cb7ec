"""What studies say when they are looked at as a whole: importance, rank correlation, edit distance."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dashboards.records import Objective, Trial
from search_core.space.genotype import CELL_TYPES, CellType, Genotype

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

#: Complete trials from which on settings are rated: of fewer, the best quarter is one or two trials.
MIN_RATED = 12
#: Trials per number of a setting, on average, from which on the numbers are rated as names.
_REPEATED = 4
#: Results from which on a rank correlation is stated.
MIN_RELATED = 5


def importances(trials: Sequence[Trial], objective: Objective) -> dict[str, float]:
    """Share of each swept key in what separates good trials from others, adding up to 1.

    Args:
        trials: of one study; results that have the objective count.
        objective: the metric and its direction.

    Returns:
        Importance by key, largest first; empty with fewer than `MIN_RATED` trials or nothing that varies.
    """
    import optuna  # half a second, and only this view needs it

    complete = [
        trial
        for trial in trials
        if trial.is_result and math.isfinite(trial.run.metrics.get(objective.metric, math.nan))
    ]
    known = dict.fromkeys(key for trial in complete for key in trial.values)
    shared = [key for key in known if all(key in trial.values for trial in complete)]
    keys = [key for key in shared if len({trial.values[key] for trial in complete}) > 1]
    results = {trial.run.metrics[objective.metric] for trial in complete}
    if len(complete) < MIN_RATED or not keys or len(results) == 1:
        return {}
    distributions = {key: _distribution([trial.values[key] for trial in complete]) for key in keys}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="minimize" if objective.mode == "min" else "maximize")
    study.add_trials(
        [
            optuna.trial.create_trial(
                params={key: _as_sampled(trial.values[key], distributions[key]) for key in keys},
                distributions=distributions,
                value=trial.run.metrics[objective.metric],
            )
            for trial in complete
        ]
    )
    return rated_params(study, 0)


def rated_params(study: optuna.Study, objective: int) -> dict[str, float]:
    """Share of each parameter in what separates the best quarter from all trials (PED-ANOVA, Watanabe et al. 2023).

    Args:
        study: at least `MIN_RATED` complete trials whose values differ.
        objective: index of the objective.

    Returns:
        Importance by parameter, largest first; shares add up to 1.
    """
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    sign = 1 if study.directions[objective] == optuna.study.StudyDirection.MINIMIZE else -1
    with warnings.catch_warnings():  # it is called experimental, and says that small values count as good
        warnings.simplefilter("ignore")
        found = get_param_importances(
            study,
            evaluator=PedAnovaImportanceEvaluator(target_quantile=0.25),
            target=lambda trial: sign * trial.values[objective],
        )
    return {key: float(value) for key, value in sorted(found.items(), key=lambda item: -item[1])}


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties by mean rank; None with fewer than three pairs or without variation."""
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if len(pairs) < 3 or any(len(set(side)) == 1 for side in zip(*pairs, strict=True)):
        return None
    return float(np.corrcoef([_mean_ranks(side) for side in zip(*pairs, strict=True)])[0, 1])


def edit_distance(first: Genotype, second: Genotype) -> int:
    """Fewest edges to add, drop or give another operation to make one genotype the other, over both cells.

    Edges between the same two nodes are compared as a multiset; concatenations are not counted.
    """
    distance = 0
    for cell_type in CELL_TYPES:
        mine, others = _slots(first, cell_type), _slots(second, cell_type)
        for slot in mine.keys() | others.keys():
            only_mine = mine.get(slot, Counter()) - others.get(slot, Counter())
            only_other = others.get(slot, Counter()) - mine.get(slot, Counter())
            distance += max(only_mine.total(), only_other.total())
    return distance


def differing_params(runs: Sequence[Mapping[str, str]]) -> dict[str, list[str | None]]:
    """Params in which runs differ, by name; None where a run has none of this name."""
    names = sorted({name for run in runs for name in run})
    rows = {name: [run.get(name) for run in runs] for name in names}
    return {name: row for name, row in rows.items() if len(set(row)) > 1}


def _mean_ranks(values: Sequence[float]) -> np.ndarray:
    """From 1; `scipy.stats`, which knows them too, takes a CPU second to import."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (counts.cumsum() - (counts - 1) / 2)[places]
    return ranks


def _slots(genotype: Genotype, cell_type: CellType) -> dict[tuple[int, int], Counter[str]]:
    slots: dict[tuple[int, int], Counter[str]] = {}
    for edge in genotype.edges(cell_type):
        slots.setdefault((edge.source, edge.target), Counter())[edge.primitive] += 1
    return slots


def _as_sampled(value: float | str, distribution: BaseDistribution) -> float | str:
    return str(value) if hasattr(distribution, "choices") else value


def _distribution(values: Sequence[float | str]) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    numbers = [value for value in values if isinstance(value, float) and math.isfinite(value)]
    # Between a few numbers that come again and again, the estimate of Optuna would divide by densities of nearly 0.
    if len(numbers) < len(values) or _REPEATED * len(set(numbers)) <= len(numbers):
        return CategoricalDistribution(sorted({str(value) for value in values}))
    low, high = min(numbers), max(numbers)
    return FloatDistribution(low, high, log=low > 0 and high / low > 20)
