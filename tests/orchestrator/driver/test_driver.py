"""What a driver finds to do, without Ray."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.driver import driver as driver_module
from orchestrator.driver.driver import Driver
from orchestrator.driver.progress import StudyView
from orchestrator.files.layout import Runs
from orchestrator.jobs import Reservation
from tests.orchestrator.tiny import RETRAIN, retrain_job, retrain_records, tiny_spec, written_journal


@pytest.mark.parametrize("is_lost", [True, False])
def test_training_whose_model_was_lost_is_repeated_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    """Its last checkpoint could not be written; a disk that is still full must not repeat it forever."""
    log = SimpleNamespace(lacks_model=lambda job: is_lost, said=None)
    monkeypatch.setattr(driver_module, "StudyLog", lambda *_: log)
    job = retrain_job()
    folder = Runs(tmp_path).study("tiny")
    written_journal(folder.journal("retrain", job.label), retrain_records(1), "complete")
    study: Any = SimpleNamespace(spec=tiny_spec(retrain=RETRAIN), folder=folder, retrain_jobs=lambda: [job])
    driver = Driver(study, cast(Any, None), StudyView(), "parent", cast(Any, None))
    driver._reservations["retrain"] = Reservation(cpu=1.0, gpu=0.0, memory_gb=None)
    driver._repeated = driver._lost_models()
    assert [job.label for job in driver._jobs("retrain")] == ([job.label] if is_lost else [])
    assert driver._jobs("retrain") == []
