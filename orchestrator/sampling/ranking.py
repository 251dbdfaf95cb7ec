"""Which trials of a study count as results, and which are its best."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState

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
