"""What an MLflow store has of earlier runs."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from dashboards.mlflow_store.databases import current_address, sqlite_file
from dashboards.mlflow_store.store_lock import opened_client


def existing_store(uri: str) -> MlflowClient:
    """A client of a store, which is not made if it is missing.

    Raises:
        FileNotFoundError: if there is no such store.
    """
    if (file := sqlite_file(uri)) is not None and not file.is_file():
        raise FileNotFoundError("there is no such store")  # asking would make an empty one
    return opened_client(uri)


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
