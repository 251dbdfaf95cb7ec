"""Retrained children as MLflow models.

A model is a `PixelChild`, pickled by reference to classes of PyTorch and this project: no code lies in the artifact.
Its weights lie beside it once more, for readers that load no pickle of a store.
"""

from __future__ import annotations

import io
import os
import pickle
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature

from orchestrator.tracking.descriptions import describe_model, describe_version
from orchestrator.tracking.stored import stored_file
from orchestrator.tracking.tracker import Tracker
from search_core.data.datasets import ImageData
from search_core.errors import printable
from search_core.export import PixelChild
from search_core.export.formats import without_auxiliary
from search_core.space.choices import CellChoices
from search_core.space.genotype import Genotype
from search_core.training.retrain import build_child
from search_core.training.retrain_options import RetrainOptions

#: Weights beside the model.
WEIGHTS = "state_dict.pt"

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
    """Log and register a trained child, once per run: pixels in, logits out, with signature and input example.

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
            # It leaves without the auxiliary head, which is for its training only.
            recipe = replace(options, auxiliary_weight=0.0)
            child = build_child(genotype, recipe, data, seed=0, choices=choices)
            child.load_state_dict(without_auxiliary(state["child"]))
            model = PixelChild(child, data.mean, data.std, data.classes)
            _register(tracker, run_id, model.eval(), data, registered_name)
        for version in tracker.client.search_model_versions(versions):
            _describe(tracker, run_id, registered_name, str(version.version), data)
    finally:
        # `start_run` marks the run as failed if the model cannot be logged, but the retraining did not fail.
        tracker.client.set_terminated(run_id, "FINISHED")
    tracker.client.set_tag(run_id, _LOGGED, registered_name)


def _register(tracker: Tracker, run_id: str, model: PixelChild, data: ImageData, registered_name: str) -> None:
    images, _ = next(iter(data.validation.batches(2)))
    with torch.no_grad():
        example = model.pixels(images.cpu())
        logits = model(example)
    # MLflow prints what it registers, and warns of pickles; the progress view has the terminal.
    with (
        tempfile.TemporaryDirectory() as folder,
        redirect_stderr(io.StringIO()),
        _global_store(tracker.tracking_uri),
        mlflow.start_run(run_id=run_id),
    ):
        torch.save(model.child.state_dict(), weights := Path(folder) / WEIGHTS)
        mlflow.pytorch.log_model(
            model,
            name="child",
            serialization_format="pickle",
            pickle_module=pickle,  # by reference; MLflow's own would take classes into the file
            extra_files=[str(weights)],
            input_example=example.numpy(),
            signature=infer_signature(example.numpy(), logits.numpy()),
            registered_model_name=registered_name,
            metadata={"classes": [printable(name) for name in model.classes]},
            pip_requirements=[f"{package}=={version(package)}" for package in ("torch", "snas-orchestrator")],
        )


def model_weights(uri: str, folder: str) -> Mapping[str, torch.Tensor]:
    """Weights of a logged child by their names in it; nothing is unpickled.

    Args:
        uri: address of the store.
        folder: address of the model's files, as the store has it.

    Raises:
        MlflowException: if they cannot be had.
        OSError: likewise.
    """
    try:
        weights = stored_file(uri, folder, f"extra_files/{WEIGHTS}")
    except (MlflowException, OSError):  # logged before November 2026: a traced program
        return without_auxiliary(torch.export.load(stored_file(uri, folder, "data/model.pt2")).state_dict)
    found: Mapping[str, torch.Tensor] = torch.load(weights, weights_only=True)
    return found


def _describe(tracker: Tracker, run_id: str, name: str, version: str, data: ImageData) -> None:
    """Say on MLflow's pages of the registry what the model is, where it comes from and how to load it."""
    run = tracker.client.get_run(run_id)
    text = describe_version(run, name, version, data.input_shape, data.classes)
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
