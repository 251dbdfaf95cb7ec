"""Trials that are forked from others: from which checkpoints they can be, with which values, and how they begin."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from optuna.trial import TrialState

from orchestrator.errors import OrchestratorError
from orchestrator.files.journal import Journal
from orchestrator.files.layout import trial_label
from orchestrator.jobs import Parent
from orchestrator.sampling.samplers import patiently
from orchestrator.study.lineage import parent_of
from orchestrator.study.study import Study
from orchestrator.study_file.spec import StudySpec, search_options
from orchestrator.study_file.sweep import Scalar, SweepEntry, parents_first
from orchestrator.study_file.sweep_check import checked_values
from search_core.search.options import FORK_SECTIONS


def keep_fork_point(study: Study, parent: Parent, journal: Journal) -> None:
    """Copy the checkpoint at which trials are forked, so that it stays until they are over; nothing if it is there.

    Args:
        study: the study.
        parent: where they are forked.
        journal: of the parent.

    Raises:
        OrchestratorError: if there is no such checkpoint, with those that are kept; or if it cannot be copied.
    """
    from orchestrator.files.checkpoint import CheckpointFolder, epoch_of, is_whole  # needs PyTorch

    label = trial_label(parent.trial)
    if study.folder.order_log(label).is_file():
        raise OrchestratorError(f"trial {parent.trial} must be one search: its strategy trains every child on its own")
    point = CheckpointFolder(study.folder.fork_point(study.spec, parent.trial, parent.epoch))
    if is_whole(point.file(parent.epoch)):
        return
    own = CheckpointFolder(study.folder.checkpoints(study.spec, "search", label))
    # A checkpoint may be one report ahead of the journal, with which a forked trial begins.
    kept = sorted(epoch for epoch in map(epoch_of, own.files()) if epoch <= len(journal.epochs))
    try:
        is_kept = parent.epoch in kept and own.copy(parent.epoch, point)
    except OSError as error:
        raise OrchestratorError(f"{point.path} must take a copy of the checkpoint, got: {error.strerror}") from error
    if not is_kept:
        got = f"those after {', '.join(map(str, kept))}" if kept else "none"
        raise OrchestratorError(
            f"trial {parent.trial} must have a whole checkpoint after epoch {parent.epoch}, kept are {got}; "
            "`storage.keep.every` keeps more"
        )


def drop_fork_points(study: Study) -> None:
    """Remove the copies from which no open trial grows."""
    trials = patiently(lambda: study.optuna_study.get_trials(deepcopy=False))
    parents = {parent_of(trial) for trial in trials if not trial.state.is_finished()}
    needed = {study.folder.fork_point(study.spec, found.trial, found.epoch) for found in parents if found is not None}
    for folder in study.folder.storage(study.spec).glob("fork-*"):
        if folder not in needed:
            shutil.rmtree(folder, ignore_errors=True)


def own_records(study: Study) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Label and records of each search that has begun, without those that it took over from another.

    Numbers may have gaps: what is queued has its number before it begins.
    """
    for trial in patiently(lambda: study.optuna_study.get_trials(deepcopy=False)):
        if trial.state != TrialState.WAITING:
            label, parent = trial_label(trial.number), parent_of(trial)
            yield label, Journal(study.folder.journal("search", label)).epochs[parent.epoch if parent else 0 :]


def forked_values(
    spec: StudySpec, parent: Mapping[str, Scalar], changed: Mapping[str, Scalar], count: int
) -> dict[str, Scalar]:
    """Values of forked trials: those of the parent with some in their place.

    Of several trials, what is swept in `FORK_SECTIONS` and not given is left to the sampler.

    Args:
        spec: the study file.
        parent: values of the parent.
        changed: swept key -> its value.
        count: how many trials.

    Raises:
        OptionsError: if they cannot differ so from their parent.
        OrchestratorError: if they would not differ, from it or from each other.
    """
    free = [key for key in spec.sweep if key.split(".")[0] in FORK_SECTIONS]
    if fixed := [key for key in changed if key not in free]:
        rule = f"must be a swept key of {', '.join(FORK_SECTIONS)} ({', '.join(free) or 'none is'})"
        raise OrchestratorError(f"`{fixed[0]}` {rule}: the rest is that of the parent")
    drawn = [key for key in free if key not in changed]
    if count == 1 and not changed:
        raise OrchestratorError("at least one `--set KEY=VALUE` must be given, or several `--trials`")
    if count > 1 and not drawn:
        raise OrchestratorError(f"--trials must be 1, got {count}: `--set` leaves nothing that could differ")
    values = {key: value for key, value in parent.items() if count == 1 or key not in drawn} | dict(changed)
    for key in parents_first(spec.sweep):
        if key in values and key not in changed and not spec.sweep[key].is_active(values):
            del values[key]  # its condition does not hold any more
    checked = checked_values(spec.sweep, values)
    require_fit(spec, checked)
    return checked


def explored(
    sweep: Mapping[str, SweepEntry], values: Mapping[str, Scalar], draw: Callable[[], float]
) -> dict[str, Scalar]:
    """Settings near those of a trial, as population-based training perturbs them (arXiv:1711.09846, section 4.1.1).

    A number of a `log_uniform` range is multiplied by 0.8 or 1.25, one of another range goes up or down by a tenth of
    it, and a choice becomes one of its neighbours; what would leave the range goes the other way.

    Args:
        sweep: of the study.
        values: of the trial.
        draw: gives numbers in [0, 1).
    """
    found: dict[str, Scalar] = {}
    for key in (key for key in parents_first(sweep) if key in values and key.split(".")[0] in FORK_SECTIONS):
        up, down = _neighbours(sweep[key], values[key])
        first, second = (up, down) if draw() < 0.5 else (down, up)
        found[key] = first if sweep[key].allows(first) else second if sweep[key].allows(second) else values[key]
    return found


def _neighbours(entry: SweepEntry, value: Scalar) -> tuple[Scalar, Scalar]:
    """The next value upwards and downwards; a choice has others at both ends of its list."""
    if entry.kind == "choice":
        place, count = entry.values.index(value), len(entry.values)
        return entry.values[min(place + 1, count - 1)], entry.values[max(place - 1, 0)]
    low, high = entry.values
    assert isinstance(value, int | float)
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    if entry.kind == "log_uniform":
        return value * 1.25, value * 0.8
    step = (high - low) / 10 if entry.kind == "uniform" else max(1, round((high - low) / 10))
    return value + step, value - step


def require_fit(spec: StudySpec, values: Mapping[str, Scalar]) -> None:
    """Check values together, if none is left to be drawn: else a misfit fails the trial with its reason.

    Raises:
        OptionsError: if they do not fit.
    """
    if all(key in values or not spec.sweep[key].is_active(values) for key in parents_first(spec.sweep)):
        search_options(spec, values)
