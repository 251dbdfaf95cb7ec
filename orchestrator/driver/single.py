"""One search or one retraining in this process, without Ray: journal and MLflow run like in a study."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import torch
from mlflow.exceptions import MlflowException

from dashboards.mlflow_store.store_lock import opened_client
from dashboards.pictures.cells import render_cells_svg
from orchestrator.errors import OrchestratorError, RunInterrupted
from orchestrator.files.journal import Journal
from orchestrator.files.layout import Runs
from orchestrator.files.plugin_copies import with_copies, write_copies
from orchestrator.files.relocation import relocate
from orchestrator.machine import machine_facts
from orchestrator.sampling.bayesian import build_proposer
from orchestrator.stores import store_error
from orchestrator.study.hours import with_hours
from orchestrator.study_file.loading import RetrainConfig, load_retrain
from orchestrator.study_file.spec import check_name
from orchestrator.study_file.yaml_file import dump_yaml
from orchestrator.tracking.artifacts import CHOICES
from orchestrator.tracking.delivery import STORE_ERRORS, sync_now
from orchestrator.tracking.models import log_child
from orchestrator.tracking.run_spec import (
    Unit,
    about_search,
    dataset_input,
    flatten,
    logged_metrics,
    picture_epochs,
    run_tags,
)
from orchestrator.tracking.stored import existing_store, stored_file
from orchestrator.tracking.tracker import Tracker
from search_core.data.dataset_options import DatasetOptions
from search_core.data.datasets import ImageData, load_data
from search_core.errors import ConstraintsError, DataError, NonFiniteLossError
from search_core.search.child_search import make_search
from search_core.search.options import SearchOptions
from search_core.search.reports import EpochReport
from search_core.space.cell_files import load_genotype
from search_core.space.choices import CellChoices, load_choices
from search_core.space.genotype import Genotype
from search_core.training.retrain import Retrain, RetrainReport

SEARCHES = "searches"
RETRAINS = "retrains"


def default_device() -> torch.device:
    """The first GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def run_search(
    options: SearchOptions,
    runs: Runs,
    name: str,
    on_epoch: Callable[[EpochReport], None],
    *,
    warn: Callable[[str], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> tuple[Genotype, Path]:
    """Run one search and keep what it found.

    Args:
        options: the search.
        runs: folder of all runs; this one's files lie in `searches/<name>`.
        name: of the folder and of the MLflow run.
        on_epoch: is called with every report.
        warn: called with what the user should know of the images.
        note: called with what was decided for the user.

    Returns:
        The genotype and the folder with `genotype.json`, `cells.svg`, `search.yaml`, `history.jsonl`, and
        `choices.json` if the child has channels or bits of its own.

    Raises:
        DataError: if the data set cannot be read.
        OrchestratorError: if the name is taken, or cannot be a folder's.
        RunInterrupted: if a signal stopped it.
        NonFiniteLossError: if the loss is not finite.
    """
    check_name(name)
    device = default_device()
    data = _load(options.dataset, device, warn)
    if note is not None and device.type == "cuda" and options.graph_note is not None:
        note(options.graph_note)
    search = make_search(options, data, device, build_proposer)
    tracker = open_tracker(runs, SEARCHES, options.dataset, data)
    folder = _new_folder(runs.root / SEARCHES, name, tracker)
    kept = with_copies(asdict(options), folder)
    write_copies(kept)
    (folder / "search.yaml").write_text(dump_yaml(kept), encoding="utf-8")
    primitives = options.network.operations
    unit = Unit(
        label=name,
        kind="search",
        params=flatten(asdict(options)),
        metrics=logged_metrics(),
        primitives=primitives,
        pictures=picture_epochs(None, options.epochs),
        histories=picture_epochs(None, options.epochs),
        about=about_search(asdict(options)),
    )
    journal, machine = Journal(folder / "history.jsonl"), machine_facts(device)
    with _stoppable(tracker, unit, folder), _recorded(tracker, unit, journal):
        for report in search:
            record = {**report.to_dict(), "machine": machine}
            journal.append_epoch(with_hours(record, journal, **_whole(device)))
            sync_now(tracker, unit, journal)
            on_epoch(report)
    genotype = search.genotype()
    rows = search.probabilities()
    probabilities = {cell_type: rows[cell_type].tolist() for cell_type in genotype.cell_types}
    picture = render_cells_svg(genotype, probabilities=probabilities, primitives=primitives, title=name)
    (folder / "genotype.json").write_text(genotype.to_json(), encoding="utf-8")
    if choices := journal.epochs[-1].get("choices"):
        (folder / CHOICES).write_text(json.dumps(choices), encoding="utf-8")
    (folder / "cells.svg").write_text(picture, encoding="utf-8")
    return genotype, folder


def run_retrain(
    genotype: Genotype,
    config: RetrainConfig,
    runs: Runs,
    name: str,
    on_epoch: Callable[[int, RetrainReport], None],
    *,
    choices: CellChoices | None = None,
    parent_run: str | None = None,
    warn: Callable[[str], None] | None = None,
) -> list[dict[str, float]]:
    """Train a cell from scratch, once per seed, and register the children.

    Args:
        genotype: the cell.
        config: data set and recipe.
        runs: folder of all runs; files lie in `retrains/<name>-seed<seed>`.
        name: of the folders and of the MLflow runs.
        on_epoch: is called with every report, with its seed.
        choices: channels and bits of its cells, if its search chose them.
        parent_run: MLflow run of the search that found the cell; the new runs go below it.
        warn: called with what the user should know of the images.

    Returns:
        The last epoch's metrics of each seed, with `test_accuracy`, `params` and `madds`.

    Raises:
        DataError: if the data set cannot be read.
        OrchestratorError: if the name is taken, or cannot be a folder's.
        RunInterrupted: if a signal stopped it.
        NonFiniteLossError: if a loss is not finite.
    """
    device, section = default_device(), config.retrain
    seeds = {seed: f"-seed{seed}" for seed in range(config.seed, config.seed + section.seeds)}
    check_name(name, *seeds.values())
    dataset = section.dataset_for(config.dataset)
    data = _load(dataset, device, warn)
    tracker = open_tracker(runs, RETRAINS, dataset, data, parent_run)
    results, machine = [], machine_facts(device)
    for seed, suffix in seeds.items():
        retrain = Retrain(genotype, section, data, device, seed=seed, choices=choices)
        label = f"{name}{suffix}"
        folder = _new_folder(runs.root / RETRAINS, label, tracker)
        (folder / "genotype.json").write_text(genotype.to_json(), encoding="utf-8")
        params = {**flatten(asdict(section)), **flatten(asdict(dataset), "dataset."), "seed": seed}
        params |= flatten({} if choices is None else choices.to_dict(), "choices.")
        about = f"{name}, trained from scratch with seed {seed}"
        unit = Unit(label=label, kind="retrain", parent=parent_run, params=params, genotype=genotype, about=about)
        journal = Journal(folder / "history.jsonl")
        with _stoppable(tracker, unit, folder):
            with _recorded(tracker, unit, journal):
                for report in retrain:
                    record = {**report.to_dict(), "machine": machine}
                    if retrain.epoch >= section.epochs:
                        record["metrics"] |= retrain.final_metrics()
                    journal.append_epoch(with_hours(record, journal, **_whole(device)))
                    sync_now(tracker, unit, journal)
                    on_epoch(seed, report)
            log_child(
                tracker,
                tracker.run_id(unit),
                genotype=genotype,
                options=section,
                data=data,
                state=retrain.state_dict(),
                registered_name=section.register_as or f"{name}-child",
                choices=choices,
            )
        results.append(journal.epochs[-1]["metrics"])
    return results


def found_cell(runs: Runs, run_id: str) -> Genotype:
    """The genotype that a search's MLflow run has as an artifact.

    Raises:
        OrchestratorError: if there is no such run, or it has no genotype.
    """
    try:
        return load_genotype(_artifact(runs, run_id, "genotype.json"))
    except (MlflowException, OSError) as error:
        raise OrchestratorError(
            f"run {run_id} in {runs.tracking_uri()} must exist and have the artifact genotype.json, got: {error}"
        ) from error


def found_choices(runs: Runs, run_id: str) -> CellChoices | None:
    """The channels and bits that a search's MLflow run has as an artifact; None for a search that chose none.

    Raises:
        GenotypeError: if the artifact is malformed.
    """
    try:
        file = _artifact(runs, run_id, CHOICES)
    except (MlflowException, OSError):
        return None
    return load_choices(file)


def _artifact(runs: Runs, run_id: str, name: str) -> Path:
    """A file of a run, from where it is now."""
    uri = runs.tracking_uri()
    return stored_file(uri, existing_store(uri).get_run(run_id).info.artifact_uri, name)


def study_recipe(runs: Runs, run_id: str) -> RetrainConfig:
    """The retrain recipe of the study to which a trial's MLflow run belongs.

    Raises:
        OrchestratorError: if the run belongs to no study.
        ConfigError: if the study has no `retrain` section.
    """
    client = opened_client(runs.tracking_uri())
    try:
        parent = client.get_run(run_id).data.tags["mlflow.parentRunId"]
        return load_retrain(_artifact(runs, parent, "study.yaml"), is_own=False)
    except (KeyError, MlflowException, OSError) as error:
        raise OrchestratorError(f"run {run_id} belongs to no study: name a recipe with --config") from error


def open_tracker(
    runs: Runs, experiment: str, dataset: DatasetOptions, data: ImageData, parent_run: str | None = None
) -> Tracker:
    """Tracker of an experiment; with `parent_run`, of the experiment of that run."""
    uri = runs.tracking_uri()
    runs.root.mkdir(parents=True, exist_ok=True)
    relocate(runs, None, lambda line: print(line, file=sys.stderr))
    tags = run_tags(data)
    try:
        if parent_run is not None:
            client = opened_client(uri)
            experiment = client.get_experiment(client.get_run(parent_run).info.experiment_id).name
        location, images = runs.artifact_location(uri, experiment), dataset_input(dataset, data)
        return Tracker(uri, experiment, artifact_location=location, tags=tags, dataset=images)
    except MlflowException as error:
        raise store_error(f"the MLflow store {uri}", error) from error


def _load(options: DatasetOptions, device: torch.device, warn: Callable[[str], None] | None) -> ImageData:
    data = load_data(options, device)
    if warn is not None:
        for warning in data.warnings():
            warn(warning)
    return data


def _whole(device: torch.device) -> dict[str, float]:
    """What a process that has a device of its own reserves: a GPU, or as many cores as torch computes with."""
    return {"gpus": float(device.type == "cuda"), "cores": float(torch.get_num_threads())}


@contextmanager
def _recorded(tracker: Tracker, unit: Unit, journal: Journal) -> Iterator[None]:
    """Record in journal and MLflow how the epochs inside end."""
    try:
        yield
    except (ConstraintsError, DataError, NonFiniteLossError) as error:
        journal.finish("failed", str(error))
        sync_now(tracker, unit, journal)
        raise
    journal.finish("complete")
    sync_now(tracker, unit, journal)


@contextmanager
def _stoppable(tracker: Tracker, unit: Unit, folder: Path) -> Iterator[None]:
    """Mark the run as killed if a signal stops what is inside.

    Raises:
        RunInterrupted: saying what is left of it.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        with suppress(*STORE_ERRORS):
            tracker.client.set_terminated(tracker.run_id(unit), "KILLED")
        raise RunInterrupted(
            f"{unit.kind} `{unit.label}` is marked as killed in MLflow; {folder} has what it did, and the same command "
            "begins a new one"
        ) from error


def _new_folder(parent: Path, name: str, tracker: Tracker) -> Path:
    try:
        (parent / name).mkdir(parents=True)
    except FileExistsError as error:
        raise OrchestratorError(f"{parent / name} exists: choose another --name") from error
    if tracker.has_run(name):  # of another folder of runs
        (parent / name).rmdir()
        raise OrchestratorError(f"{tracker.tracking_uri} has a run `{name}` already: choose another --name")
    return parent / name
