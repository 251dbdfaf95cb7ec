"""Checks of the ground truth: every part of the table has its journal, with a record of each training."""

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
            _check_part(case, recorded, job.epochs, notes)
    if missing and case.is_running:
        notes.add(TRUTH, case.study.spec.name, "info", f"{len(missing)} of {len(case.truth)} parts have not begun")
    elif missing:
        named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        message = f"every part of the table must have a journal, got none of {named}"
        remedy = f"move their checkpoints away if there are any; {case.resume} trains them"
        notes.add(TRUTH, case.study.spec.name, "error", message, remedy)


def _check_part(case: Case, recorded: Recorded, wanted: int, notes: Notes) -> None:
    """One journal: readable, and whole unless it continues."""
    checkpoints = case.study.folder.checkpoints(case.study.spec, "truth", recorded.label)
    remedy = f"move {recorded.file} and {checkpoints} away; {case.resume} trains the part again"
    count = len(recorded.metrics)
    if recorded.damage:
        notes.add(TRUTH, recorded.unit, "error", recorded.damage, remedy)
    elif recorded.end == "failed":
        notes.add(
            TRUTH, recorded.unit, "error", f"it failed after {count} of {wanted} trainings: {recorded.reason}", remedy
        )
    elif count > wanted or (recorded.end is not None and count < wanted):
        notes.add(TRUTH, recorded.unit, "error", f"its journal must have {wanted} trainings, got {count}", remedy)
    elif recorded.end is None and case.is_running:
        notes.add(TRUTH, recorded.unit, "info", f"{count} of {wanted} trainings are done")
    elif recorded.end is None:
        message = f"it is unfinished after {count} of {wanted} trainings, and no driver is at work"
        notes.add(TRUTH, recorded.unit, "error", message, f"{case.resume} resumes it")
