"""`snas study delete`: nothing is left of a study, nothing else is touched, and a kill in between is completed."""

from __future__ import annotations

import io
import sqlite3
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.driver.deletion import delete, deletion
from orchestrator.files.layout import Runs
from orchestrator.files.lock import driver_lock
from orchestrator.study.study import Study
from tests.orchestrator.made import made_study
from tests.orchestrator.tiny import snas

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Two finished studies with a registered model each in one folder; the tests delete more and more of it."""
    root = tmp_path_factory.mktemp("two") / "runs"
    for name in ("made", "other"):
        made_study(root, name, retrain=True)
    return Runs(root)


def rows(root: Path) -> dict[str, int]:
    """How many rows the tables of both stores have."""
    counts = {}
    for file in ("mlflow.db", "optuna.db"):
        with sqlite3.connect(root / file) as store:
            tables = [name for (name,) in store.execute("select name from sqlite_master where type = 'table'")]
            counts |= {table: store.execute(f"select count(*) from {table}").fetchone()[0] for table in tables}
    return counts


def test_checkpoints_alone(runs: Runs) -> None:
    checkpoints = runs.study("made").path / "checkpoints"
    assert list(checkpoints.rglob("*.pt"))
    done = snas("study", "delete", "made", "--checkpoints-only", "--yes", "--runs", runs.root)
    assert done.code == 0, done.said
    assert "checkpoints of 1 trials and retrainings that are over (" in done.said
    assert list(checkpoints.rglob("*.pt")) == []
    assert snas("study", "doctor", "made", "--runs", runs.root).code == 0


def test_nothing_goes_while_a_driver_runs_or_if_nobody_says_yes(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    with driver_lock(runs.study("made").lock_file, "made"):
        assert "is being run by another process" in snas("study", "delete", "made", "--runs", runs.root).said
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert snas("study", "delete", "made", "--runs", runs.root).code == 1
    assert snas("study", "doctor", "made", "--runs", runs.root).code == 0


def test_deleted_study_leaves_no_orphan(runs: Runs) -> None:
    client = MlflowClient(f"sqlite:///{runs.root}/mlflow.db")
    study = Study.load("made", runs)
    with deletion(study, checkpoints_only=False) as planned, pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.driver.deletion._drop_from_optuna", lambda study: 1 / 0)
        with pytest.raises(ZeroDivisionError):  # as if it was killed between MLflow and Optuna
            delete(study, planned)
    assert "4 runs, 1 versions of model `made-child` and artifacts (" in " ".join(planned.parts)
    done = snas("study", "delete", "made", "--yes", "--runs", runs.root)
    assert done.code == 0, done.said
    assert "journals and study file (" in done.said
    assert runs.study_names() == ["other"]
    assert not runs.study("made").path.exists()
    assert [path.name for path in (runs.root / "mlartifacts").iterdir()] == ["other"]
    assert [model.name for model in client.search_registered_models()] == ["other-child"]
    assert client.get_experiment_by_name("made") is None, "its name is free"
    left = rows(runs.root)
    other = snas("study", "doctor", "other", "--runs", runs.root)
    assert other.code == 0, other.said
    assert snas("study", "delete", "other", "--yes", "--runs", runs.root).code == 0
    gone = rows(runs.root)
    assert left["studies"] == 1
    assert {table: count for table, count in gone.items() if count and count != left[table]} == {"experiments": 1}
    assert gone["studies"] == gone["trials"] == gone["runs"] == gone["metrics"] == gone["logged_models"] == 0
