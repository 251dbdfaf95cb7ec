"""The folder of runs: what lies where, and which store is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.runs import CHECKPOINT_FILE, Runs, trial_label
from tests.orchestrator.tiny import tiny_spec


def checkpoint(storage: Path, launch: str, label: str, number: int) -> str:
    file = storage / launch / label / f"checkpoint_{number:06d}" / CHECKPOINT_FILE
    file.parent.mkdir(parents=True)
    file.touch()
    return str(file)


def test_runs_lays_out_its_folder(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    folder = runs.study("digits")
    assert runs.tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert runs.optuna_url() == f"sqlite:///{tmp_path}/optuna.db"
    assert folder.spec_file == tmp_path / "digits" / "study.yaml"
    assert folder.journal("search", trial_label(3)) == tmp_path / "digits" / "trials" / "0003.jsonl"
    assert folder.journal("retrain", "0003-seed0") == tmp_path / "digits" / "retrains" / "0003-seed0.jsonl"
    assert folder.ray_storage(tiny_spec()) == tmp_path / "digits" / "ray"
    assert list(tmp_path.iterdir()) == [], "naming a folder does not make it"


def test_runs_root_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = Runs(Path("some/runs"))
    monkeypatch.chdir("/")
    assert runs.root == tmp_path / "some" / "runs"
    assert runs.tracking_uri() == f"sqlite:///{tmp_path}/some/runs/mlflow.db"


def test_study_names_are_the_folders_with_a_study_file(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    assert runs.study_names() == []
    for name in ("b", "a", "c"):
        runs.study(name).path.mkdir()
    runs.study("a").spec_file.touch()
    runs.study("b").spec_file.touch()
    assert runs.study_names() == ["a", "b"]


def test_launches_are_numbered_by_phase(tmp_path: Path) -> None:
    spec, folder = tiny_spec(), Runs(tmp_path).study("tiny")
    assert folder.next_launch(spec, "search") == "search-00"
    for name in ("search-00", "search-07", "retrain-02"):
        (tmp_path / "tiny" / "ray" / name).mkdir(parents=True)
    assert folder.next_launch(spec, "search") == "search-08"
    assert folder.next_launch(spec, "retrain") == "retrain-03"
    (tmp_path / "tiny" / "ray" / "search-100").mkdir()
    assert folder.next_launch(spec, "search") == "search-101"


def test_storage_path_of_the_study_file_holds_the_checkpoints(tmp_path: Path) -> None:
    spec = tiny_spec(storage={"path": str(tmp_path / "shared")})
    folder = Runs(tmp_path / "runs").study("tiny")
    assert folder.ray_storage(spec) == tmp_path / "shared" / "tiny"
    file = checkpoint(tmp_path / "shared" / "tiny", "search-00", "0000", 0)
    assert folder.checkpoints(spec, "search", "0000") == [file]
    assert folder.next_launch(spec, "search") == "search-01"


def test_checkpoints_are_newest_first_across_launches(tmp_path: Path) -> None:
    spec, folder, storage = tiny_spec(), Runs(tmp_path).study("tiny"), tmp_path / "tiny" / "ray"
    oldest = checkpoint(storage, "search-09", "0001", 999_999)
    older = checkpoint(storage, "search-99", "0001", 2)
    newer = checkpoint(storage, "search-99", "0001", 10)
    newest = checkpoint(storage, "search-100", "0001", 0)
    checkpoint(storage, "search-101", "0002", 5)
    checkpoint(storage, "retrain-00", "0001", 5)
    (storage / "search-101" / "0001" / "checkpoint_000003").mkdir(parents=True)  # not yet written
    assert folder.checkpoints(spec, "search", "0001") == [newest, newer, older, oldest]


def test_tracking_uri_prefers_the_study_file_then_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert runs.tracking_uri() == "http://tracking:5000"
    assert runs.tracking_uri("http://other:5000") == "http://other:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert runs.tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"


def test_artifacts_lie_here_unless_a_server_decides(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    assert runs.artifact_location(runs.tracking_uri(), "digits") == f"file://{tmp_path}/mlartifacts/digits"
    assert runs.artifact_location("http://tracking:5000", "digits") is None


def test_optuna_url_of_the_study_file_wins(tmp_path: Path) -> None:
    assert Runs(tmp_path).optuna_url("postgresql://db/optuna") == "postgresql://db/optuna"
