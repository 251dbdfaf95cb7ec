"""Checks of what was asked of a study and decided on it."""

from __future__ import annotations

from collections import Counter

from dashboards.formatting import counted
from orchestrator.doctor.case import Case
from orchestrator.doctor.report import Notes
from orchestrator.driver.steering import REQUEST
from orchestrator.files.decisions import Decisions, pending
from orchestrator.sampling.samplers import patiently

REQUESTS = "requests and decisions"


def check_requests(case: Case, notes: Notes) -> None:
    """Why the searches rest, what is still asked for, and that every decision was carried out, once."""
    study = case.study
    decisions = Decisions(study.folder.decisions_file)
    notes.look(REQUESTS, len(decisions.entries))
    if case.ending is not None:
        remedy = f"{case.resume} continues" if case.ending.kind == "pause" else "a larger `budget` continues them"
        message = f"the searches {'rest' if case.ending.kind == 'pause' else 'are over'}: {case.ending.reason}"
        notes.add(REQUESTS, study.spec.name, "info", message, "" if case.is_running else remedy)
    waiting = {request.id for request in pending(study.folder.requests)}
    for request in sorted(waiting):
        message = f"the request {request} waits to be taken"
        notes.add(REQUESTS, study.spec.name, "info", message, "" if case.is_running else f"{case.resume} takes it")
    if case.trials is None:
        return
    trials = patiently(lambda: study.optuna_study.get_trials(deepcopy=False))
    enqueued = Counter(str(trial.user_attrs[REQUEST]) for trial in trials if REQUEST in trial.user_attrs)
    for entry in decisions.entries:
        if "values" not in entry or entry["request"] in waiting:
            continue
        if (count := enqueued[entry["request"]]) != (wanted := entry.get("count", 1)):
            message = (
                f"{counted(wanted, 'trial')} must have been queued for the request {entry['request']}, got {count}"
            )
            notes.add(REQUESTS, study.spec.name, case.lag, message, "restore Optuna's storage from a backup")
    most = max((entry["trials"] for entry in decisions.entries if "trials" in entry), default=0)
    if study.spec.trials < most and not waiting and len(trials) > study.spec.trials:
        message = f"`trials` must be {most}, as was decided, got {study.spec.trials}"
        notes.add(REQUESTS, study.spec.name, case.lag, message, f"set it in {study.folder.spec_file}")
