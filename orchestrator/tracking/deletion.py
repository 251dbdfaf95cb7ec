"""What MLflow has of a study, and its removal: model versions, runs, the experiment and its artifacts."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from dashboards.mlflow_store.databases import current_address
from dashboards.mlflow_store.mlflow_access import search_all
from orchestrator.adapters.mlflow_internals import purge_experiment
from orchestrator.tracking.model_versions import all_versions
from orchestrator.tracking.stored import existing_store


@dataclass(frozen=True)
class Tracked:
    """What MLflow has of a study.

    Attributes:
        client: of the store.
        experiment_id: of the study.
        is_active: whether it was not deleted before.
        runs: ids of all runs, deleted ones too.
        versions: of its registered model that come from these runs.
        artifacts: folder of its artifacts; None where a server keeps them.
    """

    client: MlflowClient
    experiment_id: str
    is_active: bool
    runs: frozenset[str]
    versions: tuple[ModelVersion, ...]
    artifacts: Path | None


def tracked(uri: str, study: str, registered_name: str) -> Tracked | None:
    """What a store has of a study; None if it has nothing, or there is no store.

    Raises:
        MlflowException: if the store does not answer.
    """
    try:
        client = existing_store(uri)
    except FileNotFoundError:
        return None
    found = client.get_experiment_by_name(study)
    if found is None:
        return None
    runs = search_all(client, [found.experiment_id], "", 1000, view=ViewType.ALL)
    ids = frozenset(run.info.run_id for run in runs)
    versions = tuple(version for version in all_versions(client, registered_name) if version.run_id in ids)
    address = urlparse(current_address(found.artifact_location, uri))
    return Tracked(
        client=client,
        experiment_id=found.experiment_id,
        is_active=found.lifecycle_stage == "active",
        runs=ids,
        versions=versions,
        artifacts=Path(unquote(address.path)) if address.scheme == "file" else None,
    )


def remove(found: Tracked, study: str) -> str:
    """Remove it; what a killed process has removed already is passed over.

    Returns:
        What is left, and how it is removed; empty if nothing is.

    Raises:
        MlflowException: if the store does not answer, or does not let us.
    """
    client = found.client
    for version in found.versions:
        client.delete_model_version(version.name, version.version)
    for name in {version.name for version in found.versions}:
        if not all_versions(client, name):
            client.delete_registered_model(name)
    if found.is_active:
        client.delete_experiment(found.experiment_id)
    if not purge_experiment(client, found.experiment_id):
        _free_name(client, found.experiment_id, study)
        return (
            f"the tracking server keeps deleted runs and their artifacts until, on its machine: "
            f"mlflow gc --experiment-ids {found.experiment_id}"
        )
    if found.artifacts is not None:
        shutil.rmtree(found.artifacts, ignore_errors=True)
        return f"artifacts in {found.artifacts}" if found.artifacts.exists() else ""
    return ""


def _free_name(client: MlflowClient, experiment_id: str, study: str) -> None:
    """A deleted experiment keeps its name, which another study may want: restore, rename, delete."""
    client.restore_experiment(experiment_id)
    with suppress(MlflowException):  # not every server lets one
        client.rename_experiment(experiment_id, f"{study} (deleted {experiment_id})")
    client.delete_experiment(experiment_id)
