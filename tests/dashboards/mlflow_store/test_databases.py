"""Addresses of databases, whether their tables fit, and commands: what MLflow, Optuna and a shell make of them."""

from __future__ import annotations

import os
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import optuna
import pytest
from alembic import command
from alembic.config import Config
from mlflow import MlflowClient

from dashboards.errors import StoreAwayError
from dashboards.mlflow_store.databases import (
    current_address,
    experiment_fault,
    mlflow_command,
    schema_fault,
    sqlite_file,
    sqlite_url,
)
from dashboards.mlflow_store.mlflow_store import MlflowStore

#: Names of folders with characters that mean something in addresses, in shells or in SQL.
NAMES = ["a b#é日本+%zz:b@c&d;e", "100%", 'it\'s "[$x]" \\b `c`']
MISREAD = ["a?b", "a%20b", "%2e%2e", "what?"]


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database of each, as making their tables takes seconds."""
    folder = tmp_path_factory.mktemp("databases")
    MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
    optuna.create_study(storage=f"sqlite:///{folder}/optuna.db", study_name="there")
    return folder


@pytest.fixture
def copied(databases: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(databases, tmp_path / "in" / name))


@pytest.mark.parametrize("name", NAMES)
def test_address_leads_mlflow_and_optuna_to_the_same_file(copied: Callable[[str], Path], name: str) -> None:
    folder = copied(name)
    url, storage = sqlite_url(folder / "mlflow.db"), sqlite_url(folder / "optuna.db")
    assert sqlite_file(url) == folder / "mlflow.db"
    client = MlflowClient(url)
    experiment = client.create_experiment("x", (folder / "mlartifacts" / "x").as_uri())
    run_id = client.create_run(experiment).info.run_id
    client.log_text(run_id, "written", "deep/file.txt")
    assert (folder / "mlartifacts" / "x" / run_id / "artifacts" / "deep" / "file.txt").read_text() == "written"
    assert Path(client.download_artifacts(run_id, "deep/file.txt")).read_text() == "written"
    assert optuna.get_all_study_names(storage) == ["there"]
    with sqlite3.connect(folder / "mlflow.db") as connection:
        assert connection.execute("SELECT run_uuid FROM runs").fetchall() == [(run_id,)]
    assert [path.name for path in folder.parent.iterdir()] == [name], "nothing lands beside it"


@pytest.mark.parametrize("name", [*MISREAD, "not\udcff"])
def test_path_that_is_misread_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"must be UTF-8, without `\?` and without `%` before two hexadecimal digits"):
        sqlite_url(tmp_path / name / "mlflow.db")


def test_only_files_of_sqlite_have_a_path() -> None:
    assert sqlite_file("sqlite:////a/b.db?timeout=5") == Path("/a/b.db")
    assert sqlite_file("sqlite:///b%20c.db") == Path("b c.db"), "as SQLAlchemy reads it"
    others = ["sqlite://", "sqlite:///:memory:", "sqlite:///file:a?uri=true", "http://host:5000", "postgresql://host/a"]
    assert [sqlite_file(url) for url in others] == [None] * 5


def test_command_names_the_store_for_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = sqlite_url(tmp_path / "it's a b" / "mlflow.db")
    delete = mlflow_command(url, "runs", "delete", "--run-id", "f00")
    command = delete.replace("mlflow runs", "env | grep ^MLFLOW_TRACKING_URI= #")
    assert subprocess.run(command, shell=True, capture_output=True, text=True).stdout == f"MLFLOW_TRACKING_URI={url}\n"
    monkeypatch.chdir(tmp_path)
    assert shlex.quote(f"sqlite:///{tmp_path}/mlflow.db") in mlflow_command("sqlite:///mlflow.db", "gc"), (
        "from anywhere"
    )
    assert "secret" not in mlflow_command("postgresql://me:secret@host/db", "gc")


@pytest.mark.parametrize("tool", ["MLflow", "Optuna"])
@pytest.mark.parametrize("age", ["older", "newer"])
def test_tables_of_another_version_are_named_and_kept(copied: Callable[[str], Path], tool: str, age: str) -> None:
    file = copied("a b") / f"{tool.lower()}.db"
    url = sqlite_url(file)
    assert schema_fault(tool, url) is None  # type: ignore[arg-type]
    older = {"MLflow": "451aebb31d03", "Optuna": "v3.0.0.a"}
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (older[tool] if age == "older" else "f00",))
    before = file.read_bytes()
    fault = schema_fault(tool, url)  # type: ignore[arg-type]
    assert fault is not None
    assert f"was made by {'an older' if age == 'older' else 'a newer'} {tool} than" in fault.what
    assert (f"{shlex.quote(url)}`" in fault.remedy) == (age == "older")
    if tool == "MLflow":
        with pytest.raises(StoreAwayError, match=f"{age} MLflow"):
            MlflowStore(url).overviews()
    assert file.read_bytes() == before


def test_tables_of_what_is_not_there_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database")
    for url in ("http://127.0.0.1:9", f"sqlite:///{tmp_path}/none.db", f"sqlite:///{tmp_path}/text.db"):
        assert schema_fault("MLflow", url) is None
    assert not (tmp_path / "none.db").exists()


def test_deleted_experiment_is_brought_back_unless_something_new_wants_its_name() -> None:
    old = experiment_fault("sqlite:////a b/mlflow.db", "digits", "7", is_new=False)
    assert old.what == "the experiment `digits` in sqlite:////a b/mlflow.db was deleted"
    assert "`MLFLOW_TRACKING_URI='sqlite:////a b/mlflow.db' mlflow experiments restore --experiment-id 7`" in old.remedy
    new = experiment_fault("http://me:pw@host", "digits", "7", is_new=True)
    assert (new.what, new.remedy) == (
        "a deleted experiment in http://host has the name `digits`",
        "choose another --name",
    )


def test_files_that_came_along_are_found(tmp_path: Path) -> None:
    (tmp_path / "mlartifacts" / "x").mkdir(parents=True)
    url, former = f"sqlite:///{tmp_path}/mlflow.db", "file:///old/runs/mlartifacts"
    here = (tmp_path / "mlartifacts").as_uri()
    assert current_address(f"{former}/x/f00/artifacts", url) == f"{here}/x/f00/artifacts"
    for address in (f"{former}/y/f00/artifacts", "file:///old/x/f00/artifacts", "s3://bucket/mlartifacts/x/f00"):
        assert current_address(address, url) == address
    assert current_address(f"{former}/x/f00/artifacts", "http://host") == f"{former}/x/f00/artifacts"


@pytest.mark.slow
def test_upgrade_that_is_printed_upgrades(copied: Callable[[str], Path]) -> None:
    folder = copied("it's a b")
    url = sqlite_url(folder / "mlflow.db")
    scripts = Path(mlflow.__file__).parent / "store" / "db_migrations"
    config = Config(str(scripts / "alembic.ini"))
    config.set_main_option("script_location", str(scripts))
    config.set_main_option("sqlalchemy.url", url)
    command.downgrade(config, "-1")
    fault = schema_fault("MLflow", url)
    assert fault is not None
    # Optuna's migrations cannot be undone on SQLite: its command is tried on tables that fit.
    optunas = f"optuna storage upgrade --storage {shlex.quote(sqlite_url(folder / 'optuna.db'))}"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for printed in (fault.remedy.split("`")[1], optunas):
        done = subprocess.run(printed, shell=True, capture_output=True, text=True, cwd=folder.parent, env=environment)
        assert done.returncode == 0, done.stderr
    assert schema_fault("MLflow", url) is None
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
