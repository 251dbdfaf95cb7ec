"""Versions of registered models, without the models."""

from __future__ import annotations

from pathlib import Path

from orchestrator.files.layout import Runs
from orchestrator.tracking.model_versions import drop_replaced
from orchestrator.tracking.run_spec import Unit
from orchestrator.tracking.tracker import Tracker
from tests.orchestrator.tiny import with_empty_store


def test_version_of_a_deleted_run_gives_way_to_the_one_that_replaces_it(tmp_path: Path) -> None:
    uri, name = Runs(with_empty_store(tmp_path)).tracking_uri(), "replaced-child"
    tracker = Tracker(uri, "models", artifact_location=None, tags={})
    client = tracker.client
    client.create_registered_model(name)
    unit = Unit(label="retrain-0001-seed0", kind="retrain")

    def version_of(run_id: str) -> str:
        source = client.get_run(run_id).info.artifact_uri
        return str(client.create_model_version(name, source, run_id).version)

    def versions() -> set[str]:
        return {str(version.version) for version in client.search_model_versions(f"name = '{name}'")}

    deleted = tracker.run_id(unit)
    first, doubled = version_of(deleted), version_of(deleted)
    client.set_registered_model_alias(name, "champion", first)
    elsewhere = client.create_run(client.create_experiment("elsewhere"), tags={"snas.unit": unit.label}).info.run_id
    theirs = version_of(elsewhere)
    client.delete_run(deleted)
    drop_replaced(client, tracker.experiment_id, name)
    assert versions() == {first, doubled, theirs}, "nothing replaces them yet"
    again = Tracker(uri, "models", artifact_location=None, tags={})
    replacing = version_of(again.run_id(unit))
    drop_replaced(client, again.experiment_id, name)
    assert versions() == {theirs, replacing}
    assert str(client.get_model_version_by_alias(name, "champion").version) == replacing
