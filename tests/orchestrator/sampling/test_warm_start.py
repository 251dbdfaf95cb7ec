"""Warm starts on real Optuna storages."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from orchestrator.driver.launch import OwnFault
from orchestrator.driver.searcher import StudySearcher
from orchestrator.errors import OrchestratorError
from orchestrator.files.journal import Journal
from orchestrator.files.layout import Runs, trial_label
from orchestrator.sampling.ranking import best_trials, front_volume, ranked_by_front
from orchestrator.sampling.warm_start import (
    WarmPoint,
    check_warm_start,
    enqueue_warm_start,
    find_source,
    warm_points,
)
from orchestrator.study_file.spec import StudySpec
from orchestrator.study_file.sweep import Scalar
from tests.orchestrator.tiny import ONE_OBJECTIVE, TWO_OBJECTIVES, opened_study, search_job, tiny_spec

SWEEP: dict[str, Any] = {
    "penalty.strength": {"log_uniform": [1.0e-4, 1.0e-2]},
    "temperature.kind": {"choice": ["linear", "exponential"]},
    "temperature.rate": {"uniform": [0.5, 0.9], "when": {"temperature.kind": "exponential"}},
    "seed": {"int": [0, 9]},
}
LINEAR: dict[str, Scalar] = {"penalty.strength": 1e-3, "temperature.kind": "linear", "seed": 1}
EXPONENTIAL: dict[str, Scalar] = {**LINEAR, "temperature.kind": "exponential", "temperature.rate": 0.75}


def new_spec(**changes: Any) -> StudySpec:
    start = {"experiment": "old", "top": changes.pop("top", 5)}
    return tiny_spec(**{"name": "new", "sweep": SWEEP, "objectives": ONE_OBJECTIVE, "warm_start": start, **changes})


def add(study: optuna.Study, params: Mapping[str, Scalar], *values: float, state: str = "COMPLETE") -> None:
    """A trial of a study whose own sweep was wider."""
    numbers, kinds = FloatDistribution(0, 100), CategoricalDistribution(["linear", "exponential", "cosine"])
    distributions = {key: kinds if key == "temperature.kind" else numbers for key in params}
    study.add_trial(
        optuna.trial.create_trial(
            state=TrialState[state], params=dict(params), distributions=distributions, values=values or None
        )
    )


@pytest.fixture
def url(tmp_path: Path) -> str:
    return Runs(tmp_path).optuna_url()


@pytest.fixture
def old(url: str) -> optuna.Study:
    return opened_study(tiny_spec(name="old", sweep=SWEEP, objectives=ONE_OBJECTIVE), url)


def seeds_of(points: Sequence[WarmPoint]) -> list[Scalar]:
    return [point.values["seed"] for point in points]


def test_best_complete_trials_come_best_first(old: optuna.Study) -> None:
    for seed, error in enumerate((0.5, 0.2, 0.4, 0.3)):
        add(old, {**LINEAR, "seed": seed}, error)
    add(old, {**LINEAR, "seed": 8}, state="FAIL")
    add(old, {**LINEAR, "seed": 9}, 0.1, state="PRUNED")
    points = warm_points(new_spec(top=3), old)
    assert points == [WarmPoint({**LINEAR, "seed": seed}, seed) for seed in (1, 3, 2)]
    assert seeds_of(warm_points(new_spec(top=9, trials=8), old)) == [1, 3, 2, 0]
    assert seeds_of(warm_points(new_spec(top=3, trials=2), old)) == [1, 3], "no more than there are trials"


def test_larger_is_better_where_the_objective_says_so(url: str) -> None:
    objectives = [{"metric": "child_val_accuracy", "mode": "max"}]
    source = opened_study(tiny_spec(name="old", sweep=SWEEP, objectives=objectives), url)
    for seed, accuracy in enumerate((0.5, 0.9, 0.7)):
        add(source, {**LINEAR, "seed": seed}, accuracy)
    assert seeds_of(warm_points(new_spec(objectives=objectives), source)) == [1, 2, 0]


def dominates(left: Sequence[float], right: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(left, right, strict=True)) and tuple(left) != tuple(right)


FOUR_OBJECTIVES = [
    *TWO_OBJECTIVES,
    *({"metric": f"child_{name}", "mode": "min"} for name in ("params", "memory_access")),
]


@pytest.mark.parametrize("objectives", [TWO_OBJECTIVES, FOUR_OBJECTIVES[:3], FOUR_OBJECTIVES])
def test_several_objectives_rank_by_fronts_then_by_the_first(objectives: list[dict[str, str]], url: str) -> None:
    """Every front is found once more by comparing all pairs; equal values share a front."""
    source = opened_study(tiny_spec(name="old", sweep=SWEEP, objectives=objectives), url)
    grid = list(itertools.product((0.3, 0.1, 0.2), (30.0, 10.0, 20.0)))
    pairs = [*grid, (0.15, 12.0), (0.1, 10.0), (0.25, 5.0), (0.05, 40.0)]
    others = [(float(seed * 7 % 5), float(seed * 3 % 4)) for seed in range(len(pairs))]
    costs = [(*pair, *more)[: len(objectives)] for pair, more in zip(pairs, others, strict=True)]
    for seed, cost in enumerate(costs):
        add(source, {**LINEAR, "seed": seed}, *cost)
    expected: list[int] = []
    rest = set(range(len(costs)))
    while rest:
        front = {one for one in rest if not any(dominates(costs[other], costs[one]) for other in rest)}
        if not expected:
            assert front == {trial.number for trial in best_trials(source)}
        expected += sorted(front, key=lambda number: (costs[number][0], number))
        rest -= front
    assert [trial.number for trial in ranked_by_front(source)] == expected


def test_hypervolume_is_the_share_of_the_box_that_the_front_dominates(url: str) -> None:
    objectives = [*ONE_OBJECTIVE, {"metric": "child_val_accuracy", "mode": "max"}, *FOUR_OBJECTIVES[1:2]]
    source = opened_study(tiny_spec(name="old", sweep=SWEEP, objectives=objectives), url)
    assert front_volume(source) is None
    for values in ((0.1, 0.5, 30.0), (0.3, 0.9, 30.0), (0.3, 0.5, 10.0)):
        add(source, LINEAR, *values)
    assert front_volume(source) == 0.0, "each is worst in two objectives, so no volume lies behind it"
    add(source, LINEAR, 0.2, 0.7, 20.0)
    assert front_volume(source) == pytest.approx(1 / 8), "the middle of the box"
    add(source, LINEAR, 0.15, 0.6, 15.0)
    # 3/4 x 1/4 x 3/4 more, without what both have: 1/2 x 1/4 x 1/2.
    assert front_volume(source) == pytest.approx(1 / 8 + 9 / 64 - 1 / 16)
    one = opened_study(tiny_spec(name="one", sweep=SWEEP, objectives=ONE_OBJECTIVE), url)
    add(one, LINEAR, 0.1)
    assert front_volume(one) is None


def test_values_that_do_not_fit_are_passed_over_and_repeats_count_once(old: optuna.Study) -> None:
    misfits: list[dict[str, Scalar]] = [
        {**LINEAR, "penalty.strength": 1e-1},  # above the range
        {**LINEAR, "temperature.kind": "cosine"},  # no choice here
        {**LINEAR, "seed": 10},
        {**LINEAR, "seed": 1.5},
        {**LINEAR, "temperature.rate": 0.75},  # for exponential only
        {**EXPONENTIAL, "temperature.rate": 0.95},
        {"temperature.rate": 0.75, "seed": 1},  # whether it applies would be left to chance
        {"theta.lr": 0.1},  # not swept
    ]
    for rank, params in enumerate([*misfits, LINEAR, {**LINEAR, "theta.lr": 0.5}, EXPONENTIAL, {"seed": 3.0}]):
        add(old, params, rank / 100)
    points = warm_points(new_spec(top=5), old)
    assert points == [WarmPoint(LINEAR, 8), WarmPoint(EXPONENTIAL, 10), WarmPoint({"seed": 3}, 11)]
    assert type(points[2].values["seed"]) is int, "as this study would have drawn it"


def test_nothing_that_fits_is_an_error_that_says_why(old: optuna.Study) -> None:
    with pytest.raises(OrchestratorError, match="got none of 0 in `old`: no trial is complete"):
        warm_points(new_spec(), old)
    for strength in (1e-5, 1.0, 2.0, 3.0):
        add(old, {**LINEAR, "penalty.strength": strength}, strength)
    with pytest.raises(OrchestratorError) as raised:
        warm_points(new_spec(), old)
    assert str(raised.value) == (
        "`warm_start.experiment` must have a complete trial whose values fit into `sweep`, got none of 4 in `old`: "
        "trial 0: `penalty.strength` is 1e-05, not in [0.0001, 0.01]; trial 1: `penalty.strength` is 1.0, not in "
        "[0.0001, 0.01]; trial 2: `penalty.strength` is 2.0, not in [0.0001, 0.01]; ..."
    )


def test_missing_study_is_an_error_that_lists_those_there(old: optuna.Study, url: str) -> None:
    new = opened_study(new_spec(), url)
    with pytest.raises(OrchestratorError) as raised:
        find_source(new_spec(warm_start={"experiment": "olt"}), new._storage)
    assert str(raised.value) == (
        "`warm_start.experiment` must be a study in the same Optuna storage, got `olt`; did you mean `old`? "
        "studies there: old"
    )


def test_check_before_the_start_writes_nothing(url: str, tmp_path: Path) -> None:
    with pytest.raises(OrchestratorError, match="got `old`; studies there: none"):
        check_warm_start(new_spec(), url)
    assert list(tmp_path.iterdir()) == []
    source = opened_study(tiny_spec(name="old", sweep=SWEEP, objectives=ONE_OBJECTIVE), url)
    with pytest.raises(OrchestratorError, match="no trial is complete"):
        check_warm_start(new_spec(), url)
    add(source, LINEAR, 0.5)
    check_warm_start(new_spec(), url)
    check_warm_start(tiny_spec(), url)
    assert optuna.get_all_study_names(url) == ["old"]


@pytest.mark.parametrize(
    ("objectives", "theirs"),
    [
        ([{"metric": "child_val_loss", "mode": "min"}], "min child_val_loss"),
        ([{"metric": "child_val_error", "mode": "max"}], "max child_val_error"),
        (TWO_OBJECTIVES, "min child_val_error and min child_madds"),
    ],
)
def test_source_must_have_the_same_objectives(url: str, objectives: list[dict[str, str]], theirs: str) -> None:
    source = opened_study(tiny_spec(name="old", sweep=SWEEP, objectives=objectives), url)
    with pytest.raises(OrchestratorError, match=rf"this study, min child_val_error, got `old` with {theirs}$"):
        find_source(new_spec(), source._storage)


def test_source_without_named_objectives_is_judged_by_their_directions(url: str) -> None:
    optuna.create_study(storage=url, study_name="old", direction="minimize")
    storage = opened_study(new_spec(), url)._storage
    assert find_source(new_spec(), storage).study_name == "old"
    with pytest.raises(OrchestratorError, match=r"got `old` with min$"):
        find_source(new_spec(objectives=[{"metric": "child_val_accuracy", "mode": "max"}]), storage)


def searcher(spec: StudySpec, url: str, folder: Path) -> tuple[StudySearcher, optuna.Study]:
    study = opened_study(spec, url)
    journals = Runs(folder).study(spec.name)
    made = StudySearcher(
        study,
        spec,
        lambda number: Journal(journals.journal("search", trial_label(number))),
        lambda number, options: search_job(trial_label(number)),
        OwnFault(),
    )
    return made, study


def test_points_become_the_first_trials_once_and_are_whole(old: optuna.Study, url: str, tmp_path: Path) -> None:
    for seed in range(3):
        add(old, {**EXPONENTIAL, "seed": seed}, seed / 10)
    spec = new_spec(top=3, trials=5)
    labels = []
    for index in range(5):  # a new driver for each trial
        driver, _ = searcher(spec, url, tmp_path)
        job = driver.suggest(f"ray-{index}")
        assert isinstance(job, dict)
        labels.append(job["job"]["label"])
        number = int(labels[-1])
        Journal(Runs(tmp_path).study("new").journal("search", trial_label(number))).finish("failed", "over")
        driver.on_trial_complete(f"ray-{index}")
    driver, study = searcher(spec, url, tmp_path)
    assert driver.suggest("ray-5") == StudySearcher.FINISHED
    assert labels == ["0000", "0001", "0002", "0003", "0004"]
    trials = study.get_trials()
    assert [trial.params for trial in trials[:3]] == [{**EXPONENTIAL, "seed": seed} for seed in range(3)]
    assert [trial.user_attrs.get("warm_start") for trial in trials] == [
        *({"experiment": "old", "trial": number} for number in range(3)),
        None,
        None,
    ]


def test_keys_that_the_source_did_not_sweep_are_drawn(old: optuna.Study, url: str, tmp_path: Path) -> None:
    add(old, {"penalty.strength": 2e-3}, 0.1)
    driver, study = searcher(new_spec(top=1), url, tmp_path)
    driver.suggest("ray-0")
    params = study.get_trials()[0].params
    assert params["penalty.strength"] == 2e-3
    assert {"temperature.kind", "seed"} <= set(params)


def test_driver_killed_while_it_enqueued_resumes_with_the_same_points(
    old: optuna.Study, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        add(old, {**LINEAR, "seed": seed}, 0.5 + seed / 10)
    spec, study = new_spec(top=3), opened_study(new_spec(top=3), url)
    enqueue = optuna.Study.enqueue_trial

    def killed_after_one(self: optuna.Study, *point: Any, **facts: Any) -> None:
        if self.get_trials():
            raise KeyboardInterrupt
        enqueue(self, *point, **facts)

    monkeypatch.setattr(optuna.Study, "enqueue_trial", killed_after_one)
    with pytest.raises(KeyboardInterrupt):
        enqueue_warm_start(study, spec)
    monkeypatch.undo()
    add(old, {**LINEAR, "seed": 9}, 0.1)  # a better one, too late
    for _ in range(2):
        enqueue_warm_start(opened_study(spec, url), spec)
    waiting = opened_study(spec, url).get_trials(states=(TrialState.WAITING,))
    assert [trial.system_attrs["fixed_params"]["seed"] for trial in waiting] == [0, 1, 2]
    optuna.delete_study(study_name="old", storage=url)
    enqueue_warm_start(opened_study(spec, url), spec)
    assert len(opened_study(spec, url).get_trials()) == 3, "a resumed study needs its source no more"


def test_study_without_a_warm_start_enqueues_nothing(old: optuna.Study, url: str) -> None:
    add(old, LINEAR, 0.1)
    spec = tiny_spec(name="new", sweep=SWEEP, objectives=ONE_OBJECTIVE)
    study = opened_study(spec, url)
    enqueue_warm_start(study, spec)
    assert (study.get_trials(), study.user_attrs) == ([], {})
