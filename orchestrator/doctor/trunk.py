"""Checks of forks: the epochs that all trials share, run once, and those that a trial took over from another."""

from __future__ import annotations

import json

from dashboards.formatting import HOURS
from orchestrator.doctor.case import Case, Recorded
from orchestrator.doctor.report import Notes
from orchestrator.files.checkpoint import CheckpointFolder, is_whole
from orchestrator.files.layout import TRUNK, trial_label
from orchestrator.sampling.samplers import patiently
from orchestrator.study.lineage import parent_of

SHARED, FORKS = "shared epochs", "forked trials"


def check_trunk(case: Case, notes: Notes) -> None:
    """The shared epochs are recorded whole, every trial begins with them, and open trials can still grow from them."""
    fork, trunk = case.study.spec.fork, case.trunk
    if fork is None or trunk is None:
        return
    notes.look(SHARED, len(trunk.metrics))
    if trunk.damage:
        notes.add(SHARED, TRUNK, "error", trunk.damage, f"restore {trunk.file} from a backup")
        return
    _check_end(case, trunk, fork.epoch, notes)
    for recorded in case.searches.values():
        _check_beginning(SHARED, recorded, trunk, fork.epoch, notes)
    if trunk.end == "complete" and case.has_open_trials:
        folder = case.study.folder.checkpoints(case.study.spec, "trunk", TRUNK)
        newest = next((file for file in CheckpointFolder(folder).files() if is_whole(file)), None)
        if newest is None or newest.stem != f"epoch-{fork.epoch:04d}":
            got = newest.name if newest else "none"
            message = f"open trials grow from a whole checkpoint of {fork.epoch} epochs in {folder}, got {got}"
            remedy = f"{case.resume} runs the shared epochs again; none is recorded twice"
            notes.add(SHARED, TRUNK, case.lag, message, remedy)


def _check_end(case: Case, trunk: Recorded, epochs: int, notes: Notes) -> None:
    count = len(trunk.metrics)
    if trunk.end == "failed":
        message = f"they failed, so that no trial can begin: {trunk.reason}"
        notes.add(SHARED, TRUNK, "error", message, "run the study under another name, with other settings in `search`")
    elif count > epochs or (trunk.end is not None and count < epochs):
        message = f"their journal must have {epochs} epochs, got {count}"
        notes.add(SHARED, TRUNK, "error", message, f"restore {trunk.file} from a backup")
    elif trunk.end is None and not case.is_running:
        message = f"they are unfinished after {count} of {epochs} epochs, and no driver is at work"
        notes.add(SHARED, TRUNK, "error", message, f"{case.resume} resumes them")


def check_forks(case: Case, notes: Notes) -> None:
    """Trials that were forked begin with the epochs of their parents, and open ones can still grow from them."""
    for label, parent in case.parents.items():
        notes.look(FORKS)
        source = case.searches.get(trial_label(parent.trial))
        if source is not None and not source.damage:  # else that is reported
            _check_beginning(FORKS, case.searches[label], source, parent.epoch, notes)
    if case.trials is None:
        return
    study = case.study
    trials = patiently(lambda: study.optuna_study.get_trials(deepcopy=False))  # also those that wait
    for trial in trials:
        forked, label = parent_of(trial), trial_label(trial.number)
        if forked is None or trial.state.is_finished():
            continue
        file = CheckpointFolder(study.folder.fork_point(study.spec, forked.trial, forked.epoch)).file(forked.epoch)
        if not CheckpointFolder(study.folder.checkpoints(study.spec, "search", label)).files() and not is_whole(file):
            message = f"it grows from {file}, which must be a whole checkpoint of {forked}"
            notes.add(FORKS, f"trial-{label}", case.lag, message, "restore it from a backup, or else the trial fails")


def _check_beginning(check: str, recorded: Recorded, trunk: Recorded, epochs: int, notes: Notes) -> None:
    """Hours are left out: a trial has not reserved those of its parent."""
    if recorded.damage:
        return
    pairs = zip(recorded.metrics[:epochs], trunk.metrics, strict=False)
    # NaN equals NaN as a text.
    texts = [[json.dumps({**one, **dict.fromkeys(HOURS)}, sort_keys=True) for one in pair] for pair in pairs]
    others = [epoch for epoch, (own, shared) in enumerate(texts) if own != shared]
    if others:
        message = f"its epoch {others[0]} must be that of {trunk.file}, got another one"
        notes.add(check, recorded.unit, "error", message, f"restore {recorded.file} from a backup")
