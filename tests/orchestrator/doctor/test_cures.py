"""Every cure that the doctor names, done as it is printed, makes the study whole; so does moving the folder of runs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from dashboards.mlflow_store.mlflow_store import MlflowStore
from orchestrator.doctor import Finding, examine
from orchestrator.files.layout import Runs
from orchestrator.files.relocation import relocate
from tests.orchestrator.made import made_study
from tests.orchestrator.tiny import snas
from tests.preloaded.processes import ready_programs

pytestmark = pytest.mark.slow

RETRAINED = "retrain-0000-seed0"


@dataclass(frozen=True)
class Patient:
    """A copy of a whole study, in a folder whose name a shell must not take apart."""

    root: Path

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(Runs(self.root).tracking_uri())

    @property
    def experiment_id(self) -> str:
        return str(self.client.get_experiment_by_name("made").experiment_id)

    def run_id(self, unit: str) -> str:
        return str(self.client.search_runs([self.experiment_id], f"tags.`snas.unit` = '{unit}'")[0].info.run_id)

    def artifact(self, unit: str, name: str) -> Path:
        return self.root / "mlartifacts" / "made" / self.run_id(unit) / "artifacts" / name

    def errors(self) -> list[Finding]:
        return [finding for finding in examine("made", Runs(self.root)).findings if finding.severity == "error"]

    def do(self, command: str) -> None:
        """Do a command as it is printed, in an empty folder; `snas` in this process, since a new one takes seconds."""
        if command.startswith("snas "):
            outcome = snas(*shlex.split(command)[1:])
            assert outcome.code == 0, outcome.said
            return
        here = self.root.parent / "elsewhere"
        here.mkdir(exist_ok=True)
        environment = {**os.environ, **ready_programs(self.root.parent)}
        done = subprocess.run(command, shell=True, cwd=here, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert list(here.iterdir()) == [], "no stray mlflow.db"


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_study(tmp_path_factory.mktemp("healthy") / "runs", retrain=True).runs.root


@pytest.fixture
def patient(healthy: Path, tmp_path: Path) -> Patient:
    """A copy whose store names its new place."""
    copied = Patient(tmp_path / "it's a b")
    shutil.copytree(healthy, copied.root)
    assert relocate(Runs(copied.root), None, print)
    return copied


def cure(patient: Patient, errors: list[Finding]) -> None:
    for error in errors:
        commands = re.findall("`([^`]+)`", error.remedy)
        assert commands, error
        for command in commands:
            patient.do(command)


def second_run(patient: Patient) -> None:
    patient.client.create_run(patient.experiment_id, tags={"snas.unit": "trial-0001"})


def stranger(patient: Patient) -> None:
    patient.client.create_run(patient.experiment_id, tags={"snas.unit": "trial-0042"})


def repeated_step(patient: Patient) -> None:
    run_id = patient.run_id("trial-0000")
    point = patient.client.get_metric_history(run_id, "eta")[0]
    patient.client.log_metric(run_id, "eta", point.value, timestamp=point.timestamp + 1, step=point.step)


def second_version(patient: Patient) -> None:
    run = patient.client.get_run(patient.run_id(RETRAINED))
    patient.client.create_model_version("made-child", run.info.artifact_uri, run.info.run_id)


def by_hand_below_a_deleted_run(patient: Patient) -> None:
    tags = {"snas.unit": "again-seed0", "snas.kind": "retrain", "mlflow.parentRunId": patient.run_id("trial-0000")}
    patient.client.create_run(patient.experiment_id, tags=tags)
    patient.client.delete_run(patient.run_id("trial-0000"))


def deleted(unit: str) -> Callable[[Patient], object]:
    return lambda patient: patient.client.delete_run(patient.run_id(unit))


def without(unit: str, name: str) -> Callable[[Patient], object]:
    return lambda patient: patient.artifact(unit, name).unlink()


def tagged(unit: str, key: str, text: str) -> Callable[[Patient], object]:
    return lambda patient: patient.client.set_tag(patient.run_id(unit), key, text)


DAMAGES: dict[str, Callable[[Patient], object]] = {
    "study's run deleted": deleted("study"),
    "run of a trial with a retraining deleted": deleted("trial-0000"),
    "run of a retraining deleted": deleted(RETRAINED),
    "run of a trial with a retraining by hand deleted": by_hand_below_a_deleted_run,
    "experiment deleted": lambda patient: patient.client.delete_experiment(patient.experiment_id),
    "artifact of a trial with a retraining gone": without("trial-0000", "genotype.json"),
    "artifact of a retraining gone": without(RETRAINED, "cells.svg"),
    "artifact of the study gone": without("study", "front.json"),
    "two runs": second_run,
    "run of nothing": stranger,
    "step repeated": repeated_step,
    "run still open": lambda patient: patient.client.update_run(patient.run_id("trial-0001"), status="RUNNING"),
    "run failed": lambda patient: patient.client.set_terminated(patient.run_id("trial-0001"), "FAILED"),
    "end wrong": tagged("trial-0001", "snas.end", "stopped"),
    "parent of a trial wrong": tagged("trial-0001", "mlflow.parentRunId", "f00"),
    "parent of a retraining wrong": tagged(RETRAINED, "mlflow.parentRunId", "f00"),
    "study has a parent": tagged("study", "mlflow.parentRunId", "f00"),
    "model gone": lambda patient: patient.client.delete_model_version("made-child", "1"),
    "two models": second_version,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_cure_that_is_printed_makes_the_study_whole(patient: Patient, name: str) -> None:
    DAMAGES[name](patient)
    errors = patient.errors()
    assert errors
    cure(patient, errors)
    # What is deleted on the doctor's advice may leave something else to cure, once.
    cure(patient, patient.errors())
    assert patient.errors() == []
    versions = patient.client.search_model_versions("name = 'made-child'")
    assert [version.run_id for version in versions] == [patient.run_id(RETRAINED)]
    runs = patient.client.search_runs([patient.experiment_id], run_view_type=ViewType.ACTIVE_ONLY)
    assert len(runs) == 4 + ("by hand" in name)


def test_copied_study_is_cured_by_resuming_it_and_the_original_stays(healthy: Path, tmp_path: Path) -> None:
    copied = Patient(Path(shutil.copytree(healthy, tmp_path / "a b")))
    before = {path: path.read_bytes() for path in healthy.rglob("*") if path.is_file()}
    (moved,) = copied.errors()
    assert healthy.as_uri() in moved.message
    cure(copied, [moved])
    assert copied.errors() == []
    assert {path: path.read_bytes() for path in healthy.rglob("*") if path.is_file()} == before
    tags = copied.client.get_run(copied.run_id(RETRAINED)).data.tags
    assert tags["snas.checkpoints"] == str(copied.root / "made" / "checkpoints" / RETRAINED)
    mlflow.set_tracking_uri(Runs(copied.root).tracking_uri())
    assert copied.client.get_model_version_download_uri("made-child", "1").startswith(copied.root.as_uri())
    assert mlflow.pyfunc.load_model("models:/made-child/1") is not None


def test_pages_show_the_cells_of_a_folder_that_was_moved(healthy: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(healthy, tmp_path / "moved"))
    shutil.rmtree(tmp_path / "moved" / "mlartifacts" / "made" / "models")
    store = MlflowStore(Runs(root).tracking_uri())
    trial = store.study("made").trials[0]
    file = next((root / "mlartifacts" / "made" / trial.run.run_id / "artifacts").glob("genotype.json"))
    assert store.genotype(trial.run) is not None
    file.unlink()
    assert MlflowStore(Runs(root).tracking_uri()).genotype(trial.run) is None, "the copy is read, not the original"
