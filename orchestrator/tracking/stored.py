"""What an MLflow store has of earlier runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from dashboards.mlflow_store.databases import current_address, sqlite_file
from dashboards.mlflow_store.mlflow_access import run_of
from dashboards.mlflow_store.store_lock import opened_client
from orchestrator.errors import OrchestratorError
from orchestrator.stores import store_error

if TYPE_CHECKING:
    from orchestrator.study.study import Study


def existing_store(uri: str) -> MlflowClient:
    """A client of a store, which is not made if it is missing.

    Raises:
        FileNotFoundError: if there is no such store.
    """
    if (file := sqlite_file(uri)) is not None and not file.is_file():
        raise FileNotFoundError("there is no such store")  # asking would make an empty one
    return opened_client(uri)


@contextmanager
def opened_run(study: Study, unit: str) -> Iterator[tuple[MlflowClient, Run]]:
    """The run of a unit of a study, to read it or to add to it.

    Args:
        study: running or not.
        unit: as `layout.unit_label`, or `study` for the study's own run.

    Raises:
        OrchestratorError: if it has none yet, or the store does not answer, inside as well.
    """
    try:
        client = existing_store(study.tracking_uri)
        found = client.get_experiment_by_name(study.spec.name)
        run = None if found is None else run_of(client, found.experiment_id, unit)
        if run is None:
            raise OrchestratorError(f"{unit} of study `{study.spec.name}` must have a run in MLflow, it has none")
        yield client, run
    except (MlflowException, OSError) as error:
        raise store_error(f"the MLflow store {study.tracking_uri}", error) from error


def stored_file(uri: str, folder: str, name: str) -> Path:
    """A file of a run or model, from where it is now.

    Args:
        uri: address of the store.
        folder: address of the run's or model's artifacts, as the store has it.
        name: of the file in there.

    Raises:
        MlflowException: if it cannot be had.
        OSError: likewise.
    """
    address = f"{current_address(folder, uri)}/{name}"
    return Path(download_artifacts(artifact_uri=address, tracking_uri=uri))


def store_file(uri: str, folder: str, file: Path) -> None:
    """Add a file to those of a run, where they are now; the rest is as of `stored_file`."""
    files = get_artifact_repository(current_address(folder, uri), uri)
    files.log_artifact(str(file))  # type: ignore[no-untyped-call]
