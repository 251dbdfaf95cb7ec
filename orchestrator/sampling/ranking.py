"""Which trials of a study count as results, and which are its best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from orchestrator.adapters.optuna_internals import dominated_volume, front_ranks
from orchestrator.sampling.constraints import violations


def is_result(end: str | None, num_objectives: int) -> bool:
    """Whether a search that ended so counts, for Optuna and for all reports on the study.

    Optuna has no pruned trials with several objectives. There, one that a scheduler stopped counts with its last
    values; one that was cancelled or collapsed never does, for an empty cell costs nothing and would be on the front.
    """
    return end == "complete" or (end == "stopped" and num_objectives > 1)


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The Pareto front by number; with one objective the best trial; nothing before a trial is complete.

    Trials that broke a limit are not on it.
    """
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        return []
    return sorted(study.best_trials, key=lambda trial: trial.number)


def ranked_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Complete trials within the limits from best to worst by the first objective, ties by number."""
    sign = 1 if study.directions[0] == optuna.study.StudyDirection.MINIMIZE else -1
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    results = [trial for trial in complete if not violations(trial)]
    return sorted(results, key=lambda trial: (sign * trial.values[0], trial.number))


def ranked_by_front(study: optuna.Study) -> list[FrozenTrial]:
    """Complete trials within the limits, the best first: by Pareto fronts, then by the first objective, ties by number.

    Fronts are those of non-dominated sorting (Deb et al. 2002); with one objective a front has equal trials alone.
    """
    trials = ranked_trials(study)
    if not trials:
        return []
    ranks = front_ranks(_costs(study, trials))
    return [trials[place] for place in sorted(range(len(trials)), key=lambda place: ranks[place])]


def front_volume(study: optuna.Study) -> float | None:
    """Share of the box between the best and the worst value of each objective that the front dominates.

    The hypervolume (Zitzler and Thiele 1999) of costs scaled to [0, 1] by all results, with the worst as reference: it
    compares moments of one study, not studies. None with one objective, or if all results are equal in one.
    """
    trials = ranked_trials(study)
    if len(study.directions) == 1 or not trials:
        return None
    costs = _costs(study, trials)
    best, worst = costs.min(axis=0), costs.max(axis=0)
    if not (best < worst).all():
        return None
    return dominated_volume((costs - best) / (worst - best), np.ones(costs.shape[1]))


def _costs(study: optuna.Study, trials: Sequence[FrozenTrial]) -> np.ndarray:
    """Values (N, M) of which less is better."""
    signs = [1 if direction == optuna.study.StudyDirection.MINIMIZE else -1 for direction in study.directions]
    return np.array([trial.values for trial in trials]) * signs
