"""Faults that another attempt meets again, and what a full disk took, in studies with real Ray, Optuna and MLflow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.orchestrator.studies import run_to_its_end
from tests.orchestrator.tiny import ETA, ONE_OBJECTIVE, RETRAIN, snas, study_data
from tests.search_core.image_folders import write_folder

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def of_folder(root: Path, **changes: Any) -> dict[str, Any]:
    """A study of three trials, one at a time, on an image folder whose files are decoded in every epoch."""
    dataset = {"name": "image-folder", "root": str(root), "image_size": 8, "workers": 0, "validation_fraction": 0.4}
    network = {"nodes": 1, "cells": 2, "init_channels": 4}
    search = {"dataset": dataset, "network": network, "epochs": 1, "batch_size": 4, "recalibration_batches": 1}
    return study_data(search=search, max_concurrent=1, **changes)


def test_torn_image_ends_the_study_after_its_first_trial(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data")
    for image in root.glob("train/*/*.png"):
        os.truncate(image, 45)  # its size can be read, its pixels cannot
    done = run_to_its_end(tmp_path, of_folder(root))
    assert done.outcome.code == 2, done.outcome.said
    assert "0000 cannot continue" in done.outcome.said
    assert ".png" in done.outcome.err
    assert "Traceback" not in done.outcome.said
    assert (done.journal(0).events, done.journal(0).end) == ([], None), "tried once, and open for when it is repaired"
    assert done.journal(1).epochs == []
    assert {run.info.status for run in done.mlflow_runs.values()} == {"KILLED"}


def test_torn_image_of_a_swept_folder_fails_its_trial_alone(tmp_path: Path) -> None:
    good, bad = write_folder(tmp_path / "good"), write_folder(tmp_path / "bad")
    for image in bad.glob("train/*/*.png"):
        os.truncate(image, 45)  # its size can be read, its pixels cannot
    sweep = {"dataset.root": {"choice": [str(bad), str(good)]}}
    done = run_to_its_end(tmp_path, of_folder(good, sweep=sweep, sampler="grid", trials=2))
    assert done.outcome.code == 0, done.outcome.said
    assert [done.journal(number).end for number in (0, 1)] == ["failed", "complete"]
    assert ".png" in done.journal(0).reason
    assert done.journal(0).events == []
    assert done.shown()["trial_records"][0]["survived"] == {}


def test_model_whose_last_checkpoint_was_lost_comes_with_the_next_resume(tmp_path: Path) -> None:
    """A disk was full at the last checkpoint of a retraining, so that its model could not be made."""
    retrain = {**RETRAIN, "epochs": 2, "top": 1}
    done = run_to_its_end(tmp_path, study_data(trials=1, sweep=ETA, objectives=ONE_OBJECTIVE, retrain=retrain))
    assert done.outcome.code == 0, done.outcome.said
    run_id = next(run.info.run_id for name, run in done.mlflow_runs.items() if name.startswith("retrain"))
    max(done.runs.glob("tiny/checkpoints/retrain-*/epoch-*.pt")).unlink()
    done.client.delete_registered_model("tiny-child")
    done.client.delete_tag(run_id, "snas.model")
    doctor = snas("study", "doctor", "tiny", "--runs", done.runs)
    assert "its child must be registered as `tiny-child`, got no version" in doctor.said
    resumed = snas("study", "resume", "tiny", "--runs", done.runs)
    assert resumed.code == 0, resumed.said
    doctor = snas("study", "doctor", "tiny", "--runs", done.runs)
    assert (doctor.code, "the study is whole" in doctor.said) == (0, True), doctor.said
    (version,) = done.client.search_model_versions("name = 'tiny-child'")
    assert version.run_id == run_id
