"""Warm starts: the best values of a finished study are the first trials of a new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from dashboards.mlflow_store.databases import sqlite_file
from orchestrator.adapters.optuna_internals import storage_of
from orchestrator.errors import OrchestratorError, did_you_mean
from orchestrator.sampling.ranking import ranked_by_front
from orchestrator.sampling.samplers import open_storage
from orchestrator.study_file.spec import StudySpec
from orchestrator.study_file.sweep import Scalar, SweepEntry, parents_first

#: User attribute of the study: what is enqueued, decided once; and of such a trial: where its values come from.
ATTRIBUTE = "warm_start"


@dataclass(frozen=True)
class WarmPoint:
    """Values to begin a trial with.

    Attributes:
        values: by swept key; keys that the source did not sweep are left to the sampler.
        trial: number of the trial of the source that had them.
    """

    values: Mapping[str, Scalar]
    trial: int


def enqueue_warm_start(study: optuna.Study, spec: StudySpec) -> None:
    """Enqueue what `warm_start` asks for, unless it is in the storage already; for the one driver of the study only.

    The choice is stored with the study before the first point is enqueued: a driver that resumes after a kill enqueues
    the rest of the same points, whatever became of the source in between.

    Raises:
        OrchestratorError: as `find_source` and `warm_points`; never once the choice is stored.
    """
    if spec.warm_start is None:
        return
    chosen: list[dict[str, Any]] | None = study.user_attrs.get(ATTRIBUTE)
    if chosen is None:
        source = find_source(spec, storage_of(study))
        chosen = [
            {"values": dict(point.values), "from": {"experiment": source.study_name, "trial": point.trial}}
            for point in warm_points(spec, source)
        ]
        study.set_user_attr(ATTRIBUTE, chosen)
    enqueued = [trial.user_attrs.get(ATTRIBUTE) for trial in study.get_trials(deepcopy=False)]
    for point in chosen:
        if point["from"] not in enqueued:
            study.enqueue_trial(point["values"], user_attrs={ATTRIBUTE: point["from"]})


def check_warm_start(spec: StudySpec, url: str) -> None:
    """Check a warm start before anything of the new study is written.

    Args:
        spec: the study file, perhaps without a warm start.
        url: Optuna storage.

    Raises:
        OrchestratorError: as `find_source` and `warm_points`.
    """
    if spec.warm_start is None:
        return
    if (file := sqlite_file(url)) is not None and not file.exists():
        raise _no_source(spec.warm_start.experiment, [])  # opening it would make an empty one
    warm_points(spec, find_source(spec, open_storage(url)))


def find_source(spec: StudySpec, storage: BaseStorage) -> optuna.Study:
    """The study that `warm_start` names, with the same objectives as this one.

    Raises:
        OrchestratorError: if the storage has none of this name, or if its objectives are others.
    """
    assert spec.warm_start is not None
    name = spec.warm_start.experiment
    known = sorted(other for other in optuna.get_all_study_names(storage) if other != spec.name)
    if name not in known:
        raise _no_source(name, known)
    source = optuna.load_study(storage=storage, study_name=name)
    _check_objectives(spec, source)
    return source


def _no_source(name: str, known: list[str]) -> OrchestratorError:
    return OrchestratorError(
        f"`warm_start.experiment` must be a study in the same Optuna storage, got `{name}`"
        f"{did_you_mean(name, known) or ';'} studies there: {', '.join(known) or 'none'}"
    )


def warm_points(spec: StudySpec, source: optuna.Study) -> list[WarmPoint]:
    """The values of the best complete trials of a study that fit into the sweep of this one, best first.

    With several objectives the trials are ranked by Pareto fronts, and within a front by the first. Trials whose values
    lie outside this study's ranges, or belong to keys that its conditions leave out, are passed over for the next best,
    and so are those that repeat a better one's values.

    Args:
        spec: its `warm_start` says how many.
        source: the finished study; what is still running there does not count.

    Raises:
        OrchestratorError: if no trial fits.
    """
    assert spec.warm_start is not None
    limit = min(spec.warm_start.top, spec.num_trials)
    points: list[WarmPoint] = []
    misfits: list[str] = []
    for trial in ranked_by_front(source):
        try:
            values = _fitted(spec.sweep, trial.params)
        except ValueError as error:
            misfits.append(f"trial {trial.number}: {error}")
            continue
        if values not in [point.values for point in points]:
            points.append(WarmPoint(values, trial.number))
        if len(points) == limit:
            break
    if not points:
        reasons = "; ".join(misfits[:3]) or "no trial is complete"
        raise OrchestratorError(
            f"`warm_start.experiment` must have a complete trial whose values fit into `sweep`, got none of "
            f"{len(misfits)} in `{source.study_name}`: {reasons}{'; ...' if len(misfits) > 3 else ''}"
        )
    return points


def _check_objectives(spec: StudySpec, source: optuna.Study) -> None:
    """Compare modes, and metrics where the source names them; studies made by others may not."""
    mine = [(objective.metric, objective.mode) for objective in spec.objectives]
    modes = ["min" if direction == StudyDirection.MINIMIZE else "max" for direction in source.directions]
    if source.metric_names is None:
        same = modes == [mode for _, mode in mine]
        theirs = " and ".join(modes)
    else:
        same = list(zip(source.metric_names, modes, strict=True)) == mine
        theirs = " and ".join(f"{mode} {name}" for name, mode in zip(source.metric_names, modes, strict=True))
    if not same:
        raise OrchestratorError(
            f"`warm_start.experiment` must have the objectives of this study, "
            f"{' and '.join(f'{mode} {metric}' for metric, mode in mine)}, got `{source.study_name}` with {theirs}"
        )


def _fitted(sweep: Mapping[str, SweepEntry], params: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The values of swept keys as this study would have drawn them.

    Raises:
        ValueError: if they do not fit; the message names a key.
    """
    values: dict[str, Scalar] = {}
    for key in parents_first(sweep):
        if key not in params:
            continue
        if not sweep[key].is_active(values):
            raise ValueError(f"`{key}` does not apply to its other values")
        values[key] = _value_in(sweep[key], key, params[key])
    if not values:
        raise ValueError("none of its keys is swept")
    return values


def _value_in(entry: SweepEntry, key: str, value: Scalar) -> Scalar:
    if entry.kind == "choice":
        if value not in entry.values:
            raise ValueError(f"`{key}` is {value}, not one of {', '.join(map(str, entry.values))}")
        return value
    low, high = entry.values
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"`{key}` is {value}, not in [{low}, {high}]")
    if entry.kind == "int" and value % 1:
        raise ValueError(f"`{key}` is {value}, not a whole number")
    return int(value) if entry.kind == "int" else float(value)
