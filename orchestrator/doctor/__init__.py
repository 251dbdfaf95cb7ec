"""The examination of a study, finished, running or broken: is it whole, and if not, what is wrong and what to do.

It reads and changes nothing, and does not speak to Ray. The journals are what the others are held against: Optuna's
storage, the checkpoints and MLflow.
"""

from __future__ import annotations

from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState

from dashboards.mlflow_store.databases import sqlite_file
from orchestrator.doctor.case import Case, Recorded, read_recorded
from orchestrator.doctor.children import check_children
from orchestrator.doctor.mlflow_checks import RUNS, RunsCheck, read_runs
from orchestrator.doctor.mlflow_store import READ_ERRORS
from orchestrator.doctor.report import Check, Finding, Notes, Report
from orchestrator.doctor.requests import check_requests
from orchestrator.doctor.settings import check_settings
from orchestrator.doctor.trunk import check_forks, check_trunk
from orchestrator.doctor.truth import check_truth
from orchestrator.doctor.units import (
    RETRAINS,
    TRIALS,
    check_checkpoints,
    check_retrains,
    check_searches,
    check_trials,
    report_faults,
)
from orchestrator.errors import OrchestratorError, StoreStateError, first_line
from orchestrator.files.layout import TRUNK, Runs, trial_label
from orchestrator.files.lock import lock_holder
from orchestrator.files.relocation import former_roots
from orchestrator.jobs import RetrainJob
from orchestrator.study.ground_truth import truth_jobs
from orchestrator.study.study import Study
from orchestrator.study_file.spec import NAME_PATTERN
from orchestrator.tracking.run_spec import UnitKind

__all__ = ["Check", "Finding", "Report", "examine"]

STUDY_FILE, DRIVER = "study file", "driver"


def examine(name: str, runs: Runs) -> Report:
    """Examine one study.

    Args:
        name: the study.
        runs: the folder of all runs.

    Raises:
        OrchestratorError: if there is no such study.
    """
    notes = Notes()
    study = _load(name, runs, notes)
    if study is None:
        return notes.report(name, "unknown")
    # In the opposite order of writing: what a driver at work writes meanwhile can only make the journals be ahead.
    holder = lock_holder(study.folder.lock_file)
    uri = runs.tracking_uri(study.spec.tracking.uri)
    moved = former_roots(runs, uri)
    store = read_runs(uri, name, notes)
    trials = _read_trials(study, notes)
    holder = holder or lock_holder(study.folder.lock_file)
    case = _read_case(study, holder is not None, trials, notes)
    check_requests(case, notes)
    notes.look(DRIVER)
    if holder is not None:
        notes.add(DRIVER, name, "info", f"{holder} runs the study: what is not there yet is a warning")
    if trials is not None:
        check_trials(case, notes)
    check_settings(case, store, notes)
    check_truth(case, notes)
    check_trunk(case, notes)
    check_forks(case, notes)
    check_searches(case, notes)
    check_children(case, notes)
    check_retrains(case, notes)
    if moved:
        message = (
            f"the folder of runs must be where MLflow's store and the study files name it, {moved[0]}, got another"
        )
        notes.add(STUDY_FILE, name, "error", message, f"{case.resume} has them name {runs.root}")
    if store is not None:
        _check_runs(RunsCheck(case, store, notes, uri, has_files=not moved), notes)
    check_checkpoints(case, notes)
    report_faults(case, notes)
    state = "running" if case.is_running else "done" if case.is_done else "unfinished"
    return notes.report(name, state)


def _load(name: str, runs: Runs, notes: Notes) -> Study | None:
    """The study; None, with a finding, if its file cannot be used."""
    notes.look(STUDY_FILE)
    folder = runs.study(name)
    is_study = NAME_PATTERN.fullmatch(name) is not None and (folder.path / "trials").is_dir()
    if is_study and not folder.spec_file.is_file():
        remedy = "restore it; the study's MLflow run has it as an artifact"
        notes.add(STUDY_FILE, name, "error", f"{folder.spec_file} must exist: there are trials", remedy)
        return None
    if name not in runs.study_names():
        return Study.load(name, runs)  # raises, and names the studies that there are
    try:
        return Study.load(name, runs)
    except OrchestratorError as error:
        remedy = "restore it or the folder's name; the study's MLflow run has the file as an artifact"
        notes.add(STUDY_FILE, name, "error", str(error), remedy)
        return None


def _check_runs(runs: RunsCheck, notes: Notes) -> None:
    try:
        runs.check()
    except READ_ERRORS as error:
        message = f"MLflow must answer to the end, got: {first_line(error)}"
        notes.add(RUNS, "MLflow", "error", message, "ask again when it does")


def _read_trials(study: Study, notes: Notes) -> tuple[FrozenTrial, ...] | None:
    """Trials that were asked for; None, with a finding, if Optuna's storage does not answer."""
    try:
        trials = study.optuna_study.get_trials(deepcopy=False)
    except StoreStateError as error:
        notes.add(TRIALS, "Optuna", "error", error.fault.what, error.fault.remedy)
        return None
    except (OrchestratorError, StorageInternalError, *READ_ERRORS) as error:
        is_file = sqlite_file(study.runs.optuna_url(study.spec.storage.url)) is not None
        remedy = f"restore it from a backup{'' if is_file else ', or start its server'}; then ask again"
        notes.add(TRIALS, "Optuna", "error", first_line(error), remedy)
        return None
    return tuple(trial for trial in trials if trial.state != TrialState.WAITING)


def _read_case(study: Study, is_running: bool, trials: tuple[FrozenTrial, ...] | None, notes: Notes) -> Case:
    labels = [trial_label(trial.number) for trial in trials or ()]
    searches = _read_all(study, "search", labels)
    jobs = _jobs(study, searches, notes) if trials is not None else None
    return Case(
        study=study,
        is_running=is_running,
        trials=trials,
        searches=searches,
        retrains=_read_all(study, "retrain", [job.label for job in jobs or ()]),
        trunk=read_recorded(study.folder, "trunk", TRUNK) if study.spec.fork else None,
        truth=_read_truth(study),
        jobs=jobs,
        ending=study.ending,
    )


def _read_truth(study: Study) -> dict[str, Recorded]:
    jobs = truth_jobs(study.spec, study.folder)
    return {job.label: read_recorded(study.folder, "truth", job.label) for job in jobs}


def _read_all(study: Study, phase: UnitKind, labels: list[str]) -> dict[str, Recorded]:
    """Journals of these labels, and all others that there are."""
    there = sorted(path.stem for path in study.folder.journal(phase, "any").parent.glob("*.jsonl"))
    return {label: read_recorded(study.folder, phase, label) for label in dict.fromkeys([*labels, *there])}


def _jobs(study: Study, searches: dict[str, Recorded], notes: Notes) -> tuple[RetrainJob, ...] | None:
    """The retrainings that the study asks for; None if journals that decide it are damaged or still open."""
    if study.spec.retrain is None:
        return ()
    if study.num_open_trials() > 0:
        return None
    try:
        return tuple(study.retrain_jobs())
    except (OrchestratorError, OSError, ValueError, LookupError) as error:
        message = f"which cells are to be retrained cannot be determined: {first_line(error)}"
        notes.add(RETRAINS, study.spec.name, "error", message, "see the findings on the journals")
        return None
