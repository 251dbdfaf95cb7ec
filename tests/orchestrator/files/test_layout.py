"""The folder of runs: what lies where, and which store is used."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from orchestrator.errors import OrchestratorError
from orchestrator.files.layout import Runs, trial_label, unit_label
from tests.orchestrator.tiny import tiny_spec


def test_runs_lays_out_its_folder(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    folder = runs.study("digits")
    assert runs.tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert runs.optuna_url() == f"sqlite:///{tmp_path}/optuna.db"
    assert folder.spec_file == tmp_path / "digits" / "study.yaml"
    assert folder.journal("search", trial_label(3)) == tmp_path / "digits" / "trials" / "0003.jsonl"
    assert folder.journal("retrain", "0003-seed0") == tmp_path / "digits" / "retrains" / "0003-seed0.jsonl"
    assert folder.checkpoints(tiny_spec(), "search", "0003") == tmp_path / "digits" / "checkpoints" / "trial-0003"
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


def test_storage_path_of_the_study_file_holds_the_checkpoints(tmp_path: Path) -> None:
    spec = tiny_spec(storage={"path": str(tmp_path / "shared")})
    folder = Runs(tmp_path / "runs").study("tiny")
    assert folder.storage(spec) == tmp_path / "shared" / "tiny"
    assert folder.checkpoints(spec, "retrain", "0000-seed1") == tmp_path / "shared" / "tiny" / "retrain-0000-seed1"


def test_units_are_named_by_phase_and_label() -> None:
    assert unit_label("search", trial_label(3)) == "trial-0003"
    assert unit_label("retrain", "0003-seed0") == "retrain-0003-seed0"


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


@pytest.mark.parametrize("name", ["what?", "a%20b"])
def test_folder_whose_name_is_misread_in_addresses_has_no_embedded_stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    runs = Runs(tmp_path / name)
    for address in (runs.tracking_uri, runs.optuna_url):
        with pytest.raises(OrchestratorError, match=r"^--runs: the path .* must be .* without `\?`"):
            address()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    monkeypatch.setenv("OPTUNA_STORAGE", "postgresql://db/optuna")
    assert (runs.tracking_uri(), runs.optuna_url()) == ("http://tracking:5000", "postgresql://db/optuna")
    assert list(tmp_path.iterdir()) == []


def test_command_on_a_folder_can_be_pasted(tmp_path: Path) -> None:
    command = Runs(tmp_path / "it's a b").command("study", "resume", "digits")
    assert shlex.split(command) == ["snas", "study", "resume", "digits", "--runs", f"{tmp_path}/it's a b"]
