"""Counts of a study, against Optuna's own front and hand-made figures."""

from __future__ import annotations

import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest

from dashboards.records import Trial
from orchestrator.doctor import examine
from orchestrator.driver.searcher import tell
from orchestrator.files.journal import Journal
from orchestrator.files.layout import Runs
from orchestrator.reports.comparison import compare
from orchestrator.reports.relations import study_facts
from orchestrator.study.records import FRONT_METRICS
from orchestrator.study.standing import Tally
from orchestrator.study.study import Study
from orchestrator.study_file.spec import search_options
from orchestrator.study_file.sweep import suggest
from orchestrator.study_file.yaml_file import dump_yaml
from tests.dashboards.written import run
from tests.orchestrator.tiny import (
    ONE_OBJECTIVE,
    SEARCH,
    TWO_OBJECTIVES,
    cell_of,
    made_up_record,
    opened_study,
    tiny_spec,
    written_journal,
)


def ended(folder: Path, number: int, end: str = "complete", reason: str = "", **metrics: float) -> Journal:
    records = [made_up_record(0, cell_of("skip_connect"), **metrics)] if metrics else []
    return Journal(written_journal(folder / f"{number:04d}.jsonl", records, end, reason))


def tally_of(**changes: Any) -> Tally:
    return Tally(tiny_spec(**{"objectives": TWO_OBJECTIVES, "trials": 6, **changes}))


def options_of(tally: Tally, eta: float = 0.01) -> dict[str, Any]:
    return asdict(search_options(tally._spec, {"penalty.strength": eta}))


@pytest.mark.parametrize("objectives", [ONE_OBJECTIVE, TWO_OBJECTIVES])
def test_front_is_optunas(objectives: list[dict[str, str]], tmp_path: Path) -> None:
    draw = random.Random(0)
    tally, study = tally_of(objectives=objectives), optuna.create_study(directions=["minimize"] * len(objectives))
    for number in range(40):
        values = {goal["metric"]: float(draw.randrange(8)) for goal in objectives}
        study.add_trial(optuna.trial.create_trial(values=list(values.values())))
        tally.add_trial(number, options_of(tally), ended(tmp_path, number, **values))
    assert sorted(trial.number for trial in tally.front) == sorted(trial.number for trial in study.best_trials)


def test_metrics_count_ends_and_give_the_best_hours_and_time_left(tmp_path: Path) -> None:
    tally = tally_of()
    figures = {"seconds": 100.0, "cpu_core_hours": 0.5}
    journals = [
        ended(tmp_path, 0, child_val_error=0.5, child_madds=10.0, **figures),
        ended(tmp_path, 1, child_val_error=0.3, child_madds=20.0, **figures),
        ended(tmp_path, 2, "failed", "diverged"),
        ended(tmp_path, 3, "collapsed", "empty", child_val_error=0.9, child_madds=0.0, **figures),
    ]
    for number, journal in enumerate(journals):
        tally.add_trial(number, options_of(tally), journal)
        tally.add_trial(number, options_of(tally), journal)  # a repeat counts nothing
    tally.at_once = 2
    assert tally.trial_metrics() == {
        "trials_complete": 2.0,
        "trials_stopped": 0.0,
        "trials_collapsed": 1.0,
        "trials_failed": 1.0,
        "best_child_val_error": 0.3,
        "best_child_madds": 10.0,
        "cpu_core_hours": 1.5,
        "time_left_s": 2 * 100.0 / 2,
    }
    assert [trial.number for trial in tally.front] == [1, 0]
    assert (tally.front[0].eta, tally.front[0].temperature) == (0.01, "linear to 0.03")


def test_maximised_objective_has_the_largest_as_its_best(tmp_path: Path) -> None:
    tally = tally_of(objectives=[{"metric": "child_val_accuracy", "mode": "max"}])
    for number, accuracy in enumerate((0.25, 0.75, 0.5)):
        tally.add_trial(number, options_of(tally), ended(tmp_path, number, child_val_accuracy=accuracy))
    assert tally.trial_metrics()["best_child_val_accuracy"] == 0.75
    assert [trial.number for trial in tally.front] == [1]


@pytest.mark.parametrize(("objectives", "counts"), [(ONE_OBJECTIVE, False), (TWO_OBJECTIVES, True)])
def test_stopped_trial_counts_as_in_optuna(objectives: list[dict[str, str]], counts: bool, tmp_path: Path) -> None:
    tally = tally_of(objectives=objectives)
    journal = ended(tmp_path, 0, "stopped", "by the scheduler", child_val_error=0.5, child_madds=1.0)
    tally.add_trial(0, options_of(tally), journal)
    assert bool(tally.front) == counts


def test_shared_epochs_are_counted_once(tmp_path: Path) -> None:
    tally = tally_of()
    tally.shared_hours = 1.0
    for number in range(3):
        tally.add_trial(number, options_of(tally), ended(tmp_path, number, gpu_hours=1.5))
    assert tally.hours == ("gpu_hours", 2.5)


def test_time_left_counts_what_a_forked_trial_runs_itself(tmp_path: Path) -> None:
    tally = tally_of(trials=6)
    tally.shared_seconds = 3600.0
    for number in range(3):
        tally.add_trial(number, options_of(tally), ended(tmp_path, number, seconds=3600.0 + 1800.0))
    assert tally.time_left_s == tally.snapshot().time_left_s == 3 * 1800.0
    tally.add_trial(3, options_of(tally), ended(tmp_path, 3, "failed", "right after the fork", seconds=3600.0))
    assert tally.time_left_s == 2 * 1800.0


def test_values_that_did_not_fit_have_no_eta(tmp_path: Path) -> None:
    tally = tally_of()
    tally.add_trial(0, {"penalty.strength": 0.1}, ended(tmp_path, 0, "failed", "no such options"))
    assert (tally.trials[0].eta, tally.trials[0].temperature, tally.trials[0].reason) == (None, "", "no such options")


def test_snapshot_stays_as_it_is(tmp_path: Path) -> None:
    tally = tally_of()
    before = tally.snapshot()
    tally.add_trial(0, options_of(tally), ended(tmp_path, 0, child_val_error=0.5, child_madds=1.0))
    tally.add_retraining("0000-seed0", 0, ended(tmp_path, 9, test_accuracy=0.5))
    assert (before.trials, before.retrainings, before.front) == ({}, {}, [])
    assert tally.retraining_metrics() == {"retrainings_complete": 1.0, "retrainings_failed": 0.0}


def test_standing_is_the_same_everywhere(tmp_path: Path) -> None:
    """Two objectives: one trial that a scheduler stopped, which is on the front, and one that breaks a limit."""
    search = {**SEARCH, "constraints": {"madds": {"max": 1000}}}
    spec = tiny_spec(objectives=TWO_OBJECTIVES, trials=4, search=search)
    study = Study(spec, Runs(tmp_path))
    study.folder.path.mkdir(parents=True)
    study.folder.spec_file.write_text(dump_yaml(spec.resolved()), encoding="utf-8")
    stored, tally, shown = opened_study(spec, study.runs.optuna_url()), Tally(spec), list[Trial]()
    ends = (("complete", 0.5, 900.0), ("stopped", 0.6, 100.0), ("complete", 0.1, 2000.0), ("collapsed", 0.9, 0.0))
    for number, (end, error, madds) in enumerate(ends):
        suggest(stored.ask(), spec.sweep)
        metrics = {**dict.fromkeys(FRONT_METRICS, 0.5), "child_val_error": error, "child_madds": madds}
        figures = {**metrics, "discretization_gap": 0.0, "entropy_total": 0.0}
        record = made_up_record(0, cell_of("skip_connect"), **figures)
        file = study.folder.journal("search", f"{number:04d}")
        journal = Journal(written_journal(file, [record], end, "" if end == "complete" else "a reason"))
        tell(stored, spec, number, journal)
        tally.add_trial(number, options_of(tally), journal)
        page_run = run(f"trial-{number:04d}", end=end, params={"constraints.madds.max": "1000"}, metrics=figures)
        shown.append(Trial(run=page_run, number=number, counts_stopped=True))
    trials = study.trials()
    assert [trial.is_result for trial in trials] == [True, True, False, False], "terminal"
    assert [trial.on_front for trial in trials] == [True, True, False, False]
    assert sorted(trial.number for trial in tally.front) == [0, 1], "MLflow"
    rows = compare(study).rows
    assert (sum(row.num_searches for row in rows), sum(row.failed for row in rows)) == (2, 2), "report"
    facts = study_facts(study, trials, [])
    assert facts["best"] == {"child_val_error": 0.5, "child_madds": 100.0}
    assert "2 complete trials are too few" in facts["relations"][0]["words"]
    assert [trial.is_result for trial in shown] == [True, True, False, False], "pages"
    report = examine(spec.name, study.runs)
    assert not [found for found in report.findings if "Optuna" in found.message], "doctor"
