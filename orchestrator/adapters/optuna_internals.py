"""Private interfaces of Optuna: the storage of a study, and a trial as its sampler sees it."""

from __future__ import annotations

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial


def storage_of(study: optuna.Study) -> BaseStorage:
    """The storage that a study was opened in."""
    return study._storage


def running_trial(study: optuna.Study, trial: FrozenTrial) -> optuna.trial.Trial:
    """A trial that is running, to draw its values or to store more with it; what its sampler draws jointly is drawn."""
    return optuna.trial.Trial(study, trial._trial_id)
