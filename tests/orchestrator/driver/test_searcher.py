"""What Ray Tune is given to run and what is reported to Optuna, with Optuna's real storage and without Ray."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest
from ray.tune.search import Searcher

from orchestrator.driver.launch import OwnFault
from orchestrator.driver.searcher import StudySearcher
from orchestrator.files.journal import End, Journal
from orchestrator.files.layout import Runs, trial_label
from orchestrator.jobs import Job, SearchJob
from orchestrator.sampling.samplers import make_sampler
from orchestrator.study.records import num_open
from orchestrator.study_file.spec import StudySpec, search_options
from search_core.errors import OptionsError
from search_core.search.options import SearchOptions
from tests.orchestrator.tiny import ONE_OBJECTIVE, TWO_OBJECTIVES, made_up_record, opened_study, tiny_spec

SWEEP: dict[str, Any] = {
    "penalty.strength": {"log_uniform": [1.0e-5, 1.0e-1]},
    "temperature.kind": {"choice": ["linear", "cosine"]},
    "temperature.end": {"log_uniform": [0.03, 0.5]},
}


class Driver:
    """What a driver has: the storage, the journals, a searcher. A new one in the same folder is a restarted one."""

    def __init__(self, folder: Path, spec: StudySpec) -> None:
        self.spec, self._folder = spec, Runs(folder).study(spec.name)
        self._journals: dict[int, Journal] = {}
        self.study = opened_study(spec, Runs(folder).optuna_url())
        self.searcher = StudySearcher(
            self.study,
            spec,
            self.journal,
            lambda number, options: SearchJob(
                label=trial_label(number), checkpoints=folder, epochs=options.epochs, options=options
            ),
            OwnFault(),
        )

    def journal(self, number: int) -> Journal:
        if number not in self._journals:
            self._journals[number] = Journal(self._folder.journal("search", trial_label(number)))
        return self._journals[number]

    def suggest(self, trial_id: str) -> SearchJob:
        suggested = self.searcher.suggest(trial_id)
        assert isinstance(suggested, dict)
        job = Job.from_config(suggested)
        assert isinstance(job, SearchJob)
        return job

    def run_trial(self, trial_id: str, end: End = "complete", **metrics: float) -> SearchJob:
        job = self.suggest(trial_id)
        journal = self.journal(int(job.label))
        journal.append_epoch(made_up_record(len(journal.epochs), **metrics))
        journal.finish(end)
        self.searcher.on_trial_complete(trial_id)
        return job

    @property
    def states(self) -> list[str]:
        return [trial.state.name for trial in self.study.get_trials(deepcopy=False)]

    @property
    def params(self) -> list[dict[str, Any]]:
        return [trial.params for trial in self.study.get_trials(deepcopy=False)]


def made_up_error(params: dict[str, Any]) -> float:
    """A result that depends on all values, so that samplers have something to learn."""
    away = math.log10(params["penalty.strength"]) + 3
    return away**2 + params["temperature.end"] + (params["temperature.kind"] == "linear")


@pytest.fixture
def driver(tmp_path: Path) -> Callable[..., Driver]:
    def start(**changes: Any) -> Driver:
        return Driver(tmp_path, tiny_spec(**{"sweep": SWEEP, "objectives": ONE_OBJECTIVE, **changes}))

    return start


def test_searcher_gives_new_trials_up_to_their_number(driver: Callable[..., Driver]) -> None:
    first = driver(trials=3)
    assert num_open(first.study, first.spec) == 3
    jobs = [first.run_trial(f"ray-{index}", child_val_error=0.5) for index in range(3)]
    assert first.searcher.suggest("ray-3") == Searcher.FINISHED
    assert num_open(first.study, first.spec) == 0
    assert [job.label for job in jobs] == ["0000", "0001", "0002"]
    assert driver(trials=3).searcher.suggest("ray-4") == Searcher.FINISHED


def test_job_holds_the_study_settings_with_the_sampled_values(driver: Callable[..., Driver]) -> None:
    first = driver(trials=1, seed=5)
    options = asdict(first.suggest("ray-0").options)
    (params,) = first.params
    assert set(params) == set(SWEEP)
    assert options["penalty"]["strength"] == params["penalty.strength"]
    assert options["temperature"]["kind"] == params["temperature.kind"]
    assert options["temperature"]["end"] == params["temperature.end"]
    assert (options["seed"], options["epochs"], options["network"]["cells"]) == (5, 2, 3)
    assert set(options) == set(vars(SearchOptions()))


def test_values_of_the_last_epoch_are_reported(driver: Callable[..., Driver]) -> None:
    first = driver(trials=1)
    job = first.suggest("ray-0")
    journal = first.journal(0)
    for epoch, error in enumerate((0.9, 0.25)):
        journal.append_epoch(made_up_record(epoch, child_val_error=error))
    journal.finish("complete")
    first.searcher.on_trial_complete("ray-0")
    assert job.label == "0000"
    assert [trial.values for trial in first.study.trials] == [[0.25]]
    assert first.states == ["COMPLETE"]


def test_unfinished_trials_of_a_killed_driver_come_first(driver: Callable[..., Driver]) -> None:
    killed = driver(trials=4)
    killed.run_trial("ray-0", child_val_error=0.5)
    running = [killed.suggest("ray-1"), killed.suggest("ray-2")]
    killed.journal(2).append_epoch(made_up_record(0, child_val_error=0.5))
    del killed

    again = driver(trials=4)
    assert num_open(again.study, again.spec) == 3
    resumed = [again.suggest("ray-3"), again.suggest("ray-4")]
    assert [job.options for job in resumed] == [job.options for job in running]
    assert [job.label for job in resumed] == ["0001", "0002"]
    assert again.suggest("ray-5").label == "0003"
    assert again.searcher.suggest("ray-6") is None
    again.journal(1).finish("complete")
    again.searcher.on_trial_complete("ray-3")
    assert again.states == ["COMPLETE", "FAIL", "RUNNING", "RUNNING"], "ray-3 ran trial 1, which recorded nothing"


def test_trial_that_ran_out_of_memory_stays_open_and_comes_last_in_the_next_launch(
    driver: Callable[..., Driver],
) -> None:
    first = driver(trials=3)
    first.suggest("ray-0")
    first.suggest("ray-1")
    first.journal(0).note("out_of_memory", "CUDA out of memory")
    first.searcher.on_trial_complete("ray-0")
    assert first.states == ["RUNNING", "RUNNING"], "its end is not reported"

    again = driver(trials=3)
    assert [again.suggest(f"ray-{index}").label for index in (2, 3, 4)] == ["0001", "0002", "0000"]
    assert again.searcher.suggest("ray-5") is None
    for index, number in ((2, 1), (3, 2), (4, 0)):
        again.journal(number).append_epoch(made_up_record(0, child_val_error=0.5))
        again.journal(number).finish("complete")
        again.searcher.on_trial_complete(f"ray-{index}")
    assert again.states == ["COMPLETE"] * 3


@pytest.mark.parametrize(("objectives", "state"), [(ONE_OBJECTIVE, "PRUNED"), (TWO_OBJECTIVES, "FAIL")])
def test_collapsed_trial_never_reaches_the_front(
    driver: Callable[..., Driver], objectives: list[dict[str, str]], state: str
) -> None:
    first = driver(trials=1, objectives=objectives)
    first.run_trial("ray-0", "collapsed", child_val_error=0.9, child_madds=0.0)
    assert first.states == [state]
    assert first.study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)) == []


def test_finished_trial_that_the_killed_driver_could_not_report_is_not_run(driver: Callable[..., Driver]) -> None:
    killed = driver(trials=2)
    killed.suggest("ray-0")
    killed.journal(0).append_epoch(made_up_record(0, child_val_error=0.375))
    killed.journal(0).finish("complete")
    del killed

    again = driver(trials=2)
    assert again.suggest("ray-1").label == "0001"
    assert again.searcher.suggest("ray-2") is None
    assert again.states == ["COMPLETE", "RUNNING"]
    assert again.study.trials[0].values == [0.375]


@pytest.mark.parametrize("suggested", [(), ("penalty.strength",)], ids=["no value", "one value"])
def test_trial_whose_values_were_not_all_drawn_gets_the_rest(
    driver: Callable[..., Driver], suggested: tuple[str, ...]
) -> None:
    expected = driver(name="whole", trials=1).suggest("ray-0").options
    killed = driver(trials=1)
    killed.study.sampler = make_sampler(killed.spec, 0)
    trial = killed.study.ask()
    drawn = {key: trial.suggest_float(key, 1e-5, 1e-1, log=True) for key in suggested}
    del killed

    again = driver(trials=1)
    options = again.suggest("ray-1").options
    (params,) = again.params
    assert set(params) == set(SWEEP)
    assert {key: params[key] for key in drawn} == drawn
    assert options.temperature.end == params["temperature.end"]
    if not drawn:
        assert options == expected, "the killed driver would have drawn the same"
    assert num_open(again.study, again.spec) == 1


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
@pytest.mark.slow
def test_trial_that_was_drawn_in_part_gets_the_values_that_it_would_have_had(
    driver: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    whole = driver(name="whole", trials=1, sampler=sampler)
    whole.suggest("ray-0")
    assert len(whole.params[0]) == 3
    original = optuna.trial.Trial._suggest
    for num_drawn in (0, 1, 2):
        killed = driver(name=f"killed-{num_drawn}", trials=1, sampler=sampler)
        left = iter(range(num_drawn))

        def draw(*words: Any, left: Any = left) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return original(*words)

        monkeypatch.setattr(optuna.trial.Trial, "_suggest", draw)
        with pytest.raises(KeyboardInterrupt):
            killed.suggest("ray-0")
        monkeypatch.setattr(optuna.trial.Trial, "_suggest", original)
        assert len(killed.params[0]) == num_drawn
        again = driver(name=f"killed-{num_drawn}", trials=1, sampler=sampler)
        again.suggest("ray-1")
        assert again.params == whole.params


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_objective_that_is_not_finite_fails_the_trial(driver: Callable[..., Driver], value: float) -> None:
    first = driver(trials=2, objectives=TWO_OBJECTIVES)
    first.run_trial("ray-0", child_val_error=value, child_madds=10.0)
    first.run_trial("ray-1", child_val_error=0.5, child_madds=value)
    assert first.states == ["FAIL", "FAIL"]


def test_trial_without_a_report_fails(driver: Callable[..., Driver]) -> None:
    first = driver(trials=1)
    first.suggest("ray-0")
    first.searcher.on_trial_complete("ray-0", result=None, error=True)
    assert first.states == ["RUNNING"], "the journal has no reason yet: a driver that is killed now must run it again"
    first.journal(0).finish("failed", "the worker died")
    first.searcher.tell_failed("0000")
    assert first.states == ["FAIL"]
    assert num_open(first.study, first.spec) == 0


def test_failed_trial_counts_and_is_not_tried_again(driver: Callable[..., Driver]) -> None:
    first = driver(trials=2)
    first.run_trial("ray-0", end="failed", child_val_error=0.5)
    again = driver(trials=2)
    assert again.suggest("ray-1").label == "0001"
    assert again.searcher.suggest("ray-2") is None
    assert again.states == ["FAIL", "RUNNING"]


def test_stopped_trial_is_pruned_with_one_objective(driver: Callable[..., Driver]) -> None:
    first = driver(trials=1)
    first.run_trial("ray-0", end="stopped", child_val_error=0.5)
    assert first.states == ["PRUNED"]


def test_stopped_trial_counts_with_its_last_values_with_two_objectives(driver: Callable[..., Driver]) -> None:
    first = driver(trials=1, objectives=TWO_OBJECTIVES)
    first.run_trial("ray-0", end="stopped", child_val_error=0.5, child_madds=100.0)
    assert first.states == ["COMPLETE"]
    assert first.study.trials[0].values == [0.5, 100.0]


def test_mixture_of_values_that_does_not_fit_fails_with_its_reason(
    driver: Callable[..., Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation tries ends and choices of a sweep; a mixture in between may still break a rule."""

    def misfit(spec: StudySpec, values: dict[str, Any]) -> SearchOptions:
        if not tried:
            tried.append(values)
            raise OptionsError((("temperature.end", "must be in (0, `start`], got 2"),))
        return search_options(spec, values)

    tried: list[dict[str, Any]] = []
    monkeypatch.setattr("orchestrator.driver.searcher.search_options", misfit)
    first = driver(trials=2)
    assert first.suggest("ray-0").label == "0001", "the next trial is run instead"
    assert first.searcher.suggest("ray-1") is None
    assert first.states == ["FAIL", "RUNNING"]
    assert (first.journal(0).end, first.journal(0).epochs) == ("failed", [])
    assert first.journal(0).reason == "`temperature.end` must be in (0, `start`], got 2"


def test_grid_gives_each_point_once_over_restarts(driver: Callable[..., Driver]) -> None:
    changes: dict[str, Any] = {
        "sampler": "grid",
        "trials": 10,
        "sweep": {"temperature.kind": {"choice": ["linear", "cosine"]}, "seed": {"int": [0, 1]}},
    }
    for index in range(3):  # a new driver for each trial
        driver(**changes).run_trial(f"ray-{index}", child_val_error=0.5)
    last = driver(**changes)
    assert num_open(last.study, last.spec) == 1
    last.run_trial("ray-3", child_val_error=0.5)
    assert last.searcher.suggest("ray-4") == Searcher.FINISHED
    assert [(params["temperature.kind"], params["seed"]) for params in last.params] == [
        ("linear", 0),
        ("linear", 1),
        ("cosine", 0),
        ("cosine", 1),
    ]
    assert last.states == ["COMPLETE"] * 4


#: TPE and GP draw at random before they have 10 results: more trials than that reach the sampler itself.
@pytest.mark.parametrize(("sampler", "trials"), [("random", 5), ("nsga2", 5), ("tpe", 13), ("gp", 12)])
@pytest.mark.slow
def test_same_seed_suggests_the_same_whether_the_driver_restarts_or_not(
    tmp_path: Path, sampler: str, trials: int
) -> None:
    def suggestions(folder: str, *, restarts: bool, seed: int = 3) -> list[dict[str, Any]]:
        spec = tiny_spec(sampler=sampler, trials=trials, sweep=SWEEP, objectives=ONE_OBJECTIVE, seed=seed)
        (tmp_path / folder).mkdir()
        driver = Driver(tmp_path / folder, spec)
        for index in range(trials):
            if restarts:
                driver = Driver(tmp_path / folder, spec)
            job = driver.suggest(f"ray-{index}")
            number = int(job.label)
            error = made_up_error(driver.params[number])
            driver.journal(number).append_epoch(made_up_record(0, child_val_error=error))
            driver.journal(number).finish("complete")
            driver.searcher.on_trial_complete(f"ray-{index}")
        return driver.params

    once = suggestions("once", restarts=False)
    assert suggestions("again", restarts=False) == once
    assert suggestions("restarted", restarts=True) == once
    assert len({params["penalty.strength"] for params in once}) == trials, "trials must not repeat each other"
    if sampler == "random":
        assert suggestions("other seed", restarts=False, seed=4) != once


def test_searcher_pickles_without_its_storage(driver: Callable[..., Driver]) -> None:
    """Ray pickles it with every snapshot; it must not take the study, the journals or a lock along."""
    assert len(pickle.dumps(driver().searcher)) < 200
