"""The study's own run: counts over trials, once each whatever driver logs them, its description and its curves."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import count
from pathlib import Path
from unittest import mock

import pytest
from mlflow.exceptions import MlflowException

from dashboards.history import read_curves
from orchestrator.files.journal import Journal
from orchestrator.files.layout import Runs, StudyFolder
from orchestrator.study.standing import Tally
from orchestrator.study.study import Study
from orchestrator.study_file.spec import StudySpec
from orchestrator.tracking.curves import FOLDER, CurveFiles, file_of, logged_rows
from orchestrator.tracking.markdown import LIMIT
from orchestrator.tracking.run_spec import Unit
from orchestrator.tracking.study_artifacts import log_published
from orchestrator.tracking.study_note import StudyProgress
from orchestrator.tracking.study_runs import StudyLog
from orchestrator.tracking.tracker import Tracker
from search_core.cost.counts import child_cost
from search_core.space.genotype import PUBLISHED
from tests.orchestrator.study.test_standing import ended, options_of
from tests.orchestrator.tiny import (
    RETRAIN,
    TWO_OBJECTIVES,
    artifact_paths,
    made_up_record,
    steps_of,
    tiny_spec,
    with_empty_store,
    written_journal,
)
from tests.search_core.tiny import TINY_SIZE, images_of

_NAMES = (f"study-{number}" for number in count())
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """One store for all tests; each has an experiment of its own."""
    return Runs(with_empty_store(tmp_path_factory.mktemp("runs")))


@pytest.fixture
def tracker(runs: Runs) -> Tracker:
    uri, name = runs.tracking_uri(), next(_NAMES)
    return Tracker(uri, name, artifact_location=runs.artifact_location(uri, name), tags={"snas.study": name})


@pytest.fixture
def parent(tracker: Tracker, tmp_path: Path) -> str:
    file = tmp_path / "study.yaml"
    file.write_text("name: tiny\n")
    return tracker.open_study("tiny", {}, file)


SPEC: StudySpec = tiny_spec(objectives=TWO_OBJECTIVES, trials=40, retrain=RETRAIN)

Add = Callable[..., None]


@pytest.fixture
def tally() -> Tally:
    return Tally(SPEC)


@pytest.fixture
def add(tally: Tally, tmp_path: Path) -> Add:
    def add_one(number: int, end: str = "complete", reason: str = "", **metrics: float) -> None:
        tally.add_trial(number, options_of(tally), ended(tmp_path, number, end, reason, **metrics))

    return add_one


def figures(number: int) -> dict[str, float]:
    """A search that is on the front, whatever others are."""
    return {"child_val_error": 0.5 - 0.01 * number, "child_madds": 1000.0 * number, "child_params": 10.0}


def test_counts_are_logged_once_per_step_over_restarts(tracker: Tracker, parent: str, tally: Tally, add: Add) -> None:
    first = StudyProgress(SPEC, tally, tracker, parent)
    first.log()
    assert steps_of(tracker.client, parent, "trials_complete") == [], "nothing is over"
    for number in range(2):
        add(number, **figures(number))
    first.log()
    first.log()
    StudyProgress(SPEC, tally, tracker, parent).log()
    add(2, "failed", "diverged")
    restarted = StudyProgress(SPEC, tally, tracker, parent)
    restarted.log()
    assert steps_of(tracker.client, parent, "trials_complete") == [2, 3]
    points = tracker.client.get_metric_history(parent, "trials_failed")
    assert [(point.step, point.value) for point in points] == [(2, 0.0), (3, 1.0)]
    assert tracker.client.get_run(parent).data.metrics["best_child_madds"] == 0.0


def test_retrainings_have_steps_of_their_own(tracker: Tracker, parent: str, tally: Tally, tmp_path: Path) -> None:
    progress = StudyProgress(SPEC, tally, tracker, parent)
    progress.log()
    assert "retrainings_total" not in tracker.client.get_run(parent).data.metrics, "not known before the searches end"
    tally.num_retrainings = 2
    progress.log()
    tally.add_retraining("0000-seed0", 0, ended(tmp_path, 0, "failed", "diverged"))
    progress.log()
    progress.log()
    assert steps_of(tracker.client, parent, "retrainings_total") == [0, 1]
    metrics = tracker.client.get_run(parent).data.metrics
    assert (metrics["retrainings_total"], metrics["retrainings_failed"]) == (2.0, 1.0)


def test_counts_whose_answer_was_lost_are_not_logged_again(
    tracker: Tracker, parent: str, tally: Tally, add: Add
) -> None:
    add(0, **figures(0))
    progress, log_batch = StudyProgress(SPEC, tally, tracker, parent), tracker.client.log_batch

    def unanswered(*words: object, **options: object) -> None:
        log_batch(*words, **options)
        raise MlflowException("the answer was lost")

    with mock.patch.object(tracker.client, "log_batch", unanswered), pytest.raises(MlflowException, match="lost"):
        progress.log()
    progress.log()
    assert steps_of(tracker.client, parent, "trials_complete") == [1]


def test_description_has_the_front_with_links_and_what_failed(
    tracker: Tracker, parent: str, tally: Tally, add: Add, tmp_path: Path
) -> None:
    run_id = tracker.run_id(Unit(label="trial-0000", kind="search"))
    add(0, **figures(0))
    add(1, "failed", f"diverged | {HOSTILE}")
    tally.num_retrainings = 2
    tally.add_retraining("0000-seed0", 0, ended(tmp_path, 8, val_accuracy=0.5, test_accuracy=0.25))
    StudyProgress(SPEC, tally, tracker, parent).log()
    note = tracker.client.get_run(parent).data.tags["mlflow.note.content"]
    assert tracker.client.get_experiment(tracker.experiment_id).tags["mlflow.note.content"] == note
    assert note.startswith("**2 of 40 searches are over** (1 complete, 1 failed), 1 of 2 retrainings.")
    assert f"[trial 0](#/experiments/{tracker.experiment_id}/runs/{run_id})" in note
    assert "| 0.01&emsp; | linear to 0.03&emsp; | 50.00%&emsp; | 0&emsp; | 10&emsp; | 25.00% (n = 1) |" in note
    assert "- trial 1: diverged &#124; &#60;script&#62;alert(1)&#60;/script&#62;" in note
    assert HOSTILE not in note
    assert "`penalty.strength: {'log_uniform': [1e-05, 0.1]}`" in note


@pytest.mark.slow
def test_description_of_a_large_study_fits(tracker: Tracker, parent: str, tally: Tally, add: Add) -> None:
    for number in range(40):
        add(number, **figures(number))
    for number in range(40, 60):
        add(number, "failed", "x" * 3000)
    StudyProgress(SPEC, tally, tracker, parent).log()
    note = tracker.client.get_experiment(tracker.experiment_id).tags["mlflow.note.content"]
    assert len(note) <= LIMIT
    assert "20 more of the front are in front.json." in note


def curve_files(tracker: Tracker, parent: str, folder: StudyFolder, opened: list[str] | None = None) -> CurveFiles:
    def open_journal(label: str) -> Journal:
        if opened is not None:
            opened.append(label)
        return Journal(folder.journal("search", label))

    return CurveFiles(tracker.client, parent, folder, open_journal)


def test_curves_hold_all_epochs_of_32_trials(tracker: Tracker, parent: str, runs: Runs) -> None:
    folder = runs.study(f"curves-{tracker.experiment_id}")
    for number, epochs in ((0, 2), (31, 3), (32, 1)):
        records = [{**made_up_record(epoch, child_val_error=0.1 * epoch), "cells": {}} for epoch in range(epochs)]
        written_journal(folder.journal("search", f"{number:04d}"), records)
    curves = curve_files(tracker, parent, folder)
    assert [file_of(number) for number in (0, 31, 32)] == ["0000-0031.parquet"] * 2 + ["0032-0063.parquet"]
    assert curves.write(file_of(0)) == 5
    assert curves.write(file_of(32)) == 1
    assert artifact_paths(tracker.client, parent, FOLDER) == [f"{FOLDER}/{file_of(0)}", f"{FOLDER}/{file_of(32)}"]
    file = Path(tracker.client.download_artifacts(parent, f"{FOLDER}/{file_of(0)}"))
    written = read_curves(file.read_bytes(), file.name)
    assert {number: history.epochs.tolist() for number, history in written.items()} == {0: [1, 2], 31: [1, 2, 3]}
    assert written[31].metrics["child_val_error"].tolist() == [0.0, 0.1, 0.2]
    wanted = [file_of(0), file_of(32), file_of(64)]
    assert logged_rows(tracker.client, parent, wanted) == {file_of(0): 5, file_of(32): 1}


def test_file_of_curves_that_is_damaged_counts_as_missing(tracker: Tracker, parent: str, tmp_path: Path) -> None:
    (tmp_path / file_of(0)).write_bytes(b"no parquet")
    tracker.client.log_artifact(parent, str(tmp_path / file_of(0)), FOLDER)
    assert logged_rows(tracker.client, parent, [file_of(0)]) == {}


def test_published_cells_have_their_costs_at_the_size_of_the_searches(tracker: Tracker, parent: str) -> None:
    data = images_of()
    with mock.patch.object(tracker.client, "log_dict", wraps=tracker.client.log_dict) as log_dict:
        log_published(tracker, parent, SPEC, data)
        log_published(tracker, parent, SPEC, data)
    assert log_dict.call_count == 1
    found = log_dict.call_args.args[1]
    assert set(found) == set(PUBLISHED)
    cost = child_cost(PUBLISHED["DARTS_V2"], TINY_SIZE)
    assert found["DARTS_V2"] == {
        "child_params": cost.params,
        "child_madds": cost.madds,
        "child_memory_access": cost.memory_access,
    }


def test_journal_that_is_read_for_curves_may_still_grow(tracker: Tracker, parent: str, runs: Runs) -> None:
    folder = runs.study(f"growing-{tracker.experiment_id}")
    journal = Journal(written_journal(folder.journal("search", "0000"), [made_up_record(0, child_val_error=0.5)]))
    curves = curve_files(tracker, parent, folder)
    assert curves.write(file_of(0)) == 1
    journal.append_epoch(made_up_record(1, child_val_error=0.25))
    assert curves.write(file_of(0)) == 2
    assert logged_rows(tracker.client, parent, [file_of(0)]) == {file_of(0): 2}


def test_trial_that_is_over_is_read_once_for_curves(tracker: Tracker, parent: str, runs: Runs) -> None:
    folder, opened = runs.study(f"once-{tracker.experiment_id}"), list[str]()
    curves = curve_files(tracker, parent, folder, opened)
    for number, metric in enumerate(("child_val_error", "child_madds")):
        record = made_up_record(0, **{metric: 0.5})
        written_journal(folder.journal("search", f"{number:04d}"), [record], "complete")
        written_journal(folder.journal("search", "0031"), [made_up_record(number, child_val_error=0.25)])
        assert curves.write(file_of(0)) == 2 * (number + 1)
    assert opened == ["0000", "0031", "0001", "0031"]
    file = Path(tracker.client.download_artifacts(parent, f"{FOLDER}/{file_of(0)}"))
    written = read_curves(file.read_bytes(), file.name)
    assert math.isnan(written[0].metrics["child_madds"][0])
    assert written[1].metrics["child_madds"].tolist() == [0.5]
    assert written[31].epochs.tolist() == [1, 2]
    again = list[str]()
    assert curve_files(tracker, parent, folder, again).write(file_of(0)) == 4, "another driver reads them again"
    assert again == ["0000", "0001", "0031"]


def test_trials_of_few_files_are_kept_in_memory_for_curves(tracker: Tracker, parent: str, runs: Runs) -> None:
    folder, opened = runs.study(f"bounded-{tracker.experiment_id}"), list[str]()
    curves = curve_files(tracker, parent, folder, opened)
    numbers = [*range(0, 32 * 6, 32), *range(32, 64)]
    for number in set(numbers):
        written_journal(folder.journal("search", f"{number:04d}"), [made_up_record(0, child_val_error=0.5)], "complete")
    for number in numbers[:6]:
        curves.write(file_of(number))
    assert sum(map(len, curves._over.values())) <= 4 * 32
    opened.clear()
    curves.write(file_of(0))
    curves.write(file_of(160))
    assert opened == ["0000"]


def test_search_without_pictures_has_its_history_while_it_runs(
    tracker: Tracker, parent: str, runs: Runs, tmp_path: Path
) -> None:
    spec = tiny_spec(name="blind", tracking={"picture_every": 0})
    study = Study(spec, Runs(tmp_path))
    log = StudyLog(
        study,
        tracker,
        mock.Mock(),
        parent,
        images_of(),
        lambda phase, label: Journal(study.folder.journal(phase, label)),
    )
    unit = log._search_unit("0000", {"epochs": 20})
    swept = log._search_unit("0001", log._plain_options({"network.primitives": "none skip_connect"}))
    log.stop()
    assert swept.primitives == ("none", "skip_connect"), "a trial's own, not the study's"
    assert (unit.pictures, unit.histories) == ([], [*range(0, 20, 2), 19])
