from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from orchestrator.credentials import has_password, masked, take_tracking_credentials
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.files.layout import Runs
from orchestrator.study_file.loading import parse_study
from tests.orchestrator.tiny import snas, study_data

SECRET = "pl4nted-s3cret"


@pytest.fixture(autouse=True)
def no_credentials_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that a test moves into the environment go away with it."""
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        # `setenv` first: only then does monkeypatch take away what the code under test sets.
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", "")
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"postgresql://me:{SECRET}@db:5432/snas", "postgresql://me:***@db:5432/snas"),
        (f"postgresql+psycopg://me:{SECRET}@db/snas", "postgresql+psycopg://me:***@db/snas"),
        (f"postgresql://:{SECRET}@db/snas", "postgresql://:***@db/snas"),
        (f"postgresql://me:a@b/{SECRET}@db/snas", "postgresql://me:***@db/snas"),
        (f"postgresql://db/snas?user=me&password={SECRET}", "postgresql://db/snas?user=me&password=***"),
        (f"https://{SECRET}@mlflow:5000", "https://***@mlflow:5000"),
        (f"http://me:{SECRET}@mlflow:5000/path", "http://me:***@mlflow:5000/path"),
    ],
)
def test_password_is_hidden_and_the_rest_stays(url: str, shown: str) -> None:
    assert masked(url) == shown
    assert has_password(url)
    assert masked(shown) == shown, "masking twice changes nothing"


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////home/me/runs/optuna.db",
        "postgresql://me@db/snas",
        "postgresql+psycopg:///snas?host=/var/run/postgresql",
        "http://mlflow:5000",
        "a message with me@example.org and 12:30",
    ],
)
def test_address_without_password_is_left_alone(url: str) -> None:
    assert masked(url) == url
    assert not has_password(url)


def test_passwords_inside_a_message_are_hidden() -> None:
    text = f"request to 'http://me:{SECRET}@h:1/api' failed, and postgresql://u:{SECRET}@db/x too (at 10:00)"
    assert masked(text) == "request to 'http://me:***@h:1/api' failed, and postgresql://u:***@db/x too (at 10:00)"


def test_errors_hide_passwords() -> None:
    assert SECRET not in str(OrchestratorError(f"postgresql://me:{SECRET}@db must be reachable"))


@pytest.mark.parametrize(
    ("section", "key", "url", "advice"),
    [
        ("storage", "url", f"postgresql://me:{SECRET}@db/snas", "PGPASSWORD"),
        ("storage", "url", f"postgresql://db/snas?password={SECRET}", "OPTUNA_STORAGE"),
        ("tracking", "uri", f"http://me:{SECRET}@mlflow:5000", "MLFLOW_TRACKING_PASSWORD"),
    ],
)
def test_password_in_a_study_file_is_a_fault(section: str, key: str, url: str, advice: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_study(study_data(**{section: {key: url}}))
    (fault,) = caught.value.faults
    assert fault.place == f"{section}.{key}"
    assert fault.message.startswith("must not hold a password")
    assert advice in fault.message
    assert SECRET not in str(caught.value)


def test_user_of_a_study_file_may_be_named() -> None:
    spec = parse_study(study_data(storage={"url": "postgresql+psycopg://me@db/snas"}))
    assert spec.storage.url == "postgresql+psycopg://me@db/snas"


def test_optuna_storage_comes_from_the_file_then_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", f"postgresql://me:{SECRET}@db/snas")
    assert Runs(tmp_path).optuna_url() == f"postgresql://me:{SECRET}@db/snas"
    assert Runs(tmp_path).optuna_url("sqlite:///mine.db") == "sqlite:///mine.db"
    monkeypatch.setenv("OPTUNA_STORAGE", "")
    assert Runs(tmp_path).optuna_url() == f"sqlite:///{tmp_path}/optuna.db"


def test_credentials_of_a_server_move_to_mlflows_own_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:p%40ss@mlflow:5000/base")
    assert Runs(tmp_path).tracking_uri() == "https://mlflow:5000/base"
    assert os.environ["MLFLOW_TRACKING_URI"] == "https://mlflow:5000/base"
    assert (os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]) == ("me", "p@ss")


def test_bare_token_of_a_server_moves_too() -> None:
    assert take_tracking_credentials(f"https://{SECRET}@mlflow") == "https://mlflow"
    assert os.environ["MLFLOW_TRACKING_TOKEN"] == SECRET


@pytest.mark.slow
def test_no_password_reaches_what_a_refused_run_says_or_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPTUNA_STORAGE", f"postgresql+psycopg://me:{SECRET}@127.0.0.1:9/snas?connect_timeout=2")
    file = tmp_path / "study.yaml"
    file.write_text("{name: t, search: {dataset: {name: fake, shape: [1, 8, 8]}, epochs: 1}, trials: 1}")
    outcome = snas("study", "run", file, "--runs", tmp_path / "runs")
    assert outcome.code == 2
    assert "the Optuna storage postgresql+psycopg://me:***@127.0.0.1:9/snas" in outcome.said
    left = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert left, "MLflow's store at least"
    assert [path for path in left if SECRET.encode() in path.read_bytes()] == []
    assert SECRET not in outcome.said + caplog.text
