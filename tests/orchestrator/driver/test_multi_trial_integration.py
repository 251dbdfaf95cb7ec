"""A study whose sweep ranges over both families of strategies, as a user runs it: a process, real Ray, real stores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.doctor import examine
from orchestrator.doctor.children import CHILDREN
from orchestrator.files.journal import Journal
from orchestrator.files.layout import Runs
from orchestrator.study_file.loading import parse_study
from orchestrator.study_file.spec import search_options
from orchestrator.tracking.run_spec import SEARCH_METRICS
from search_core.data.datasets import load_data
from search_core.search.child_search import make_search
from tests.orchestrator.driver.test_study_integration import Done, run_to_its_end
from tests.orchestrator.tiny import RETRAIN, SEARCH, artifact_paths, snas, steps_of, study_data

pytestmark = [pytest.mark.integration, pytest.mark.slow]

_MULTI_TRIAL = {"when": {"strategy.kind": ["random", "regularised_evolution"]}}
_EVOLUTION = {"when": {"strategy.kind": "regularised_evolution"}}
#: The rate of the fourth search lets every child diverge.
STUDY: dict[str, Any] = study_data(
    name="families",
    search={**SEARCH, "dataset": {"name": "digits", "train_images": 120, "validation_images": 50}},
    sweep={
        "strategy.kind": {"choice": ["regularised_evolution", "random", "snas"]},
        "strategy.children": {"choice": [2], **_MULTI_TRIAL},
        "strategy.estimate.epochs": {"choice": [1], **_MULTI_TRIAL},
        "strategy.estimate.lr": {"choice": [0.05, 1.0e30], "when": {"strategy.kind": "random"}},
        "strategy.estimate.inherit": {"choice": [True], **_EVOLUTION},
        "strategy.population": {"choice": [2], **_EVOLUTION},
        "strategy.sample": {"choice": [1], **_EVOLUTION},
    },
    sampler="grid",
    trials=4,
    max_concurrent=2,
    resources={"cpu": 0.5},
    retrain={**RETRAIN, "top": 1},
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return run_to_its_end(tmp_path_factory.mktemp("families"), STUDY)


def children_of(done: Done, number: int) -> list[Journal]:
    return [Journal(file) for file in sorted((done.runs / "families" / "trials" / f"{number:04d}").glob("0*.jsonl"))]


def test_study_over_both_families_completes(done: Done) -> None:
    assert done.outcome.code == 0, done.outcome.said
    assert done.outcome.err == "", "Ray and MLflow keep quiet"
    trials = done.shown()["trial_records"]
    assert [trial["values"]["strategy.kind"] for trial in trials] == [
        "regularised_evolution",
        "random",
        "random",
        "snas",
    ]
    assert [trial["state"] for trial in trials] == ["complete", "complete", "failed", "complete"]
    assert "a child must be trained to its end, got 2 that failed" in trials[2]["reason"]


def test_every_child_was_trained_once(done: Done) -> None:
    for number, count in ((0, 4), (1, 4), (2, 2), (3, 0)):
        assert len(children_of(done, number)) >= count
        for journal in children_of(done, number)[:count]:
            assert (journal.end, len(journal.epochs)) == (("failed", 0) if number == 2 else ("complete", 1))
            assert journal.events == []


def test_search_in_one_process_finds_the_same(done: Done) -> None:
    """Two children at a time there, one after another here."""
    spec = parse_study(STUDY)
    for number in (0, 1):
        options = search_options(spec, done.shown()["trial_records"][number]["values"])
        search = make_search(options, load_data(options.dataset, torch.device("cpu")))
        for report, record in zip(search, done.journal(number).epochs, strict=True):
            found = json.loads(json.dumps(report.to_dict()))
            assert [found[key] for key in ("children", "genotype")] == [record[key] for key in ("children", "genotype")]
            assert report.child_val_accuracy == record["metrics"]["child_val_accuracy"]


def test_mlflow_has_the_searches_like_all_others(done: Done) -> None:
    runs = done.mlflow_runs
    assert {name for name in runs if name.startswith("trial")} == {f"trial-{number:04d}" for number in range(4)}
    for number in (0, 1, 3):
        run_id = runs[f"trial-{number:04d}"].info.run_id
        assert runs[f"trial-{number:04d}"].info.status == "FINISHED"
        assert all(steps_of(done.client, run_id, metric) == [0, 1] for metric in SEARCH_METRICS)
        assert {"cells.svg", "genotype.json", "history.parquet", "player.html"} < set(
            artifact_paths(done.client, run_id)
        )
    assert runs["trial-0002"].info.status == "FAILED"
    assert any(name.startswith("retrain") for name in runs)


def test_report_is_that_of_the_best_child(done: Done) -> None:
    for number in (0, 1):
        children, record = children_of(done, number), done.journal(number).epochs[-1]
        scores = [child.last_metric("held_out_accuracy") for child in children]
        best = children[scores.index(max(scores))]
        assert record["metrics"]["child_val_accuracy"] == best.last_metric("val_accuracy")
        hours = sum(child.last_metric("cpu_core_hours") for child in children)
        assert record["metrics"]["cpu_core_hours"] == pytest.approx(hours)


def test_doctor_finds_the_study_whole_and_a_child_that_is_missing(done: Done) -> None:
    report = examine("families", Runs(done.runs))
    assert report.is_whole, report.findings
    assert {check.name: check.looked_at for check in report.checks}[CHILDREN] >= 10
    file = done.runs / "families" / "trials" / "0001" / "0003.jsonl"
    content = file.read_text()
    file.unlink()
    found = [finding for finding in examine("families", Runs(done.runs)).findings if finding.severity == "error"]
    file.write_text(content)
    assert [(finding.check, finding.place) for finding in found] == [(CHILDREN, "trial-0001-0003")]


def test_resume_of_the_complete_study_changes_nothing(done: Done) -> None:
    files = {file: file.read_bytes() for file in Path(done.runs, "families", "trials").rglob("*.jsonl")}
    assert snas("study", "resume", "families", "--runs", done.runs).code == 0
    assert {file: file.read_bytes() for file in Path(done.runs, "families", "trials").rglob("*.jsonl")} == files
    assert json.loads(json.dumps(done.shown()))["trial_records"]
