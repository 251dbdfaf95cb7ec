"""A multi-trial search whose driver is killed resumes with the same children, none trained twice, none lost."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.files.journal import Journal
from tests.integration.studies import CLOCKS, StudyProcess
from tests.search_core.tiny import FEW_PRIMITIVES

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CHILD_EPOCHS, NUM_CHILDREN = 3, 9
#: Two children at a time, of which either may end first; later ones begin as the function of their parents, the last
#: with more channels.
STUDY: dict[str, Any] = {
    "name": "children",
    "seed": 3,
    "search": {
        "dataset": {"name": "digits", "train_images": 64, "validation_images": 32},
        "network": {"nodes": 2, "cells": 3, "init_channels": 4, "primitives": list(FEW_PRIMITIVES)},
        "batch_size": 32,
        "recalibration_batches": 2,
        "strategy": {
            "kind": "regularised_evolution",
            "children": 3,
            "at_once": 2,
            "population": 3,
            "sample": 2,
            "mutation": "morphism",
            "estimate": {
                "epochs": CHILD_EPOCHS,
                "inherit": True,
                "morphism": True,
                "widths": [2, 4],
                "drop_path": 0.1,
            },
        },
        "epochs": NUM_CHILDREN // 3,
    },
    "trials": 1,
    "max_concurrent": 2,
    "resources": {"cpu": 0.5},
}


def folder_of(process: StudyProcess) -> Path:
    return process.runs / process.name / "trials" / "0000"


def child_journals(process: StudyProcess) -> list[Journal]:
    return [Journal(file) for file in sorted(folder_of(process).glob("0*.jsonl"))]


def recorded_epochs(process: StudyProcess) -> int:
    return sum(len(journal.epochs) for journal in child_journals(process))


def without_clocks(journal: Journal) -> list[dict[str, Any]]:
    records = json.loads(json.dumps(journal.epochs))
    for record in records:
        del record["time"]
        for clock in CLOCKS:
            del record["metrics"][clock]
    return records


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> StudyProcess:
    process = StudyProcess(tmp_path_factory.mktemp("undisturbed"), STUDY)
    process.start()
    process.finish()
    return process


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> StudyProcess:
    """Killed three times: in the first epoch, at its end, and in a child that inherited weights."""
    process = StudyProcess(tmp_path_factory.mktemp("killed"), STUDY)
    process.start()
    for epochs in (2, 9, 16):
        process.wait_until(lambda wanted=epochs: recorded_epochs(process) >= wanted)
        process.kill()
        assert recorded_epochs(process) < NUM_CHILDREN * CHILD_EPOCHS, "it was over before it was killed"
        time.sleep(1)  # Ray's processes see that their driver is gone
        process.resume()
    process.finish()
    return process


def test_children_are_the_same_and_each_was_trained_once(killed: StudyProcess, undisturbed: StudyProcess) -> None:
    orders = [(folder_of(process) / "order.jsonl").read_text() for process in (killed, undisturbed)]
    assert orders[0] == orders[1], "proposed and scored in the same order"
    pairs = list(zip(child_journals(killed), child_journals(undisturbed), strict=True))
    assert len(pairs) == NUM_CHILDREN
    for own, other in pairs:
        assert own.end == "complete"
        assert len(own.epochs) == CHILD_EPOCHS
        assert without_clocks(own) == without_clocks(other), "bit for bit, as it resumes from its checkpoint"


def test_reports_are_the_same(killed: StudyProcess, undisturbed: StudyProcess) -> None:
    assert killed.journal(0).end == "complete"
    assert without_clocks(killed.journal(0)) == without_clocks(undisturbed.journal(0))


def test_resumed_study_is_whole(killed: StudyProcess) -> None:
    said = killed.doctor()
    assert said.code == 0, said.said
    assert "the study is whole" in said.said
