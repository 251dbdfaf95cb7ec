"""The table of a study's ground truth as its journals make it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.comparison import compare
from orchestrator.comparison_text import truth_text
from orchestrator.config import StudySpec
from orchestrator.ground_truth import read_truth, units, write_table
from orchestrator.runs import Runs
from orchestrator.study import Study
from tests.orchestrator.tiny import SEARCH, opened_study, tiny_spec, written_journal

SEEDS = 2


@pytest.fixture(scope="module")
def spec() -> StudySpec:
    search = {**SEARCH, "network": {**SEARCH["network"], "nodes": 1, "primitives": ["none", "skip_connect"]}}
    return tiny_spec(search=search, sweep={}, trials=1, ground_truth={"seeds": SEEDS, "epochs": 1, "batch_size": 32})


def write_truth(spec: StudySpec, runs: Runs, diverged: int = 0) -> None:
    """Journals of all shares; the first trainings diverged."""
    for label, codes in units(spec):
        records: list[dict[str, Any]] = []
        for epoch, (code, seed) in enumerate((code, seed) for code in codes for seed in range(SEEDS)):
            is_diverged = diverged > 0
            diverged -= is_diverged
            accuracy = 0.0 if is_diverged else 0.5
            metrics = {"val_accuracy": accuracy, "params": 1.0, "madds": 2.0, "seconds": 1.0}
            mark = {"diverged": True} if is_diverged else {}
            records.append({"epoch": epoch, "code": list(code), "seed": seed, "metrics": metrics, **mark})
        written_journal(runs.study(spec.name).journal("truth", label), records, "complete")


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
