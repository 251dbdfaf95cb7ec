"""Checks of the model registry: every complete retraining has one version, and every version has its run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from mlflow.entities import Run

from orchestrator.doctor.case import Case
from orchestrator.doctor.mlflow_store import StudyRuns
from orchestrator.doctor.report import Notes

MODELS = "registered models"


def check_models(case: Case, store: StudyRuns, runs: Mapping[str, Run], notes: Notes) -> None:
    """Every child of a complete retraining is registered once, and no version is left of a run that is gone.

    Args:
        case: the study.
        store: MLflow.
        runs: the run of each unit that has one.
        notes: gets the findings.
    """
    complete = [unit for unit in case.retrains.values() if unit.end == "complete" and unit.unit in runs]
    if not complete:
        return
    name = case.study.spec.registered_name
    versions = store.model_runs(name)
    counts = Counter(versions.values())
    notes.look(MODELS, len(complete))
    for unit in complete:
        count = counts[runs[unit.unit].info.run_id]
        if count == 0:
            message = f"its child must be registered as `{name}`, got no version of its run"
            notes.add(MODELS, unit.unit, case.lag, message, case.bring_up)
        elif count > 1:
            message = f"its child must be registered as `{name}` once, got {count} versions of its run"
            notes.add(MODELS, unit.unit, case.lag, message, case.bring_up)
    _check_versions(case, store, runs, versions, notes)


def _check_versions(
    case: Case, store: StudyRuns, runs: Mapping[str, Run], versions: Mapping[str, str], notes: Notes
) -> None:
    """Versions have their runs; those of other studies, which may share the name, have them elsewhere."""
    deleted = {run.info.run_id: run.data.tags.get("snas.unit", "") for run in store.deleted}
    active = {run.info.run_id for run in store.runs}
    for version, run_id in versions.items():
        what = f"version {version} of `{case.study.spec.registered_name}` belongs to run {run_id}"
        if deleted.get(run_id) in runs:  # else its retraining has no run, which is reported
            message = f"{what}, which was deleted; {runs[deleted[run_id]].info.run_id} took its place"
            notes.add(MODELS, deleted[run_id], case.lag, message, case.bring_up)
        elif run_id not in active and run_id not in deleted and not store.has_run(run_id):
            message = f"{what}, which was removed for good"
            remedy = "delete the version on MLflow's page of the model"
            notes.add(MODELS, case.study.spec.registered_name, "warning", message, remedy)
