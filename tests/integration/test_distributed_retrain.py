"""A retraining on two workers of Ray Train, which in mid-course loses a worker, and later the trial itself."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from mlflow import MlflowClient

from orchestrator.errors import OrchestratorError
from orchestrator.files.journal import Journal
from orchestrator.jobs import Reservation
from orchestrator.worker.distributed import max_groups
from search_core.data.dataset_options import DatasetOptions
from search_core.ranks import ALONE, Ranks
from search_core.space.genotype import PUBLISHED
from search_core.training.retrain import Retrain
from search_core.training.retrain_options import RetrainOptions
from tests.orchestrator.tiny import runs_of, steps_of
from tests.preloaded.processes import ReadyProcess
from tests.search_core.processes import Processes
from tests.search_core.tiny import images_of

pytestmark = [pytest.mark.integration, pytest.mark.slow]

EPOCHS = 8
STUDY = f"""
name: shared
search:
  dataset: {{name: digits, train_images: 256, validation_images: 100}}
trials: 0
resources: {{cpu: 1}}
retrain:
  genotype: SNAS_mild
  workers: 2
  epochs: {EPOCHS}
  batch_size: 64
  cells: 3
  init_channels: 4
"""
DATA = DatasetOptions(name="digits", train_images=256, validation_images=100)
OPTIONS = RetrainOptions(epochs=EPOCHS, batch_size=64, cells=3, init_channels=4)
LABEL = "cell-seed0"


@dataclass(frozen=True)
class Done:
    runs: Path
    killed_after: list[int]
    said: str

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.runs}/mlflow.db")

    @property
    def journal(self) -> Journal:
        return Journal(self.runs / "shared" / "retrains" / f"{LABEL}.jsonl")


def actors(driver: int, name: str) -> list[psutil.Process]:
    """Actors of a class among the processes that a driver started."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        try:
            if f"ray::{name}" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The study, which lost a worker after two epochs and its trial after five."""
    folder = tmp_path_factory.mktemp("shared")
    file, runs = folder / "study.yaml", folder / "runs"
    file.write_text(STUDY)
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    outputs = folder / "out", folder / "err"
    with outputs[0].open("w") as out, outputs[1].open("w") as err:
        words = ["snas", "study", "run", str(file), "--runs", str(runs)]
        driver = ReadyProcess(words, out=out, err=err, environment=environment)

    def said() -> str:
        return "".join(file.read_text() for file in outputs)

    killed_after = []
    journal = runs / "shared" / "retrains" / f"{LABEL}.jsonl"
    for name, number, epochs in (("RayTrainWorker", 2, 2), ("DistributedRetrain", 1, 5)):
        deadline = time.monotonic() + 400
        while not journal.exists() or len(Journal(journal).epochs) < epochs:
            assert driver.poll() is None, f"the driver ended by itself: {said()}"
            assert time.monotonic() < deadline, "the driver made no progress"
            time.sleep(0.02)
        victims = actors(driver.pid, name)
        assert len(victims) == number
        victims[-1].send_signal(signal.SIGKILL)
        killed_after.append(len(Journal(journal).epochs))
    assert driver.wait(600) == 0, said()
    return Done(runs, killed_after, said())


def records(ranks: Ranks, seed: int) -> list[dict[str, Any]]:
    """What a journal holds of an undisturbed training."""
    retrain = Retrain(PUBLISHED["SNAS_mild"], OPTIONS, images_of(DATA), seed=seed, ranks=ranks)
    found = [report.to_dict() for report in retrain]
    found[-1]["metrics"] |= retrain.final_metrics()
    return found


def timeless(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    clocks = ("seconds", "cpu_core_hours")
    without = [{name: value for name, value in entry["metrics"].items() if name not in clocks} for entry in entries]
    return [{"epoch": entry["epoch"], "metrics": metrics} for entry, metrics in zip(entries, without, strict=True)]


def test_retraining_resumes_after_kills_as_if_nothing_had_been(done: Done) -> None:
    assert max(done.killed_after) < EPOCHS, "the training was over before it was killed"
    processes = Processes(2)
    try:
        undisturbed = processes(partial(records, seed=0))[0]
    finally:
        processes.close()
    assert timeless(done.journal.epochs) == timeless(undisturbed)
    assert done.journal.end == "complete"


def test_faults_are_in_the_journals(done: Done) -> None:
    reasons = ("WorkerGroupDiedError: worker ", "ActorDiedError: ")
    for event, reason in zip(done.journal.events, reasons, strict=True):
        assert event["event"] == "restart"
        assert event["reason"].startswith(reason), event
        assert "closed by peer" not in event["reason"], "what the other worker reported"


def test_result_has_the_format_of_one_device(done: Done) -> None:
    alone = records(ALONE, 0)
    for entry, expected in zip(done.journal.epochs, alone, strict=True):
        assert entry["metrics"].keys() == expected["metrics"].keys() | {"cpu_core_hours"}
    runs = {run.info.run_name: run for run in runs_of(done.client, "shared")}
    assert sorted(runs) == [f"retrain-{LABEL}", "shared"]
    run = runs[f"retrain-{LABEL}"]
    assert run.info.status == "FINISHED"
    assert run.data.metrics.keys() == alone[-1]["metrics"].keys() | {"cpu_core_hours"}
    assert steps_of(done.client, run.info.run_id, "val_accuracy") == list(range(EPOCHS))
    assert steps_of(done.client, run.info.run_id, "test_accuracy") == [EPOCHS - 1]
    assert len(done.client.search_model_versions("name = 'shared-child'")) == 1


def test_ray_is_quiet_and_leaves_nothing(done: Done) -> None:
    for word in ("RayTrainWorker", "TrainController", "torch", "Traceback", "Warning"):
        assert word not in done.said
    assert list(done.runs.rglob("ray-train")) == []


def test_group_that_the_cluster_cannot_hold_is_refused() -> None:
    reservation = Reservation(1.0, 0.0, None)
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        assert [max_groups(workers, reservation) for workers in (1, 2, 3)] == [3, 1, 1]
        assert max_groups(3, replace(reservation, cpu=0.1)) == 10
        with pytest.raises(OrchestratorError, match=r"`retrain.workers` must be at most 3, .* got 4"):
            max_groups(4, reservation)
        with pytest.raises(OrchestratorError, match=r"`retrain.workers` must be at most 0, .* gpu 1 for each, got 2"):
            max_groups(2, replace(reservation, gpu=0.25))
    finally:
        ray.shutdown()
