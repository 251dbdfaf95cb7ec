"""Plans of studies: made of real steps on a real Ray cluster, and in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.orchestrator.tiny import RETRAIN, SEARCH, TWO_OBJECTIVES, snas


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    sweep = {"network.init_channels": {"choice": [2, 8]}}
    study = {
        "name": "tiny",
        "search": SEARCH,
        "sweep": sweep,
        "trials": 3,
        "objectives": TWO_OBJECTIVES,
        "retrain": RETRAIN,
        "resources": {"cpu": 0.5},
        "max_concurrent": 2,
        "budget": {"hours": 1},
    }
    file = tmp_path / "study.yaml"
    file.write_text(json.dumps(study), encoding="utf-8")
    return file


@pytest.mark.integration
@pytest.mark.slow
def test_plan_of_a_small_study(study_file: Path, tmp_path: Path) -> None:
    ended = snas("study", "plan", study_file, "--json")
    assert ended.code == 0, ended.said
    found = json.loads(ended.out)
    searches, retrainings = found["searches"], found["retrainings"]
    assert (searches["count"]["expected"], searches["at_once"], searches["per_gpu"]) == (3, 2, None)
    assert 0 < searches["one_s"]["low"] < searches["one_s"]["expected"] < searches["one_s"]["high"]
    assert searches["all_s"]["expected"] > 1.5 * searches["one_s"]["expected"], "three searches, two at a time"
    assert (retrainings["count"], retrainings["energy_kwh"]) == ({"low": 1, "expected": 2, "high": 3}, None)
    assert found["study_s"]["expected"] > found["start_s"] + searches["all_s"]["expected"]
    assert 0.3e9 < found["memory_bytes"] < 3e9
    assert found["fitting"] == {"trials": 3, "epochs": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"], "nothing is written"
    assert "running steps of searches: 2 settings, 2 processes at a time" in ended.said


def test_faulty_file_has_no_plan(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("name: tiny\nsearch: {epochs: 0}\ntrials: 1\n", encoding="utf-8")
    ended = snas("study", "plan", file)
    assert (ended.code, ended.out) == (2, "")
    assert "must be at least 1, got 0" in ended.said
