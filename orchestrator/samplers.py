"""Optuna: the storage, the samplers and the one study behind a study file."""

from __future__ import annotations

import warnings

import optuna

from orchestrator.config import StudySpec
from orchestrator.space import grid_points


def create_optuna_study(spec: StudySpec, url: str) -> None:
    """Make the Optuna study of a study file.

    Raises:
        optuna.exceptions.DuplicatedStudyError: if the storage has one of this name.
    """
    minimise, maximise = optuna.study.StudyDirection.MINIMIZE, optuna.study.StudyDirection.MAXIMIZE
    directions = [minimise if objective.mode == "min" else maximise for objective in spec.objectives]
    study = optuna.create_study(storage=open_storage(url), study_name=spec.name, directions=directions)
    with warnings.catch_warnings():  # called experimental since 2023
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([objective.metric for objective in spec.objectives])  # a warm start compares them


def load_optuna_study(spec: StudySpec, url: str) -> optuna.Study:
    """The Optuna study of a study file.

    Raises:
        KeyError: if the storage has none of this name.
    """
    return optuna.load_study(storage=open_storage(url), study_name=spec.name)


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """Optuna's storage at an address; an SQLite file that is not there is made."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    engine = {"connect_args": {"timeout": 60}} if url.startswith("sqlite:") else {}
    return optuna.storages.RDBStorage(url, engine_kwargs=engine)


def enqueue_grid(study: optuna.Study, spec: StudySpec) -> None:
    """Enqueue the points of sampler `grid` that are not in the storage yet; for the one driver of the study only."""
    if spec.sampler != "grid":
        return
    known = [trial.system_attrs.get("fixed_params") for trial in study.get_trials(deepcopy=False)]
    for point in grid_points(spec.sweep, limit=spec.trials):
        if point not in known:
            study.enqueue_trial(point)


def make_sampler(spec: StudySpec, number: int) -> optuna.samplers.BaseSampler:
    """The sampler that suggests trial `number`.

    Each trial has a sampler of its own, seeded by study and trial: a suggestion depends on these and on the results
    that are in the storage by then, not on how often the driver was restarted.
    """
    seed = spec.seed + 7919 * number
    if spec.sampler == "tpe":
        with warnings.catch_warnings():  # `group` is called experimental since 2021
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(multivariate=True, group=True, seed=seed)
    if spec.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed)
    if spec.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)
