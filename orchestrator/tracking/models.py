"""Retrained children as MLflow models."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from importlib.metadata import version
from typing import Any

import mlflow
import torch
from mlflow.models import infer_signature

from orchestrator.tracking.descriptions import describe_model, describe_version
from orchestrator.tracking.tracker import Tracker
from search_core.data.datasets import ImageData
from search_core.network.chain import ChildNetwork
from search_core.space.choices import CellChoices
from search_core.space.genotype import Genotype
from search_core.training.retrain import build_child
from search_core.training.retrain_options import RetrainOptions

_LOGGED = "snas.model"  # tag of a run whose model is logged


def log_child(
    tracker: Tracker,
    run_id: str,
    *,
    genotype: Genotype,
    options: RetrainOptions,
    data: ImageData,
    state: Mapping[str, Any],
    registered_name: str,
    choices: CellChoices | None = None,
) -> None:
    """Log and register a trained child, once per run: images in, logits out, with signature and input example.

    Args:
        tracker: MLflow.
        run_id: run of the retraining.
        genotype: the cell.
        options: size of the child.
        data: the data set, for shapes and an example.
        state: state dict of the finished retraining.
        registered_name: name in the model registry.
        choices: channels and bits of the cells, if the search chose them.
    """
    if is_logged(tracker, run_id):
        return
    try:
        # A driver may have been killed, or an answer lost, between the registration and the tag.
        versions = _of_run(registered_name, run_id)
        if not tracker.client.search_model_versions(versions):
            child = build_child(genotype, options, data, seed=0, choices=choices)
            child.load_state_dict(state["child"])
            _register(tracker, run_id, child.eval(), data, registered_name)
        for version in tracker.client.search_model_versions(versions):
            _describe(tracker, run_id, registered_name, str(version.version), data)
    finally:
        # `start_run` marks the run as failed if the model cannot be logged, but the retraining did not fail.
        tracker.client.set_terminated(run_id, "FINISHED")
    tracker.client.set_tag(run_id, _LOGGED, registered_name)


def _register(tracker: Tracker, run_id: str, child: ChildNetwork, data: ImageData, registered_name: str) -> None:
    images, _ = next(iter(data.validation.batches(2)))
    example = images.cpu()
    with torch.no_grad():
        logits = child(example)
    # MLflow prints what it registers; the progress view has the terminal.
    with redirect_stderr(io.StringIO()), _global_store(tracker.tracking_uri), mlflow.start_run(run_id=run_id):
        mlflow.pytorch.log_model(
            child,
            name="child",
            input_example=example.numpy(),
            signature=infer_signature(example.numpy(), logits.numpy()),
            registered_model_name=registered_name,
            pip_requirements=[f"torch=={version('torch')}"],
        )


def _describe(tracker: Tracker, run_id: str, name: str, version: str, data: ImageData) -> None:
    """Say on MLflow's pages of the registry what the model is, where it comes from and how to load it."""
    run = tracker.client.get_run(run_id)
    text = describe_version(run, name, version, data.input_shape, data.num_classes)
    tracker.client.update_model_version(name, version, text)
    tracker.client.update_registered_model(name, describe_model(run, name))


@contextmanager
def _global_store(uri: str) -> Iterator[None]:
    """Point MLflow's fluent functions to a store.

    `set_tracking_uri` also sets MLFLOW_TRACKING_URI, which the next study of this process would take for the user's.
    """
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)  # type: ignore[arg-type]  # None unsets it


def is_logged(tracker: Tracker, run_id: str) -> bool:
    """Whether a run has its model already, and the model has not been deleted since."""
    name = tracker.client.get_run(run_id).data.tags.get(_LOGGED)
    return name is not None and bool(tracker.client.search_model_versions(_of_run(name, run_id)))


def _of_run(name: str, run_id: str) -> str:
    return f"name = '{name}' and run_id = '{run_id}'"
