"""What a study shows beyond its tables, on made-up trials."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from dashboards.analysis.answer_text import answer_words
from dashboards.analysis.importance import MIN_RATED
from orchestrator.cli.views.cells import sparkline
from orchestrator.files.journal import Journal
from orchestrator.files.layout import TRUNK, Runs
from orchestrator.files.lock import driver_lock
from orchestrator.reports.relations import relation, study_facts
from orchestrator.study.records import IMAGES
from orchestrator.study.standing import Tally
from orchestrator.study.study import Study
from orchestrator.study_file.spec import StudySpec, search_options
from tests.orchestrator.tiny import TWO_OBJECTIVES, cell_of, made_up_record, opened_study, tiny_spec, written_journal

METRICS = ("child_val_error", "child_madds", "discretization_gap", "seconds", "cpu_core_hours")


def made_up_study(
    root: Path, num_trials: int, *, asked: int | None = None, other: str | None = None, **changes: Any
) -> Study:
    """Trials whose eta rises, whose cost falls with it, and whose error depends on nothing; each took 10 s.

    With `other`, the second half is of this strategy and has no eta of its own; the first half is of SNAS.
    """
    spec: StudySpec = tiny_spec(objectives=TWO_OBJECTIVES, trials=asked or num_trials, **changes)
    study = Study(spec, Runs(root))
    optuna_study = opened_study(spec, study.runs.optuna_url())
    for number in range(num_trials):
        eta, error, madds = 1e-4 * 1.2**number, 0.3 + 0.01 * (number * 7 % 5), 1e6 - 1000.0 * number
        figures = dict(zip(METRICS, (error, madds, 0.1, 10.0, 0.5), strict=True))
        file = study.folder.journal("search", f"{number:04d}")
        written_journal(file, [made_up_record(0, cell_of("skip_connect"), **figures)], "complete")
        params: dict[str, Any] = {"penalty.strength": eta}
        distributions: dict[str, BaseDistribution] = {"penalty.strength": FloatDistribution(1e-5, 1e-1, log=True)}
        if other is not None:
            is_other = number >= num_trials // 2
            params = {"strategy.kind": other} if is_other else {**params, "strategy.kind": "snas"}
            distributions["strategy.kind"] = CategoricalDistribution(["snas", other])
        used = {key: distributions[key] for key in params}
        made_up = optuna.trial.create_trial(params=params, distributions=used, values=[error, madds])
        optuna_study.add_trial(made_up)
    return study


def test_facts_of_a_study(tmp_path: Path) -> None:
    study = made_up_study(tmp_path, MIN_RATED)
    facts = study_facts(study, study.trials(), [])
    assert facts["best"] == {"child_val_error": 0.3, "child_madds": 1e6 - 1000.0 * (MIN_RATED - 1)}
    assert facts["hours"] == {"cpu_core_hours": 0.5 * MIN_RATED}
    assert (facts["running"], facts["time_left_s"], facts["failures"]) == (False, None, [])
    assert facts["importance"]["child_madds"] == {"penalty.strength": 1.0}, "nothing else was swept"
    cost, gap = facts["relations"]
    assert cost["words"] == f"more eta goes with less multiply-adds (rank correlation -1.00, n = {MIN_RATED})"
    assert gap["words"].endswith(f"discretization gap is the same in all {MIN_RATED} complete trials")


def test_answer_is_the_same_from_the_store_and_from_what_a_driver_counted(tmp_path: Path) -> None:
    study = made_up_study(tmp_path, MIN_RATED)
    tally = Tally(study.spec)
    for trial in study.trials():
        options = asdict(search_options(study.spec, trial.values))
        tally.add_trial(trial.number, options, Journal(study.folder.journal("search", f"{trial.number:04d}")))
    found = study_facts(study, study.trials(), [])["answer"]
    assert found == tally.answer()
    assert [(pick.trial, pick.roles) for pick in found.picks] == [(10, ("most accurate",)), (11, ("cheapest",))]
    assert (found.keep.eta, found.keep.error.interval) == (pytest.approx(1e-4 * 1.2**10), None)
    study.optuna_study.set_user_attr(IMAGES, {"validation": 64})
    tally.images = {"validation": 64}
    again = study_facts(study, study.trials(), [])["answer"]
    assert again == tally.answer()
    assert again.keep.roles == ("cheapest",), "of 64 images, 0.32 and 0.30 are the same"
    assert "19 against 20 wrong of 64" in answer_words(again)


def test_eta_is_related_within_the_strategies_that_were_swept_over_it(tmp_path: Path) -> None:
    """Searches of another strategy, all with one eta and cheaper, do not blur what eta does."""
    kinds = {"strategy.kind": {"choice": ["snas", "enas"]}}
    etas = {"penalty.strength": {"log_uniform": [1.0e-5, 1.0e-1], "when": {"strategy.kind": "snas"}}}
    study = made_up_study(tmp_path, MIN_RATED, sweep={**kinds, **etas}, other="enas")
    cost, _ = study_facts(study, study.trials(), [])["relations"]
    assert (
        cost["words"] == f"more eta of snas goes with less multiply-adds (rank correlation -1.00, n = {MIN_RATED // 2})"
    )


def test_too_few_trials_are_said_to_be_too_few(tmp_path: Path) -> None:
    study = made_up_study(tmp_path, 3)
    facts = study_facts(study, study.trials(), [])
    assert facts["importance"]["child_madds"] == "3 complete trials are too few to rate parameters (at least 12)"
    assert facts["relations"][0]["rho"] is None
    assert "3 complete trials are too few" in facts["relations"][0]["words"]


def test_time_left_is_reported_while_a_driver_runs(tmp_path: Path) -> None:
    study = made_up_study(tmp_path, 3, asked=9)
    with driver_lock(study.folder.lock_file, study.spec.name):
        facts = study_facts(study, study.trials(), [])
    assert (facts["running"], facts["time_left_s"]) == (True, 6 * 10.0)


def test_time_left_counts_what_a_forked_trial_runs_itself(tmp_path: Path) -> None:
    study = made_up_study(tmp_path, 3, asked=6, fork={"epoch": 1})
    shared = made_up_record(0, seconds=4.0, cpu_core_hours=0.25)
    written_journal(study.folder.journal("trunk", TRUNK), [shared], "complete")
    with driver_lock(study.folder.lock_file, study.spec.name):
        facts = study_facts(study, study.trials(), [])
    assert facts["time_left_s"] == 3 * (10.0 - 4.0)
    assert facts["hours"] == {"cpu_core_hours": 3 * 0.25 + 0.25}


@pytest.mark.parametrize(
    ("x", "y", "rho"),
    [
        ([1, 2, 3, 4, 5], [2, 4, 8, 16, 32], 1.0),
        ([1, 2, 3, 4, 5], [5, 4, 3, 2, 1], -1.0),
        # Ranks of y are 0.5, 0.5, 2, 3, 4; their correlation with 0 to 4 is 9.5 / sqrt(10 * 9.5).
        ([1, 2, 3, 4, 5], [1, 1, 2, 3, 4], 9.5 / math.sqrt(95)),
        ([1, 2, 3, 4, 5, math.nan], [1, 2, 3, 4, 5, 0], 1.0),
    ],
)
def test_relation_is_the_rank_correlation(x: list[float], y: list[float], rho: float) -> None:
    found = relation("eta", "cost", x, y)
    assert found["rho"] == pytest.approx(rho)
    assert f"{rho:+.2f}, n = 5" in found["words"]


def test_weak_relation_is_called_none() -> None:
    found = relation("eta", "cost", [1, 2, 3, 4, 5], [3, 5, 1, 2, 4])
    assert found["words"] == "no clear relation between eta and cost (rank correlation -0.10, n = 5)"
    none = relation("eta", "cost", [1, 2, 3, 4], [1, 2, 3, 4])
    assert none["rho"] is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], ""),
        ([1.0], "▁"),
        ([2.0, 2.0], "▁▁"),
        ([0.0, 7.0, 3.0], "▁█▄"),
        ([0.0, math.nan, 7.0], "▁ █"),
        ([float(value // 2) for value in range(16)], "▁▂▃▄▅▆▇█"),
    ],
)
def test_sparkline_runs_from_lowest_to_highest(values: list[float], expected: str) -> None:
    assert sparkline(values, width=8) == expected
