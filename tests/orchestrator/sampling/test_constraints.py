"""Trials that break a hard limit, with Optuna's real storage: what samplers learn, what counts as a result."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from rich.console import Console

from dashboards.mlflow_store.study_records import study_record
from dashboards.records import RunRecord, Trial
from orchestrator.cli.views.study_tables import print_trials
from orchestrator.driver.searcher import tell
from orchestrator.files.journal import End, Journal
from orchestrator.files.layout import Runs, StudyFolder, trial_label
from orchestrator.sampling.constraints import (
    broken_limits,
    excesses,
    limits_of,
    plain_limits,
    store_excesses,
    violations,
)
from orchestrator.sampling.ranking import best_trials, ranked_by_front, ranked_trials
from orchestrator.sampling.samplers import make_sampler
from orchestrator.study.records import FRONT_METRICS, front_rows, read_trials, retrain_jobs
from orchestrator.study.standing import Tally
from orchestrator.study_file.spec import StudySpec
from orchestrator.study_file.sweep import suggest
from tests.orchestrator.tiny import (
    ONE_OBJECTIVE,
    RETRAIN,
    SEARCH,
    TWO_OBJECTIVES,
    cell_of,
    made_up_record,
    opened_study,
    tiny_spec,
)

WIDTH = {"alpha.lr": {"uniform": [0.01, 1.0]}}
LIMITED = {**SEARCH, "constraints": {"madds": {"max": 1000.0}, "params": {"max": 50.0}}}


class Known:
    """A study whose trials ended as the test says."""

    def __init__(self, folder: Path, spec: StudySpec) -> None:
        self.spec, self.folder = spec, Runs(folder).study(spec.name)
        self.study = opened_study(spec, Runs(folder).optuna_url())

    def journal(self, number: int) -> Journal:
        return Journal(self.folder.journal("search", trial_label(number)))

    def add(self, error: float, madds: float, params: float = 10.0, end: End = "complete") -> int:
        trial = self.study.ask()
        suggest(trial, self.spec.sweep)
        journal = self.journal(trial.number)
        metrics = {**dict.fromkeys(FRONT_METRICS, 0.25), "child_madds": madds, "child_params": params}
        cell = cell_of("sep_conv_3x3" if trial.number % 2 else "max_pool_3x3")
        journal.append_epoch(made_up_record(0, cell, child_val_error=error, **metrics))
        journal.finish(end, "" if end == "complete" else "a reason")
        tell(self.study, self.spec, trial.number, journal)
        return trial.number

    def trials(self) -> Any:
        return read_trials(self.study, self.folder)


@pytest.fixture
def known(tmp_path: Path) -> Callable[..., Known]:
    def make(**changes: Any) -> Known:
        defaults = {
            "search": LIMITED,
            "objectives": TWO_OBJECTIVES,
            "sampler": "random",
            "trials": 99,
            "retrain": RETRAIN,
        }
        return Known(tmp_path, tiny_spec(**{**defaults, **changes}))

    return make


def test_excess_is_a_share_of_the_limit() -> None:
    limits = {"child_madds": 1000.0, "child_params": 50.0}
    found = excesses(limits, {"child_madds": 1250.0, "child_params": 40.0})
    assert found == pytest.approx({"child_madds": 0.25, "child_params": -0.2})
    assert excesses(limits, {"child_madds": 1000.0, "child_params": 50.0}) == {"child_madds": 0, "child_params": 0}
    assert excesses(limits, {"child_madds": float("nan")}) == {"child_madds": 1.0, "child_params": 1.0}
    assert broken_limits({"child_madds": 0.25}) == "no result: child_madds is 25.0% above `constraints.madds`"
    assert broken_limits({}) == ""


def test_limits_are_those_of_the_trial_whose_values_may_sweep_them() -> None:
    spec = tiny_spec(search=LIMITED, sweep={"constraints.madds.max": {"uniform": [100.0, 2000.0]}})
    assert limits_of(spec, {"constraints.madds.max": 500.0}) == {"child_madds": 500.0, "child_params": 50.0}
    data = {"constraints": {"madds": {"max": 7}, "params": None, "latency_ms": None}}
    assert plain_limits(data) == {"child_madds": 7.0}
    assert plain_limits({}) == {}


@pytest.mark.parametrize("objectives", [ONE_OBJECTIVE, TWO_OBJECTIVES])
def test_trial_above_a_limit_is_no_result(known: Callable[..., Known], objectives: Any) -> None:
    study = known(objectives=objectives)
    study.add(0.1, 1250.0)
    inside = study.add(0.5, 900.0)
    study.add(0.2, 800.0, params=100.0)
    study.add(0.6, 1000.0, params=50.0)
    best = [trial.number for trial in best_trials(study.study)]
    assert best == [inside]
    assert [trial.number for trial in ranked_trials(study.study)] == [1, 3]
    assert [trial.number for trial in ranked_by_front(study.study)] == [1, 3], "nor does a warm start begin with it"
    assert {job.trial for job in retrain_jobs(study.study, study.spec, study.folder)} == {inside}
    trials = study.trials()
    assert [trial.on_front for trial in trials] == [False, True, False, False]
    assert [row["trial"] for row in front_rows(trials, [], study.spec)] == [inside]
    assert [trial.state for trial in trials] == ["complete"] * 4, "it was searched whole"
    assert trials[0].reason == "no result: child_madds is 25.0% above `constraints.madds`"
    assert trials[2].violations == {"child_params": 1.0}
    assert trials[1].violations == {}


def test_study_whose_trials_all_break_a_limit_has_no_front(known: Callable[..., Known]) -> None:
    study = known(objectives=ONE_OBJECTIVE)
    study.add(0.1, 1250.0)
    assert best_trials(study.study) == []
    assert retrain_jobs(study.study, study.spec, study.folder) == []


def test_excess_is_stored_before_the_trial_is_reported_and_once(known: Callable[..., Known]) -> None:
    """A driver that was killed in between reports it again."""
    study = known()
    trial = study.study.ask()
    suggest(trial, study.spec.sweep)
    store_excesses(study.study, trial.number, {"child_madds": 0.5})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store_excesses(study.study, trial.number, {"child_madds": 0.25, "child_params": -1.0})
    study.study.tell(trial, [0.1, 10.0])
    store_excesses(study.study, trial.number, {"child_latency_ms": 3.0})
    (stored,) = study.study.trials
    assert stored.constraints == {"child_madds": 0.5, "child_params": -1.0}
    assert violations(stored) == {"child_madds": 0.5}


def test_study_without_limits_stores_none(known: Callable[..., Known]) -> None:
    study = known(search=SEARCH)
    study.add(0.5, 1e9)
    assert study.study.trials[0].constraints == {}
    assert study.trials()[0].reason == ""


def test_failed_trial_has_no_constraints_and_a_stopped_one_has(known: Callable[..., Known]) -> None:
    study = known(objectives=ONE_OBJECTIVE)
    study.add(0.5, 2000.0, end="failed")
    study.add(0.5, 2000.0, end="stopped")
    failed, stopped = study.study.trials
    assert (failed.constraints, failed.state.name) == ({}, "FAIL")
    assert (stopped.constraints["child_madds"], stopped.state.name) == (1.0, "PRUNED")


def values_drawn(study: optuna.Study, spec: StudySpec, folder: StudyFolder) -> list[float]:
    """Values of all trials of a study whose error falls towards the half that breaks the limit."""
    drawn = []
    for number in range(spec.trials):
        study.sampler = make_sampler(spec, number)
        trial = study.ask()
        value = float(suggest(trial, spec.sweep)["alpha.lr"])  # type: ignore[arg-type]
        journal = Journal(folder.journal("search", trial_label(trial.number)))
        metrics = {"child_madds": 2000.0 * value, "child_params": 10.0}
        journal.append_epoch(made_up_record(0, child_val_error=1 - value, **metrics))
        journal.finish("complete")
        tell(study, spec, trial.number, journal)
        drawn.append(value)
    return drawn


@pytest.mark.slow
def test_tpe_avoids_the_half_that_breaks_the_limit(known: Callable[..., Known]) -> None:
    above = []
    for name, search in (("free", SEARCH), ("limited", LIMITED)):
        study = known(name=name, search=search, sampler="tpe", sweep=WIDTH, objectives=ONE_OBJECTIVE, trials=30)
        drawn = values_drawn(study.study, study.spec, study.folder)[15:]
        above.append(sum(value > 0.6 for value in drawn))  # the best lies at 0.5, and is looked for on both sides
    assert above[0] >= 12, "only the limit holds it back"
    assert above[1] <= 3


@pytest.mark.parametrize(("sampler", "trials", "last"), [("gp", 15, 3), ("nsga2", 160, 60)])
@pytest.mark.slow
def test_other_samplers_respect_the_limit_too(tmp_path: Path, sampler: str, trials: int, last: int) -> None:
    """In memory, since a generation of NSGA-II is 50 trials; with one key it would change every value at random."""
    others = {f"theta.{name}": {"uniform": [0.1, 0.9]} for name in ("lr", "momentum", "weight_decay", "grad_clip")}
    above = []
    for name, search in (("free", SEARCH), ("limited", LIMITED)):
        changes = {"sampler": sampler, "objectives": ONE_OBJECTIVE, "trials": trials}
        spec = tiny_spec(name=name, search=search, sweep=WIDTH | (others if sampler == "nsga2" else {}), **changes)
        drawn = values_drawn(optuna.create_study(), spec, Runs(tmp_path).study(name))[-last:]
        above.append(sum(value > 0.6 for value in drawn) / last)
    assert above[0] > 0.6
    assert above[1] < 0.35


def test_tally_keeps_such_a_trial_off_its_front(known: Callable[..., Known]) -> None:
    study = known()
    for error, madds in ((0.1, 1250.0), (0.5, 900.0)):
        study.add(error, madds)
    tally = Tally(study.spec)
    options = {"constraints": {"madds": {"max": 1000.0}, "params": None}}
    for number in range(2):
        tally.add_trial(number, options, study.journal(number))
    assert [trial.number for trial in tally.front] == [1]
    assert tally.trials[0].reason.startswith("no result: child_madds is 25.0% above")
    assert tally.ends["complete"] == 2


def test_trial_tables_say_why_it_is_no_result(
    known: Callable[..., Known], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.cli.views import study_tables

    study = known()
    study.add(0.1, 1250.0)
    monkeypatch.setattr(study_tables, "stdout", Console(width=200))
    print_trials(study.trials())
    said = " ".join(capsys.readouterr().out.split())
    assert "trial 0 complete: no result: child_madds is 25.0% above `constraints.madds`" in said


def trial_of(madds: float, limit: str | None) -> Trial:
    """A complete search as the dashboard reads it from MLflow."""
    params = {"penalty.strength": "0.001", **({"constraints.madds.max": limit} if limit else {})}
    run = RunRecord(
        run_id="r",
        experiment_id="0",
        study="s",
        label="trial-0000",
        name="trial-0000",
        kind="search",
        status="FINISHED",
        parent_id=None,
        start_s=0.0,
        end_s=1.0,
        last_report_s=1.0,
        num_epochs=1,
        params=params,
        metrics={"child_madds": madds, "child_val_error": 0.5, "child_latency_ms": 2.5},
        tags={"snas.end": "complete"},
    )
    return Trial(run=run, number=0)


def test_dashboard_counts_no_trial_above_a_limit() -> None:
    above, inside, free = trial_of(1250.0, "1000.0"), trial_of(900.0, "1000.0"), trial_of(1e9, None)
    assert [trial.is_result for trial in (above, inside, free)] == [False, True, True]
    assert above.broken_limits == "no result: child_madds is 25.0% above `constraints.madds`"
    assert inside.broken_limits == free.broken_limits == ""


def test_dashboard_offers_the_axis_of_latency_once_a_trial_reports_it() -> None:
    from dashboards.charts.study_charts import front_chart, known_costs
    from dashboards.charts.theme import THEMES

    study = study_record("s", [trial_of(900.0, None).run], as_of_s=2.0)
    assert known_costs(study) == ["child_madds", "child_latency_ms"]
    chart = front_chart(study, THEMES["light"], cost="child_latency_ms", colour_by="eta", published={})
    assert chart.figure is not None
    assert "latency (ms)" in json.dumps(chart.figure["layout"])
    assert [row[4] for row in chart.rows] == [2.5]
