"""A folder of runs that was moved or copied, with a small store of MLflow's own making."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from orchestrator.errors import OrchestratorError
from orchestrator.files.layout import Runs
from orchestrator.files.relocation import former_roots, relocate
from orchestrator.study_file.loading import load_study
from orchestrator.study_file.yaml_file import dump_yaml
from orchestrator.tracking.run_spec import Unit
from orchestrator.tracking.tracker import Tracker
from tests.orchestrator.tiny import tiny_spec, with_empty_store


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A folder with a study file, an experiment, a run, a model and an experiment that is not ours."""
    runs = Runs(tmp_path_factory.mktemp("first") / "old runs")
    with_empty_store(runs.root)
    (runs.root / "cell.json").write_text("{}")
    storage, retrain = {"path": str(runs.root / "checkpoints")}, {"epochs": 1, "genotype": "SNAS_mild"}
    spec = tiny_spec(trials=0, sweep={}, storage=storage, retrain=retrain)
    data = spec.resolved()
    data["retrain"]["genotype"] = str(runs.root / "cell.json")
    runs.study("tiny").path.mkdir()
    runs.study("tiny").spec_file.write_text(dump_yaml(data))
    tracker = tracker_of(runs)
    run_id = tracker.run_id(Unit(label="trial-0000", kind="search"))
    tracker.client.log_text(run_id, "written", "file.txt")
    tracker.client.create_registered_model("child")
    source = tracker.client.get_run(run_id).info.artifact_uri
    tracker.client.create_model_version("child", source, run_id)
    tracker.client.create_experiment("theirs", "file:///theirs/experiments/theirs")
    return runs


@pytest.fixture
def copy(original: Runs, tmp_path: Path) -> Runs:
    return Runs(Path(shutil.copytree(original.root, tmp_path / "new % runs")))


def tracker_of(runs: Runs) -> Tracker:
    uri = runs.tracking_uri()
    return Tracker(uri, "tiny", artifact_location=runs.artifact_location(uri, "tiny"), tags={})


def addresses(runs: Runs) -> set[str]:
    """All addresses of files in the store."""
    columns = ("experiments.artifact_location", "runs.artifact_uri", "model_versions.source")
    with sqlite3.connect(runs.root / "mlflow.db") as connection:
        rows = [connection.execute("SELECT {1} FROM {0}".format(*column.split("."))).fetchall() for column in columns]
    return {str(value) for found in rows for (value,) in found if value}


def files(runs: Runs) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in runs.root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("is_left", [True, False], ids=["copied", "moved"])
def test_all_that_named_the_old_place_names_the_new_one(
    original: Runs, copy: Runs, is_left: bool, tmp_path: Path
) -> None:
    source = copy
    if not is_left:  # a copy whose original is gone has been moved
        source = Runs(tmp_path / "away")
        assert relocate(copy, None, print)
        copy.root.rename(source.root)
    former = original.root if is_left else copy.root
    first, before, lines = addresses(source), files(original), list[str]()
    assert relocate(source, None, lines.append)
    (line,) = lines
    assert str(former) in line
    assert str(source.root) in line
    old, new = f"{former.as_uri()}/mlartifacts/", f"{source.root.as_uri()}/mlartifacts/"
    assert addresses(source) == {address.replace(old, new) for address in first} != first
    spec = load_study(source.study("tiny").spec_file)
    assert spec.storage.path == str(source.root / "checkpoints")
    assert spec.retrain is not None
    assert spec.retrain.genotype == str(source.root / "cell.json")
    tracker = tracker_of(source)
    (run,) = tracker.client.search_runs([tracker.experiment_id])
    (file,) = source.root.glob("mlartifacts/tiny/*/artifacts/file.txt")
    file.write_text("of the copy")
    assert Path(tracker.client.download_artifacts(run.info.run_id, "file.txt")).read_text() == "of the copy"
    tracker.client.log_text(run.info.run_id, "again", "new.txt")
    assert files(original) == before, "nothing is written to the original"
    assert not relocate(source, None, lines.append), "once is enough"
    assert len(lines) == 1


def test_place_that_is_only_called_otherwise_is_not_another(original: Runs, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(original.root)
    assert former_roots(Runs(tmp_path / "link"), Runs(tmp_path / "link").tracking_uri()) == []
    assert former_roots(original, original.tracking_uri()) == []


def test_store_elsewhere_is_left_alone(original: Runs, copy: Runs) -> None:
    for uri in (original.tracking_uri(), "http://127.0.0.1:9"):
        assert former_roots(copy, uri) == []
        assert not relocate(copy, uri, print)
    assert former_roots(copy, copy.tracking_uri()) == [original.root.as_uri()]


def test_what_is_no_store_is_left_to_whoever_opens_it(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    assert not relocate(Runs(tmp_path), None, print)
    assert not relocate(Runs(tmp_path / "none"), None, print)
    assert not (tmp_path / "none").exists()


def test_store_that_cannot_be_written_is_named(copy: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object) -> None:
        raise sqlite3.OperationalError("attempt to write a readonly database")

    monkeypatch.setattr("orchestrator.files.relocation._rewrite_store", refuse)
    with pytest.raises(OrchestratorError, match=r"must be writable once, got: attempt to write a readonly database"):
        relocate(copy, None, print)
