"""A study on PostgreSQL and a tracking server, and the servers of the tests themselves."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path

import optuna
import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from orchestrator.driver.start import run_study
from orchestrator.files.layout import Runs
from orchestrator.sampling.samplers import create_optuna_study, load_optuna_study
from orchestrator.study.study import Study
from orchestrator.tracking.run_spec import SEARCH_METRICS
from search_core.search.reports import FINAL_METRICS
from tests.integration.servers import MlflowServer, PostgresServer
from tests.orchestrator.tiny import (
    RETRAIN,
    TWO_OBJECTIVES,
    artifact_paths,
    image_steps,
    runs_of,
    snas,
    steps_of,
    tiny_spec,
)

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PASSWORD = "planted-password-4711"


@pytest.fixture
def study(postgres: PostgresServer, mlflow_on_postgres: MlflowServer, tmp_path: Path) -> Study:
    """A study that ran to its end with Optuna on PostgreSQL and MLflow over HTTP."""
    spec = tiny_spec(
        name="served",
        trials=2,
        objectives=TWO_OBJECTIVES,
        max_concurrent=2,
        resources={"cpu": 0.5},
        retrain={**RETRAIN, "top": 1},
        storage={"url": postgres.create_database("optuna")},
        tracking={"uri": mlflow_on_postgres.uri, "picture_every": 2},
    )
    ran = Study(spec, Runs(tmp_path / "runs"))
    run_study(ran)
    return ran


def test_study_on_servers_is_all_there_and_all_gone_when_deleted(
    study: Study, postgres: PostgresServer, mlflow_on_postgres: MlflowServer
) -> None:
    client = MlflowClient(mlflow_on_postgres.uri)
    runs = {run.info.run_name: run for run in runs_of(client, "served")}
    retrains = [f"retrain-{record.label}" for record in study.retrains()]
    assert sorted(runs) == sorted(["served", "trial-0000", "trial-0001", *retrains])
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for name, run in runs.items():
        run_id = run.info.run_id
        assert run.info.artifact_uri.startswith("mlflow-artifacts:"), "the server keeps the artifacts"
        if not name.startswith("trial"):
            continue
        assert set(run.data.metrics) == {*SEARCH_METRICS, *FINAL_METRICS, "cpu_core_hours"}
        assert all(steps_of(client, run_id, metric) == [0, 1] for metric in SEARCH_METRICS)
        assert image_steps(client, run_id) == [0, 1]
        genotype = Path(client.download_artifacts(run_id, "genotype.json"))
        assert "normal" in json.loads(genotype.read_text(encoding="utf-8"))
        assert "history.parquet" in artifact_paths(client, run_id)
    assert steps_of(client, runs[retrains[0]].info.run_id, "val_accuracy") == [0]
    assert len(client.search_model_versions("name = 'served-child'")) == 1

    assert [trial.state.name for trial in study.optuna_study.get_trials()] == ["COMPLETE", "COMPLETE"]
    assert postgres.sql("SELECT count(*) FROM trials", "optuna") == "2"
    assert int(postgres.sql("SELECT count(*) FROM metrics", "mlflow")) > 2 * 2 * len(SEARCH_METRICS)
    assert list(mlflow_on_postgres.artifacts.rglob("history.parquet")), "in the server's folder"
    root = study.runs.root
    assert not [*root.glob("*.db"), *root.glob("mlartifacts")], "no store of its own"

    _delete(study, client)
    assert postgres.sql("SELECT count(*) FROM studies", "optuna") == "0"


def _delete(study: Study, client: MlflowClient) -> None:
    """`snas study delete`, and what must be gone from a tracking server then."""
    before = client.get_experiment_by_name("served")
    assert before is not None
    done = snas("study", "delete", "served", "--yes", "--runs", study.runs.root)
    assert done.code == 0, done.said
    assert f"mlflow gc --experiment-ids {before.experiment_id}" in " ".join(done.said.split()), "its owner's part"
    assert client.get_experiment_by_name("served") is None, "its name is free"
    assert client.get_experiment(before.experiment_id).lifecycle_stage == "deleted"
    assert client.search_registered_models() == []
    assert not study.folder.path.exists()


@pytest.mark.parametrize("leave", ["stop", "kill"])
def test_postgres_keeps_its_data_over_a_restart(postgres: PostgresServer, leave: str) -> None:
    spec = tiny_spec(name="kept")
    url = postgres.create_database("optuna")
    create_optuna_study(spec, url)
    load_optuna_study(spec, url).ask()
    getattr(postgres, leave)()
    with pytest.raises(OperationalError):
        load_optuna_study(spec, url)
    postgres.start()
    assert postgres.url("optuna") == url
    assert len(load_optuna_study(spec, url).trials) == 1


def test_postgres_with_a_password_takes_it_from_the_environment(
    postgres_programs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PostgresServer(password=PASSWORD) as server:
        url = server.create_database("optuna")
        assert PASSWORD not in url
        with pytest.raises(OperationalError, match="password"):
            optuna.storages.RDBStorage(url)
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
        assert optuna.storages.RDBStorage(url).get_all_studies() == []
    assert not server.folder.exists()


@pytest.mark.parametrize("leave", ["stop", "kill"])
def test_tracking_server_keeps_its_data_over_a_restart(mlflow_server: MlflowServer, leave: str) -> None:
    client = MlflowClient(mlflow_server.uri)
    run_id = client.create_run("0").info.run_id
    client.log_text(run_id, "kept", "note.txt")
    getattr(mlflow_server, leave)()
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{mlflow_server.uri}/health", timeout=5)
    mlflow_server.start()
    assert Path(client.download_artifacts(run_id, "note.txt")).read_text() == "kept"
    assert [file.read_text() for file in mlflow_server.artifacts.rglob("note.txt")] == ["kept"]


def test_tracking_server_with_a_login_refuses_strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with MlflowServer(tmp_path / "server", login=("alice", PASSWORD)) as server:
        with pytest.raises(MlflowException, match="not authenticated"):
            MlflowClient(server.uri).search_experiments()
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "alice")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        assert [found.name for found in MlflowClient(server.uri).search_experiments()] == ["Default"]


def test_server_that_cannot_start_says_why(postgres_programs: None) -> None:
    with closing(PostgresServer()) as server:
        shutil.rmtree(server.folder / "data")
        with pytest.raises(RuntimeError, match=r"PostgresServer ended with 2: .*could not access directory"):
            server.start()
