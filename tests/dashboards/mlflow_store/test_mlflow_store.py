"""The store over a real MLflow server and a real SQLite file."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from dashboards.errors import BrokenArtifactError, NotFoundError, StoreAwayError
from dashboards.mlflow_store import artifact_cache
from dashboards.mlflow_store.mlflow_access import masked
from dashboards.mlflow_store.mlflow_store import MlflowStore
from dashboards.records import StudyOverview, StudyRecord
from tests.dashboards.generated import HOSTILE, GeneratedStudy, generated_study, published_costs
from tests.dashboards.written_study import WrittenStudy
from tests.integration.servers import MlflowServer, free_port

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TRIALS, EPOCHS = 12, 6  # trial 3 is stopped, 7 collapses, 11 fails before its first epoch
LIVE = "live"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with MlflowServer(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: MlflowServer) -> MlflowClient:
    return MlflowClient(server.uri)


@pytest.fixture(scope="module")
def written(client: MlflowClient) -> WrittenStudy:
    """A whole study on the server."""
    written = WrittenStudy(client, generated_study(trials=TRIALS, epochs=EPOCHS, retrained=2, seeds=2))
    written.write()
    return written


@pytest.fixture
def store(server: MlflowServer, written: WrittenStudy) -> MlflowStore:
    """Asks every time, three runs at a time."""
    return MlflowStore(server.uri, page=3, refresh_s=0)


@pytest.fixture
def live(client: MlflowClient, request: pytest.FixtureRequest) -> WrittenStudy:
    """The first two runs of a study of its own: the parent and a trial that is over."""
    study = generated_study(request.node.name, trials=TRIALS, epochs=EPOCHS, running=2)
    written = WrittenStudy(client, study)
    written.write(study.runs[:2])
    return written


def requests_of(server: MlflowServer, act: Callable[[], object]) -> list[str]:
    """What an act asks the server, from the server's own log."""
    before = len(server.log)
    act()
    time.sleep(0.3)  # the log is written after the answer
    return [line.split('"')[1] for line in server.log[before:].splitlines() if '"' in line and "/health" not in line]


def assert_same(found: StudyRecord, expected: StudyRecord, written: WrittenStudy) -> None:
    """A study comes back as it was generated, but for ids and tags of MLflow's own."""
    assert [(trial.number, trial.on_front, trial.values) for trial in found.trials] == [
        (trial.number, trial.on_front, trial.values) for trial in expected.trials
    ]
    runs = {run.label: run for run in (unit.run for unit in [*found.trials, *found.retrainings])}
    assert len(runs) == len(expected.trials) + len(expected.retrainings)
    for unit in [*expected.trials, *expected.retrainings]:
        run, real = unit.run, runs[unit.run.label]
        assert real.run_id == written.ids[run.run_id]
        assert real.parent_id == written.ids[run.parent_id or ""]
        assert (real.kind, real.name, real.status, real.state, real.reason) == (
            run.kind,
            run.name,
            run.status,
            run.state,
            run.reason,
        )
        assert real.params == run.params
        assert real.metrics == pytest.approx(run.metrics)
        assert real.num_epochs == run.num_epochs
        assert real.tags.items() >= run.tags.items()
        assert (real.start_s, real.end_s, real.last_report_s) == pytest.approx(
            (run.start_s, run.end_s, run.last_report_s), abs=0.001
        )
    assert [(unit.trial, unit.seed) for unit in found.retrainings] == [
        (unit.trial, unit.seed) for unit in expected.retrainings
    ]
    line = replace(found.overview, run=expected.overview.run, hours=expected.overview.hours)
    assert line == replace(expected.overview, name=line.name, best=line.best, last_report_s=line.last_report_s)
    assert line.last_report_s == pytest.approx(expected.overview.last_report_s, abs=0.001)
    assert found.overview.best == pytest.approx(expected.overview.best)
    assert found.overview.hours == pytest.approx(expected.overview.hours)


# Records


def test_a_study_comes_back_over_many_pages(store: MlflowStore, written: WrittenStudy) -> None:
    record = store.study(written.name)
    assert_same(record, written.study.record(), written)
    assert record.notice == ""
    assert abs(record.as_of_s - time.time()) < 60
    assert dict(record.swept) == dict(written.study.record().swept)


def test_overviews_come_from_parent_runs_and_single_searches(
    store: MlflowStore, written: WrittenStudy, client: MlflowClient
) -> None:
    experiment = client.create_experiment("searches")
    for label in ("first", "second"):
        run = client.create_run(experiment, tags={"snas.unit": label, "snas.kind": "search"}, run_name=label)
        client.log_batch(run.info.run_id, metrics=[Metric("gpu_hours", 0.5, 1000, 0)])
    other = client.create_experiment("of another project")
    client.create_run(other, run_name="not ours")
    lines = {line.name: line for line in store.overviews()}
    assert lines[written.name].ended == {"complete": 9, "stopped": 1, "collapsed": 1, "failed": 1}
    assert lines[written.name].retrained == (4, 4)
    assert (lines["searches"].run, lines["searches"].num_trials, lines["searches"].state) == (None, 2, "running")
    assert lines["searches"].hours == 1.0
    assert "of another project" not in lines
    names = [line.name for line in store.overviews()]
    assert names.index("searches") < names.index(written.name)  # it still runs
    assert [trial.title for trial in store.study("searches").trials] == ["first", "second"]
    with pytest.raises(NotFoundError, match="no runs of searches"):
        store.study("of another project")


def test_params_and_metrics_of_one_name_are_kept_apart(store: MlflowStore, written: WrittenStudy) -> None:
    written.client.log_param(written.run_id("trial-0000"), "eta", "as a param")
    run = MlflowStore(written.client.tracking_uri).study(written.name).trials[0].run
    assert run.params["eta"] == "as a param"
    assert run.metrics["eta"] == written.study.searches[0].eta


def test_a_study_that_is_not_there_is_named(store: MlflowStore) -> None:
    with pytest.raises(NotFoundError, match=r"there is no study `quiet` in http://127\.0\.0\.1"):
        store.study("quiet")


def test_an_old_study_is_counted_and_says_what_is_assumed(
    server: MlflowServer, client: MlflowClient, written: WrittenStudy
) -> None:
    params = {key: text for key, text in written.study.parent.params.items() if key != "objectives"}
    params["sweep.penalty.strength"] = "{'log_uniform': [1e-05, 0.1]}"
    parent = replace(written.study.parent, params=params, metrics={}, name="old")
    old = WrittenStudy(client, replace(written.study, parent=parent, runs=[parent, *written.study.runs[1:]]), "old")
    old.write(old.study.runs[:6])
    store = MlflowStore(server.uri)
    line = next(line for line in store.overviews() if line.name == "old")
    assert line.ended == {"complete": 4, "stopped": 1}
    record = store.study("old")
    assert "does not say what it optimises" in record.notice
    store = MlflowStore(server.uri, refresh_s=0)
    store.overviews()
    asked = requests_of(server, store.overviews)
    assert len(asked) == 3, "names, top runs and running runs: its own are listed once"


def test_hostile_text_is_only_data(server: MlflowServer, client: MlflowClient) -> None:
    study = generated_study(HOSTILE.replace("/", "|"), trials=4, epochs=2, retrained=1, seeds=1, hostile=True)
    written = WrittenStudy(client, study)
    written.write()
    store = MlflowStore(server.uri)
    assert study.name in [line.name for line in store.overviews()]
    record = store.study(study.name)
    assert record.trials[1].schedule == HOSTILE
    assert HOSTILE in record.trials[0].run.name
    client.set_tag(written.run_id(record.retrainings[0].run.label), "snas.model", "' OR name LIKE '%\"")
    assert MlflowStore(server.uri).models(MlflowStore(server.uri).study(study.name)) == {}


def test_models_by_run(server: MlflowServer, client: MlflowClient, written: WrittenStudy) -> None:
    run_ids = [written.run_id(run.label) for run in written.study.runs if "snas.model" in run.tags]
    client.create_registered_model(written.study.model)
    for run_id in (*run_ids, run_ids[0]):
        source = f"{client.get_run(run_id).info.artifact_uri}/child"
        client.create_model_version(written.study.model, source, run_id)
    client.set_registered_model_alias(written.study.model, "champion", "2")
    store = MlflowStore(server.uri)
    record = store.study(written.name)
    asked = requests_of(server, lambda: store.models(record))
    models = store.models(record)
    assert {model.run_id: model.version for model in models.values()} == {
        run_ids[0]: "4",
        run_ids[1]: "2",
        run_ids[2]: "3",
    }
    assert models[run_ids[1]].aliases == ("champion",)
    assert len(asked) == 2


def test_run_urls_name_no_password() -> None:
    run = generated_study(trials=1, epochs=2).runs[1]
    url = f"http://host:5000/#/experiments/1/runs/{run.run_id}"
    assert MlflowStore("http://me:pa@ss@host:5000/").run_url(run) == url
    assert MlflowStore("http://host:5000").run_url(run) == url
    assert MlflowStore("sqlite:///mlflow.db").run_url(run) is None


# Following a study


def test_a_refresh_sees_epochs_ends_and_new_trials(server: MlflowServer, live: WrittenStudy) -> None:
    store = MlflowStore(server.uri, page=3, refresh_s=0)
    before = store.study(live.name)
    assert store.study(live.name).version == before.version
    run = live.run("trial-0001")
    live.begin(run)
    points = live.epochs(run)
    live.log(run, [point for point in points if point.step < 3])
    begun = store.study(live.name)
    assert [trial.run.num_epochs for trial in begun.trials] == [EPOCHS, 3]
    assert begun.trials[1].run.state == "running"
    live.log(run, [point for point in points if point.step >= 3])
    assert store.study(live.name).trials[1].run.num_epochs == EPOCHS
    live.end(run)
    over = store.study(live.name)
    assert over.trials[1].run.state == "complete"
    assert over.overview.ended == {"complete": 2}
    short = live.run("trial-0002")
    live.write([short])  # begun and over between two looks
    last = store.study(live.name)
    assert [trial.number for trial in last.trials] == [0, 1, 2]
    assert len({record.version for record in (before, begun, over, last)}) == 4


def test_a_trial_that_is_resumed_runs_again(server: MlflowServer, live: WrittenStudy) -> None:
    store = MlflowStore(server.uri, refresh_s=0)
    run = live.run("trial-0001")
    live.begin(run)
    store.study(live.name)
    live.client.set_terminated(live.run_id("trial-0001"), "KILLED")
    assert store.study(live.name).trials[1].run.state == "interrupted"
    live.client.update_run(live.run_id("trial-0001"), status="RUNNING")
    assert store.study(live.name).trials[1].run.state == "running"


def test_tags_that_come_at_the_end_of_a_study_are_seen(server: MlflowServer, live: WrittenStudy) -> None:
    live.client.update_run(live.run_id("study"), status="RUNNING")
    store = MlflowStore(server.uri, refresh_s=0)
    run = replace(live.run("trial-0001"), label="retrain-0000-seed0", kind="retrain", end_s=time.time())
    live.client.set_tag(live.run_id("trial-0000"), "snas.model", "early")  # it ended days before the newest end
    live.begin(run)
    live.client.set_terminated(live.ids[run.run_id])
    assert store.study(live.name).trials[0].run.tags["snas.model"] == "early"
    live.client.set_tag(live.run_id("trial-0000"), "snas.model", "late")
    assert store.study(live.name).overview.state == "running"
    live.client.set_terminated(live.run_id("study"))
    assert store.study(live.name).trials[0].run.tags["snas.model"] == "late"
    assert len(requests_of(server, lambda: store.study(live.name))) == 2, "listed again once"


def test_the_newest_report_of_a_study_is_that_of_a_run_that_runs(server: MlflowServer, live: WrittenStudy) -> None:
    live.client.update_run(live.run_id("study"), status="RUNNING")
    run, store = live.run("trial-0001"), MlflowStore(server.uri, refresh_s=0)
    live.begin(run)
    newest_s = int(time.time())
    point = Metric("child_val_error", 0.5, newest_s * 1000, 0)
    live.log(run, [point])  # and then its driver is killed: the run is left open
    assert store.study(live.name).overview.last_report_s == newest_s
    (line,) = [line for line in store.overviews() if line.name == live.name]
    assert (line.state, line.last_report_s) == ("running", newest_s)


def test_an_experiment_runs_as_long_as_one_of_its_runs(server: MlflowServer, client: MlflowClient) -> None:
    experiment = client.create_experiment("singles")
    search = client.create_run(experiment, tags={"snas.unit": "one", "snas.kind": "search"}).info.run_id
    client.set_terminated(search)
    store = MlflowStore(server.uri, refresh_s=0)
    states = []
    tags = {"snas.unit": "one-seed0", "snas.kind": "retrain"}
    for parent in ({}, {"mlflow.parentRunId": search}):
        run = client.create_run(experiment, tags={**tags, **parent}).info.run_id
        for _ in range(2):
            (line,) = [line for line in store.overviews() if line.name == "singles"]
            states.append(line.state)
            client.set_terminated(run)
    assert states == ["running", "complete"] * 2


def test_a_deleted_trial_goes_at_the_next_whole_listing(server: MlflowServer, live: WrittenStudy) -> None:
    live.write(live.study.runs[2:4])
    store = MlflowStore(server.uri, refresh_s=0, relist_s=1.5)
    assert len(store.study(live.name).trials) == 3
    live.client.delete_run(live.run_id("trial-0001"))
    time.sleep(1.6)
    assert [trial.number for trial in store.study(live.name).trials] == [0, 2]


def test_a_deleted_trial_that_ran_goes_at_once(server: MlflowServer, live: WrittenStudy) -> None:
    store = MlflowStore(server.uri, refresh_s=0)
    live.begin(live.run("trial-0001"))
    assert len(store.study(live.name).trials) == 2
    live.client.delete_run(live.run_id("trial-0001"))
    assert len(store.study(live.name).trials) == 1


def test_a_study_that_is_made_again_is_found(server: MlflowServer, live: WrittenStudy) -> None:
    store = MlflowStore(server.uri, refresh_s=0, relist_s=0)
    store.study(live.name)
    live.client.delete_experiment(live.experiment_id)
    with pytest.raises(NotFoundError):
        store.study(live.name)


def test_no_request_is_made_per_run_or_metric(server: MlflowServer, written: WrittenStudy) -> None:
    store = MlflowStore(server.uri, refresh_s=2.0)
    assert (
        len(requests_of(server, store.overviews)) <= 2 + 3 * 2
    )  # old and small studies of other tests are listed once
    listed = requests_of(server, lambda: store.study(written.name))
    assert sum("runs/search" in line for line in listed) == 1
    assert len(listed) == 2  # and the experiment by its name
    assert requests_of(server, lambda: [store.study(written.name) for _ in range(50)]) == []
    time.sleep(2.1)
    assert len(requests_of(server, lambda: store.study(written.name))) == 2
    record = store.study(written.name)
    first = requests_of(server, lambda: store.curves(record, range(TRIALS)))
    assert len(first) <= 2 + 3 * 3  # the server itself, the folder, and three files of four trials each
    assert requests_of(server, lambda: store.curves(record, range(TRIALS))) == []


def test_an_answer_that_took_long_is_new_when_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    store, asked = MlflowStore("http://127.0.0.1:9", refresh_s=5.0), []

    def slow() -> list[StudyOverview]:
        asked.append(clock[0])
        clock[0] += 10.0
        return []

    clock = [1000.0]
    monkeypatch.setattr("dashboards.mlflow_store.mlflow_store.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(store, "_asked_overviews", slow)
    assert list(store.overviews()) == list(store.overviews()) == []
    assert asked == [1000.0]
    clock[0] += 5.1
    store.overviews()
    assert len(asked) == 2


def test_many_threads_share_one_listing(server: MlflowServer, written: WrittenStudy) -> None:
    store = MlflowStore(server.uri, refresh_s=30)

    def ask() -> None:
        with ThreadPoolExecutor(8) as pool:
            versions = {record.version for record in pool.map(lambda _: store.study(written.name), range(32))}
        assert len(versions) == 1

    assert sum("runs/search" in line for line in requests_of(server, ask)) == 1


# Files


def test_files_come_back(store: MlflowStore, written: WrittenStudy) -> None:
    record = store.study(written.name)
    search = written.study.searches[0]
    history = store.history(record.trials[0].run)
    assert history is not None
    np.testing.assert_array_equal(history.metrics["child_val_error"], search.metrics["child_val_error"])
    np.testing.assert_allclose(history.cells["reduce"].alpha, search.alphas["reduce"], rtol=1e-6)
    assert store.genotype(record.trials[0].run) == search.genotype()
    player = store.player(record.trials[0].run)
    assert player is not None
    assert player.startswith(b"<!")
    assert store.published(record) == published_costs()
    retraining = store.history(record.retrainings[0].run)
    assert retraining is not None
    assert retraining.metrics["test_accuracy"][-1] == record.retrainings[0].run.metrics["test_accuracy"]
    assert store.player(record.retrainings[0].run) is None
    failed = record.trials[11].run
    assert (failed.num_epochs, store.history(failed), store.genotype(failed)) == (0, None, None)


def test_curves_load_the_files_that_hold_them(server: MlflowServer, store: MlflowStore, written: WrittenStudy) -> None:
    record = store.study(written.name)
    asked = requests_of(server, lambda: store.curves(record, [1, 2]))
    assert any("0000-0003.parquet" in line for line in asked)
    assert not any("0004-0007.parquet" in line for line in asked)
    curves = store.curves(record, [2, 1, 6, 11])
    assert sorted(curves) == [1, 2, 6]  # 11 failed before its first epoch
    np.testing.assert_array_equal(curves[6].metrics["eta"], written.study.searches[6].metrics["eta"])
    assert curves[6].epochs.tolist() == list(range(1, EPOCHS + 1))


def test_a_file_of_a_closed_run_is_fetched_once(server: MlflowServer, written: WrittenStudy, tmp_path: Path) -> None:
    store = MlflowStore(server.uri, cache_folder=tmp_path)
    run = store.study(written.name).trials[1].run
    assert requests_of(server, lambda: store.history(run)) != []
    assert requests_of(server, lambda: store.history(run)) == []
    again = MlflowStore(server.uri, cache_folder=tmp_path)
    run = again.study(written.name).trials[1].run
    assert requests_of(server, lambda: again.history(run)) == []


def test_a_file_of_a_running_run_follows_its_reports(server: MlflowServer, live: WrittenStudy) -> None:
    store = MlflowStore(server.uri, refresh_s=0)
    run = live.run("trial-0001")
    live.begin(run)
    points = live.epochs(run)
    live.log(run, points[:1])
    assert store.history(store.study(live.name).trials[1].run) is None
    live.log(run, points[1:])
    live.put(live.run_id("trial-0001"), "history.parquet", b"half wri")
    with pytest.raises(BrokenArtifactError):
        store.history(store.study(live.name).trials[1].run)
    live.end(run)
    history = store.history(store.study(live.name).trials[1].run)
    assert history is not None
    assert len(history.epochs) == EPOCHS


def test_a_file_that_is_being_written_is_read_again(
    server: MlflowServer, live: WrittenStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact_cache, "_RETRY_S", 2.0)
    store = MlflowStore(server.uri, refresh_s=0)
    run = live.run("trial-0001")
    live.begin(run)
    run_id = live.run_id("trial-0001")
    live.put(run_id, "genotype.json", b'{"normal": [')
    record = store.study(live.name).trials[1].run
    whole = live.study.searches[1].genotype()
    writer = threading.Timer(0.7, live.put, (run_id, "genotype.json", whole.to_json().encode()))
    writer.start()
    assert store.genotype(record) == whole
    writer.join()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"normal": [["<script>", 0, 2]]}', "must be a genotype"),
        (b"\xff\xfe", "must be a genotype"),
        (b"[" * 100_000, "must be a genotype"),
        (b"", "must be a genotype"),
    ],
    ids=["script", "not UTF-8", "too deep", "empty"],
)
def test_a_broken_genotype_names_run_and_file(
    server: MlflowServer, live: WrittenStudy, content: bytes, message: str
) -> None:
    live.put(live.run_id("trial-0000"), "genotype.json", content)
    run = MlflowStore(server.uri).study(live.name).trials[0].run
    with pytest.raises(BrokenArtifactError, match=f"genotype.json of run trial-0000 .*{run.run_id}.* {message}"):
        MlflowStore(server.uri).genotype(run)


@pytest.mark.parametrize("content", [b"no Parquet", b"", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_broken_histories_and_curves_name_run_and_file(
    server: MlflowServer, live: WrittenStudy, content: bytes
) -> None:
    store = MlflowStore(server.uri)
    live.put(live.run_id("trial-0000"), "history.parquet", content)
    live.put(live.run_id("study"), "histories/0000-0003.parquet", content)
    live.put(live.run_id("study"), "published.json", content)
    record = store.study(live.name)
    with pytest.raises(BrokenArtifactError, match=r"history\.parquet of run trial-0000"):
        store.history(record.trials[0].run)
    with pytest.raises(BrokenArtifactError, match=r"histories/0000-0003.parquet of run study"):
        store.curves(record, [0])
    with pytest.raises(BrokenArtifactError, match=r"published.json of run study"):
        store.published(record)


def test_a_file_that_is_too_large_is_refused(
    server: MlflowServer, live: WrittenStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact_cache, "MAX_BYTES", 1000)
    store = MlflowStore(server.uri)
    run = store.study(live.name).trials[0].run
    with pytest.raises(
        BrokenArtifactError, match=r"player.html of run trial-0000 .* must be at most 1000 bytes, got \d"
    ):
        store.player(run)


@pytest.mark.parametrize("place", ["http://127.0.0.1:{port}/files", "nowhere://files"])
def test_files_that_are_out_of_reach_leave_the_records(tmp_path: Path, place: str) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    study = generated_study("elsewhere", trials=2, epochs=3)
    written = WrittenStudy(MlflowClient(uri), study, artifact_location=place.format(port=free_port()))
    for run in study.runs[:2]:
        written.begin(run)
    store = MlflowStore(uri, refresh_s=0)
    record = store.study("elsewhere")
    with pytest.raises(StoreAwayError, match=r"history\.parquet of run trial-0000 .* cannot be fetched"):
        store.history(record.trials[0].run)
    assert store.study("elsewhere").notice == ""
    assert len(store.study("elsewhere").trials) == 1


# The store may be away


def test_a_server_that_is_away_is_said_at_once() -> None:
    store = MlflowStore(f"http://me:secret@127.0.0.1:{free_port()}")
    begin = time.monotonic()
    with pytest.raises(
        StoreAwayError, match=r"the MLflow store http://127.0.0.1:\d+ must answer, got: .*--tracking-uri"
    ) as error:
        store.overviews()
    assert time.monotonic() - begin < 5
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_server_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = MlflowStore(f"http://127.0.0.1:{silent.getsockname()[1]}")
        begin = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(store.study, "any") for _ in range(4)]
            errors = [question.exception() for question in asked]
        assert all(isinstance(error, StoreAwayError) for error in errors)
        assert time.monotonic() - begin < 5


class _Refusing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(401)

    def log_message(self, *_: object) -> None:
        """Not on the terminal of the tests."""


def test_a_server_that_asks_for_a_login_says_how() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as refusing:
        threading.Thread(target=refusing.serve_forever).start()
        store = MlflowStore(f"http://127.0.0.1:{refusing.server_port}")
        with pytest.raises(StoreAwayError, match="asks for a login: set MLFLOW_TRACKING_USERNAME"):
            store.study("any")
        refusing.shutdown()


def test_what_was_known_is_shown_while_the_server_is_away(server: MlflowServer, live: WrittenStudy) -> None:
    store = MlflowStore(server.uri, refresh_s=0)
    before = store.study(live.name)
    history = store.history(before.trials[0].run)
    server.stop()
    try:
        kept = store.study(live.name)
        assert kept.notice.startswith("This is what was known before: the MLflow store http://127.0.0.1")
        assert kept.trials == before.trials
        assert kept.as_of_s == before.as_of_s
        assert kept.version != before.version
        assert store.history(kept.trials[0].run) is history
        with pytest.raises(StoreAwayError):
            store.player(kept.trials[0].run)
        with pytest.raises(StoreAwayError):
            store.overviews()
    finally:
        server.start()
    live.write([live.run("trial-0001")])
    back = store.study(live.name)
    assert back.notice == ""
    assert [trial.number for trial in back.trials] == [0, 1]


def test_a_database_that_is_away_is_said_soon_to_all() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=20) as silent:
        uris = [
            f"postgresql+psycopg://me:secret@127.0.0.1:{port}/snas" for port in (free_port(), silent.getsockname()[1])
        ]
        for uri in uris:
            store, begin = MlflowStore(uri), time.monotonic()
            with ThreadPoolExecutor(8) as pool:
                errors = [
                    question.exception()
                    for question in [pool.submit(store.overviews), *(pool.submit(store.study, "any") for _ in range(7))]
                ]
            assert time.monotonic() - begin < 8
            assert all(isinstance(error, StoreAwayError) for error in errors), errors
            assert "secret" not in str(errors)
            assert "must answer, got" in str(errors[0])


def test_a_database_without_its_driver_is_said() -> None:
    with pytest.raises(StoreAwayError, match="must answer, got: No module named"):
        MlflowStore("mysql+cymysql://localhost/snas").overviews()


def test_passwords_are_masked() -> None:
    assert masked("postgresql://me:p@ss@db/snas?x=1") == "postgresql://db/snas?x=1"
    assert masked("API request to http://token@host:5000/api failed") == "API request to http://host:5000/api failed"
    assert masked("sqlite:////tmp/a@b.db") == "sqlite:////tmp/a@b.db"


# SQLite


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, GeneratedStudy, WrittenStudy]:
    folder = tmp_path_factory.mktemp("sqlite")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    study = generated_study(trials=TRIALS, epochs=EPOCHS, retrained=2, seeds=2)
    client = MlflowClient(uri)
    client.create_experiment("other", artifact_location=(folder / "files").as_uri())
    written = WrittenStudy(client, study, artifact_location=(folder / "files").as_uri())
    written.write()
    return uri, study, written


def test_a_study_comes_back_from_a_file(sqlite: tuple[str, GeneratedStudy, WrittenStudy]) -> None:
    uri, study, written = sqlite
    store = MlflowStore(uri, page=5)
    record = store.study(study.name)
    assert_same(record, study.record(), written)
    assert [line.name for line in store.overviews()] == [study.name]
    assert sorted(store.curves(record, range(5))) == [0, 1, 2, 3, 4]
    assert store.genotype(record.trials[2].run) == study.searches[2].genotype()
    assert store.models(record) == {}


def test_reading_creates_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for uri in ("sqlite:///mlflow.db", f"sqlite:///{tmp_path}/deep/mlflow.db"):
        with pytest.raises(StoreAwayError, match="must be an existing file, got none there"):
            MlflowStore(uri).overviews()
    assert list(tmp_path.iterdir()) == []
    for content in (b"", b"text"):
        (tmp_path / "mlflow.db").write_bytes(content)
        with pytest.raises(StoreAwayError, match="must be a database of MLflow"):
            MlflowStore("sqlite:///mlflow.db").overviews()
        assert (tmp_path / "mlflow.db").read_bytes() == content


def test_a_database_that_goes_is_not_made_again(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    MlflowClient(uri).create_experiment("empty", artifact_location=tmp_path.as_uri())
    store = MlflowStore(uri, refresh_s=0)
    assert store.overviews() == []
    (tmp_path / "mlflow.db").unlink()
    with pytest.raises(StoreAwayError, match="must be an existing file"):
        store.overviews()
    assert not (tmp_path / "mlflow.db").exists()


def test_reading_needs_no_large_package(sqlite: tuple[str, GeneratedStudy, WrittenStudy]) -> None:
    uri, study, _ = sqlite
    program = f"""
import sys
from dashboards.mlflow_store.mlflow_store import MlflowStore
store = MlflowStore({uri!r})
record = store.study({study.name!r})
assert store.overviews() and store.history(record.trials[0].run) and store.genotype(record.trials[0].run)
assert store.curves(record, [0]) and store.player(record.trials[0].run)
print(sorted({{"torch", "matplotlib", "ray", "orchestrator", "optuna", "torchvision", "numba"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
