"""MLflow runs brought up to journals, on a real SQLite store and once on a real server."""

from __future__ import annotations

import getpass
import json
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any, Self
from unittest import mock

import pyarrow.parquet as pq
import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from orchestrator.errors import OrchestratorError
from orchestrator.files.journal import Journal
from orchestrator.files.layout import Runs
from orchestrator.tracking.run_spec import (
    SEARCH_METRICS,
    Unit,
    dataset_input,
    environment_tags,
    flatten,
    picture_epochs,
    run_tags,
    user_tags,
)
from orchestrator.tracking.tracker import Tracker
from search_core.search.reports import METRICS
from search_core.space.genotype import Genotype
from tests.integration.servers import MlflowServer
from tests.orchestrator.tiny import (
    artifact_paths,
    cell_of,
    image_steps,
    real_records,
    retrain_records,
    runs_of,
    steps_of,
    with_empty_store,
    written_journal,
)
from tests.search_core.tiny import FEW_PRIMITIVES, TINY_DATASET, images_of

_NAMES = (f"experiment-{number}" for number in count())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """One store for all tests; each has an experiment of its own."""
    return Runs(with_empty_store(tmp_path_factory.mktemp("runs")))


@pytest.fixture
def experiment() -> str:
    return next(_NAMES)


def tracker_of(runs: Runs, experiment: str) -> Tracker:
    """A tracker as a driver makes it; a second one is a restarted driver."""
    uri = runs.tracking_uri()
    location = runs.artifact_location(uri, experiment)
    return Tracker(uri, experiment, artifact_location=location, tags={"snas.study": experiment})


def by_label(tracker: Tracker, experiment: str) -> dict[str, Run]:
    return {run.data.tags["snas.unit"]: run for run in runs_of(tracker.client, experiment)}


def search_unit(label: str = "trial-0000", **changes: Any) -> Unit:
    unit = Unit(
        label=label,
        kind="search",
        params={"seed": 0},
        metrics=SEARCH_METRICS,
        primitives=FEW_PRIMITIVES,
        pictures=range(100),
        histories=range(100),
    )
    return replace(unit, **changes)


def study_run(tracker: Tracker, folder: Path) -> str:
    file = folder / "study.yaml"
    file.write_text("name: tiny\n")
    return tracker.open_study("tiny", {"trials": 3}, file)


def read_artifact(runs: Runs, run: Run, name: str) -> Path:
    return Path(MlflowClient(runs.tracking_uri()).download_artifacts(run.info.run_id, name))


def test_study_has_one_parent_run(runs: Runs, experiment: str, tmp_path: Path) -> None:
    tracker = tracker_of(runs, experiment)
    parent = study_run(tracker, tmp_path)
    tracker.close_study(parent, complete=False)
    assert tracker.client.get_run(parent).info.status == "FAILED"
    again = tracker_of(runs, experiment)
    assert study_run(again, tmp_path) == parent
    (run,) = runs_of(again.client, experiment)
    assert (run.info.run_name, run.info.status) == ("tiny", "RUNNING")
    assert run.data.params == {"trials": "3"}
    assert (run.data.tags["snas.kind"], run.data.tags["snas.study"]) == ("study", experiment)
    assert artifact_paths(again.client, parent) == ["study.yaml"]
    again.close_study(parent, complete=True)
    assert again.client.get_run(parent).info.status == "FINISHED"


def test_sync_creates_one_run_below_its_parent(runs: Runs, experiment: str, tmp_path: Path) -> None:
    records = real_records(2)
    tracker = tracker_of(runs, experiment)
    parent = study_run(tracker, tmp_path)
    unit = search_unit(parent=parent, tags={"snas.checkpoints": "/somewhere"})
    tracker.sync(unit, Journal(written_journal(tmp_path / "0000.jsonl", records)))
    run = by_label(tracker, experiment)["trial-0000"]
    assert (run.info.run_name, run.info.status) == ("trial-0000", "RUNNING")
    assert run.data.params == {"seed": "0"}
    expected = {
        "snas.unit": "trial-0000",
        "snas.kind": "search",
        "snas.study": experiment,
        "snas.checkpoints": "/somewhere",
        "mlflow.parentRunId": parent,
    }
    assert {key: run.data.tags.get(key) for key in expected} == expected
    for name in SEARCH_METRICS:
        points = tracker.client.get_metric_history(run.info.run_id, name)
        assert [(point.step, point.value) for point in points] == [(i, records[i]["metrics"][name]) for i in range(2)]


def test_run_began_with_its_first_epoch(runs: Runs, experiment: str, tmp_path: Path) -> None:
    """Not with the report of it, which is an epoch later."""
    tracker, journal = tracker_of(runs, experiment), Journal(written_journal(tmp_path / "0000.jsonl", real_records(1)))
    tracker.sync(search_unit(), journal)
    (run,), (first,) = runs_of(tracker.client, experiment), journal.epochs
    assert run.info.start_time == int(1000 * (first["time"] - first["metrics"]["seconds"]))


def test_few_metric_keys_reach_mlflow(runs: Runs, experiment: str, tmp_path: Path) -> None:
    """MLflow's pages grow slow with the number of keys."""
    tracker = tracker_of(runs, experiment)
    tracker.sync(search_unit(), Journal(written_journal(tmp_path / "0000.jsonl", real_records(1))))
    (run,) = runs_of(tracker.client, experiment)
    assert set(run.data.metrics) == set(SEARCH_METRICS)
    assert len(SEARCH_METRICS) <= 16
    assert set(SEARCH_METRICS) < set(METRICS)


def test_restarted_driver_continues_without_repeats_and_holes(runs: Runs, experiment: str, tmp_path: Path) -> None:
    records, file = real_records(4), tmp_path / "0000.jsonl"
    unit = search_unit()
    tracker_of(runs, experiment).sync(unit, Journal(written_journal(file, records[:2])))
    tracker_of(runs, experiment).sync(unit, Journal(file))  # nothing new
    last = tracker_of(runs, experiment)
    journal = Journal(written_journal(file, records[2:3]))
    last.sync(unit, journal)
    journal.append_epoch(records[3])
    journal.finish("complete")
    last.sync(unit, journal)
    last.sync(unit, journal)
    closed = tracker_of(runs, experiment)
    closed.sync(unit, Journal(file))
    (run,) = runs_of(last.client, experiment)
    assert run.info.status == "FINISHED"
    for name in SEARCH_METRICS:
        assert steps_of(last.client, run.info.run_id, name) == [0, 1, 2, 3]
    assert image_steps(last.client, run.info.run_id) == [0, 1, 2, 3]


@pytest.mark.slow
def test_epochs_that_are_behind_go_in_one_request(runs: Runs, experiment: str, tmp_path: Path) -> None:
    records = [{**real_records(1)[0], "epoch": epoch} for epoch in range(23)]
    tracker = tracker_of(runs, experiment)
    journal = Journal(written_journal(tmp_path / "0000.jsonl", records[:1]))
    tracker.sync(search_unit(), journal)
    for record in records[1:]:
        journal.append_epoch(record)
    with mock.patch.object(tracker.client, "log_batch", wraps=tracker.client.log_batch) as log_batch:
        tracker.sync(search_unit(), journal)
    assert log_batch.call_count == 2, "20 epochs each at most"
    (run,) = runs_of(tracker.client, experiment)
    assert {metric: steps_of(tracker.client, run.info.run_id, metric) for metric in SEARCH_METRICS} == {
        metric: list(range(23)) for metric in SEARCH_METRICS
    }


@pytest.mark.slow
def test_restarted_driver_asks_once_for_all_runs(runs: Runs, experiment: str, tmp_path: Path) -> None:
    labels = [f"trial-{number:04d}" for number in range(5)]
    files = {label: written_journal(tmp_path / f"{label}.jsonl", real_records(1), "complete") for label in labels}
    first = tracker_of(runs, experiment)
    for label in labels:
        first.sync(search_unit(label), Journal(files[label]))
    again = tracker_of(runs, experiment)
    with mock.patch.object(again, "client", wraps=again.client) as client:
        for label in labels:
            assert again.is_closed(label)
            again.sync(search_unit(label), Journal(files[label]))
        assert not again.is_closed("trial-9999")
    assert [name for name, *_ in client.mock_calls] == ["search_runs"], "and has nothing to add to runs that are closed"
    assert len(runs_of(again.client, experiment)) == len(labels)


def test_run_whose_creation_was_not_answered_is_found(runs: Runs, experiment: str, tmp_path: Path) -> None:
    """The server did create it: the next attempt must not make a second one."""
    tracker = tracker_of(runs, experiment)
    journal = Journal(written_journal(tmp_path / "0000.jsonl", real_records(1), "complete"))
    create_run = tracker.client.create_run

    def unanswered(*words: Any, **options: Any) -> None:
        create_run(*words, **options)
        raise MlflowException("the answer was lost")

    with mock.patch.object(tracker.client, "create_run", unanswered), pytest.raises(MlflowException, match="lost"):
        tracker.sync(search_unit(), journal)
    tracker.sync(search_unit(), journal)
    (run,) = runs_of(tracker.client, experiment)
    assert (run.info.status, run.data.params) == ("FINISHED", {"seed": "0"})


def test_driver_killed_before_the_params_were_logged_logs_them_later(
    runs: Runs, experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    file = written_journal(tmp_path / "0000.jsonl", real_records(1))
    killed = tracker_of(runs, experiment)
    monkeypatch.setattr(killed.client, "log_batch", die)
    with pytest.raises(KeyboardInterrupt):
        killed.sync(search_unit(), Journal(file))
    again = tracker_of(runs, experiment)
    again.sync(search_unit(params={"seed": 0, "epochs": 3}), Journal(file))
    (run,) = runs_of(again.client, experiment)
    assert run.data.params == {"seed": "0", "epochs": "3"}
    tracker_of(runs, experiment).sync(search_unit(params={"seed": 0, "epochs": 3}), Journal(file))  # nothing is changed


def test_failed_journal_fails_its_run_with_the_reason(runs: Runs, experiment: str, tmp_path: Path) -> None:
    tracker = tracker_of(runs, experiment)
    reason = "the training loss must stay finite, got loss nan"
    no_epoch = written_journal(tmp_path / "0000.jsonl", [], "failed", reason)
    one_epoch = written_journal(tmp_path / "0001.jsonl", real_records(1), "failed", reason)
    tracker.sync(search_unit(), Journal(no_epoch))
    tracker.sync(search_unit("trial-0001"), Journal(one_epoch))
    for run in runs_of(tracker.client, experiment):
        assert run.info.status == "FAILED"
        assert run.data.tags["snas.end"] == "failed"
        assert run.data.tags["snas.reason"] == reason
        assert f"Reason: {reason}" in run.data.tags["mlflow.note.content"]


def test_description_says_how_it_went_and_takes_no_markup_from_others(
    runs: Runs, experiment: str, tmp_path: Path
) -> None:
    tracker = tracker_of(runs, experiment)
    reason = "stopped by <script>alert(1)</script> [a](b) " + "x" * 10_000
    file = written_journal(tmp_path / "0000.jsonl", real_records(2), "stopped", reason)
    tracker.sync(search_unit(about="eta 0.01 with cost madds"), Journal(file))
    (run,) = runs_of(tracker.client, experiment)
    note, run_id = run.data.tags["mlflow.note.content"], run.info.run_id
    error = real_records(2)[-1]["metrics"]["child_val_error"]
    assert note.startswith(f"**stopped** after 2 epochs, child error {error:.2%}, ")
    assert "eta 0.01 with cost madds" in note
    assert "Reason: stopped by &#60;script&#62;alert(1)&#60;/script&#62; &#91;a&#93;(b) xxx" in note
    assert f"![](get-artifact?path=cells.svg&run_uuid={run_id})" in note
    assert f"#/experiments/{tracker.experiment_id}/runs/{run_id}/artifacts/player.html" in note
    assert len(note) <= 8000
    assert run.data.tags["snas.reason"] == reason[:8000]


def test_history_and_player_are_written_while_a_search_runs(runs: Runs, experiment: str, tmp_path: Path) -> None:
    file, records, unit = tmp_path / "0000.jsonl", real_records(4), search_unit(pictures=(), histories=[0, 2])
    tracker, rows = tracker_of(runs, experiment), []
    for record in records:
        tracker.sync(unit, Journal(written_journal(file, [record])))
        (run,) = runs_of(tracker.client, experiment)
        rows.append(pq.read_table(read_artifact(runs, run, "history.parquet")).num_rows)
        assert "player.html" in artifact_paths(tracker.client, run.info.run_id)
    assert rows == [1, 1, 3, 3]
    journal = Journal(file)
    journal.finish("complete")
    tracker.sync(unit, journal)
    assert pq.read_table(read_artifact(runs, run, "history.parquet")).num_rows == 4


def test_history_that_could_not_be_written_is_written_later(runs: Runs, experiment: str, tmp_path: Path) -> None:
    tracker, unit = tracker_of(runs, experiment), search_unit(pictures=[0], histories=[0])
    journal = Journal(written_journal(tmp_path / "0000.jsonl", real_records(1)))
    with (
        mock.patch.object(tracker.client, "log_artifact", side_effect=OSError("away")),
        pytest.raises(OSError, match="away"),
    ):
        tracker.sync(unit, journal)
    tracker.sync(unit, journal)
    (run,) = runs_of(tracker.client, experiment)
    assert "player.html" in artifact_paths(tracker.client, run.info.run_id)
    assert steps_of(tracker.client, run.info.run_id, "child_val_error") == [0]
    assert image_steps(tracker.client, run.info.run_id) == [0]


def test_stopped_journal_finishes_its_run(runs: Runs, experiment: str, tmp_path: Path) -> None:
    tracker = tracker_of(runs, experiment)
    journal = Journal(written_journal(tmp_path / "0000.jsonl", real_records(1), "stopped", "by the scheduler"))
    tracker.sync(search_unit(), journal)
    (run,) = runs_of(tracker.client, experiment)
    assert (run.info.status, run.data.tags["snas.end"]) == ("FINISHED", "stopped")


def test_closed_search_has_its_artifacts(runs: Runs, experiment: str, tmp_path: Path) -> None:
    records = real_records(2)
    tracker = tracker_of(runs, experiment)
    tracker.sync(search_unit(), Journal(written_journal(tmp_path / "0000.jsonl", records, "complete")))
    (run,) = runs_of(tracker.client, experiment)
    names = artifact_paths(tracker.client, run.info.run_id)
    assert names == ["cells.svg", "genotype.json", "history.parquet", "images", "player.html"]
    genotype = Genotype.from_json(read_artifact(runs, run, "genotype.json").read_text())
    assert genotype == Genotype.from_dict(records[-1]["genotype"])
    assert "<svg" in read_artifact(runs, run, "cells.svg").read_text()
    table = pq.read_table(read_artifact(runs, run, "history.parquet"))
    assert table.num_rows == 2


@pytest.mark.parametrize(
    ("every", "epochs", "expected"),
    [(1, 3, [0, 1, 2]), (2, 6, [0, 2, 4, 5]), (0, 9, []), (None, 4, [0, 1, 2, 3]), (None, 25, [*range(0, 25, 2)])],
)
def test_pictures_are_kept_of_the_first_and_the_last_epoch_and_some_between(
    every: int | None, epochs: int, expected: list[int]
) -> None:
    assert picture_epochs(every, epochs) == expected
    assert len(picture_epochs(None, 150)) == 11


def test_only_the_epochs_that_are_asked_for_have_a_picture(runs: Runs, experiment: str, tmp_path: Path) -> None:
    tracker = tracker_of(runs, experiment)
    tracker.sync(search_unit(pictures=[0, 2]), Journal(written_journal(tmp_path / "0000.jsonl", real_records(4))))
    (run,) = runs_of(tracker.client, experiment)
    assert image_steps(tracker.client, run.info.run_id) == [0, 2]


def test_pictures_of_all_epochs_are_one_image_series(runs: Runs, experiment: str, tmp_path: Path) -> None:
    tracker = tracker_of(runs, experiment)
    tracker.sync(search_unit(), Journal(written_journal(tmp_path / "0000.jsonl", real_records(3))))
    (run,) = runs_of(tracker.client, experiment)
    assert image_steps(tracker.client, run.info.run_id) == [0, 1, 2]
    pictures = [name for name in artifact_paths(tracker.client, run.info.run_id, "images") if name.endswith(".png")]
    width, height = _png_size(read_artifact(runs, run, pictures[0]))
    assert width >= 800
    assert {_png_size(read_artifact(runs, run, name)) for name in pictures} == {(width, height)}, "frames compare"


def _png_size(file: Path) -> tuple[int, int]:
    header = file.read_bytes()[:24]
    return int.from_bytes(header[16:20]), int.from_bytes(header[20:24])


def test_retraining_logs_all_its_metrics_and_no_cells(runs: Runs, experiment: str, tmp_path: Path) -> None:
    tracker = tracker_of(runs, experiment)
    trial = tracker.run_id(search_unit())
    cell = cell_of("sep_conv_3x3")
    unit = Unit(label="retrain-0000-seed0", kind="retrain", parent=trial, params={"seed": 0}, genotype=cell)
    file = written_journal(tmp_path / "0000-seed0.jsonl", retrain_records(2), "complete")
    tracker.sync(unit, Journal(file))
    tracker_of(runs, experiment).sync(unit, Journal(file))
    _, run = runs_of(tracker.client, experiment)
    assert run.data.tags["mlflow.parentRunId"] == trial
    assert set(run.data.metrics) == {"train_loss", "val_accuracy", "test_accuracy", "params", "madds"}
    assert steps_of(tracker.client, run.info.run_id, "train_loss") == [0, 1]
    assert steps_of(tracker.client, run.info.run_id, "test_accuracy") == [1]
    assert artifact_paths(tracker.client, run.info.run_id) == ["cells.svg", "genotype.json", "history.parquet"]
    assert Genotype.from_json(read_artifact(runs, run, "genotype.json").read_text()) == cell


def test_metrics_that_are_not_finite_do_not_stop_the_log(runs: Runs, experiment: str, tmp_path: Path) -> None:
    records = real_records(1)
    records[0]["metrics"] |= {"train_loss": math.inf, "discretization_gap": math.nan}
    tracker = tracker_of(runs, experiment)
    tracker.sync(search_unit(), Journal(written_journal(tmp_path / "0000.jsonl", records, "complete")))
    (run,) = runs_of(tracker.client, experiment)
    assert run.info.status == "FINISHED"
    assert math.isnan(run.data.metrics["discretization_gap"])
    assert run.data.metrics["train_loss"] > 1e300


def test_run_takes_more_params_than_one_request(runs: Runs, experiment: str) -> None:
    params = {f"section.key{number}": number for number in range(230)}
    tracker = tracker_of(runs, experiment)
    run_id = tracker.run_id(search_unit(params=params))
    assert tracker.client.get_run(run_id).data.params == {key: str(value) for key, value in params.items()}


def test_suspended_runs_are_marked_and_resumed_by_the_next_driver(runs: Runs, experiment: str, tmp_path: Path) -> None:
    records, files = real_records(2), [tmp_path / "0000.jsonl", tmp_path / "0001.jsonl"]
    tracker = tracker_of(runs, experiment)
    parent = study_run(tracker, tmp_path)
    units = [search_unit("trial-0000", parent=parent), search_unit("trial-0001", parent=parent)]
    tracker.sync(units[0], Journal(written_journal(files[0], records[:1], "complete")))
    tracker.sync(units[1], Journal(written_journal(files[1], records[:1])))
    other = tracker_of(runs, f"{experiment}-other")
    elsewhere = other.run_id(search_unit())
    tracker.suspend()
    statuses = {label: run.info.status for label, run in by_label(tracker, experiment).items()}
    assert statuses == {"study": "KILLED", "trial-0000": "FINISHED", "trial-0001": "KILLED"}
    assert tracker.client.get_run(elsewhere).info.status == "RUNNING"

    again = tracker_of(runs, experiment)
    study_run(again, tmp_path)
    again.sync(units[0], Journal(files[0]))
    again.sync(units[1], Journal(written_journal(files[1], records[1:])))
    last = by_label(tracker, experiment)
    statuses = {label: run.info.status for label, run in last.items()}
    assert statuses == {"study": "RUNNING", "trial-0000": "FINISHED", "trial-0001": "RUNNING"}
    assert steps_of(again.client, last["trial-0001"].info.run_id, "child_val_error") == [0, 1]


def empty_run(tracker: Tracker, label: str) -> str:
    """A run that was created by a request whose answer was lost."""
    run_id: str = tracker.client.create_run(tracker.experiment_id, tags={"snas.unit": label}).info.run_id
    return run_id


def test_run_that_was_created_twice_is_kept_once(runs: Runs, experiment: str, tmp_path: Path) -> None:
    file = written_journal(tmp_path / "0000.jsonl", real_records(2))
    tracker = tracker_of(runs, experiment)
    oldest = empty_run(tracker, "trial-0000")
    for label in ("trial-0000", "trial-0001"):
        time.sleep(0.01)  # start times are in milliseconds
        empty_run(tracker, label)
    tracker.sync(search_unit(), Journal(file))
    trials = [run for run in runs_of(tracker.client, experiment) if run.data.tags["snas.unit"] == "trial-0000"]
    assert [run.info.run_id for run in trials] == [oldest]
    assert steps_of(tracker.client, oldest, "child_val_error") == [0, 1]
    assert len(runs_of(tracker.client, experiment)) == 2, "other units keep theirs"


@pytest.mark.parametrize("end", [None, "complete"])
def test_run_with_reports_is_kept_rather_than_an_older_empty_one(
    end: str | None, runs: Runs, experiment: str, tmp_path: Path
) -> None:
    """MLflow's own retries, if the user wants them, leave the older run empty."""
    journal = Journal(written_journal(tmp_path / "0000.jsonl", real_records(2), end))
    first = tracker_of(runs, experiment)
    assert not first.has_run("trial-0000"), "listed before"
    empty = empty_run(first, "trial-0000")
    time.sleep(0.01)
    first.sync(search_unit(), journal)
    kept = first.run_id(search_unit())
    assert kept != empty
    first.suspend()
    again = tracker_of(runs, experiment)
    again.sync(search_unit(), journal)
    assert again.run_id(search_unit()) == kept
    assert [run.info.run_id for run in runs_of(again.client, experiment)] == [kept]


def test_study_is_closed_without_runs_that_came_late(runs: Runs, experiment: str, tmp_path: Path) -> None:
    tracker = tracker_of(runs, experiment)
    parent = study_run(tracker, tmp_path)
    tracker.sync(search_unit(), Journal(written_journal(tmp_path / "0000.jsonl", real_records(1), "complete")))
    kept = tracker.run_id(search_unit())
    empty_run(tracker, "trial-0000")
    foreign = tracker.client.create_run(tracker.experiment_id).info.run_id
    tracker.close_study(parent, complete=True)
    assert {run.info.run_id for run in runs_of(tracker.client, experiment)} == {parent, kept, foreign}


def test_a_report_costs_one_request(runs: Runs, experiment: str, tmp_path: Path) -> None:
    file, records = tmp_path / "0000.jsonl", real_records(3)
    tracker, unit = tracker_of(runs, experiment), search_unit(pictures=(), histories=())
    tracker.sync(unit, Journal(written_journal(file, records[:1])))
    with mock.patch.object(tracker, "client", wraps=tracker.client) as client:
        tracker.sync(unit, Journal(written_journal(file, records[1:2])))
        tracker.sync(unit, Journal(written_journal(file, records[2:])))
    assert [call[0] for call in client.method_calls] == ["log_batch", "log_batch"]


def test_store_that_does_not_answer_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MlflowException, match=r"127\.0\.0\.1"):
        Tracker("http://127.0.0.1:9", "any", artifact_location=None, tags={})


def test_store_that_cannot_be_opened_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)  # ten take it 100 s
    (tmp_path / "mlflow.db").mkdir()
    with pytest.raises(MlflowException, match="unable to open database file"):
        tracker_of(Runs(tmp_path), "any")


def test_deleted_experiment_is_reported(runs: Runs, experiment: str) -> None:
    tracker = tracker_of(runs, experiment)
    tracker.client.delete_experiment(tracker.experiment_id)
    with pytest.raises(OrchestratorError, match=f"`{experiment}` .* was deleted: .* --experiment-id"):
        tracker_of(runs, experiment)
    with pytest.raises(OrchestratorError, match=f"has the name `{experiment}`: choose another --name"):
        Tracker(runs.tracking_uri(), experiment, artifact_location=None, tags={}, is_new=True)


def test_runs_below_a_deleted_one_move_to_the_one_in_its_place(runs: Runs, experiment: str, tmp_path: Path) -> None:
    """Closed ones too, and those that `snas retrain --run` made, whose unit no study knows."""
    tracker = tracker_of(runs, experiment)
    journal = Journal(written_journal(tmp_path / "0000.jsonl", real_records(1), "complete"))
    retrain = Journal(written_journal(tmp_path / "0000-seed0.jsonl", retrain_records(1), "complete"))

    def brought_up(tracker: Tracker, place: str) -> tuple[str, str, str, str]:
        parent = study_run(tracker, tmp_path)
        trial = search_unit(parent=parent, pictures=(), histories=(), tags={"snas.checkpoints": place})
        tracker.sync(trial, journal)
        below = Unit(
            label="retrain-0000-seed0", kind="retrain", parent=tracker.run_id(trial), genotype=cell_of("skip_connect")
        )
        tracker.sync(below, retrain)
        by_hand = tracker.run_id(replace(below, label="again-seed0")) if tracker is first else str(by_hand_id)
        tracker.close_study(parent, complete=True)
        return parent, tracker.run_id(trial), tracker.run_id(below), by_hand

    def parent_of(run_id: str) -> str | None:
        return tracker.client.get_run(run_id).data.tags.get("mlflow.parentRunId")

    first, by_hand_id = tracker, ""
    study, trial, below, by_hand_id = brought_up(tracker, "/before")
    tracker.client.delete_run(study)
    new_study, same_trial, _, _ = brought_up(tracker_of(runs, experiment), "/after")
    assert (same_trial, parent_of(trial)) == (trial, new_study)
    assert new_study != study
    assert tracker.client.get_run(trial).data.tags["snas.checkpoints"] == "/after"
    tracker.client.delete_run(trial)
    _, new_trial, same_below, _ = brought_up(tracker_of(runs, experiment), "/after")
    assert new_trial != trial
    assert same_below == below
    assert [parent_of(run_id) for run_id in (new_trial, below, by_hand_id)] == [new_study, new_trial, new_trial]


def test_run_of_a_study_has_no_parent(runs: Runs, experiment: str, tmp_path: Path) -> None:
    tracker = tracker_of(runs, experiment)
    parent = study_run(tracker, tmp_path)
    tracker.client.set_tag(parent, "mlflow.parentRunId", "f00")
    study_run(tracker_of(runs, experiment), tmp_path)
    assert "mlflow.parentRunId" not in tracker.client.get_run(parent).data.tags


def test_history_without_epochs_is_a_readable_file(runs: Runs, experiment: str, tmp_path: Path) -> None:
    tracker = tracker_of(runs, experiment)
    tracker.sync(search_unit(), Journal(written_journal(tmp_path / "0000.jsonl", [], "failed", "at once")))
    (run,) = runs_of(tracker.client, experiment)
    assert artifact_paths(tracker.client, run.info.run_id) == ["history.parquet"]
    assert pq.read_table(read_artifact(runs, run, "history.parquet")).num_rows == 0


def test_environment_tags_name_versions_and_commit() -> None:
    tags = environment_tags()
    for package in ("torch", "ray", "optuna", "mlflow", "numpy", "python"):
        assert tags[f"version.{package}"][0].isdigit()
    assert len(tags["git.commit"]) in (40, len("not a git checkout"))
    assert (tags.get("git.dirty") in ("true", "false")) == (len(tags["git.commit"]) == 40)


def test_images_and_user_are_logged_once_with_every_run(runs: Runs, experiment: str, tmp_path: Path) -> None:
    data, uri = images_of(), runs.tracking_uri()
    images, tags = dataset_input(TINY_DATASET, data), {"snas.study": experiment, **run_tags(data)}
    journal = Journal(written_journal(tmp_path / "0000.jsonl", []))
    for _ in range(2):  # the second is a restarted driver
        tracker = Tracker(uri, experiment, artifact_location=None, tags=tags, dataset=images)
        study_run(tracker, tmp_path)
        tracker.sync(search_unit(), journal)
    found = by_label(tracker, experiment)
    assert set(found) == {"study", "trial-0000"}
    for run in found.values():
        (logged,) = run.inputs.dataset_inputs
        assert [(tag.key, tag.value) for tag in logged.tags] == [("mlflow.data.context", "training")]
        assert (logged.dataset.name, logged.dataset.digest) == (data.name, data.digest[:32])
        assert json.loads(logged.dataset.source) == {"name": "fake"}
        assert json.loads(logged.dataset.profile)["images"] == data.sizes
        assert run.info.user_id == run.data.tags["mlflow.user"] == getpass.getuser()
        assert run.data.tags["dataset.digest"] == data.digest


def test_nameless_user_of_a_container_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(getpass, "getuser", fail)
    assert user_tags() == {}


def test_flatten_gives_dotted_keys_and_leaves_out_none() -> None:
    nested = {"a": {"b": 1, "c": {"d": (1, 2)}, "e": None}, "f": "x"}
    assert flatten(nested) == {"a.b": 1, "a.c.d": [1, 2], "f": "x"}
    assert flatten(nested, "search.")["search.a.b"] == 1


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A real MLflow tracking server."""
    with MlflowServer(tmp_path / "server") as running:
        yield running.uri


@pytest.mark.integration
@pytest.mark.slow
def test_runs_are_the_same_on_a_tracking_server(
    server: str, experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    runs, records, file = Runs(tmp_path / "runs"), real_records(3), tmp_path / "0000.jsonl"
    assert runs.tracking_uri() == server
    first = tracker_of(runs, experiment)
    parent = study_run(first, tmp_path)
    unit = search_unit(parent=parent)
    first.sync(unit, Journal(written_journal(file, records[:2])))
    again = tracker_of(runs, experiment)
    assert study_run(again, tmp_path) == parent
    again.sync(unit, Journal(written_journal(file, records[2:], "complete")))
    again.close_study(parent, complete=True)
    by_unit = by_label(again, experiment)
    study, trial = by_unit["study"], by_unit["trial-0000"]
    assert [run.info.status for run in (study, trial)] == ["FINISHED", "FINISHED"]
    assert trial.data.tags["mlflow.parentRunId"] == study.info.run_id
    assert steps_of(again.client, trial.info.run_id, "child_val_error") == [0, 1, 2]
    assert image_steps(again.client, trial.info.run_id) == [0, 1, 2]
    names = artifact_paths(again.client, trial.info.run_id)
    assert names == ["cells.svg", "genotype.json", "history.parquet", "images", "player.html"]
    assert not (tmp_path / "runs").exists(), "the server keeps everything"


class Relay(ThreadingHTTPServer):
    """Passes requests on to an MLflow server, and loses the first answer to a `runs/create`.

    Args:
        server: address of the MLflow server.
    """

    daemon_threads = True

    def __init__(self, server: str) -> None:
        super().__init__(("127.0.0.1", 0), _RelayedRequest)
        self.target, self.creations = server, 0
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()


class _RelayedRequest(BaseHTTPRequestHandler):
    server: Relay

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = requests.request(
            self.command, self.server.target + self.path, data=body, headers=dict(self.headers), timeout=60
        )
        if self.path.endswith("runs/create"):
            self.server.creations += 1
            if self.server.creations == 1:
                self.close_connection = True
                return
        self.send_response(asked.status_code)
        self.send_header("Content-Type", asked.headers.get("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(asked.content)))
        self.end_headers()
        self.wfile.write(asked.content)

    do_POST = do_PUT = do_GET

    def log_message(self, *words: object) -> None:
        """Keep the test's output clean."""


@pytest.mark.integration
@pytest.mark.slow
def test_run_whose_answer_was_lost_is_not_made_again(
    server: str, experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    file = written_journal(tmp_path / "0000.jsonl", real_records(1), "complete")
    with Relay(server) as relay:
        tracker = Tracker(relay.uri, experiment, artifact_location=None, tags={})
        with pytest.raises(MlflowException):
            tracker.sync(search_unit(), Journal(file))
        assert relay.creations == 1, "MLflow's client must not send it again by itself"
        tracker.sync(search_unit(), Journal(file))
        assert relay.creations == 1
        (run,) = runs_of(tracker.client, experiment)
        assert run.info.status == "FINISHED"
        assert steps_of(tracker.client, run.info.run_id, "child_val_error") == [0]
