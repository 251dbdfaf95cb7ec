"""How a study begins and resumes, up to the moment at which Ray would be started."""

from __future__ import annotations

import fcntl
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient

from dashboards.mlflow_store.databases import mlflow_command
from orchestrator.doctor import examine
from orchestrator.driver import start as start_module
from orchestrator.driver.progress import StudyView
from orchestrator.driver.start import run_study
from orchestrator.errors import OrchestratorError
from orchestrator.files.layout import Runs
from orchestrator.files.lock import driver_lock, lock_holder
from orchestrator.sampling.samplers import open_storage
from orchestrator.study.study import Study
from search_core.data.datasets import load_data
from search_core.errors import ConstraintsError, OptionsError
from tests.orchestrator.tiny import SEARCH, runs_of, snas, tiny_spec, with_empty_store


@pytest.fixture(autouse=True)
def drivers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The studies whose driver was started; it does nothing."""
    started: list[str] = []

    class Idle:
        def __init__(self, study: Study, *_: object) -> None:
            started.append(study.spec.name)

        def run(self, address: str | None) -> None:
            pass

    monkeypatch.setattr(start_module, "Driver", Idle)
    return started


@pytest.fixture(autouse=True)
def runs(tmp_path: Path) -> None:
    with_empty_store(tmp_path / "runs")


def tiny(folder: Path, **changes: Any) -> Study:
    return Study(tiny_spec(**changes), Runs(folder / "runs"))


def failing(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def optuna_names(study: Study) -> list[str]:
    return list(optuna.get_all_study_names(open_storage(study.runs.optuna_url())))


@pytest.mark.parametrize("digest", ["digest", "split_digest"])
@pytest.mark.slow
def test_study_does_not_resume_with_other_images(
    tmp_path: Path, drivers: list[str], digest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_study(tiny(tmp_path))
    rule = rf"images of study `tiny` must be those it began with \({digest} \w+\), got 0123"
    with monkeypatch.context() as patch:
        changed = {digest: "0123"}
        patch.setattr(start_module, "load_data", lambda *given: replace(load_data(*given), **changed))
        with pytest.raises(OrchestratorError, match=rule):
            run_study(tiny(tmp_path))
    assert drivers == ["tiny"]
    run_study(tiny(tmp_path))
    assert drivers == ["tiny", "tiny"]


@pytest.mark.slow
def test_study_does_not_resume_with_other_settings(tmp_path: Path, drivers: list[str]) -> None:
    study = tiny(tmp_path)
    run_study(study)
    more = study.folder.spec_file.read_text().replace("trials: 3", "trials: 5").replace("cpu: 1.0", "cpu: 2.0")
    study.folder.spec_file.write_text(more)
    run_study(Study.load("tiny", study.runs))
    assert drivers == ["tiny", "tiny"], "more trials and other resources are fine"
    other = more.replace("nodes: 2", "nodes: 1").replace("  images: 100", "  images: 110")
    study.folder.spec_file.write_text(other)
    before = {file: file.read_bytes() for file in study.runs.root.rglob("*") if file.is_file()}
    outcome = snas("study", "resume", "tiny", "--runs", study.runs.root)
    assert outcome.code == 2
    assert "2 faults" in outcome.said
    lines = other.splitlines()
    for line, message in (
        ("    images: 110", "search.dataset.images: must stay 100, with which the study ran, got 110; put it back"),
        ("    nodes: 1", "search.network.nodes: must stay 2, with which the study ran, got 1; put it back"),
    ):
        assert f":{lines.index(line) + 1}: {message}" in outcome.said
    assert {file: file.read_bytes() for file in study.runs.root.rglob("*") if file.is_file()} == before
    assert len(drivers) == 2


def test_study_without_a_run_in_mlflow_continues(tmp_path: Path, drivers: list[str]) -> None:
    """A driver may be killed before it makes the run."""
    study = tiny(tmp_path)
    run_study(study)
    client = MlflowClient(study.runs.tracking_uri())
    for run in client.search_runs([client.get_experiment_by_name("tiny").experiment_id]):
        client.delete_run(run.info.run_id)
    run_study(study)
    assert len(drivers) == 2


def test_full_disk_at_the_beginning_does_not_burn_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny(tmp_path)
    full = OSError(28, "No space left on device")
    for place in ("write_text", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, place, failing(full))
            with pytest.raises(OSError, match="No space left"):
                run_study(study)
        assert not study.folder.path.exists()
        assert "tiny" not in optuna_names(study)
    run_study(study)
    assert study.exists
    assert optuna_names(study) == ["tiny"]


def test_interrupt_at_the_beginning_does_not_burn_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", failing(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            run_study(study)
    assert optuna_names(study) == []
    run_study(study)


@pytest.mark.parametrize("kind", ["random", "one_shot"])
@pytest.mark.slow
def test_limits_that_no_genotype_keeps_are_refused_before_anything_begins(tmp_path: Path, kind: str) -> None:
    """Unless trials have limits of their own: then some may begin."""
    search = {**SEARCH, "batch_size": 8, "strategy": {"kind": kind}, "constraints": {"params": {"max": 1}}}
    study = tiny(tmp_path, search=search, sweep={}, trials=1)
    with pytest.raises(ConstraintsError, match="no genotype in 10,000 draws keeps the constraints: at most params 1"):
        run_study(study)
    assert not study.folder.path.exists()
    run_study(tiny(tmp_path, search=search, sweep={"constraints.params.max": {"choice": [1.0, 1e6]}}, trials=1))


def test_targets_that_no_child_meets_are_refused_at_once_before_anything_begins(tmp_path: Path) -> None:
    targets = {"penalty.target.madds": {"choice": [1, 45_000, 1e9]}}
    study = tiny(tmp_path, sweep=targets, trials=2)
    with pytest.raises(OptionsError) as caught:
        run_study(study)
    assert [(name, rule.split(", got ")[1]) for name, rule in caught.value.faults] == [
        ("penalty.target.madds", "1"),
        ("penalty.target.madds", "1e+09"),
    ]
    assert not study.folder.path.exists()


def test_strategy_that_is_free_to_leave_the_limits_begins(tmp_path: Path, drivers: list[str]) -> None:
    run_study(tiny(tmp_path, search={**SEARCH, "constraints": {"params": {"max": 1}}}))
    narrow = {"kind": "spos", "channels": [0.5, 1.0]}
    search = {**SEARCH, "batch_size": 8, "strategy": narrow, "constraints": {"params": {"max": 1}}}
    run_study(tiny(tmp_path, name="narrow", search=search, sweep={}, trials=1))
    assert drivers == ["tiny", "narrow"]


def test_storage_that_fails_at_the_beginning_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tiny(tmp_path)
    error = optuna.exceptions.StorageInternalError("disk is full")
    monkeypatch.setattr(start_module, "create_optuna_study", failing(error))
    with pytest.raises(OrchestratorError, match=r"the Optuna storage .* got: disk is full"):
        run_study(study)
    assert not study.folder.path.exists()


def test_name_that_optuna_knows_is_refused_and_kept(tmp_path: Path) -> None:
    study = tiny(tmp_path)
    optuna.create_study(storage=open_storage(study.runs.optuna_url()), study_name="tiny")
    with pytest.raises(OrchestratorError, match="has a study `tiny` from elsewhere"):
        run_study(study)
    assert optuna_names(study) == ["tiny"], "it is somebody's"
    assert not study.folder.path.exists()


def test_warm_start_from_nowhere_makes_no_experiment(tmp_path: Path) -> None:
    study = tiny(tmp_path / "elsewhere", warm_start={"experiment": "unknown"})
    with pytest.raises(OrchestratorError, match=r"`warm_start.experiment` must be a study"):
        run_study(study)
    assert not study.runs.root.exists()


def test_driver_waits_for_a_doctor(tmp_path: Path, drivers: list[str]) -> None:
    study = tiny(tmp_path)
    run_study(study)
    with study.folder.lock_file.open("rb") as doctor:
        fcntl.flock(doctor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        timer = threading.Timer(0.5, lambda: fcntl.flock(doctor, fcntl.LOCK_UN))
        timer.start()
        run_study(study)
        timer.join()
    assert len(drivers) == 2
    assert lock_holder(study.folder.lock_file) is None


def test_second_driver_is_refused_within_seconds(tmp_path: Path, drivers: list[str]) -> None:
    study = tiny(tmp_path)
    run_study(study)
    with study.folder.lock_file.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        begin = time.monotonic()
        with (
            pytest.raises(OrchestratorError, match="study `tiny` is being run by another process"),
            driver_lock(study.folder.lock_file, "tiny"),
        ):
            pass
        assert 1 < time.monotonic() - begin < 5


# --- folders that were copied, stores that are not as they were


class Notes(StudyView):
    """Keeps what is decided for the user."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, message: str) -> None:
        self.lines.append(message)


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_copied_study_resumes_in_its_own_folder(tmp_path: Path, drivers: list[str]) -> None:
    original = tiny(tmp_path)
    run_study(original)
    shutil.copytree(original.runs.root, tmp_path / "a b" / "runs")
    before = contents(original.runs.root)
    copied, notes = Study.load("tiny", Runs(tmp_path / "a b" / "runs")), Notes()
    run_study(copied, notes)
    assert drivers == ["tiny", "tiny"]
    assert [str(original.runs.root) in line for line in notes.lines] == [True]
    assert contents(original.runs.root) == before
    (run,) = runs_of(MlflowClient(copied.runs.tracking_uri()), "tiny")
    assert run.info.artifact_uri.startswith(copied.runs.root.as_uri())


@pytest.mark.parametrize("shared", ["tracking", "storage"])
def test_copy_that_shares_a_store_is_refused_while_the_original_is_there(
    tmp_path: Path, drivers: list[str], shared: str
) -> None:
    database = tmp_path / "server.db"
    if shared == "tracking":
        shutil.copy(with_empty_store(tmp_path / "server") / "mlflow.db", database)
    key = "uri" if shared == "tracking" else "url"
    original = tiny(tmp_path, **{shared: {key: f"sqlite:///{database}"}})
    run_study(original)
    shutil.copytree(original.runs.root, tmp_path / "copy")
    copied = Study.load("tiny", Runs(tmp_path / "copy"))
    before = contents(tmp_path / "runs"), database.read_bytes()
    with pytest.raises(OrchestratorError, match=rf"must not be resumed while .*would write to sqlite:///{database}"):
        run_study(copied)
    assert (contents(tmp_path / "runs"), database.read_bytes()) == before
    shutil.rmtree(original.runs.root)
    run_study(copied)
    assert drivers == ["tiny", "tiny"], "then it has been moved"


def test_deleted_experiment_is_brought_back_or_gives_no_name(tmp_path: Path, drivers: list[str]) -> None:
    study = tiny(tmp_path)
    run_study(study)
    client = MlflowClient(study.runs.tracking_uri())
    found = client.get_experiment_by_name("tiny")
    assert found is not None
    client.delete_experiment(found.experiment_id)
    command = mlflow_command(
        study.runs.tracking_uri(), "experiments", "restore", "--experiment-id", found.experiment_id
    )
    with pytest.raises(OrchestratorError, match=re.escape(f"was deleted: bring it back with `{command}`")):
        run_study(study)
    shutil.rmtree(study.folder.path)
    with pytest.raises(OrchestratorError, match="has the name `tiny`: choose another --name"):
        run_study(study)
    assert not study.folder.path.exists()
    assert drivers == ["tiny"]


@pytest.mark.parametrize("tool", ["mlflow", "optuna"])
@pytest.mark.parametrize(("revision", "words"), [("f00", "newer"), (None, "older")])
def test_tables_of_another_version_are_refused_untouched(
    tmp_path: Path, drivers: list[str], tool: str, revision: str | None, words: str
) -> None:
    study = tiny(tmp_path)
    run_study(study)
    older = {"mlflow": "451aebb31d03", "optuna": "v3.0.0.a"}
    file = study.runs.root / f"{tool}.db"
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision or older[tool],))
    before = file.read_bytes()
    again = Study.load("tiny", study.runs)
    with pytest.raises(OrchestratorError, match=rf"{tool}.db was made by an? {words} "):
        _ = run_study(again) if tool == "mlflow" else again.trials()
    assert file.read_bytes() == before
    (finding,) = [found for found in examine("tiny", study.runs).findings if f"{words} " in found.message]
    assert finding.place.lower() == tool
    assert ("upgrade" in finding.remedy) == (words == "older")


@pytest.mark.parametrize("name", ["what?", "a%20b"])
def test_folder_that_databases_cannot_be_in_is_refused_before_anything_is_made(
    tmp_path: Path, drivers: list[str], name: str
) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OrchestratorError, match=r"--runs: .* without `\?`"):
        run_study(tiny(tmp_path / name))
    assert drivers == []
    assert sorted(tmp_path.iterdir()) == before
