"""Which trials of a study are its best."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState

from orchestrator.sampling.constraints import violations


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
