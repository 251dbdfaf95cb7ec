from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from tests.integration.servers import MlflowServer, PostgresServer, postgres_programs


@pytest.fixture(autouse=True)
def no_stores_from_outside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test decides itself where MLflow's store and the folder of runs are, and leaves no choice to the next one."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID", "SNAS_RUNS", "PGPASSWORD"):
        monkeypatch.delenv(name, raising=False)
    yield
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="session")
def has_postgres() -> None:
    """Skips where PostgreSQL is not installed; `.ci/run` installs it."""
    try:
        postgres_programs()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture
def postgres(has_postgres: None) -> Iterator[PostgresServer]:
    """A PostgreSQL that lets everybody in, empty."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[MlflowServer]:
    """A tracking server on SQLite that serves its artifacts."""
    with MlflowServer(tmp_path / "mlflow-server") as server:
        yield server


@pytest.fixture
def mlflow_on_postgres(postgres: PostgresServer, tmp_path: Path) -> Iterator[MlflowServer]:
    """A tracking server on a database of `postgres` that serves its artifacts."""
    with MlflowServer(tmp_path / "mlflow-server", postgres.create_database("mlflow")) as server:
        yield server
