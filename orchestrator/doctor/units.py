"""Checks of the trials and retrainings themselves: Optuna's storage, the journals and the checkpoints must agree."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable

from optuna.trial import FrozenTrial, TrialState

from orchestrator.doctor.case import Case, Recorded
from orchestrator.doctor.report import Notes, Severity
from orchestrator.files.checkpoint import CheckpointFolder, epoch_of, is_whole
from orchestrator.files.layout import trial_label
from orchestrator.sampling.ranking import is_result
from orchestrator.study_file.spec import search_options
from search_core.errors import OptionsError

TRIALS, JOURNALS, VALUES = "Optuna trials", "journals", "values reported to Optuna"
GENOTYPES, RETRAINS, CHECKPOINTS, FAULTS = "genotypes", "retrainings", "checkpoints", "faults survived"


def check_trials(case: Case, notes: Notes) -> None:
    """Every trial number once, as many as the study asks for, none open without a driver, no grid point twice."""
    trials = case.trials or ()
    wanted = case.study.spec.num_trials
    notes.look(TRIALS, len(trials))
    numbers = {trial.number for trial in trials}
    for number in sorted(set(range(max(numbers, default=-1) + 1)) - numbers):
        message = f"trial numbers must be 0 to {max(numbers)} without holes, {number} is missing"
        notes.add(TRIALS, f"trial-{trial_label(number)}", "error", message, "restore Optuna's storage from a backup")
    open_trials = [trial for trial in trials if not trial.state.is_finished()]
    if case.ending is not None:  # `check_requests` says why
        wanted = min(wanted, len(trials))
    if not case.is_running and (case.ending is None or case.ending.on_end == "finish"):
        for trial in open_trials:
            place = f"trial-{trial_label(trial.number)}"
            notes.add(TRIALS, place, "error", f"it is {trial.state.name}, but no driver is at work", _to_resume(case))
    if len(trials) < wanted:
        message = f"the study must have {wanted} trials when it is done, got {len(trials)} so far"
        severity: Severity = "info" if case.is_running else "error"
        notes.add(TRIALS, case.study.spec.name, severity, message, "" if case.is_running else _to_resume(case))
    elif len(trials) > wanted:
        message = f"the study must have {wanted} trials, got {len(trials)}"
        notes.add(TRIALS, case.study.spec.name, "error", message, "see which of them another program added to Optuna")
    _check_grid(case, trials, notes)


def _check_grid(case: Case, trials: Iterable[FrozenTrial], notes: Notes) -> None:
    if case.study.spec.sampler != "grid":
        return
    points: dict[str, list[str]] = defaultdict(list)
    for trial in trials:
        if trial.params or trial.state.is_finished():  # a trial that has just begun has no values yet
            points[json.dumps(trial.params, sort_keys=True)].append(f"trial-{trial_label(trial.number)}")
    for point, places in points.items():
        if len(places) > 1:
            message = f"each point of the grid must be searched once, {point} was by {' and '.join(places)}"
            notes.add(TRIALS, places[-1], "error", message, "run the study under another name")


def check_searches(case: Case, notes: Notes) -> None:
    """Every trial has one journal that agrees with it, and every journal a trial."""
    trials = {trial_label(trial.number): trial for trial in case.trials or ()}
    for label, recorded in case.searches.items():
        if recorded.exists:
            notes.look(JOURNALS)
        trial = trials.get(label)
        if recorded.damage:
            notes.add(JOURNALS, recorded.unit, "error", recorded.damage, f"restore {recorded.file} from a backup")
        elif case.trials is not None and trial is None:
            message = f"Optuna has no trial of the journal {recorded.file}"
            notes.add(JOURNALS, recorded.unit, case.lag, message, "restore Optuna's storage, or move the file away")
        elif trial is not None and not recorded.exists:
            if trial.state.is_finished():
                message = f"Optuna's trial is {trial.state.name}, but {recorded.file} does not exist"
                notes.add(JOURNALS, recorded.unit, case.lag, message, "restore the journal from a backup")
        else:
            _check_end(case, recorded, trial, notes)
        notes.look(GENOTYPES, len(recorded.metrics))
        for fault in recorded.genotype_faults:
            notes.add(GENOTYPES, recorded.unit, "error", fault, f"restore {recorded.file} from a backup")


def _check_end(case: Case, recorded: Recorded, trial: FrozenTrial | None, notes: Notes) -> None:
    _check_reason(recorded, notes, JOURNALS)
    if trial is None:
        return
    if not _states_agree(case, recorded, trial):
        message = f"Optuna's trial is {trial.state.name}, the journal says {recorded.end or 'unfinished'}"
        is_resumable = trial.state == TrialState.RUNNING
        remedy = _to_resume(case) if is_resumable else "restore Optuna's storage and the journal from the same backup"
        notes.add(JOURNALS, recorded.unit, case.lag, message, remedy)
    try:
        epochs = search_options(case.study.spec, trial.params).epochs
    except OptionsError as error:
        if recorded.end != "failed":
            notes.add(JOURNALS, recorded.unit, "error", f"its values do not fit the study: {error}")
    else:
        _check_epochs(recorded, epochs, notes, JOURNALS)
    _check_values(case, recorded, trial, notes)


def _states_agree(case: Case, recorded: Recorded, trial: FrozenTrial) -> bool:
    """Whether Optuna has what `searcher.tell` reports to it."""
    end, has_one = recorded.end, len(case.study.spec.objectives) == 1
    if trial.state == TrialState.RUNNING:
        return end is None
    if trial.state == TrialState.PRUNED:
        return end in ("stopped", "collapsed", "cancelled") and has_one
    if trial.state == TrialState.COMPLETE:
        return is_result(end, len(case.study.spec.objectives))
    values = [recorded.last_metric(objective.metric) for objective in case.study.spec.objectives]
    is_worthless = not all(map(math.isfinite, values)) or (end in ("collapsed", "cancelled") and not has_one)
    return end == "failed" or (end is not None and is_worthless)


def _check_values(case: Case, recorded: Recorded, trial: FrozenTrial, notes: Notes) -> None:
    if trial.state != TrialState.COMPLETE:
        return
    notes.look(VALUES)
    metrics = [objective.metric for objective in case.study.spec.objectives]
    values = [recorded.last_metric(metric) for metric in metrics]
    if list(trial.values) != values:
        message = f"Optuna must have the journal's last {' and '.join(metrics)}, {values}, got {list(trial.values)}"
        notes.add(VALUES, recorded.unit, "error", message, "restore Optuna's storage and the journal from a backup")


def _check_reason(recorded: Recorded, notes: Notes, check: str) -> None:
    if recorded.end not in (None, "complete") and not recorded.reason.strip():
        message = f"it is {recorded.end}, which must have a stated reason, got none"
        notes.add(check, recorded.unit, "error", message, f"see the last lines of {recorded.file}")


def _check_epochs(recorded: Recorded, epochs: int, notes: Notes, check: str) -> None:
    count = len(recorded.metrics)
    if count > epochs or (recorded.end == "complete" and count < epochs):
        message = f"its journal must have {epochs} epochs, got {count}"
        notes.add(check, recorded.unit, "error", message, f"restore {recorded.file} from a backup")


def check_retrains(case: Case, notes: Notes) -> None:
    """Every training that the study asks for is recorded whole, and no other."""
    section = case.study.spec.retrain
    if section is None and not case.retrains:
        return
    notes.look(RETRAINS, len(case.retrains))
    wanted = None if case.jobs is None else {job.label for job in case.jobs}
    for recorded in case.retrains.values():
        if recorded.damage:
            notes.add(RETRAINS, recorded.unit, "error", recorded.damage, f"restore {recorded.file} from a backup")
            continue
        if wanted is not None and recorded.label not in wanted and _was_chosen(case, recorded):
            message = "its cell was among the best before more trials came"
            notes.add(RETRAINS, recorded.unit, "info", message)
        elif wanted is not None and recorded.label not in wanted:
            message = f"the study asks for no such retraining, but {recorded.file} exists"
            notes.add(RETRAINS, recorded.unit, "error", message, "move the file away")
            continue
        _check_reason(recorded, notes, RETRAINS)
        if section is not None:
            _check_epochs(recorded, section.epochs, notes, RETRAINS)
        if recorded.end is None and not case.is_running and (case.ending is None or case.ending.kind != "pause"):
            message = f"it is unfinished after {len(recorded.metrics)} epochs, and no driver is at work"
            notes.add(RETRAINS, recorded.unit, "error", message, _to_resume(case))
        if recorded.end == "complete" and "test_accuracy" not in (recorded.metrics or ({},))[-1]:
            message = "its last epoch must have `test_accuracy`, got none"
            notes.add(RETRAINS, recorded.unit, "error", message, f"restore {recorded.file} from a backup")


def _was_chosen(case: Case, recorded: Recorded) -> bool:
    """Whether the study asked for a retraining when it had fewer trials: `trials` may be raised."""
    complete = [trial_label(trial.number) for trial in case.trials or () if trial.state == TrialState.COMPLETE]
    return recorded.end is not None and recorded.label.partition("-")[0] in complete


def check_checkpoints(case: Case, notes: Notes) -> None:
    """An unfinished trial or retraining resumes from its newest whole checkpoint.

    Of a finished one only the newest file is read: nothing but a fork or a model that is still to be logged takes it.
    Whether a fork still has what it needs is checked by `check_trunk` and `check_forks`.
    """
    spec, folder = case.study.spec, case.study.folder
    for recorded in case.journals:
        if recorded.damage:
            continue
        storage = folder.checkpoints(spec, recorded.phase, recorded.label)
        files = CheckpointFolder(storage).files()
        if recorded.end is not None:
            files = files[:1]
        notes.look(CHECKPOINTS, len(files))
        torn = [file for file in files if not is_whole(file)]
        whole = [file for file in files if file not in torn]
        falls_back = f"{whole[0].name} is whole and takes its place" if whole else "no other is whole"
        for file in torn:
            notes.add(CHECKPOINTS, recorded.unit, "warning", f"{file} is damaged; {falls_back}", f"delete {file}")
        shared = case.taken_over(recorded)  # these need no checkpoint
        if recorded.has_children:  # they have the checkpoints
            continue
        if recorded.end is None and len(recorded.metrics) > shared and not whole:
            message = f"it must have a whole checkpoint of its {len(recorded.metrics)} epochs, got none in {storage}"
            remedy = "restore one from a backup, or resume: it then repeats these epochs, none is recorded twice"
            notes.add(CHECKPOINTS, recorded.unit, case.lag, message, remedy)
        elif recorded.end is None and whole and (done := epoch_of(whole[0])) > len(recorded.metrics) + 1:
            message = f"{whole[0]} must be at most one epoch ahead of the {len(recorded.metrics)} in the journal"
            remedy = f"restore {recorded.file} from a backup, or move checkpoints beyond that away; got epoch {done}"
            notes.add(CHECKPOINTS, recorded.unit, case.lag, message, remedy)


def report_faults(case: Case, notes: Notes) -> None:
    """Faults that trials survived, by kind; they cost time and nothing else."""
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for recorded in case.journals:
        notes.look(FAULTS, len(recorded.events))
        for event in recorded.events:
            kinds[event][recorded.unit] += 1
    for kind, units in kinds.items():
        named = ", ".join(f"{unit} ({count})" for unit, count in units.most_common(5))
        more = f" and {len(units) - 5} more" if len(units) > 5 else ""
        notes.add(FAULTS, kind.replace("_", " "), "info", f"survived {units.total()} times: {named}{more}")


def _to_resume(case: Case) -> str:
    return f"{case.resume} resumes it"
