"""All that is known of one trial of a study, as plain data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from dashboards.mlflow_store.mlflow_access import unit_run
from orchestrator.errors import OrchestratorError
from orchestrator.files.checkpoint import CheckpointFolder
from orchestrator.files.journal import Journal
from orchestrator.files.layout import trial_label, unit_label
from orchestrator.study.records import TrialRecord
from orchestrator.study.study import Study
from orchestrator.study_file.spec import search_options
from orchestrator.tracking.marks import marks_of
from search_core.errors import OptionsError
from search_core.space.plan import NetworkOptions

#: Metrics whose course is shown.
CURVES = ("entropy_total", "temperature", "discretization_gap", "child_val_accuracy")


def trial_facts(study: Study, number: int) -> dict[str, Any]:
    """Facts about one trial.

    Keys: those of `TrialRecord`; `planned_epochs`, `primitives`, `curves` (metric -> value per epoch), `probabilities`
    (of the last epoch), `retrainings` (of its cell), `checkpoints`, `run_id` (None if MLflow does not say), `marks`
    (`note`, `star`, `tags` of people), `commands`.

    Raises:
        OrchestratorError: if the study has no such trial.
    """
    trials = study.trials()
    trial = next((trial for trial in trials if trial.number == number), None)
    if trial is None:
        known = f"0 to {len(trials) - 1}" if trials else "none yet"
        raise OrchestratorError(f"study `{study.spec.name}` has no trial {number}; its trials: {known}")
    epochs = Journal(study.folder.journal("search", trial_label(number))).epochs
    uri = study.runs.tracking_uri(study.spec.tracking.uri)
    run = unit_run(uri, study.spec.name, unit_label("search", trial_label(number)))
    run_id = None if run is None else str(run.info.run_id)
    try:
        options = search_options(study.spec, trial.values)
        planned, network = options.epochs, options.network
    except OptionsError:  # such a trial has failed with this reason
        planned, network = None, study.spec.search.network
    cells = epochs[-1]["cells"] if epochs else {}
    retrainings = _retrainings(study, trials, trial)
    is_retrained = any(record["state"] == "complete" for record in retrainings)
    return {
        "study": study.spec.name,
        **asdict(trial),
        "planned_epochs": planned,
        "primitives": network.operations,
        "curves": {name: [record["metrics"][name] for record in epochs] for name in CURVES},
        "probabilities": {cell_type: cell["probabilities"] for cell_type, cell in cells.items()} or None,
        "retrainings": retrainings,
        "checkpoints": _checkpoints(study, number),
        "run_id": run_id,
        "marks": marks_of({} if run is None else run.data.tags),
        "commands": _commands(study, number, run_id, network, is_retrained=is_retrained)
        if trial.genotype is not None
        else {},
    }


def _retrainings(study: Study, trials: list[TrialRecord], trial: TrialRecord) -> list[dict[str, Any]]:
    """Trainings of the trial's cell, which may have been found by another trial first."""
    cells = {other.number: other.cell for other in trials}
    cell = cells[trial.number]
    return [
        asdict(record)
        for record in study.retrains()
        if record.trial is not None and cell is not None and cells[record.trial] == cell
    ]


def _checkpoints(study: Study, number: int) -> dict[str, Any]:
    place = study.folder.checkpoints(study.spec, "search", trial_label(number))
    return {"folder": str(place), "files": [file.name for file in CheckpointFolder(place).files()]}


def _commands(
    study: Study, number: int, run_id: str | None, network: NetworkOptions, *, is_retrained: bool
) -> dict[str, str]:
    """What to type next; a cell is written to a file where MLflow cannot be asked for it."""
    spec, runs = study.spec, study.runs
    file = f"{spec.name}-trial{number}.json"
    export = runs.command("trial", "show", spec.name, str(number), "--export", file)
    recipe = ["--config", str(study.folder.spec_file)] if spec.retrain is not None else []
    child = ["--study", spec.name, "--trial", str(number), "--to", f"{spec.name}-trial{number}"]
    by_file = runs.command("retrain", "--genotype", file, *recipe)
    return {
        "export": export,
        "profile": f"snas profile {file} --init-channels {network.init_channels} --cells {network.cells}",
        "retrain": by_file if run_id is None or not recipe else runs.command("retrain", "--run", run_id),
        **({"take away": runs.command("export", *child)} if is_retrained else {}),
    }
