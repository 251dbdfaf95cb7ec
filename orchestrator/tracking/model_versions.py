"""The versions of a registered model, each of which belongs to the run of a retraining."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from dashboards.mlflow_store.mlflow_access import all_pages


def drop_replaced(client: MlflowClient, experiment_id: str, name: str) -> None:
    """Delete the versions of a model that another one replaces; their aliases go to that one.

    A retraining whose run was deleted gets a new run, with a version of its own. Versions whose retraining has no other
    stay, and so do those of other studies.

    Args:
        client: of the store.
        experiment_id: of the study.
        name: of the registered model.
    """
    newest: dict[str, str] = {}  # version by retraining
    older: list[tuple[str, str]] = []  # version and retraining
    for found in sorted(all_versions(client, name), key=lambda found: -int(found.version)):
        run = existing_run(client, str(found.run_id))
        if run is None or run.info.experiment_id != experiment_id:
            continue
        number, unit = str(found.version), run.data.tags.get("snas.unit", "")
        if run.info.lifecycle_stage == "active" and unit not in newest:
            newest[unit] = number
        else:
            older.append((number, unit))
    for number, unit in older:
        if unit in newest:
            for alias in client.get_model_version(name, number).aliases:
                client.set_registered_model_alias(name, alias, newest[unit])
            client.delete_model_version(name, number)


def all_versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """All versions of a registered model that runs logged, without their aliases."""
    found = all_pages(lambda token: client.search_model_versions(f"name = '{name}'", page_token=token))
    return [version for version in found if version.run_id]


def existing_run(client: MlflowClient, run_id: str) -> Run | None:
    """A run, perhaps a deleted one; None if there is none of this id, or if it was removed for good."""
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
