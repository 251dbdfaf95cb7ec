from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import pytest

from tests.integration.servers import MlflowServer, PostgresServer
from tests.integration.studies import StudyProcess


@pytest.fixture(scope="session")
def socket_folder() -> Iterator[Callable[[], Path]]:
    """Makes folders for the sockets of Ray, which take 107 bytes of path at most: pytest-xdist takes more."""
    with TemporaryDirectory(prefix="snas-", ignore_cleanup_errors=True) as parent:
        yield lambda: Path(mkdtemp(dir=parent))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> StudyProcess:
    """`STUDY` without any fault."""
    study = StudyProcess(tmp_path_factory.mktemp("undisturbed"))
    study.start()
    study.finish()
    return study


@pytest.fixture
def postgres(postgres_programs: None) -> Iterator[PostgresServer]:
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
