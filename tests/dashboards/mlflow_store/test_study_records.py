from __future__ import annotations

from dataclasses import replace

import numpy as np
import optuna
import pytest

from dashboards.analysis.front import front_mask
from dashboards.mlflow_store.study_records import overview, study_record
from dashboards.records import RunRecord
from tests.dashboards.generated import HOSTILE, NOW_S, GeneratedStudy, generated_study


@pytest.fixture(scope="module")
def study() -> GeneratedStudy:
    return generated_study(trials=40, epochs=12)


def optuna_front(values: np.ndarray, directions: list[str]) -> set[int]:
    """Numbers of the best trials as Optuna finds them."""
    found = optuna.create_study(directions=directions)
    for row in values:
        found.add_trial(optuna.trial.create_trial(values=row.tolist()))
    return {trial.number for trial in found.best_trials}


@pytest.mark.parametrize("directions", [["minimize"], ["minimize", "maximize"], ["maximize", "minimize", "minimize"]])
@pytest.mark.parametrize("seed", range(3))
def test_front_is_that_of_optuna_with_ties(directions: list[str], seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.integers(0, 7, (60, len(directions))).astype(float)  # many equal values, some equal points
    mask = front_mask(values, ["max" if direction == "maximize" else "min" for direction in directions])
    assert set(np.flatnonzero(mask)) == optuna_front(values, directions)


def test_front_leaves_out_what_is_not_finite() -> None:
    values = np.array([[1.0, np.nan], [np.inf, 0.0], [2.0, 2.0], [-np.inf, -np.inf]])
    assert front_mask(values, ["min", "min"]).tolist() == [False, False, True, False]


def test_front_of_nothing() -> None:
    assert front_mask(np.empty((0, 2)), ["min", "min"]).tolist() == []


def test_front_has_complete_trials_only(study: GeneratedStudy) -> None:
    record = study.record()
    front = [trial for trial in record.trials if trial.on_front]
    assert len(front) > 2
    assert {trial.run.state for trial in front} == {"complete"}
    assert {trial.run.state for trial in record.trials} == {"complete", "stopped", "collapsed", "failed"}


def test_front_follows_the_objectives(study: GeneratedStudy) -> None:
    params = {**study.parent.params, "objectives": '[{"metric": "child_params", "mode": "max"}]'}
    runs = [replace(study.parent, params=params), *study.runs[1:]]
    record = study_record(study.name, runs, as_of_s=NOW_S)
    sizes = {
        trial.number: trial.run.metrics["child_params"] for trial in record.trials if trial.run.state == "complete"
    }
    assert [trial.number for trial in record.trials if trial.on_front] == [max(sizes, key=lambda key: sizes[key])]
    assert record.overview.best == {"child_params": max(sizes.values())}
    assert record.notice == ""


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "[1]", '[{"metric": "child_params"}]', '[{"metric": "a", "mode": "up"}]', "[" * 5000]
)
def test_objectives_that_are_not_given_are_assumed_and_the_notice_says_so(study: GeneratedStudy, text: str) -> None:
    runs = [replace(study.parent, params={**study.parent.params, "objectives": text}), *study.runs[1:]]
    record = study_record(study.name, runs, as_of_s=NOW_S, notice="The store is away.")
    assert [(entry.metric, entry.mode) for entry in record.objectives] == [
        ("child_val_error", "min"),
        ("child_madds", "min"),
    ]
    assert record.notice.startswith("The store is away. This study does not say what it optimises")


def test_counts_come_from_the_runs_and_agree_with_the_parent(study: GeneratedStudy) -> None:
    of_parent, of_all = overview(study.name, study.parent), study.record().overview
    assert of_all == replace(of_parent, last_report_s=max(run.last_report_s or 0 for run in study.runs))
    assert of_all.ended == {"complete": 32, "stopped": 4, "collapsed": 2, "failed": 2}
    assert of_all.retrained == (9, 9)
    assert of_all.hours_unit == "GPU hours"
    assert of_all.hours == pytest.approx(sum(run.metrics.get("gpu_hours", 0) for run in study.runs[1:]))
    assert of_all.state == "complete"
    assert of_all.time_left_s is None


def test_a_study_that_runs_says_what_is_left() -> None:
    record = generated_study(trials=6, epochs=4, running=2).record()
    assert record.overview.state == "running"
    assert record.overview.time_left_s == 8400
    assert sum(record.overview.ended.values()) == 4
    assert [trial.run.state for trial in record.trials[4:]] == ["running", "running"]


def test_values_are_numbers_where_they_can_be(study: GeneratedStudy) -> None:
    trial = study.record().trials[0]
    assert trial.values["penalty.strength"] == study.searches[0].eta == trial.eta
    assert trial.values["temperature.kind"] == trial.schedule
    assert trial.planned_epochs == 12


def test_the_oldest_run_of_a_label_counts_unless_another_is_further(study: GeneratedStudy) -> None:
    real = next(run for run in study.runs if run.label == "trial-0002")
    empty = replace(real, run_id="double", status="RUNNING", params={}, metrics={}, start_s=real.start_s - 1)
    record = study_record(study.name, [empty, *study.runs], as_of_s=NOW_S)
    assert len(record.trials) == 40
    assert record.trials[2].run == real


def test_single_searches_are_a_study_without_a_parent(study: GeneratedStudy) -> None:
    runs = [replace(run, label=f"digits-{run.label[-2:]}", parent_id=None) for run in study.runs[1:4]]
    record = study_record("searches", runs, as_of_s=NOW_S)
    assert record.overview.run is None
    assert [trial.number for trial in record.trials] == [None] * 3
    assert [trial.title for trial in record.trials] == ["digits-00", "digits-01", "digits-02"]
    assert record.notice == ""
    assert record.overview.best == {}, "they may be of different data"
    assert not any(trial.on_front for trial in record.trials)
    assert record.overview.last_report_s == max(run.last_report_s or 0 for run in runs)


def test_single_retraining_that_runs_is_reported(study: GeneratedStudy) -> None:
    run = replace(next(run for run in study.runs if run.kind == "retrain"), parent_id=None)
    assert study_record("retrains", [run], as_of_s=NOW_S).overview.state == "complete"
    tags = {key: text for key, text in run.tags.items() if key != "snas.end"}
    running = replace(run, label="other", run_id="other", status="RUNNING", end_s=None, tags=tags)
    overview = study_record("retrains", [run, running], as_of_s=NOW_S).overview
    assert (overview.state, overview.retrained) == ("running", (1, 2))


def test_a_study_that_runs_reports_with_its_trials() -> None:
    live = generated_study(trials=6, epochs=4, running=2)
    trial = next(run for run in live.runs if run.status == "RUNNING" and run.kind == "search")
    later = replace(trial, last_report_s=NOW_S + 60)
    runs = [later if run is trial else run for run in live.runs]
    assert study_record(live.name, runs, as_of_s=NOW_S).overview.last_report_s == NOW_S + 60
    assert overview(live.name, live.parent).last_report_s == live.parent.last_report_s
    begun = [replace(run, last_report_s=None) for run in live.runs]
    assert study_record(live.name, begun, as_of_s=NOW_S).overview.last_report_s is None


def test_a_retraining_belongs_to_the_trial_of_its_parent_run(study: GeneratedStudy) -> None:
    run = next(run for run in study.runs if run.kind == "retrain")
    trial = next(other for other in study.runs if other.run_id == run.parent_id)
    named = replace(run, label="mine", params={"seed": "7"})
    record = study_record(study.name, [study.parent, trial, named], as_of_s=NOW_S)
    assert f"trial-{record.retrainings[0].trial:04d}" == trial.label
    assert record.retrainings[0].seed == 7
    of_file = replace(run, parent_id=study.parent.run_id, params={"trial": "none", "seed": HOSTILE})
    assert study_record(study.name, [study.parent, of_file], as_of_s=NOW_S).retrainings[0].trial is None


@pytest.mark.parametrize(
    "change",
    [
        {"status": "RUNNING"},
        {"num_epochs": 3},
        {"last_report_s": 1.0},
        {"tags": {"snas.unit": "trial-0001", "snas.model": "child"}},
        {"name": "renamed"},
    ],
)
def test_the_version_changes_with_any_run(study: GeneratedStudy, change: dict[str, object]) -> None:
    place = next(index for index, run in enumerate(study.runs) if run.label == "trial-0001")
    runs: list[RunRecord] = list(study.runs)
    before = study_record(study.name, runs, as_of_s=1.0).version
    assert study_record(study.name, runs, as_of_s=2.0).version == before
    runs[place] = replace(runs[place], **change)  # type: ignore[arg-type]
    assert study_record(study.name, runs, as_of_s=1.0).version != before


def test_hostile_text_is_only_data() -> None:
    record = generated_study(trials=12, epochs=4, hostile=True).record()
    assert record.trials[1].schedule == HOSTILE
    assert HOSTILE in record.trials[3].run.reason


def test_generated_searches_evolve_as_real_ones() -> None:
    searches = generated_study(trials=20, epochs=100, strategies=("snas", "darts")).searches
    small = max(searches, key=lambda search: search.eta if search.end == "complete" else 0)
    large = min(searches, key=lambda search: search.eta)
    assert small.metrics["child_madds"][-1] < 0.5 * large.metrics["child_madds"][-1]
    assert large.metrics["entropy_total"][-1] < 0.6 * large.metrics["entropy_total"][0]
    complete = [search for search in searches if search.end == "complete"]
    gaps = {
        kind: np.median([search.metrics["discretization_gap"][-1] for search in complete if search.strategy == kind])
        for kind in ("snas", "darts")
    }
    assert gaps["snas"] < 0.5 * gaps["darts"]
    collapsed = next(search for search in searches if search.end == "collapsed")
    assert collapsed.metrics["edges_reduce"][-1] == 0
