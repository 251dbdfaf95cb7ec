"""Whole studies as a user runs them: a process, real Ray, real Optuna and MLflow stores."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.history import read_curves, read_history
from orchestrator.files.checkpoint import CheckpointFolder
from orchestrator.tracking.run_spec import SEARCH_METRICS
from search_core.search.reports import FINAL_METRICS
from search_core.space.genotype import Genotype
from tests.orchestrator.studies import Done, run_to_its_end
from tests.orchestrator.tiny import (
    RETRAIN,
    SEARCH,
    TWO_OBJECTIVES,
    artifact_paths,
    image_steps,
    snas,
    steps_of,
    study_data,
)

pytestmark = [pytest.mark.integration, pytest.mark.slow]

#: Two objectives, two at a time, and a retraining of the front with two seeds.
FRONT: dict[str, Any] = study_data(
    name="front",
    seed=2,
    objectives=TWO_OBJECTIVES,
    max_concurrent=2,
    resources={"cpu": 0.5},
    retrain={**RETRAIN, "seeds": 2},
)
#: In the order of the grid: a sound trial, one that diverges, one that is so expensive that ASHA stops it.
STOPPED: dict[str, Any] = study_data(
    name="stopped",
    search={**SEARCH, "epochs": 3},
    sweep={"network.init_channels": {"choice": [4, 16]}, "theta.lr": {"choice": [0.05, 1.0e30]}},
    sampler="grid",
    trials=3,
    max_concurrent=1,
    objectives=[{"metric": "expected_cost_madds", "mode": "min"}],
    scheduler={"kind": "asha", "grace_period": 1, "reduction_factor": 2},
)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return run_to_its_end(tmp_path_factory.mktemp("front"), FRONT)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return run_to_its_end(tmp_path_factory.mktemp("stopped"), STOPPED)


def test_study_prints_progress_the_front_and_what_to_do_next(front: Done) -> None:
    assert front.outcome.code == 0, front.outcome.said
    assert front.outcome.err == "", "Ray and MLflow keep quiet"
    for line in (
        "loading the images of",
        "searches: 3 to do",
        "0000 starts: ",
        "0000 complete: child validation error ",
        "0002 complete",
        "[searches 3 of 3]",
        "retrainings: ",
        "writing results: ",
        "front: the best trade-offs",
    ):
        assert line in front.outcome.said
    for column in ("eta", "temperature", "supernet", "child", "retrained test", "params", "multiply-adds"):
        assert column in front.outcome.said
    assert f"snas study show front --runs {front.runs}" in front.outcome.out
    assert f"snas dashboard --runs {front.runs}" in front.outcome.out


def test_study_has_nested_runs(front: Done) -> None:
    runs = front.mlflow_runs
    document = front.shown()
    retrains = [f"retrain-{record['label']}" for record in document["retrain_records"]]
    assert len(retrains) in (2, 4, 6)
    assert sorted(runs) == sorted(["front", "trial-0000", "trial-0001", "trial-0002", *retrains])
    parents = {name: run.data.tags.get("mlflow.parentRunId") for name, run in runs.items()}
    study = runs["front"].info.run_id
    assert parents.pop("front") is None
    for name, parent in parents.items():
        trial = f"trial-{name.split('-')[1]}"
        assert parent == (study if name.startswith("trial") else runs[trial].info.run_id)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_runs_have_every_epoch_once(front: Done) -> None:
    for name, run in front.mlflow_runs.items():
        run_id = run.info.run_id
        if name.startswith("trial"):
            assert set(run.data.metrics) == {*SEARCH_METRICS, *FINAL_METRICS, "cpu_core_hours"}
            assert all(steps_of(front.client, run_id, metric) == [0, 1] for metric in SEARCH_METRICS)
            assert image_steps(front.client, run_id) == [0, 1]
            assert {"cells.svg", "genotype.json", "history.parquet"} < set(artifact_paths(front.client, run_id))
        elif name.startswith("retrain"):
            assert steps_of(front.client, run_id, "val_accuracy") == [0]
            assert 0 <= run.data.metrics["test_accuracy"] <= 1


def test_runs_say_where_they_come_from(front: Done) -> None:
    runs = front.mlflow_runs
    for name, run in runs.items():
        tags = run.data.tags
        assert {"git.commit", "dataset.digest", "dataset.split_digest", "version.torch", "version.ray"} <= set(tags)
        if name == "front":
            continue
        checkpoints = Path(tags["snas.checkpoints"])
        assert checkpoints.is_relative_to(front.runs)
        final = CheckpointFolder(checkpoints).newest_whole()
        assert final is not None
        assert final.epoch == (2 if name.startswith("trial") else 1)
    trial = front.shown()["trial_records"][1]
    eta = trial["values"]["penalty.strength"]
    assert float(runs["trial-0001"].data.params["penalty.strength"]) == eta
    assert runs["trial-0001"].data.params["seed"] == "2"


def test_parent_run_has_the_study_and_its_summary(front: Done) -> None:
    run = front.mlflow_runs["front"]
    names = artifact_paths(front.client, run.info.run_id)
    pictures = ["study.html", "study.yaml", "summary-narrow.png", "summary.png"]
    assert names == ["front.json", "histories", "published.json", *pictures]
    study = front.client.download_artifacts(run.info.run_id, "study.yaml")
    assert yaml.safe_load(Path(study).read_text())["retrain"]["seeds"] == 2
    table = json.loads(Path(front.client.download_artifacts(run.info.run_id, "front.json")).read_text())
    assert table == {"study": "front", "front": front.shown()["front"]}
    assert run.data.params["sampler"] == "tpe"
    assert json.loads(run.data.params["objectives"]) == TWO_OBJECTIVES
    assert json.loads(run.data.params["sweep.penalty.strength"]) == {"log_uniform": [1e-05, 0.1]}


def test_parent_run_counts_what_is_over_and_has_all_curves(front: Done) -> None:
    run, trials = front.mlflow_runs["front"], front.shown()["trial_records"]
    metrics = run.data.metrics
    assert [metrics[f"trials_{end}"] for end in ("complete", "stopped", "collapsed", "failed")] == [3, 0, 0, 0]
    assert metrics["retrainings_complete"] == metrics["retrainings_total"] == front.shown()["retrained"]
    assert metrics["best_child_val_error"] == min(trial["metrics"]["child_val_error"] for trial in trials)
    hours = [trial["metrics"]["cpu_core_hours"] for trial in trials]
    seconds = [sum(record["metrics"]["seconds"] for record in front.journal(number).epochs) for number in range(3)]
    assert hours == pytest.approx([0.5 * each / 3600 for each in seconds]), "half a core each"
    assert metrics["cpu_core_hours"] == pytest.approx(sum(hours))
    assert metrics["time_left_s"] == 0
    for metric in ("trials_complete", "retrainings_complete"):
        steps = steps_of(front.client, run.info.run_id, metric)
        assert sorted(set(steps)) == steps, "each once"
    file = Path(front.client.download_artifacts(run.info.run_id, "histories/0000-0031.parquet"))
    curves = read_curves(file.read_bytes(), file.name)
    for number, history in curves.items():
        recorded = [record["metrics"]["child_val_error"] for record in front.journal(number).epochs]
        assert history.metrics["child_val_error"].tolist() == recorded
    assert sorted(curves) == [0, 1, 2]


def test_trials_have_the_player_and_history_of_their_cells(front: Done) -> None:
    run_id = front.mlflow_runs["trial-0000"].info.run_id
    file = Path(front.client.download_artifacts(run_id, "history.parquet"))
    history = read_history(file.read_bytes(), file.name)
    assert history.epochs.tolist() == [1, 2]
    assert history.cells["normal"].probabilities.shape == (2, 5, len(history.primitives))
    player = Path(front.client.download_artifacts(run_id, "player.html")).read_text(encoding="utf-8")
    assert "trial-0000" in player
    assert "<script src" not in player, "nothing is loaded"


def test_registered_children_say_what_they_are(front: Done) -> None:
    model = front.client.get_registered_model("front-child")
    assert "the cells that study front found" in model.description
    for version in front.client.search_model_versions("name = 'front-child'"):
        accuracy = front.client.get_run(version.run_id).data.metrics["test_accuracy"]
        assert f"test accuracy {accuracy:.2%}" in version.description
        assert f'mlflow.pytorch.load_model("models:/front-child/{version.version}")' in version.description
        assert f"run_uuid={version.run_id}" in version.description


def test_children_are_registered(front: Done) -> None:
    versions = front.client.search_model_versions("name = 'front-child'")
    retrains = {run.info.run_id for name, run in front.mlflow_runs.items() if name.startswith("retrain")}
    assert {version.run_id for version in versions} == retrains
    assert len(versions) == len(retrains)


def test_show_and_list_print_how_the_study_went(front: Done) -> None:
    document = front.shown()
    expected = {"name": "front", "state": "done", "dataset": "fake", "trials": 3, "complete": 3, "failed": 0}
    assert {key: document[key] for key in expected} == expected
    on_front = [record for record in document["trial_records"] if record["on_front"]]
    assert sorted(row["trial"] for row in document["front"]) == [record["number"] for record in on_front]
    cells = {json.dumps(record["genotype"]) for record in on_front}
    assert document["retrained"] == document["retrainings"] == 2 * len(cells)
    for row in document["front"]:
        Genotype.from_dict(row["genotype"])
        assert 0 <= row["test_accuracy"] <= 1
        assert row["test_accuracy_sd"] >= 0
    text = snas("study", "show", "front", "--runs", front.runs)
    assert "study front: done, 3 of 3 trials complete" in text.said
    (listed,) = json.loads(snas("study", "list", "--json", "--runs", front.runs).out)
    assert listed == {key: document[key] for key in listed}
    assert "front done fake 3 of 3" in snas("study", "list", "--runs", front.runs).said


def test_show_shows_what_mattered_and_draws_the_best_cell(front: Done) -> None:
    document = front.shown()
    assert document["best"]["child_val_error"] == min(row["metrics"]["child_val_error"] for row in front_of(document))
    assert document["hours"]["cpu_core_hours"] == pytest.approx(
        front.mlflow_runs["front"].data.metrics["cpu_core_hours"]
    )
    assert (document["running"], document["time_left_s"], document["failures"]) == (False, None, [])
    said = snas("study", "show", "front", "--runs", front.runs).said
    assert f"best child validation error {document['best']['child_val_error']:.2%}" in said
    assert "CPU core hours in searches" in said
    assert "importance for child_val_error: 3 complete trials are too few to rate parameters" in said
    assert "eta and multiply-adds: 3 complete trials are too few to relate them" in said
    words, kept = document["answer"]["words"], document["answer"]["picks"][0]["trial"]
    assert f"{words} the cell of trial {kept}: Normal cell:" in said
    assert words in html.unescape(front.mlflow_runs["front"].data.tags["mlflow.note.content"])
    assert document["answer"]["picks"][0]["error"]["interval"] is not None


def test_html_is_the_page_in_mlflow_and_is_never_written_over_a_file(front: Done, tmp_path: Path) -> None:
    file, words = tmp_path / "study.html", front.shown()["answer"]["words"]
    outcome = snas("study", "html", "front", "--to", file, "--runs", front.runs)
    assert (outcome.code, outcome.err) == (0, "")
    page = file.read_text(encoding="utf-8")
    assert words.partition(". ")[0] in html.unescape(page)
    logged = front.client.download_artifacts(front.mlflow_runs["front"].info.run_id, "study.html")
    assert Path(logged).read_text(encoding="utf-8") == page
    again = snas("study", "html", "front", "--to", file, "--runs", front.runs)
    assert (again.code, f"got {file}: nothing was written" in again.said) == (2, True)
    assert file.read_text(encoding="utf-8") == page


def front_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [record for record in document["trial_records"] if record["on_front"]]


def test_trial_show_shows_all_of_a_trial(front: Done) -> None:
    number = front_of(front.shown())[0]["number"]
    outcome = snas("trial", "show", "front", number, "--json", "--runs", front.runs)
    facts = json.loads(outcome.out)
    assert (outcome.code, facts["number"], facts["state"], facts["planned_epochs"]) == (0, number, "complete", 2)
    run_id = front.mlflow_runs[f"trial-{number:04d}"].info.run_id
    assert facts["run_id"] == run_id
    assert facts["curves"]["temperature"] == [
        record["metrics"]["temperature"] for record in front.journal(number).epochs
    ]
    assert [record["seed"] for record in facts["retrainings"]] == [2, 3]
    said = snas("trial", "show", "front", number, "--runs", front.runs).said
    assert f"trial {number} of study front: complete, on the front" in said
    assert f"penalty.strength {facts['values']['penalty.strength']:.3g}" in said
    assert "Normal cell:" in said
    assert "c(k) ◄ concatenation of 0, 1" in said
    assert (
        f"retrained with seed 2: complete, test accuracy {facts['retrainings'][0]['metrics']['test_accuracy']:.2%}"
        in said
    )
    assert f"snas retrain --run {run_id} --runs {front.runs}" in said


def test_exported_cell_can_be_profiled(front: Done, tmp_path: Path) -> None:
    file = tmp_path / "cell.json"
    assert snas("trial", "show", "front", 0, "--export", file, "--runs", front.runs).code == 0
    assert Genotype.from_json(file.read_text()) == Genotype.from_dict(front.shown()["trial_records"][0]["genotype"])
    assert snas("profile", file, "--json").code == 0


def test_retrained_child_of_a_trial_is_exported(front: Done, tmp_path: Path) -> None:
    number = front_of(front.shown())[0]["number"]
    words = ["--study", "front", "--trial", number, "--runs", front.runs]
    outcome = snas("export", *words, "--seed", 3, "--to", tmp_path / "child")
    assert outcome.code == 0, outcome.said
    assert {path.name for path in (tmp_path / "child").iterdir()} == {
        "card.md", "cells.svg", "child.onnx", "child.pt2", "child.py", "genotype.json", "state_dict.pt"
    }  # fmt: skip
    assert "seed 3, 1 epochs" in (tmp_path / "child" / "card.md").read_text(encoding="utf-8")
    outcome = snas("export", *words, "--seed", 7, "--to", tmp_path / "none")
    assert (outcome.code, f"the cell of trial {number} with seed 7 must have been retrained" in outcome.said) == (
        2,
        True,
    )
    assert not (tmp_path / "none").exists()


def test_trial_show_without_mlflow_does_not_fail(front: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    outcome = snas("trial", "show", "front", 0, "--runs", front.runs)
    assert outcome.code == 0, outcome.said
    assert "MLflow run not found: the store does not answer" in outcome.said
    assert "snas retrain --genotype front-trial0.json --config" in outcome.said


def test_trial_that_does_not_exist_is_reported(front: Done) -> None:
    outcome = snas("trial", "show", "front", 7, "--runs", front.runs)
    assert outcome.code == 2
    assert "study `front` has no trial 7; its trials: 0 to 2" in outcome.said


def test_study_of_the_same_name_is_refused(front: Done) -> None:
    before = front.counts()
    outcome = snas("study", "run", front.file, "--runs", front.runs)
    assert outcome.code == 2
    assert "study `front` exists" in outcome.said
    assert "snas study resume front" in outcome.said
    assert front.counts() == before


def test_resume_of_a_complete_study_changes_nothing(front: Done) -> None:
    before = front.counts()
    outcome = snas("study", "resume", "front", "--runs", front.runs)
    assert outcome.code == 0, outcome.said
    assert "front: the best trade-offs" in outcome.said
    assert front.counts() == before


def test_found_cell_is_retrained_with_the_recipe_of_its_study(front: Done) -> None:
    trial = front.mlflow_runs["trial-0000"].info.run_id
    outcome = snas("retrain", "--run", trial, "--seeds", 1, "--name", "once-more", "--runs", front.runs)
    assert (outcome.code, outcome.err) == (0, "")
    run = front.mlflow_runs["once-more-seed2"]  # the study's seed
    assert run.data.tags["mlflow.parentRunId"] == trial
    assert (run.data.params["init_channels"], run.data.params["epochs"]) == ("4", "1")


def test_trial_that_diverges_fails_with_the_reason_and_the_study_continues(stopped: Done) -> None:
    assert stopped.outcome.code == 0, stopped.outcome.said
    assert stopped.outcome.err == ""
    reason = "the training loss must stay finite, got loss nan"
    assert f"0001 failed: {reason}" in stopped.outcome.said.replace("accuracy no result (", "")
    states = [record["state"] for record in stopped.shown()["trial_records"]]
    assert states == ["complete", "failed", "stopped"]
    assert reason in stopped.shown()["trial_records"][1]["reason"]
    run = stopped.mlflow_runs["trial-0001"]
    assert (run.info.status, run.data.tags["snas.end"]) == ("FAILED", "failed")
    assert reason in run.data.tags["snas.reason"]
    assert stopped.mlflow_runs["stopped"].info.status == "FINISHED"
    assert reason in snas("study", "show", "stopped", "--runs", stopped.runs).said
    doctor = snas("study", "doctor", "stopped", "--runs", stopped.runs)
    assert doctor.code == 0, doctor.said


def test_show_of_a_failed_trial_has_its_reason_and_no_cell(stopped: Done, tmp_path: Path) -> None:
    said = snas("trial", "show", "stopped", 1, "--runs", stopped.runs).said
    assert "trial 1 of study stopped: failed reason: the training loss must stay finite" in said
    assert "epochs 0 of 3" in said
    assert "Normal cell" not in said
    outcome = snas("trial", "show", "stopped", 1, "--export", tmp_path / "cell.json", "--runs", stopped.runs)
    assert (outcome.code, (tmp_path / "cell.json").exists()) == (2, False)
    assert "trial 1 must have a whole epoch to have a cell" in outcome.said
    study = snas("study", "show", "stopped", "--runs", stopped.runs).said
    assert "1 failure: trial 1: the training loss must stay finite" in study


def test_scheduler_stops_a_trial_and_no_epoch_is_lost(stopped: Done) -> None:
    journals = [stopped.journal(number) for number in range(3)]
    assert [len(journal.epochs) for journal in journals] == [3, 0, 1]
    assert [journal.end for journal in journals] == ["complete", "failed", "stopped"]
    reason = "stopped by the scheduler after 1 of 3 epochs"
    assert journals[2].reason == reason
    run = stopped.mlflow_runs["trial-0002"]
    assert run.data.tags["snas.reason"] == reason
    assert f"Reason: {reason}" in run.data.tags["mlflow.note.content"]
    said = snas("study", "show", "stopped", "--runs", stopped.runs).said
    assert "study stopped: done, 1 of 3 trials complete, 1 stopped, 1 failed" in said
    assert f"trial 2 stopped: {reason}" in said
    assert (run.info.status, run.data.tags["snas.end"]) == ("FINISHED", "stopped")
    assert steps_of(stopped.client, run.info.run_id, "child_val_error") == [0]
    assert "expected_cost_madds" in run.data.metrics


def test_grid_ran_its_points_in_order(stopped: Done) -> None:
    values = [record["values"] for record in stopped.shown()["trial_records"]]
    assert [(value["network.init_channels"], value["theta.lr"]) for value in values] == [
        (4, 0.05),
        (4, 1.0e30),
        (16, 0.05),
    ]
    assert [row["trial"] for row in stopped.shown()["front"]] == [0]


def test_resume_does_not_try_failed_and_stopped_trials_again(stopped: Done) -> None:
    before = stopped.counts()
    assert snas("study", "resume", "stopped", "--runs", stopped.runs).code == 0
    assert stopped.counts() == before
