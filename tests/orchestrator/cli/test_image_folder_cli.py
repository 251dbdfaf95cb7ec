"""What is reported of an image folder, by the command line and by a study."""

from __future__ import annotations

import html
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from orchestrator.driver import start
from orchestrator.driver.progress import StudyView
from orchestrator.driver.start import run_study
from orchestrator.errors import OrchestratorError
from orchestrator.files.journal import Journal
from orchestrator.files.layout import Runs
from orchestrator.study.study import Study
from tests.orchestrator.tiny import runs_of, snas, tiny_spec
from tests.search_core.image_folders import NAMES, write_folder, write_image

NETWORK = {"nodes": 1, "cells": 2, "init_channels": 4}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An image folder with a training image among its test images."""
    root = write_folder(tmp_path / "data")
    shutil.copy(root / "train/ant/0.png", root / "val/ant/copy.png")
    return root


def search_data(root: Path) -> dict[str, Any]:
    dataset = {"name": "image-folder", "root": str(root), "image_size": 8, "workers": 0, "validation_fraction": 0.4}
    return {"dataset": dataset, "network": NETWORK, "epochs": 1, "batch_size": 4, "recalibration_batches": 1}


def is_named(said: str) -> bool:
    return "identical images in more than one split: 1, such as train/ant/0.png" in said


def test_study_says_what_is_odd_about_its_images_before_it_begins(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class View(StudyView):
        def warn(self, message: str) -> None:
            said.append(message)

    def refuse(_: Study) -> None:
        raise OrchestratorError("far enough")

    said: list[str] = []
    monkeypatch.setattr(start, "_check_new", refuse)
    study = Study(tiny_spec(search=search_data(root)), Runs(tmp_path / "runs"))
    with pytest.raises(OrchestratorError, match="far enough"):
        run_study(study, View())
    assert [is_named(message) for message in said] == [True]


@pytest.mark.slow
def test_search_takes_names_of_any_bytes_and_names_a_bad_image(root: Path, tmp_path: Path) -> None:
    for part in (b"train", b"val"):
        for number, name in enumerate(NAMES.values()):
            folder = os.path.join(os.fsencode(root), part, name)
            os.mkdir(folder)
            for i in range(3):
                write_image(os.path.join(folder, name + b"%d.png" % i), 100 + 10 * number + i + 500 * (part == b"val"))
    config, runs = tmp_path / "search.yaml", tmp_path / "runs"
    config.write_text(yaml.safe_dump(search_data(root)), encoding="utf-8")

    found = snas("search", config, "--name", "good", "--runs", runs)
    assert found.code == 0, found.said
    assert is_named(found.err)

    bad = os.path.join(os.fsencode(root), b"train", NAMES["not UTF-8"], NAMES["not UTF-8"])
    for i in range(3):
        Path(os.fsdecode(bad + b"%d.png" % i)).write_bytes(b"no image")
    refused = snas("search", config, "--name", "bad", "--runs", runs)
    assert refused.code == 2
    assert r"train/caf\xe9/caf\xe9" in refused.said
    assert "must be an image that can be decoded, got: an unknown format" in refused.said
    journal = Journal(runs / "searches/bad/history.jsonl")
    assert journal.end == "failed"
    assert r"caf\xe9" in journal.reason
    run = runs_of(MlflowClient(Runs(runs).tracking_uri()), "searches")[-1]
    assert (run.info.run_name, run.info.status) == ("bad", "FAILED")
    assert r"caf\xe9" in html.unescape(run.data.tags["mlflow.note.content"])  # Markdown has it escaped
