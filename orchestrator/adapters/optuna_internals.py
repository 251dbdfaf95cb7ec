"""Private interfaces of Optuna: the storage of a study, a trial as its sampler sees it, measures of several costs."""

from __future__ import annotations

import numpy as np
import optuna
from optuna._hypervolume import compute_hypervolume
from optuna.storages import BaseStorage
from optuna.study._multi_objective import _fast_non_domination_rank
from optuna.trial import FrozenTrial


def storage_of(study: optuna.Study) -> BaseStorage:
    """The storage that a study was opened in."""
    return study._storage


def running_trial(study: optuna.Study, trial: FrozenTrial) -> optuna.trial.Trial:
    """A trial that is running, to draw its values or to store more with it; what its sampler draws jointly is drawn."""
    return optuna.trial.Trial(study, trial._trial_id)


def front_ranks(costs: np.ndarray) -> np.ndarray:
    """Front of each row of costs (N, M), 0 for the best: what no other dominates once the fronts before are gone."""
    return np.asarray(_fast_non_domination_rank(costs))


def dominated_volume(costs: np.ndarray, reference: np.ndarray) -> float:
    """Volume between rows of costs (N, M), none above the reference (M,), and the reference: the hypervolume."""
    return float(compute_hypervolume(costs, reference))
