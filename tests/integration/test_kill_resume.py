"""A study whose driver is killed loses nothing, repeats nothing and finds the same cells.

The one whole study of `make test`: real Ray, Optuna and MLflow, from the study file to the registered child.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from orchestrator.files.layout import Runs
from orchestrator.study.study import Study
from orchestrator.study_file.spec import search_options
from search_core.data.datasets import load_data
from search_core.search.search import Search
from tests.orchestrator.tiny import logged_steps, snas, with_empty_store

pytestmark = pytest.mark.integration

STUDY = """
name: killed
seed: 3
search:
  dataset: {name: digits, train_images: 200, validation_images: 100}
  network: {nodes: 2, cells: 3, init_channels: 4}
  recalibration_batches: 2
  temperature: {kind: linear, start: 1.0, end: 0.1}
  alpha: {lr: 0.05}
  epochs: 3
sweep:
  penalty.strength: {log_uniform: [1.0e-5, 1.0e-1]}
  temperature.kind: {choice: [linear, exponential, cosine]}
trials: 2
max_concurrent: 1
resources: {cpu: 0.5}
retrain: {top: 1, epochs: 1, cells: 3, init_channels: 4, drop_path: 0.0}
"""
NUM_TRIALS, NUM_EPOCHS = 2, 3
TIMING = ("seconds", "images_per_s", "cpu_core_hours")


def _recorded_epochs(runs: Path) -> int:
    return sum(file.read_text().count('"epoch"') for file in runs.glob("killed/trials/*.jsonl"))


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study whose driver was killed and resumed to its end."""
    folder = tmp_path_factory.mktemp("kill")
    file, runs = folder / "study.yaml", folder / "runs"
    file.write_text(STUDY)
    with_empty_store(runs)
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", "study"]
    driver = subprocess.Popen(
        [*command, "run", str(file), "--runs", str(runs)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    deadline = time.monotonic() + 240
    while _recorded_epochs(runs) < 2:
        assert driver.poll() is None, f"the driver ended by itself with {driver.returncode}"
        assert time.monotonic() < deadline, "the driver made no progress"
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    assert _recorded_epochs(runs) < NUM_TRIALS * NUM_EPOCHS, "the study was over before it was killed"
    resume = [*command, "resume", "killed", "--runs", str(runs)]
    done = subprocess.run(resume, capture_output=True, text=True, env=environment, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Study.load("killed", Runs(runs))


@pytest.fixture(scope="module")
def client(resumed: Study) -> MlflowClient:
    return MlflowClient(f"sqlite:///{resumed.runs.root / 'mlflow.db'}")


def test_resumed_study_has_all_trials_once(resumed: Study) -> None:
    trials = resumed.trials()
    assert [trial.number for trial in trials] == list(range(NUM_TRIALS))
    assert {trial.state for trial in trials} == {"complete"}
    assert len(resumed.optuna_study.get_trials()) == NUM_TRIALS
    assert [record.state for record in resumed.retrains()] == ["complete"]


def test_resumed_study_is_whole(resumed: Study) -> None:
    doctor = snas("study", "doctor", "killed", "--runs", resumed.runs.root)
    assert (doctor.code, "the study is whole" in doctor.said) == (0, True), doctor.said


def test_resumed_study_has_one_mlflow_run_per_trial(resumed: Study, client: MlflowClient) -> None:
    experiment = client.get_experiment_by_name("killed")
    runs = client.search_runs([experiment.experiment_id])
    by_kind = {
        kind: [run for run in runs if run.data.tags["snas.kind"] == kind] for kind in ("study", "search", "retrain")
    }
    assert [len(by_kind[kind]) for kind in ("study", "search", "retrain")] == [1, NUM_TRIALS, 1]
    assert {run.info.status for run in runs} == {"FINISHED"}
    parent = by_kind["study"][0].info.run_id
    assert {run.data.tags["mlflow.parentRunId"] for run in by_kind["search"]} == {parent}
    assert by_kind["retrain"][0].data.tags["mlflow.parentRunId"] in {run.info.run_id for run in by_kind["search"]}
    assert len(client.search_model_versions("name = 'killed-child'")) == 1


def test_resumed_study_has_every_metric_step_once(client: MlflowClient) -> None:
    experiment = client.get_experiment_by_name("killed")
    for run in client.search_runs([experiment.experiment_id], "tags.`snas.kind` = 'search'"):
        for metric in run.data.metrics:
            steps = [point.step for point in client.get_metric_history(run.info.run_id, metric)]
            assert steps == logged_steps(metric, NUM_EPOCHS), (run.info.run_name, metric)


def test_resumed_trials_equal_undisturbed_searches(resumed: Study) -> None:
    data = load_data(resumed.spec.search.dataset, torch.device("cpu"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a trial with half a core: sums in another order differ in the last bit
    try:
        for trial in resumed.trials():
            journal = resumed.folder.journal("search", f"{trial.number:04d}")
            records = [json.loads(line) for line in journal.read_text().splitlines() if '"epoch"' in line]
            undisturbed = [report.to_dict() for report in Search(search_options(resumed.spec, trial.values), data)]
            for record, expected in zip(records, undisturbed, strict=True):
                del record["time"]
                record.pop("machine", None)
                for name in TIMING:
                    record["metrics"].pop(name)
                    expected["metrics"].pop(name, None)  # the driver adds hours
                assert record == json.loads(json.dumps(expected)), (trial.number, record["epoch"])
    finally:
        torch.set_num_threads(threads)


def test_resume_of_a_complete_study_changes_nothing(resumed: Study, client: MlflowClient) -> None:
    experiment = client.get_experiment_by_name("killed")
    before = {run.info.run_id: run.data.metrics for run in client.search_runs([experiment.experiment_id])}
    assert snas("study", "resume", "killed", "--runs", resumed.runs.root).code == 0
    after = {run.info.run_id: run.data.metrics for run in client.search_runs([experiment.experiment_id])}
    assert after == before
    assert len(client.search_model_versions("name = 'killed-child'")) == 1
