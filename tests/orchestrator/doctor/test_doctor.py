"""One real study, copied and damaged in every way that `snas study doctor` must find and name."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from mlflow import MlflowClient
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from orchestrator.doctor import Report, examine
from orchestrator.files.checkpoint import CheckpointFolder
from orchestrator.files.layout import Runs
from orchestrator.files.relocation import relocate
from tests.orchestrator.tiny import RETRAIN, SEARCH, cell_of, snas, study_data
from tests.preloaded.processes import run_ready

pytestmark = [pytest.mark.integration, pytest.mark.slow]

#: In the order of the grid: a complete trial, whose cell is retrained, one that diverges, one that ASHA stops.
STUDY: dict[str, Any] = study_data(
    name="sick",
    search={**SEARCH, "epochs": 3},
    sweep={"network.init_channels": {"choice": [4, 16]}, "theta.lr": {"choice": [0.05, 1.0e30]}},
    sampler="grid",
    trials=3,
    max_concurrent=1,
    objectives=[{"metric": "expected_cost_madds", "mode": "min"}],
    scheduler={"kind": "asha", "grace_period": 1, "reduction_factor": 2},
    retrain=RETRAIN,
)
RETRAINED = "retrain-0000-seed0"


@dataclass(frozen=True)
class Copy:
    """A copy of the study that may be damaged."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "sick"

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.root}/mlflow.db")

    def journal(self, number: int = 0) -> Path:
        return self.folder / "trials" / f"{number:04d}.jsonl"

    @property
    def retrain_journal(self) -> Path:
        return self.folder / "retrains" / "0000-seed0.jsonl"

    def run_id(self, unit: str = "trial-0000") -> str:
        ((run_id,),) = self.sql("mlflow", "SELECT run_uuid FROM tags WHERE key = 'snas.unit' AND value = ?", unit)
        return str(run_id)

    def artifact(self, name: str, unit: str = "trial-0000") -> Path:
        return self.root / "mlartifacts" / "sick" / self.run_id(unit) / "artifacts" / name

    def sql(self, database: str, statement: str, *values: object) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.root / f"{database}.db")
        with connection:
            rows = connection.execute(statement, values).fetchall()
        connection.close()
        return rows

    def edit(self, file: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
        """Change the entries of a journal."""
        entries = [json.loads(line) for line in file.read_text().splitlines()]
        change(entries)
        file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))

    def interrupt(self) -> None:
        """Leave the first trial as a killed driver does: after two of three epochs, nobody at work."""
        self.edit(self.journal(), lambda entries: entries.__delitem__(slice(2, None)))
        self.sql("optuna", "UPDATE trials SET state = 'RUNNING' WHERE number = 0")
        self.retrain_journal.unlink()
        for unit in ("trial-0000", "study"):
            self.sql("mlflow", "UPDATE runs SET status = 'KILLED' WHERE run_uuid = ?", self.run_id(unit))
        self.sql("mlflow", "DELETE FROM metrics WHERE step = 2 AND run_uuid = ?", self.run_id())
        self.client.delete_run(self.run_id(RETRAINED))

    def checkpoints(self, *epochs: int) -> list[Path]:
        """Made-up checkpoints of the first trial, in place of its own, newest first."""
        folder = self.folder / "checkpoints" / "trial-0000"
        shutil.rmtree(folder, ignore_errors=True)
        for epoch in epochs:
            CheckpointFolder(folder).save(epoch, {"epoch": epoch}, None)
        return CheckpointFolder(folder).files()

    def examined(self) -> Report:
        return examine("sick", Runs(self.root))

    def errors(self) -> set[tuple[str, str]]:
        """Check and place of everything that is not whole."""
        return {(found.check, found.place) for found in self.examined().findings if found.severity == "error"}

    def files(self) -> dict[str, bytes]:
        return {str(file.relative_to(self.root)): file.read_bytes() for file in self.root.rglob("*") if file.is_file()}


def main_in_process(*words: object) -> None:
    """The command line of this working tree in a process of its own, since it starts Ray."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "SNAS_RUNS")
    }
    done = run_ready(["snas", *words], {**environment, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    folder = tmp_path_factory.mktemp("healthy")
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    main_in_process("study", "run", folder / "study.yaml", "--runs", folder / "runs")
    return Copy(folder / "runs")


@pytest.fixture
def copy(healthy: Copy, tmp_path: Path) -> Copy:
    """A whole copy, whose store names its own files."""
    copied = Copy(tmp_path / "runs")
    shutil.copytree(healthy.root, copied.root)
    assert relocate(Runs(copied.root), None, print)
    return copied


@pytest.fixture
def driver(copy: Copy) -> Iterator[None]:
    """Something that holds the lock of the study, as its driver does."""
    with (copy.folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


# --- a whole study


def test_undamaged_study_is_whole_and_nothing_is_changed(copy: Copy) -> None:
    before = copy.files()
    report = copy.examined()
    assert report.is_whole, report.findings
    assert report.findings == ()
    assert report.state == "done"
    looked_at = {check.name: check.looked_at for check in report.checks}
    expected = {"Optuna trials": 3, "journals": 3, "values reported to Optuna": 1, "genotypes": 4, "retrainings": 1}
    assert expected.items() <= looked_at.items()
    assert {"MLflow runs": 5, "registered models": 1}.items() <= looked_at.items()
    assert looked_at["MLflow metrics"] > 4 * 15
    assert copy.files() == before


def test_faults_that_were_survived_are_reported(copy: Copy) -> None:
    def survived(entries: list[dict[str, Any]]) -> None:
        fault = {"event": "restart", "reason": "the worker died", "time": 1.0}
        entries[1:1] = [fault, fault, {**fault, "event": "out_of_memory"}]

    copy.edit(copy.journal(2), survived)
    report = copy.examined()
    assert report.is_whole
    messages = {found.place: found.message for found in report.findings if found.severity == "info"}
    assert messages["restart"] == "survived 2 times: trial-0002 (2)"
    assert messages["out of memory"] == "survived 1 times: trial-0002 (1)"
    said = snas("study", "show", "sick", "--runs", copy.root).said
    assert "trial 2 survived: 2 restarts, 1 shortage of memory trial 2 stopped:" in said


def test_collapsed_trial_of_one_objective_is_pruned(copy: Copy) -> None:
    copy.edit(copy.journal(2), lambda entries: entries[-1].update(end="collapsed"))
    copy.client.set_tag(copy.run_id("trial-0002"), "snas.end", "collapsed")
    for end, count in (("stopped", 0), ("collapsed", 1)):
        copy.client.log_metric(copy.run_id("study"), f"trials_{end}", count, step=3)
    assert copy.errors() == set()
    copy.sql("optuna", "UPDATE trials SET state = 'FAIL' WHERE number = 2")
    assert copy.errors() == {("journals", "trial-0002")}


def test_retraining_by_hand_is_no_stranger(copy: Copy) -> None:
    (experiment,) = {run[0] for run in copy.sql("mlflow", "SELECT experiment_id FROM runs")}
    tags = {"snas.unit": "again-seed0", "snas.kind": "retrain", "mlflow.parentRunId": copy.run_id()}
    copy.client.create_run(str(experiment), tags=tags)
    (finding,) = copy.examined().findings
    assert (finding.place, finding.severity) == ("again-seed0", "info")


# --- a driver at work


def test_what_a_driver_at_work_has_not_written_is_no_error(copy: Copy, driver: None) -> None:
    copy.interrupt()
    copy.checkpoints(1, 2)
    copy.sql("mlflow", "DELETE FROM metrics WHERE step = 1 AND run_uuid = ?", copy.run_id())
    report = copy.examined()
    assert report.state == "running"
    assert report.is_whole, report.findings
    (lock,) = [found for found in report.findings if found.check == "driver"]
    assert lock.message.startswith(f"process {os.getpid()} runs the study")
    (behind,) = [found for found in report.findings if found.severity == "warning"]
    assert (behind.check, behind.place) == ("MLflow metrics", "trial-0000")


def test_repeated_step_is_an_error_even_while_a_driver_is_at_work(copy: Copy, driver: None) -> None:
    repeat_a_step(copy)
    assert copy.errors() == {("MLflow metrics", "trial-0000")}


# --- damages, each with the findings that name it


def repeat_a_step(copy: Copy) -> None:
    value = next(point.value for point in copy.client.get_metric_history(copy.run_id(), "eta") if point.step == 1)
    copy.client.log_metric(copy.run_id(), "eta", value, timestamp=int(time.time() * 1000), step=1)


def second_run(copy: Copy) -> None:
    experiment = copy.client.get_run(copy.run_id()).info.experiment_id
    copy.client.create_run(experiment, tags={"snas.unit": "trial-0000"})


def stranger_run(copy: Copy) -> None:
    experiment = copy.client.get_run(copy.run_id()).info.experiment_id
    copy.client.create_run(experiment, tags={"snas.unit": "trial-0042"})


def second_model_version(copy: Copy) -> None:
    columns = ["name", "version", "creation_time", "source", "run_id", "status", "current_stage", "workspace"]
    again = ", ".join(column if column != "version" else "2" for column in columns)
    copy.sql("mlflow", f"INSERT INTO model_versions ({', '.join(columns)}) SELECT {again} FROM model_versions")


def no_model_version(copy: Copy) -> None:
    copy.client.delete_model_version("sick-child", "1")


def another_cell(copy: Copy) -> None:
    copy.artifact("genotype.json", RETRAINED).write_text(cell_of("sep_conv_3x3").to_json())


def short_history(copy: Copy) -> None:
    pq.write_table(pa.table({"epoch": [0, 1]}), copy.artifact("history.parquet"))


def strange_trial(copy: Copy) -> None:
    study = optuna.load_study(storage=f"sqlite:///{copy.root}/optuna.db", study_name="sick")
    values = {"x": 0.5}
    study.add_trial(create_trial(state=TrialState.FAIL, params=values, distributions={"x": FloatDistribution(0, 1)}))


def torn_line(copy: Copy) -> None:
    lines = copy.journal(2).read_text().splitlines()
    copy.journal(2).write_text("\n".join([lines[0][:-9], *lines[1:]]) + "\n")


def bad_genotype(entries: list[dict[str, Any]]) -> None:
    entries[0]["genotype"] = {**entries[0]["genotype"], "normal": [["no such operation", 0, 2]]}


def set_status(unit: str, status: str) -> Callable[[Copy], object]:
    return lambda copy: copy.sql("mlflow", "UPDATE runs SET status = ? WHERE run_uuid = ?", status, copy.run_id(unit))


def set_tag(unit: str, key: str, value: str) -> Callable[[Copy], object]:
    return lambda copy: copy.client.set_tag(copy.run_id(unit), key, value)


def no_artifact(name: str, unit: str = "trial-0000") -> Callable[[Copy], object]:
    return lambda copy: copy.artifact(name, unit).unlink()


def metrics_sql(statement: str) -> Callable[[Copy], object]:
    return lambda copy: copy.sql("mlflow", statement, copy.run_id())


def edited(number: int, change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Copy], object]:
    return lambda copy: copy.edit(copy.journal(number), change)


def replace_in(file: Path, old: str, new: str) -> None:
    """Change a setting as a user does."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


Damage = Callable[[Copy], object]


#: What is done, then check, place and words of the one error that it makes.
def shorten(file: Path) -> None:
    """Leave out the last row of a Parquet file."""
    table = pq.read_table(file)
    pq.write_table(table.slice(0, table.num_rows - 1), file)


DAMAGES: dict[str, tuple[Damage, str, str, str]] = {
    "step missing": (
        metrics_sql("DELETE FROM metrics WHERE key = 'eta' AND step = 1 AND run_uuid = ?"),
        "MLflow metrics",
        "trial-0000",
        "`eta` must have the steps of all 3 epochs, missing: 1",
    ),
    "last steps missing of a closed run": (
        metrics_sql("DELETE FROM metrics WHERE step = 2 AND run_uuid = ?"),
        "MLflow metrics",
        "trial-0000",
        "more must have the steps of all 3 epochs, missing: 2",
    ),
    "metric missing": (
        metrics_sql("DELETE FROM metrics WHERE key = 'eta' AND run_uuid = ?"),
        "MLflow metrics",
        "trial-0000",
        "`eta` must have the steps of all 3 epochs, missing: 0, 1, 2",
    ),
    "step repeated": (repeat_a_step, "MLflow metrics", "trial-0000", "`eta` must have every step once, repeated: 1"),
    "step too many": (
        lambda copy: copy.client.log_metric(copy.run_id(), "eta", 0.5, step=9),
        "MLflow metrics",
        "trial-0000",
        "`eta` must have no steps but those of 3 epochs, got also: 9",
    ),
    "metric too many": (
        lambda copy: copy.client.log_metric(copy.run_id(), "made_up", 0.5, step=0),
        "MLflow metrics",
        "trial-0000",
        "`made_up` must have no steps but those of 0 epochs, got also: 0",
    ),
    "value changed": (
        metrics_sql("UPDATE metrics SET value = value * (1 + 1e-9) WHERE key = 'eta' AND step = 2 AND run_uuid = ?"),
        "MLflow metrics",
        "trial-0000",
        "`eta` of step 2 must be",
    ),
    "two runs": (second_run, "MLflow runs", "trial-0000", "it must have one MLflow run, got 2"),
    "no run": (
        lambda copy: copy.client.delete_run(copy.run_id("trial-0001")),
        "MLflow runs",
        "trial-0001",
        "it must have an MLflow run, got none",
    ),
    "no study run": (
        lambda copy: copy.client.delete_run(copy.run_id("study")),
        "MLflow runs",
        "study",
        "it must have an MLflow run, got none",
    ),
    "run still open": (set_status("trial-0000", "RUNNING"), "MLflow runs", "trial-0000", "must be FINISHED"),
    "failed run finished": (set_status("trial-0001", "FINISHED"), "MLflow runs", "trial-0001", "must be FAILED"),
    "study run still open": (set_status("study", "RUNNING"), "MLflow runs", "study", "must be FINISHED, got RUNNING"),
    "end wrong": (set_tag("trial-0002", "snas.end", "complete"), "MLflow runs", "trial-0002", "must be `stopped`"),
    "trial's parent wrong": (
        set_tag("trial-0002", "mlflow.parentRunId", "f00"),
        "MLflow runs",
        "trial-0002",
        "the run of `study` (mlflow.parentRunId), got f00",
    ),
    "retraining's parent wrong": (
        lambda copy: copy.client.set_tag(copy.run_id(RETRAINED), "mlflow.parentRunId", copy.run_id("study")),
        "MLflow runs",
        RETRAINED,
        "the run of `trial-0000`",
    ),
    "study has a parent": (set_tag("study", "mlflow.parentRunId", "f00"), "MLflow runs", "study", "no parent, got f00"),
    "no genotype": (no_artifact("genotype.json"), "MLflow artifacts", "trial-0000", "must have genotype.json"),
    "no picture": (no_artifact("cells.svg", RETRAINED), "MLflow artifacts", RETRAINED, "must have cells.svg"),
    "no history": (
        no_artifact("history.parquet", "trial-0001"),
        "MLflow artifacts",
        "trial-0001",
        "must have history.parquet",
    ),
    "no front": (no_artifact("front.json", "study"), "MLflow artifacts", "study", "must have front.json"),
    "no study file in MLflow": (
        no_artifact("study.yaml", "study"),
        "MLflow artifacts",
        "study",
        "must have study.yaml",
    ),
    "history too short": (short_history, "MLflow artifacts", "trial-0000", "must have 3 rows, one an epoch, got 2"),
    "history no Parquet": (
        lambda copy: copy.artifact("history.parquet").write_bytes(b"PAR1 and no more"),
        "MLflow artifacts",
        "trial-0000",
        "must have 3 rows, one an epoch, got no Parquet file",
    ),
    "genotype no cell": (
        lambda copy: copy.artifact("genotype.json").write_text("{}"),
        "MLflow artifacts",
        "trial-0000",
        "must hold the cell of the last epoch, got no cell",
    ),
    "genotype of another": (another_cell, "MLflow artifacts", RETRAINED, "the cell that is trained, got another one"),
    "no model": (no_model_version, "registered models", RETRAINED, "registered as `sick-child`, got no version"),
    "two models": (second_model_version, "registered models", RETRAINED, "once, got 2 versions of its run"),
    "value reported wrong": (
        lambda copy: copy.sql("optuna", "UPDATE trial_values SET value = value + 1"),
        "values reported to Optuna",
        "trial-0000",
        "last expected_cost_madds",
    ),
    "grid point twice": (
        lambda copy: copy.sql("optuna", "UPDATE trial_params SET param_value = 0"),
        "Optuna trials",
        "trial-0002",
        "by trial-0000 and trial-0001 and trial-0002",
    ),
    "state wrong": (
        lambda copy: copy.sql("optuna", "UPDATE trials SET state = 'FAIL' WHERE number = 2"),
        "journals",
        "trial-0002",
        "Optuna's trial is FAIL, the journal says stopped",
    ),
    "no journal": (
        lambda copy: copy.journal(2).unlink(),
        "journals",
        "trial-0002",
        "Optuna's trial is PRUNED, but",
    ),
    "journal of no trial": (
        lambda copy: shutil.copy(copy.journal(2), copy.journal(7)),
        "journals",
        "trial-0007",
        "Optuna has no trial of the journal",
    ),
    "journal torn": (torn_line, "journals", "trial-0002", "a journal line must be the JSON report of epoch 0"),
    "no reason": (
        edited(1, lambda entries: entries[-1].update(reason=" ")),
        "journals",
        "trial-0001",
        "it is failed, which must have a stated reason",
    ),
    "stopped for no reason": (
        edited(2, lambda entries: entries[-1].update(reason="")),
        "journals",
        "trial-0002",
        "it is stopped, which must have a stated reason",
    ),
    "genotype not valid": (edited(2, bad_genotype), "genotypes", "trial-0002", "epoch 0: "),
    "no player": (
        lambda copy: copy.artifact("player.html").unlink(),
        "MLflow artifacts",
        "trial-0000",
        "its run must have player.html, got none",
    ),
    "no costs of published cells": (
        lambda copy: copy.artifact("published.json", "study").unlink(),
        "MLflow artifacts",
        "study",
        "its run must have published.json, got none",
    ),
    "curves gone": (
        lambda copy: copy.artifact("histories/0000-0031.parquet", "study").unlink(),
        "MLflow artifacts",
        "study",
        "histories/0000-0031.parquet must have 4 rows, one an epoch, got no such file",
    ),
    "curves behind": (
        lambda copy: shorten(copy.artifact("histories/0000-0031.parquet", "study")),
        "MLflow artifacts",
        "study",
        "histories/0000-0031.parquet must have 4 rows, one an epoch, got 3",
    ),
    "counts behind": (
        lambda copy: copy.sql("mlflow", "UPDATE latest_metrics SET value = 0 WHERE key = 'trials_failed'"),
        "MLflow metrics",
        "study",
        "`trials_failed` must be 1, as the journals say, got 0.0",
    ),
    "reason lost": (
        lambda copy: copy.client.delete_tag(copy.run_id("trial-0002"), "snas.reason"),
        "MLflow runs",
        "trial-0002",
        "the tag snas.reason of its run must be `stopped by the scheduler after 1 of 3 epochs`",
    ),
    "retraining nobody asked for": (
        lambda copy: shutil.copy(copy.retrain_journal, copy.retrain_journal.with_name("0002-seed0.jsonl")),
        "retrainings",
        "retrain-0002-seed0",
        "the study asks for no such retraining",
    ),
    "setting of the study changed": (
        lambda copy: replace_in(copy.folder / "study.yaml", "reduction_factor: 2", "reduction_factor: 3"),
        "settings",
        "sick",
        "`scheduler.reduction_factor` must stay 2, with which the study ran, got 3",
    ),
    "trial ran with other settings": (
        metrics_sql("UPDATE params SET value = '3' WHERE key = 'network.nodes' AND run_uuid = ?"),
        "settings",
        "trial-0000",
        "`search.network.nodes` must stay 3, with which the study ran, got 2",
    ),
    "retraining ran with other settings": (
        lambda copy: copy.sql(
            "mlflow", "UPDATE params SET value = '9' WHERE key = 'lr' AND run_uuid = ?", copy.run_id(RETRAINED)
        ),
        "settings",
        RETRAINED,
        "`retrain.lr` must stay 9, with which the study ran, got 0.025",
    ),
    "study file no study": (
        lambda copy: (copy.folder / "study.yaml").write_text("name: sick\n"),
        "study file",
        "sick",
        "must be given",
    ),
    "study file gone": (lambda copy: (copy.folder / "study.yaml").unlink(), "study file", "sick", "must exist"),
    "no store": (lambda copy: (copy.root / "mlflow.db").unlink(), "MLflow runs", "MLflow", "there is no such file"),
    "store no database": (
        lambda copy: (copy.root / "mlflow.db").write_bytes(b"nothing" * 999),
        "MLflow runs",
        "MLflow",
        "must hold the experiment `sick`, got",
    ),
    "experiment deleted": (
        lambda copy: copy.client.delete_experiment(copy.client.get_run(copy.run_id()).info.experiment_id),
        "MLflow runs",
        "MLflow",
        "the experiment `sick` in sqlite:///",
    ),
    "no Optuna": (lambda copy: (copy.root / "optuna.db").unlink(), "Optuna trials", "Optuna", "there is no such file"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_named(name: str, copy: Copy) -> None:
    damage, check, place, words = DAMAGES[name]
    damage(copy)
    report = copy.examined()
    errors = [found for found in report.findings if found.severity == "error"]
    assert not report.is_whole
    assert [(found.check, found.place) for found in errors] == [(check, place)], errors
    assert words in errors[0].message
    assert errors[0].remedy


def test_changed_study_file_is_named_with_all_trials(copy: Copy) -> None:
    replace_in(copy.folder / "study.yaml", "nodes: 2", "nodes: 3")
    found = {finding.place: finding.message for finding in copy.examined().findings if finding.check == "settings"}
    message = "`search.network.nodes` must stay 2, with which the study ran, got 3"
    assert found == {"sick": message, "trial-0000": f"{message} (and 2 more: trial-0001, trial-0002)"}


def test_retraining_of_a_cell_that_more_trials_left_behind_is_reported(copy: Copy) -> None:
    """Raising `trials` may move the front away from a cell that is trained already."""
    journal = copy.retrain_journal.rename(copy.retrain_journal.with_name("0000-seed7.jsonl"))
    found = [finding for finding in copy.examined().findings if finding.place == f"retrain-{journal.stem}"]
    assert ("retrainings", "info") in [(finding.check, finding.severity) for finding in found]


def test_run_of_no_trial_is_named_by_its_id(copy: Copy) -> None:
    stranger_run(copy)
    assert copy.errors() == {("MLflow runs", f"run {copy.run_id('trial-0042')}")}


def test_trial_that_is_missing_in_optuna_is_named(copy: Copy) -> None:
    copy.sql("optuna", "DELETE FROM trials WHERE number = 1")
    missing = {("Optuna trials", "trial-0001"), ("Optuna trials", "sick"), ("journals", "trial-0001")}
    assert missing <= copy.errors()


def test_trial_that_the_study_did_not_ask_for_is_named(copy: Copy) -> None:
    strange_trial(copy)
    errors = [found for found in copy.examined().findings if found.severity == "error"]
    assert ("Optuna trials", "sick", "the study must have 3 trials, got 4") in [
        (found.check, found.place, found.message) for found in errors
    ]
    assert ("journals", "trial-0003") in copy.errors()


@pytest.mark.parametrize("line", [1, 2])
def test_journal_with_an_epoch_missing_is_named(copy: Copy, line: int) -> None:
    copy.edit(copy.journal(), lambda entries: entries.pop(line))
    assert ("journals", "trial-0000") in copy.errors()


def test_complete_retraining_without_its_test_is_named(copy: Copy) -> None:
    copy.edit(copy.retrain_journal, lambda entries: entries[0]["metrics"].pop("test_accuracy"))
    assert ("retrainings", RETRAINED) in copy.errors()


def test_retraining_that_is_open_is_named(copy: Copy) -> None:
    copy.edit(copy.retrain_journal, lambda entries: entries.pop())
    report = copy.examined()
    (finding,) = [found for found in report.findings if found.check == "retrainings"]
    assert (report.state, finding.place) == ("unfinished", RETRAINED)
    assert "snas study resume sick" in finding.remedy


def test_mlflow_that_is_away_is_a_finding(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert copy.errors() == {("MLflow runs", "MLflow")}


def test_renamed_folder_is_named(copy: Copy) -> None:
    copy.folder.rename(copy.root / "other")
    (finding,) = examine("other", Runs(copy.root)).findings
    assert (finding.check, finding.severity) == ("study file", "error")
    assert "its folder was renamed" in finding.message


# --- unfinished trials and their checkpoints


def test_trial_of_a_killed_driver_is_unfinished(copy: Copy) -> None:
    copy.interrupt()
    copy.checkpoints(1, 2)
    report = copy.examined()
    assert report.state == "unfinished"
    (finding,) = report.findings
    assert (finding.check, finding.place) == ("Optuna trials", "trial-0000")
    assert "snas study resume sick" in finding.remedy


def test_forked_trial_that_is_not_its_parents_is_named(copy: Copy) -> None:
    copy.interrupt()
    for number, parent in ((0, 2), (2, 0)):  # trial 0 is open, and has no checkpoint
        copy.sql(
            "optuna",
            "INSERT INTO trial_user_attributes (trial_id, key, value_json) SELECT trial_id, 'snas.fork', ? FROM trials "
            "WHERE number = ?",
            json.dumps({"trial": parent, "epoch": 1}),
            number,
        )
    shutil.rmtree(copy.folder / "checkpoints" / "trial-0000", ignore_errors=True)
    found = {(found.check, found.place, found.message) for found in copy.examined().findings}
    point = copy.folder / "checkpoints" / "fork-0002-0001" / "epoch-0001.pt"
    message = f"it grows from {point}, which must be a whole checkpoint of trial 2 after 1 epoch"
    assert ("forked trials", "trial-0000", message) in found
    message = f"its epoch 0 must be that of {copy.journal(0)}, got another one"
    assert ("forked trials", "trial-0002", message) in found
    message = "the tag snas.fork.epoch of its run must be 1, where it was forked, got None"
    assert ("MLflow runs", "trial-0002", message) in found


def test_trial_whose_end_was_not_reported_is_unfinished(copy: Copy) -> None:
    copy.sql("optuna", "UPDATE trials SET state = 'RUNNING' WHERE number = 2")
    assert {("Optuna trials", "trial-0002"), ("journals", "trial-0002")} <= copy.errors()


@pytest.mark.parametrize("kind", ["flipped", "truncated", "without its checksum"])
def test_damaged_checkpoint_falls_back_to_the_one_before(copy: Copy, kind: str) -> None:
    copy.interrupt()
    newest, _ = copy.checkpoints(1, 2)
    damage(newest, kind)
    (warning,) = [found for found in copy.examined().findings if found.severity == "warning"]
    assert (warning.check, warning.place) == ("checkpoints", "trial-0000")
    assert f"{newest} is damaged; epoch-0001.pt is whole and takes its place" in warning.message
    assert copy.errors() == {("Optuna trials", "trial-0000")}


def test_trial_without_a_whole_checkpoint_is_named(copy: Copy) -> None:
    copy.interrupt()
    for file in copy.checkpoints(1, 2):
        damage(file, "flipped")
    report = copy.examined()
    assert report.count("warning", "checkpoints") == 2
    assert ("checkpoints", "trial-0000") in copy.errors()
    copy.checkpoints()
    assert ("checkpoints", "trial-0000") in copy.errors()


def test_checkpoint_too_far_ahead_of_the_journal_is_named(copy: Copy) -> None:
    copy.interrupt()
    copy.edit(copy.journal(), lambda entries: entries.pop())
    copy.checkpoints(3)
    errors = [found for found in copy.examined().findings if found.check == "checkpoints"]
    assert [found.place for found in errors] == ["trial-0000"]
    assert "at most one epoch ahead of the 1 in the journal" in errors[0].message


def damage(file: Path, kind: str) -> None:
    content = bytearray(file.read_bytes())
    if kind == "flipped":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif kind == "truncated":
        file.write_bytes(content[:-7])
    else:
        file.with_name(f"{file.name}.sha256").unlink()


# --- the command


def test_remedy_makes_the_study_whole(copy: Copy) -> None:
    repeat_a_step(copy)
    (finding,) = copy.examined().findings
    store = f"MLFLOW_TRACKING_URI=sqlite:///{copy.root}/mlflow.db"
    assert f"`{store} mlflow runs delete --run-id {copy.run_id()}`" in finding.remedy
    copy.client.delete_run(copy.run_id("trial-0001"))
    copy.client.delete_run(copy.run_id("trial-0002"))
    assert {place for _, place in copy.errors()} == {"trial-0000", "trial-0001", "trial-0002"}
    # The run of a trial with retrainings has these below it: all of them are made again.
    copy.client.delete_run(copy.run_id(RETRAINED))
    copy.client.delete_run(copy.run_id())
    outcome = snas("study", "resume", "sick", "--runs", copy.root)
    assert outcome.code == 0, outcome.said
    assert copy.errors() == set()


def test_command_says_that_a_study_is_whole(copy: Copy) -> None:
    outcome = snas("study", "doctor", "sick", "--runs", copy.root)
    assert (outcome.code, outcome.err) == (0, "")
    assert "study sick: done" in outcome.said
    assert "Optuna trials 3 ok" in outcome.said
    assert outcome.said.endswith("the study is whole")


def test_command_names_what_is_wrong_and_what_to_do(copy: Copy) -> None:
    copy.artifact("genotype.json").unlink()
    outcome = snas("study", "doctor", "sick", "--runs", copy.root)
    assert (outcome.code, outcome.err) == (1, "")
    assert "1 error" in outcome.said
    assert "error trial-0000: its run must have genotype.json, got none" in outcome.said
    assert "snas study resume sick" in outcome.said
    assert outcome.said.endswith("the study is not whole: 1 error")


def test_command_prints_json(copy: Copy) -> None:
    whole = snas("study", "doctor", "sick", "--json", "--runs", copy.root)
    document = json.loads(whole.out)
    assert (whole.code, document["is_whole"], document["findings"]) == (0, True, [])
    copy.journal(2).unlink()
    broken = snas("study", "doctor", "sick", "--json", "--runs", copy.root)
    document = json.loads(broken.out)
    assert (broken.code, document["is_whole"], document["state"]) == (1, False, "done")
    (finding,) = document["findings"]
    assert {"check": "journals", "place": "trial-0002", "severity": "error"}.items() <= finding.items()
    (journals,) = [check for check in document["checks"] if check["name"] == "journals"]
    assert journals == {"name": "journals", "looked_at": 2, "errors": 1, "warnings": 0}


@pytest.mark.parametrize("name", ["nobody", "../sick", "mlartifacts"])
def test_command_refuses_a_study_that_is_not_there(copy: Copy, name: str) -> None:
    outcome = snas("study", "doctor", name, "--runs", copy.root)
    assert outcome.code == 2
    assert f"there is no study `{name}`" in outcome.said
    assert "sick" in outcome.said
