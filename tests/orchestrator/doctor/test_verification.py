"""`snas study verify` on a study whose trials keep checkpoints: whole, damaged, changed, from another machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from orchestrator.doctor.verification import CERTIFICATE
from orchestrator.driver.searcher import tell
from orchestrator.driver.start import _begin, _tracker
from orchestrator.files.checkpoint import CheckpointFolder
from orchestrator.files.journal import Journal
from orchestrator.files.layout import Runs, trial_label
from orchestrator.machine import machine_facts
from orchestrator.study.study import Study
from orchestrator.study_file.spec import search_options
from orchestrator.study_file.sweep import suggest
from search_core.data.datasets import load_data
from search_core.search.search import Search
from tests.orchestrator.tiny import ONE_OBJECTIVE, Outcome, snas, tiny_spec, with_empty_store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two trials of two epochs, as workers and a driver leave it."""
    root = with_empty_store(tmp_path_factory.mktemp("verified") / "runs")
    study, cpu = Study(tiny_spec(name="verified", trials=2, objectives=ONE_OBJECTIVE), Runs(root)), torch.device("cpu")
    data = load_data(study.spec.search.dataset, cpu)
    tracker = _tracker(study, data)
    _begin(study, tracker)
    tracker.open_study("verified", {"trials": 2}, study.folder.spec_file)
    for number in range(2):
        values, label = suggest(study.optuna_study.ask(), study.spec.sweep), trial_label(number)
        journal = Journal(study.folder.journal("search", label))
        kept = CheckpointFolder(study.folder.checkpoints(study.spec, "search", label))
        for report in (search := Search(search_options(study.spec, values), data)):
            journal.append_epoch({**report.to_dict(), "machine": machine_facts(cpu)})
            kept.save(search.epoch, search.state_dict(), report.to_dict())
        journal.finish("complete")
        tell(study.optuna_study, study.spec, number, journal)
    return root


def verified(runs: Path, *words: object) -> Outcome:
    return snas("study", "verify", "verified", "--runs", runs, *words)


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != CERTIFICATE}


def test_whole_study_is_certified_in_its_folder_and_in_mlflow(runs: Path) -> None:
    before = contents(runs / "verified")
    done = verified(runs)
    assert done.code == 0, done.said
    assert contents(runs / "verified") == before
    assert "4 epochs, " in done.said
    assert "values: identical" in done.said
    written = (runs / "verified" / CERTIFICATE).read_text()
    certificate = json.loads(written)
    assert [(epoch["trial"], epoch["epoch"], epoch["is_exact"]) for epoch in certificate["epochs"]] == [
        (0, 0, True),
        (0, 1, True),
        (1, 0, True),
        (1, 1, True),
    ]
    assert certificate["code"] == certificate["recorded_code"]
    assert certificate["machine"] == machine_facts(torch.device("cpu"))
    client = MlflowClient(f"sqlite:///{runs}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("verified").experiment_id])
    (artifact,) = (runs / "mlartifacts").rglob(CERTIFICATE)
    assert run.info.run_id in artifact.parts
    assert artifact.read_text() == written
    assert len(json.loads(verified(runs, "--trials", 1, "--epochs", 1, "--json").out)["epochs"]) == 1


def replaced(old: str, new: str) -> Callable[[Path], object]:
    def edit(file: Path) -> None:
        assert old in file.read_text(), "nothing would be changed"
        file.write_text(file.read_text().replace(old, new))

    return edit


def later_cost(file: Path) -> None:
    first, second, *rest = file.read_text().splitlines()
    record = json.loads(second)
    record["metrics"]["child_madds"] += 1
    file.write_text("\n".join([first, json.dumps(record), *rest]) + "\n")


@pytest.mark.parametrize(
    ("file", "edit", "code", "said"),
    [
        ("trials/0001.jsonl", later_cost, 1, "trial 1, epoch 2: metrics.child_madds is"),
        ("study.yaml", replaced("batch_size: 32", "batch_size: 16"), 1, "they differ in batch_size"),
        ("checkpoints/trial-0000/epoch-0001.pt", lambda file: file.write_bytes(b"damaged"), 1, "it is damaged"),
        ("trials/0000.jsonl", replaced('"cpu": "', '"cpu": "another '), 0, "values: within tolerance"),
        ("checkpoints", shutil.rmtree, 0, "2 epochs, "),
        ("trials", shutil.rmtree, 2, "trial 0 has no epoch yet; trial 1 has no epoch yet"),
    ],
    ids=["value", "setting", "checkpoint", "machine", "no checkpoint", "no epoch"],
)
def test_what_was_changed_is_found(
    runs: Path, tmp_path: Path, file: str, edit: Callable[[Path], object], code: int, said: str
) -> None:
    copy = tmp_path / "runs"
    shutil.copytree(runs, copy, ignore=shutil.ignore_patterns(CERTIFICATE))
    edit(copy / "verified" / file)
    before = sorted(runs.rglob("*"))
    done = verified(copy)
    assert (done.code, said in done.said) == (code, True), done.said
    assert len(list(copy.rglob(CERTIFICATE))) == (0 if code == 2 else 2), "beside the study, and in its copied store"
    assert sorted(runs.rglob("*")) == before
