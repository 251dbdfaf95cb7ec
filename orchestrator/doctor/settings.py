"""Checks of the study file against the settings with which the study and each of its trials ran."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict

from mlflow.entities import Run

from orchestrator.doctor.case import Case
from orchestrator.doctor.mlflow_store import StudyRuns
from orchestrator.doctor.report import Notes
from orchestrator.driver.changes import REMEDY, Difference, forbidden_changes, param_changes
from orchestrator.files.layout import trial_label
from orchestrator.study_file.spec import StudySpec, search_options
from orchestrator.study_file.sweep import Scalar
from orchestrator.tracking.run_spec import flatten
from search_core.errors import GenotypeError, LatencyError, OptionsError

SETTINGS = "settings"


def check_settings(case: Case, store: StudyRuns | None, notes: Notes) -> None:
    """The file has the settings that the study ran with last, and those of every trial and retraining.

    What a trial ran with are the parameters of its MLflow run, which nobody can change.
    """
    if case.trials is not None:
        _check_study(case, notes)
    if store is not None:
        runs = {run.data.tags.get("snas.unit", ""): run for run in reversed(store.runs)}
        _check_units(case, {unit: run for unit, run in runs.items() if run.data.params}, notes)


def _check_study(case: Case, notes: Notes) -> None:
    study = case.study
    notes.look(SETTINGS)
    try:
        found = forbidden_changes(study.optuna_study, study.spec, study.folder, study.tracking_uri)
    except (GenotypeError, LatencyError) as error:
        notes.add(SETTINGS, study.spec.name, "error", str(error), "restore the file that the study names")
        return
    for difference in found:
        notes.add(SETTINGS, study.spec.name, "error", _in_words([difference]), REMEDY)


def _check_units(case: Case, runs: Mapping[str, Run], notes: Notes) -> None:
    """One finding for all units that differ alike."""
    values = {trial_label(trial.number): trial.params for trial in case.trials or ()}
    alike: dict[str, list[str]] = defaultdict(list)
    recipe = case.study.spec.retrain
    for unit in (unit for unit in case.units if unit.unit in runs):
        notes.look(SETTINGS)
        logged = runs[unit.unit].data.params
        if unit.phase == "retrain":
            differences = param_changes(logged, flatten(asdict(recipe)), "retrain.") if recipe is not None else []
        else:
            differences = _search_differences(case.study.spec, values.get(unit.label), logged)
        if differences:
            alike[_in_words(differences)].append(unit.unit)
    for message, units in alike.items():
        more = f" (and {len(units) - 1} more: {', '.join(units[1:4])}{', ...' if len(units) > 4 else ''})"
        notes.add(SETTINGS, units[0], "error", message + more * (len(units) > 1), REMEDY)


def _search_differences(
    spec: StudySpec, values: Mapping[str, Scalar] | None, logged: Mapping[str, str]
) -> list[Difference]:
    """Of a trial with these sampled values, if Optuna has it."""
    if values is None:
        return []
    try:
        options = flatten(asdict(search_options(spec, values)))
    except OptionsError:  # such a trial has failed with this reason
        return []
    fixed = {key: value for key, value in options.items() if key not in values}  # the others are sampled
    return param_changes(logged, fixed, "search.")


def _in_words(differences: list[Difference]) -> str:
    return "; ".join(f"`{difference.key}` {difference.rule}" for difference in differences)
