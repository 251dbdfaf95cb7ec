"""Checks of the ground truth: every share of the table has its journal, with a record of each training."""

from __future__ import annotations

from orchestrator.doctor.case import Case, Recorded
from orchestrator.doctor.report import Notes
from orchestrator.study.ground_truth import truth_jobs

TRUTH = "ground truth"


def check_truth(case: Case, notes: Notes) -> None:
    """Every genotype is trained with every seed; what a driver at work has still to train is no error."""
    missing = []
    for job in truth_jobs(case.study.spec, case.study.folder):
        recorded = case.truth[job.label]
        notes.look(TRUTH, len(recorded.metrics))
        if not recorded.exists:
            missing.append(recorded.unit)
        else:
            _check_share(case, recorded, job.epochs, notes)
    if missing and case.is_running:
        notes.add(TRUTH, case.study.spec.name, "info", f"{len(missing)} of {len(case.truth)} shares have not begun")
    elif missing:
        named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        message = f"every share of the table must have a journal, got none of {named}"
        remedy = f"move their checkpoints away if there are any; {case.resume} trains them"
        notes.add(TRUTH, case.study.spec.name, "error", message, remedy)


def _check_share(case: Case, recorded: Recorded, wanted: int, notes: Notes) -> None:
    """One journal: readable, and whole unless it goes on."""
    checkpoints = case.study.folder.checkpoints(case.study.spec, "truth", recorded.label)
    anew = f"move {recorded.file} and {checkpoints} away; {case.resume} trains the share again"
    count = len(recorded.metrics)
    if recorded.damage:
        notes.add(TRUTH, recorded.unit, "error", recorded.damage, anew)
    elif recorded.end == "failed":
        notes.add(
            TRUTH, recorded.unit, "error", f"it failed after {count} of {wanted} trainings: {recorded.reason}", anew
        )
    elif count > wanted or (recorded.end is not None and count < wanted):
        notes.add(TRUTH, recorded.unit, "error", f"its journal must have {wanted} trainings, got {count}", anew)
    elif recorded.end is None and case.is_running:
        notes.add(TRUTH, recorded.unit, "info", f"{count} of {wanted} trainings are done")
    elif recorded.end is None:
        message = f"it is unfinished after {count} of {wanted} trainings, and no driver is at work"
        notes.add(TRUTH, recorded.unit, "error", message, f"{case.resume} goes on with it")
