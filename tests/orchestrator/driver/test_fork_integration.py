"""A study whose trials share their first epochs: real Ray, its driver killed while these run, one trial collapses."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import TrialState

from dashboards.formatting import shown_metric
from orchestrator.doctor import examine
from orchestrator.files.journal import Journal
from orchestrator.files.layout import Runs
from orchestrator.study.study import Study
from orchestrator.study_file.spec import search_options
from search_core.data.datasets import load_data
from search_core.search.search import Search
from tests.integration.studies import CLOCKS, STUDY, StudyProcess
from tests.orchestrator.tiny import RETRAIN, logged_steps, runs_of, snas, steps_of

pytestmark = [pytest.mark.integration, pytest.mark.slow]

EPOCHS, SHARED = 8, 4
#: The first trial has the penalty of the shared epochs; that of the last is so hard that `none` wins everywhere.
ETAS = [1.0e-4, 1.0e-5, 1.0e3]
FORKED: dict[str, Any] = {
    **STUDY,
    "name": "forked",
    "search": {
        **STUDY["search"],
        "alpha": {"lr": 0.5},
        "penalty": {"strength": ETAS[0], "cost": "memory_access", "estimator": "expected"},
        "epochs": EPOCHS,
    },
    "sweep": {"penalty.strength": {"choice": ETAS}},
    "trials": 3,
    "fork": {"epoch": SHARED},
    "stop": {"patience": 1, "grace_period": SHARED},
}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyProcess]:
    """The study, whose driver was killed during the shared epochs, run to its end."""
    study = StudyProcess(tmp_path_factory.mktemp("fork"), FORKED)
    try:
        study.start()
        study.wait_until(lambda: len(trunk_of(study).epochs) > 0)
        study.kill()
        assert trunk_of(study).end is None, "the shared epochs were over before the driver was killed"
        assert "they are unfinished after" in study.doctor().said
        study.resume()
        study.finish()
        yield study
    finally:
        study.kill()


@pytest.fixture(scope="module")
def forked(process: StudyProcess) -> Study:
    return Study.load("forked", Runs(process.runs))


def trunk_of(study: StudyProcess) -> Journal:
    return Journal(study.runs / "forked" / "trunk.jsonl")


def journals(study: StudyProcess) -> list[Journal]:
    return [study.journal(number) for number in range(3)]


def mlflow_of(study: StudyProcess) -> tuple[MlflowClient, dict[str, Run]]:
    client = MlflowClient(f"sqlite:///{study.runs}/mlflow.db")
    return client, {run.info.run_name: run for run in runs_of(client, "forked")}


def test_shared_epochs_ran_once_and_begin_every_journal(process: StudyProcess) -> None:
    trunk = trunk_of(process)
    assert (trunk.end, [record["epoch"] for record in trunk.epochs]) == ("complete", list(range(SHARED)))
    for journal, eta in zip(journals(process), ETAS, strict=True):
        assert journal.epochs[:SHARED] == trunk.epochs
        assert {record["metrics"]["eta"] for record in journal.epochs[SHARED:]} == {eta}
    assert process.log.count("shared epochs: 1 to do") == 2, "begun by the first driver, ended by the second"


def test_trial_with_the_settings_of_the_trunk_equals_a_search_without_fork(forked: Study) -> None:
    options = search_options(forked.spec, {"penalty.strength": ETAS[0]})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a trial with half a core
    try:
        expected = [report.to_dict() for report in Search(options, load_data(options.dataset, torch.device("cpu")))]
    finally:
        torch.set_num_threads(threads)
    recorded = Journal(forked.folder.journal("search", "0000")).epochs
    for record, report in zip(recorded, expected, strict=True):
        for clock in CLOCKS:
            del record["metrics"][clock]
            report["metrics"].pop(clock, None)  # the driver adds hours
        assert {key: value for key, value in record.items() if key != "time"} == json.loads(json.dumps(report))


def test_trials_are_in_optuna_and_every_epoch_is_in_mlflow_once(process: StudyProcess, forked: Study) -> None:
    states = [trial.state for trial in forked.optuna_study.get_trials()]
    assert states == [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.FAIL], "an empty cell is on no front"
    client, runs = mlflow_of(process)
    assert sorted(runs) == ["forked", "trial-0000", "trial-0001", "trial-0002"]
    for journal, name in zip(journals(process), sorted(runs)[1:], strict=True):
        for metric in runs[name].data.metrics:
            expected = logged_steps(metric, len(journal.epochs))
            assert steps_of(client, runs[name].info.run_id, metric) == expected, (name, metric)


def test_collapsed_trial_states_its_cause(process: StudyProcess) -> None:
    journal = process.journal(2)
    assert journal.end == "collapsed"
    assert SHARED < len(journal.epochs) < EPOCHS
    assert journal.reason == f"every edge chose `none` in epoch {len(journal.epochs)}"
    tags = mlflow_of(process)[1]["trial-0002"].data.tags
    assert tags["snas.end"] == "collapsed"
    assert tags["snas.reason"] == journal.reason
    error = shown_metric("child_val_error", journal.last_metric("child_val_error"))
    (line,) = (line for line in process.log.splitlines() if line.startswith("  0002 collapsed: "))
    assert line.startswith(f"  0002 collapsed: child validation error {error}, ")
    assert f"; {journal.reason}  [searches " in line
    said = snas("study", "show", "forked", "--runs", process.runs).said
    assert "study forked: done, 2 of 3 trials complete, 1 collapsed" in said
    assert f"trial 2 collapsed: {journal.reason}" in said
    (listed,) = json.loads(snas("study", "list", "--json", "--runs", process.runs).out)
    assert (listed["complete"], listed["collapsed"], listed["failed"], listed["stopped"]) == (2, 1, 0, 0)


def test_savings_are_shown_and_logged(process: StudyProcess) -> None:
    seconds = sum(record["metrics"]["seconds"] for record in trunk_of(process).epochs)
    document = json.loads(snas("study", "show", "forked", "--json", "--runs", process.runs).out)["fork"]
    hours = document.pop("hours")
    assert document == {"epochs": SHARED, "trials": 3, "kind": "CPU"}
    assert hours == pytest.approx(2 * seconds * 0.5 / 3600), "two trials did not run them, on half a core each"
    text = f"{SHARED} shared epochs run once for 3 trials saved {hours:.3g} CPU core hours"
    assert text in snas("study", "show", "forked", "--runs", process.runs).said
    assert mlflow_of(process)[1]["forked"].data.tags["snas.fork_savings"] == text


def test_hours_of_the_study_have_the_shared_epochs_once(process: StudyProcess) -> None:
    shared = trunk_of(process).last_metric("cpu_core_hours")
    own = sum(process.journal(number).last_metric("cpu_core_hours") - shared for number in range(3))
    client, runs = mlflow_of(process)
    points = client.get_metric_history(runs["forked"].info.run_id, "cpu_core_hours")
    assert max(points, key=lambda point: point.step).value == pytest.approx(shared + own)
    assert min(point.value for point in points) > shared
    shown = json.loads(snas("study", "show", "forked", "--json", "--runs", process.runs).out)
    assert shown["hours"] == {"cpu_core_hours": pytest.approx(shared + own)}


def test_study_is_whole_and_resume_does_nothing(process: StudyProcess) -> None:
    said = process.doctor()
    assert said.code == 0, said.said
    assert "shared epochs 4 ok" in said.said
    files = {file: file.read_bytes() for file in process.runs.glob("forked/**/*.jsonl")}
    process.resume()
    process.finish()
    assert {file: file.read_bytes() for file in process.runs.glob("forked/**/*.jsonl")} == files
    assert process.doctor().code == 0


def test_study_begun_with_its_best_values_and_retrained_on_two_workers_is_whole(process: StudyProcess) -> None:
    warm = StudyProcess(
        process.runs.parent,
        {
            **STUDY,
            "name": "warm",
            "search": {**STUDY["search"], "epochs": 2},
            "trials": 1,
            "sampler": "random",
            "warm_start": {"experiment": "forked", "top": 1},
            "sweep": {"penalty.strength": {"log_uniform": [1.0e-6, 1.0e-1]}},
            "retrain": {**RETRAIN, "workers": 2},
        },
    )
    try:
        warm.start()
        warm.finish()
    finally:
        warm.kill()
    (record,) = Study.load("warm", Runs(process.runs)).trials()
    assert record.values["penalty.strength"] in ETAS[:2], "the last eta collapsed"
    said = warm.doctor()
    assert said.code == 0, said.said
    assert "retrainings 1 ok" in said.said


def test_shared_epochs_that_fail_end_the_study_with_the_reason(tmp_path: Path) -> None:
    barren = StudyProcess(tmp_path, {**FORKED, "search": {**FORKED["search"], "theta": {"lr": 1.0e30}}})
    try:
        barren.start()
        barren.finish(code=1)
    finally:
        barren.kill()
    reason = "the training loss must stay finite"
    assert f"the shared epochs of study `forked` failed: {reason}" in barren.log
    assert f"the shared epochs failed: {reason}" in snas("study", "show", "forked", "--runs", barren.runs).said
    said = barren.doctor()
    assert said.code == 1
    assert f"trunk: they failed, so that no trial can begin: {reason}" in said.said


def test_doctor_finds_damage_of_the_shared_epochs(process: StudyProcess) -> None:
    """Last, since it damages the study."""

    def errors() -> dict[str, str]:
        found = examine("forked", Runs(process.runs)).findings
        return {finding.place: finding.message for finding in found if finding.check == "shared epochs"}

    file, checkpoint = process.runs / "forked" / "trunk.jsonl", process.runs / "forked" / "checkpoints" / "trunk"
    text = file.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    lines[1]["metrics"]["train_loss"] += 1
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    message = f"its epoch 1 must be that of {file}, got another one"
    assert errors() == dict.fromkeys(("trial-0000", "trial-0001", "trial-0002"), message)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines[:2]))
    assert errors()["trunk"] == "they are unfinished after 2 of 4 epochs, and no driver is at work"
    failure = json.dumps({"end": "failed", "reason": "the training loss must stay finite"}) + "\n"
    file.write_text(failure)
    assert errors() == {"trunk": "they failed, so that no trial can begin: the training loss must stay finite"}
    file.write_text(text)
    assert errors() == {}
    newest = checkpoint / f"epoch-{SHARED:04d}.pt"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert errors() == {}, "no trial is open that would need it"
    with sqlite3.connect(process.runs / "optuna.db") as optuna:
        optuna.execute("UPDATE trials SET state = 'RUNNING' WHERE number = 0")
    assert f"got epoch-{SHARED - 1:04d}.pt" in errors()["trunk"], "an open trial has nothing to grow from"
