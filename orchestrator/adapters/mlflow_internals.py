"""Private interfaces of MLflow: metrics of many runs in one request, and what it remembers of where files are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Limits of MLflow's own request for many histories.
MAX_RUNS, MAX_POINTS = 100, 25_000


def points_of_runs(client: MlflowClient, run_ids: Sequence[str], key: str) -> list[tuple[str, int, float]] | None:
    """(run id, step, value) of one metric in one request, at most `MAX_POINTS`; None if the store has no such request.

    MlflowClient has only a request per run and metric, which takes minutes for a thousand runs.

    Args:
        client: of the store.
        run_ids: at most `MAX_RUNS`.
        key: name of the metric.
    """
    store: Any = client._tracking_client.store
    if hasattr(store, "get_metric_history_bulk"):
        many = store.get_metric_history_bulk(run_ids, key, MAX_POINTS)
        return [(point.run_id, point.step, point.value) for point in many]
    if not client.tracking_uri.startswith(("http://", "https://")):
        return None
    from mlflow.utils.rest_utils import http_request

    asked = [*(("run_id", run_id) for run_id in run_ids), ("metric_key", key), ("max_results", str(MAX_POINTS))]
    endpoint = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"
    answer = http_request(store.get_host_creds(), endpoint, "GET", params=asked)  # type: ignore[no-untyped-call]
    if answer.status_code != 200:  # not MLflow's own server
        return None
    return [(point["run_id"], int(point.get("step", 0)), float(point["value"])) for point in answer.json()["metrics"]]


def forget_addresses() -> None:
    """Have MLflow ask again where runs have their files: it keeps that by run id, and a copy has the same ids."""
    from mlflow.tracking._tracking_service import utils  # not for readers: it takes seconds

    utils._artifact_repos_cache.clear()


def purge_experiment(client: MlflowClient, experiment_id: str) -> bool:
    """Remove an experiment with its runs and models for good, as `mlflow gc` does; artifacts stay.

    Args:
        client: of the store.
        experiment_id: deleted already.

    Returns:
        False if the store is behind a server, which removes nothing for good.
    """
    store: Any = client._tracking_client.store
    if not hasattr(store, "_hard_delete_experiment"):
        return False
    from mlflow.entities import ViewType

    while runs := store.search_runs([experiment_id], "", ViewType.ALL, max_results=1000):
        for run in runs:
            store._hard_delete_run(run.info.run_id)
    with store.ManagedSessionMaker() as session:
        from mlflow.store.tracking.dbmodels.models import SqlLoggedModel

        known = session.query(SqlLoggedModel.model_id).filter(SqlLoggedModel.experiment_id == int(experiment_id))
        models = [model_id for (model_id,) in known]
    for model_id in models:
        store._hard_delete_logged_model(model_id)
    store._hard_delete_experiment(experiment_id)
    return True
