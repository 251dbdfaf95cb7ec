"""Versions of registered models, with their aliases."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from dashboards.records import ModelRecord


def model_versions(client: MlflowClient, name: str) -> list[ModelRecord]:
    """All versions of a registered model; none if there is no such model."""
    quote = '"' if "'" in name else "'"
    if quote in name:  # cannot be asked for
        return []
    try:
        by_alias = client.get_registered_model(name).aliases  # a search of versions leaves them out
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return []
        raise
    found: list[ModelRecord] = []
    token: str | None = None
    while token is None or token:
        versions = client.search_model_versions(f"name = {quote}{name}{quote}", page_token=token)
        for entry in versions:
            version = str(entry.version)
            aliases = tuple(sorted(alias for alias, named in by_alias.items() if str(named) == version))
            found.append(ModelRecord(name=name, version=version, run_id=entry.run_id or "", aliases=aliases))
        token = versions.token or ""
    return found
