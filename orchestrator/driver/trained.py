"""Trained children as MLflow keeps them: found by run, study or model, with weights, images and figures."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from dashboards.mlflow_store.mlflow_access import unit_run
from orchestrator.errors import OrchestratorError, first_line
from orchestrator.files.layout import Runs, unit_label
from orchestrator.study.study import Study
from orchestrator.tracking.artifacts import GENOTYPE
from orchestrator.tracking.models import model_weights
from orchestrator.tracking.stored import existing_store, stored_file
from search_core.data.dataset_options import DatasetOptions
from search_core.data.datasets import ImageData, load_data
from search_core.network.chain import ChildNetwork
from search_core.space.cell_files import load_genotype
from search_core.space.choices import CellChoices
from search_core.training.retrain import build_child
from search_core.training.retrain_options import RetrainOptions


@dataclass(frozen=True)
class TrainedChild:
    """A child that was trained from scratch.

    Attributes:
        run_id: MLflow run of its training.
        name: of that run.
        network: with its weights, on the CPU, in evaluation mode.
        data: the images that it was trained, validated and tested on.
        metrics: of the last epoch.
        params: settings of the training, as MLflow has them.
    """

    run_id: str
    name: str
    network: ChildNetwork
    data: ImageData
    metrics: Mapping[str, float]
    params: Mapping[str, str]


def run_of_trial(runs: Runs, study: str, trial: int, seed: int | None) -> tuple[str, str]:
    """The MLflow run of the training of a trial's cell.

    Args:
        runs: folder of all runs.
        study: name of the study.
        trial: number of the trial.
        seed: of the training; None for the first.

    Returns:
        Address of the store and id of the run.

    Raises:
        OrchestratorError: if there is no such study or training.
    """
    handle = Study.load(study, runs)
    cells = {record.number: record.cell for record in handle.trials()}
    # The cell may be another trial's, too, and was then trained as that one's.
    jobs = [job for job in handle.retrain_jobs() if (job.genotype, job.choices) == cells.get(trial)]
    chosen = [job for job in jobs if seed in (None, job.seed)]
    if not chosen:
        known = [f"trial {job.trial} with seed {job.seed}" for job in jobs or handle.retrain_jobs()]
        wanted = f"trial {trial}" + ("" if seed is None else f" with seed {seed}")
        raise OrchestratorError(f"the cell of {wanted} must have been retrained, got {', '.join(known) or 'none'}")
    label = unit_label("retrain", chosen[0].label)
    if (run := unit_run(handle.tracking_uri, study, label)) is None:
        raise OrchestratorError(f"{handle.tracking_uri} must have the run {label} of `{study}`; {handle.resume_hint}")
    return handle.tracking_uri, str(run.info.run_id)


def run_of_model(runs: Runs, model: str) -> tuple[str, str]:
    """The MLflow run that trained a registered model, `NAME@ALIAS` or `NAME/VERSION`; as `run_of_trial`.

    Raises:
        OrchestratorError: if there is no such model.
    """
    uri = runs.tracking_uri()
    name, is_alias, alias = model.partition("@")
    name, _, version = (name, "", "") if is_alias else model.rpartition("/")
    if not name or not (alias or version):
        raise OrchestratorError(f"--model must be NAME@ALIAS or NAME/VERSION, got {model}")
    with _asked(uri, f"model {model}") as client:
        found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, version)
    return uri, str(found.run_id)


def load_trained(uri: str, run_id: str) -> TrainedChild:
    """The child of a training's run.

    Args:
        uri: address of the MLflow store.
        run_id: of the run.

    Raises:
        OrchestratorError: if there is no such run, or no trained child in it.
        DataError: if its images cannot be read.
    """
    with _asked(uri, f"run {run_id}") as client:
        run = client.get_run(run_id)
        models = run.outputs.model_outputs if run.outputs is not None else []
        if not models:
            raise OrchestratorError(f"run {run_id} must have trained a child to its end: {run.info.run_name} did not")
        genotype = load_genotype(stored_file(uri, run.info.artifact_uri, GENOTYPE))
        model = client.get_logged_model(models[-1].model_id)
        weights = model_weights(uri, model.artifact_location)
    data = _images(run)
    recipe = replace(RetrainOptions(**_options(RetrainOptions, run.data.params)), auxiliary_weight=0.0)
    chosen = {name: _value(run.data.params.get(f"choices.{name}", "()")) for name in ("shares", "bits")}
    choices = CellChoices.from_dict(chosen) if chosen["shares"] else None
    network = build_child(genotype, recipe, data, seed=0, choices=choices)
    network.load_state_dict(weights)
    return TrainedChild(run_id, run.info.run_name, network.eval(), data, run.data.metrics, run.data.params)


def _images(run: Run) -> ImageData:
    """The images of a run; code that gives them is trusted already, or not run."""
    params, prefix = run.data.params, "dataset.options."
    given = {key.removeprefix(prefix): _value(text) for key, text in params.items() if key.startswith(prefix)}
    data = load_data(DatasetOptions(**_options(DatasetOptions, params, "dataset."), options=given), torch.device("cpu"))
    if (digest := run.data.tags.get("dataset.digest", data.digest)) != data.digest:
        raise OrchestratorError(
            f"the images of {data.name} must be those of run {run.info.run_id} (digest {digest[:12]}), got others "
            f"(digest {data.digest[:12]})"
        )
    return data


def _options(
    options: type[DatasetOptions | RetrainOptions], params: Mapping[str, str], prefix: str = ""
) -> dict[str, Any]:
    """Settings of a dataclass among the params of a run, which are text."""
    names = [field.name for field in fields(options) if prefix + field.name in params]
    return {name: _value(params[prefix + name]) for name in names}


def _value(text: str) -> object:
    try:
        found = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
    return tuple(found) if isinstance(found, list) else found


@contextmanager
def _asked(uri: str, wanted: str) -> Iterator[MlflowClient]:
    """A client of a store that exists; what it cannot answer is a user's error."""
    try:
        yield existing_store(uri)
    except (MlflowException, OSError) as error:
        raise OrchestratorError(f"{wanted} must be whole in {uri}, got: {first_line(error)}") from error
