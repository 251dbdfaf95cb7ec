"""The table of a study's ground truth as its journals make it."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.doctor import examine
from orchestrator.files.layout import Runs
from orchestrator.reports.comparison import compare
from orchestrator.reports.comparison_text import truth_text
from orchestrator.study.ground_truth import read_truth, truth_jobs, write_table
from orchestrator.study.study import Study
from orchestrator.study_file.spec import StudySpec
from orchestrator.study_file.yaml_file import dump_yaml
from tests.orchestrator.tiny import SEARCH, opened_study, tiny_spec, written_journal

SEEDS = 2


@pytest.fixture(scope="module")
def spec() -> StudySpec:
    search = {**SEARCH, "network": {**SEARCH["network"], "nodes": 1, "primitives": ["none", "skip_connect"]}}
    return tiny_spec(search=search, sweep={}, trials=1, ground_truth={"seeds": SEEDS, "epochs": 1, "batch_size": 32})


def write_truth(spec: StudySpec, runs: Runs, diverged: int = 0) -> None:
    """Journals of all parts; the first trainings diverged."""
    for job in truth_jobs(spec, runs.study(spec.name)):
        records: list[dict[str, Any]] = []
        for epoch, (code, seed) in enumerate((code, seed) for code in job.codes for seed in range(SEEDS)):
            is_diverged = diverged > 0
            diverged -= is_diverged
            accuracy = 0.0 if is_diverged else 0.5
            metrics = {"val_accuracy": accuracy, "params": 1.0, "madds": 2.0, "seconds": 1.0}
            mark = {"diverged": True} if is_diverged else {}
            records.append({"epoch": epoch, "code": list(code), "seed": seed, "metrics": metrics, **mark})
        written_journal(runs.study(spec.name).journal("truth", job.label), records, "complete")


def test_diverged_trainings_are_in_the_table_and_counted(spec: StudySpec, tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    opened_study(spec, runs.optuna_url())
    write_truth(spec, runs, diverged=3)
    table = read_truth(spec, runs.study(spec.name))
    assert table is not None
    first, second, *others = table.accuracies
    assert table.diverged == {first: 2, second: 1}
    assert (table.means[first], table.means[second]) == (0.0, 0.25)
    write_table(table, tmp_path / "table.json")
    rows = json.loads((tmp_path / "table.json").read_text())["genotypes"]
    assert [row["diverged"] for row in rows] == [2, 1, *[0] * len(others)]
    facts = compare(Study(spec, runs)).truth
    assert facts is not None
    assert facts.diverged == 3
    assert truth_text(facts).endswith("3 trainings diverged and count with accuracy 0.")


# --- the doctor


@pytest.fixture
def runs(spec: StudySpec, tmp_path: Path) -> Runs:
    """A study with its table, whose search has not begun."""
    runs = Runs(tmp_path)
    opened_study(spec, runs.optuna_url())
    write_truth(spec, runs)
    runs.study(spec.name).spec_file.write_text(dump_yaml(spec.resolved()), encoding="utf-8")
    return runs


def findings(spec: StudySpec, runs: Runs) -> list[tuple[str, str, str]]:
    """Place, severity and all words of each finding about the ground truth."""
    found = [finding for finding in examine(spec.name, runs).findings if finding.check == "ground truth"]
    return [(finding.place, finding.severity, f"{finding.message}; {finding.remedy}") for finding in found]


def drop(file: Path) -> None:
    file.unlink()


def damage(file: Path) -> None:
    file.write_text("{}\n" + file.read_text())


def shorten(file: Path) -> None:
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines[:-2], lines[-1]]))


def reopen(file: Path) -> None:
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:5]))


def fail(file: Path) -> None:
    reopen(file)
    with file.open("a") as journal:
        journal.write('{"end": "failed", "reason": "the worker died"}\n')


def test_doctor_says_that_a_table_is_whole(spec: StudySpec, runs: Runs) -> None:
    report = examine(spec.name, runs)
    assert {check.name: check.looked_at for check in report.checks}["ground truth"] == 16 * SEEDS
    assert findings(spec, runs) == []


@pytest.mark.parametrize(
    ("hurt", "place", "words"),
    [
        (drop, "tiny", "must have a journal, got none of truth-00008"),
        (damage, "truth-00008", "00008.jsonl:1: "),
        (shorten, "truth-00008", "must have 16 trainings, got 15"),
        (reopen, "truth-00008", "unfinished after 5 of 16 trainings"),
        (fail, "truth-00008", "failed after 5 of 16 trainings: the worker died"),
    ],
)
def test_doctor_finds_what_the_table_lacks(
    spec: StudySpec, runs: Runs, hurt: Callable[[Path], None], place: str, words: str
) -> None:
    hurt(runs.study(spec.name).journal("truth", "00008"))
    ((found, severity, said),) = findings(spec, runs)
    assert (found, severity) == (place, "error")
    assert words in said
    assert f"`snas study resume tiny --runs {runs.root}`" in said


@pytest.mark.parametrize("hurt", [drop, reopen])
def test_what_a_driver_at_work_has_still_to_train_is_no_error(
    spec: StudySpec, runs: Runs, hurt: Callable[[Path], None]
) -> None:
    hurt(runs.study(spec.name).journal("truth", "00008"))
    with runs.study(spec.name).lock_file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert [severity for _, severity, _ in findings(spec, runs)] == ["info"]
