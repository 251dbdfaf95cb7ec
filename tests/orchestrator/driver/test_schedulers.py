"""Schedulers: who is stopped by whom, by hand and across a driver that is resumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from orchestrator.driver.schedulers import FrontScheduler, HyperBandScheduler, costs_of, make_scheduler
from orchestrator.files.journal import Journal
from orchestrator.jobs import JobReport, Parent
from orchestrator.study.standing import dominates
from tests.orchestrator.tiny import SEARCH, TWO_OBJECTIVES, made_up_record, search_job, tiny_spec, written_journal


class Forks:
    """Notes whom population-based training replaces by a fork of whom, and what it draws."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, Parent, float]] = []

    @property
    def replaced(self) -> set[int]:
        return {trial for trial, _, _ in self.asked}

    def replace(self, trial: int, parent: Parent, draw: Callable[[], float]) -> None:
        self.asked.append((trial, parent, draw()))


def trial(number: int, epochs: int = 27) -> Trial:
    return Trial("search", stub=True, config=search_job(f"{number:04d}", epochs=epochs).to_config())


def result(epochs: int, **metrics: float) -> dict[str, Any]:
    return JobReport(record=made_up_record(epochs - 1, **metrics), done=False).to_result()


def scheduler(kind: str, epochs: int = 27, **options: Any) -> Any:
    search = {**SEARCH, "epochs": epochs}
    spec = tiny_spec(search=search, objectives=TWO_OBJECTIVES, scheduler={"kind": kind, **options}, trials=40)
    return make_scheduler(spec, list, Forks())


def test_hyperband_gives_each_bracket_its_share_and_a_trial_the_same_in_every_driver() -> None:
    first, again = (scheduler("hyperband", reduction_factor=3) for _ in range(2))
    assert isinstance(first, HyperBandScheduler)
    places = [first.place(number) for number in range(54)]
    # With s halvings 3^s / (s + 1): 1, 1.5, 3 and 6.75 of 12.25, rungs at 1, 3 and 9 epochs of 27.
    counts = Counter(places)
    assert [counts[halvings] for halvings in range(4)] == pytest.approx([4.4, 6.6, 13.2, 29.8], abs=1)
    assert again.place(53) == places[53], "whichever is asked for first"
    assert set(places[:8]) == {0, 1, 2, 3}, "a small study has all of them"


def test_hyperband_halves_in_each_bracket_from_its_own_rung_on() -> None:
    hyperband = scheduler("hyperband", reduction_factor=3)
    stopped = {}
    for halvings in range(4):
        numbers = [number for number in range(60) if hyperband.place(number) == halvings][:2]
        for error, number in zip((0.1, 0.9), numbers, strict=True):
            hyperband.on_trial_add(None, trials := trial(number))
            for epochs in range(1, 27):
                if hyperband.on_trial_result(None, trials, result(epochs, child_val_error=error)) == "STOP":
                    stopped[halvings] = (error, epochs)
                    break
    assert stopped == {1: (0.9, 9), 2: (0.9, 3), 3: (0.9, 1)}, "where none is halved, the worse one runs to its end"


def test_front_stops_what_enough_others_beat_in_all_objectives_at_the_same_epoch() -> None:
    front = scheduler("front", grace_period=2, dominated_by=2)
    assert isinstance(front, FrontScheduler)

    def heard(number: int, epochs: int, error: float, cost: float) -> str:
        found: str = front.on_trial_result(None, trial(number), result(epochs, child_val_error=error, child_madds=cost))
        return found

    reports = [(0, 0.1, 5.0), (1, 0.2, 4.0), (2, 0.3, 3.0)]
    assert {heard(number, epochs, *costs) for epochs in (1, 2) for number, *costs in reports} == {"CONTINUE"}
    assert heard(3, 1, 0.9, 9.0) == "CONTINUE", "within its grace period"
    assert heard(3, 3, 0.9, 9.0) == "CONTINUE", "no other has got so far"
    assert heard(4, 2, 0.25, 4.0) == "CONTINUE", "only trial 1 beats it"
    assert heard(5, 2, 0.3, 4.5) == "STOP", "trials 1, 2 and 4 do"
    assert heard(6, 2, 0.2, 4.0) == "CONTINUE", "an equal one does not"
    assert heard(7, 2, float("nan"), 4.0) == "CONTINUE"
    assert heard(8, 27, 0.9, 9.0) == "CONTINUE", "it is over"


def test_front_knows_after_a_resume_what_the_journals_say(tmp_path: Path) -> None:
    spec = tiny_spec(objectives=TWO_OBJECTIVES, scheduler={"kind": "front", "dominated_by": 1})
    file = written_journal(tmp_path / "0000.jsonl", [made_up_record(0, child_val_error=0.1, child_madds=1.0)])
    front = make_scheduler(spec, lambda: [("0000", Journal(file).epochs)], Forks())
    assert front is not None
    worse = result(1, child_val_error=0.2, child_madds=1.0)
    assert front.on_trial_result(None, trial(0), worse) == TrialScheduler.CONTINUE, "its report comes again, unchanged"
    assert front.on_trial_result(None, trial(1), worse) == TrialScheduler.STOP


def test_population_replaces_the_worst_by_forks_of_the_best_once() -> None:
    errors, found = (0.3, 0.1, 0.2, 0.4), []
    for _ in range(2):
        forks = Forks()
        spec = tiny_spec(search={**SEARCH, "epochs": 6}, scheduler={"kind": "pbt", "interval": 2, "quantile": 0.5})
        past = [(f"{number:04d}", [made_up_record(1, child_val_error=error)]) for number, error in enumerate(errors)]
        population = make_scheduler(spec, lambda past=past: past, forks)
        assert population is not None

        def heard(number: int, epochs: int, error: float, population: TrialScheduler = population) -> str:
            return str(population.on_trial_result(None, trial(number, 6), result(epochs, child_val_error=error)))

        assert heard(3, 1, 0.4) == "CONTINUE", "compared after every second epoch"
        assert heard(1, 2, 0.1) == "CONTINUE"
        assert heard(3, 2, 0.4) == "STOP"
        assert heard(4, 2, 0.9) == "STOP"
        assert heard(5, 4, 0.9) == "CONTINUE", "no other has got so far"
        assert heard(6, 6, 0.9) == "CONTINUE", "it is over"
        assert heard(3, 3, 0.1) == "STOP", "a driver that was killed had no time to"
        assert [number for number, _, _ in forks.asked] == [3, 4]
        assert all(parent.epoch == 2 and parent.trial in (1, 2) for _, parent, _ in forks.asked)
        found.append(forks.asked)
    assert found[0] == found[1], "drawn by study, trial and epoch"


def test_costs_are_less_where_a_value_is_better() -> None:
    spec = tiny_spec(objectives=[*TWO_OBJECTIVES[:1], {"metric": "child_val_accuracy", "mode": "max"}])
    better, worse = (
        costs_of(spec.objectives, {"child_val_error": 0.1, "child_val_accuracy": value}) for value in (0.9, 0.8)
    )
    assert (better, dominates(better, worse), dominates(worse, better)) == ((0.1, -0.9), True, False)
