"""Stores of MLflow and Optuna: which are supported, and several processes that make them at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from dashboards.mlflow_store.store_lock import store_lock
from orchestrator.errors import OrchestratorError
from orchestrator.stores import check_tracking_uri, store_error

#: Opens both stores of a folder when it is given a line.
_OPEN = """
import sys
from orchestrator.sampling.samplers import open_storage
from orchestrator.tracking.tracker import Tracker
folder = sys.argv[1]
print("ready", flush=True)
sys.stdin.readline()
Tracker(f"sqlite:///{folder}/mlflow.db", "searches", artifact_location=None, tags={})
open_storage(f"sqlite:///{folder}/optuna.db")
"""


@pytest.mark.parametrize(
    "uri",
    [
        "http://mlflow:5000",
        "https://mlflow/base",
        "sqlite:///mlflow.db",
        "sqlite:////runs/mlflow.db",
        "postgresql://me@db/mlflow",
        "postgresql+psycopg2://db/mlflow",
        "mysql+pymysql://db/mlflow",
    ],
)
def test_servers_and_databases_are_supported(uri: str) -> None:
    assert check_tracking_uri(uri) == uri


@pytest.mark.parametrize(
    "uri", ["file:///runs", "./mlruns", "databricks", "uc:x", "sqlite://", "s3://b/runs", "https:"]
)
def test_other_stores_are_not_supported(uri: str) -> None:
    with pytest.raises(OrchestratorError, match=r"is not supported: use .* unset MLFLOW_TRACKING_URI"):
        check_tracking_uri(uri)


def test_error_of_a_store_is_one_line_without_its_sql() -> None:
    error = ValueError("(sqlite3.OperationalError) database is locked\n[SQL: SELECT 1]")
    assert str(store_error("the store s", error)) == (
        "the store s must be reachable, got: (sqlite3.OperationalError) database is locked"
    )


def test_lock_is_made_by_those_who_make_stores_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/mlflow.db"
    with store_lock(url, makes=False):
        assert list(tmp_path.iterdir()) == []
    with store_lock(url):
        assert [file.name for file in tmp_path.iterdir()] == [".stores.lock"]
    with store_lock("sqlite:////no/such/folder/mlflow.db"), store_lock("postgresql://db/mlflow"):
        pass


@pytest.mark.slow
def test_processes_that_begin_at_once_make_each_store_once(tmp_path: Path) -> None:
    """MLflow and Optuna would make the same tables twice."""
    command = [sys.executable, "-c", _OPEN, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    openers = [subprocess.Popen(command, text=True, **pipes) for _ in range(3)]  # type: ignore[call-overload]
    for opener in openers:
        assert opener.stdout.readline() == "ready\n"
    for opener in openers:
        opener.stdin.write("\n")
        opener.stdin.flush()
    for opener in openers:
        _, said = opener.communicate(timeout=300)
        assert opener.returncode == 0, said
    assert optuna.get_all_study_names(f"sqlite:///{tmp_path}/optuna.db") == []
