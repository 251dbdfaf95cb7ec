"""What a study takes, by made-up paces: plain arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.cluster.connection import Node
from orchestrator.cluster.forecast import Fitting, Searches, Span, clock_s, places
from orchestrator.cluster.pace_trial import Measure
from orchestrator.cluster.packing import work_extremes
from orchestrator.cluster.plan import num_retrainings
from orchestrator.jobs import Reservation
from search_core.search.pace import Pace
from tests.orchestrator.tiny import ETA, ONE_OBJECTIVE, RETRAIN, SEARCH, tiny_spec

CHILDREN = {"kind": "random", "children": 3, "at_once": 2, "estimate": {"epochs": 4}}


def measure(*epoch_s: float) -> Measure:
    """A unit of so many seconds an epoch, 2 to build it and 1 at its end."""
    pace = Pace(load_s=5.0, build_s=2.0, epoch_s=epoch_s, last_s=1.0, state_bytes=1000)
    return Measure(pace=pace, start_s=3.0, power_w=None)


def searches(*measures: Measure, num_places: int = 2, **changes: Any) -> Searches:
    """Searches of a study on one kind of node, with two measures for each kind of work."""
    spec = tiny_spec(**{"trials": 3, "sweep": ETA, **changes})
    ends = work_extremes(spec.search, spec.sweep)
    return Searches(spec=spec, ends=ends, measures=[measures], num_places=num_places)


def test_units_begin_where_a_place_is_free_first() -> None:
    assert clock_s([(3, 10.0)], 2) == 20.0
    assert clock_s([(1, 10.0), (1, 2.0), (1, 3.0), (1, 4.0)], 2) == 10.0
    assert clock_s([(1, 1.0), (1, 1.0), (1, 9.0)], 2) == 10.0
    assert clock_s([], 2) == 0.0


def test_places_are_what_every_node_has_room_for() -> None:
    def node(**resources: float) -> Node:
        return Node(id="a", ip="10.0.0.1", hostname="one", resources=resources, is_head=False)

    two = [node(CPU=8, GPU=1, memory=16e9), node(CPU=2, memory=64e9)]
    assert places(two, Reservation(1.0, 0.0, None)) == 10
    assert places(two, Reservation(3.0, 0.0, 4.0)) == 2
    assert places(two, Reservation(1.0, 0.1, None)) == 8
    assert places(two, Reservation(1.0, 0.3333, None), workers=2) == 1


def test_trials_run_in_rounds_and_their_spread_is_that_of_epochs() -> None:
    found = searches(measure(10.0, 11.0, 20.0), measure(10.0, 11.0, 20.0))  # two epochs each
    assert found.trial_s() == Span(23.0, 25.0, 43.0)
    assert found.clock_s() == Span(46.0, 50.0, 86.0), "three trials, two at a time"
    assert found.place_s() == Span(69.0, 75.0, 129.0)
    assert replace(found, num_places=9).clock_s() == found.trial_s()
    assert found.clock_s(trials=5, epochs=1).expected == 3 * 14.0


def test_slowest_kind_of_node_is_the_high_end() -> None:
    pair = (measure(10.0), measure(10.0)), (measure(20.0), measure(20.0))
    found = replace(searches(*pair[0]), measures=pair)
    assert found.trial_s() == Span(23.0, 33.0, 43.0)


def test_sweep_of_sizes_spans_from_the_smallest_to_the_largest() -> None:
    sweep = {"network.init_channels": {"choice": [8, 2, 4]}, "epochs": {"choice": [1, 3]}}
    found = searches(measure(10.0), measure(100.0), sweep=sweep, trials=1)
    (ends,) = found.ends.values()
    assert [(one.network.init_channels, one.epochs) for one in ends] == [(2, 1), (8, 3)]
    assert found.trial_s() == Span(13.0, (13.0 + 303.0) / 2, 303.0)
    assert found.fitting() is None


def test_points_of_a_grid_are_counted_by_their_kind_of_work() -> None:
    sweep = {"strategy.kind": {"choice": ["snas", "random_sampling"]}, "seed": {"int": [0, 2]}}
    fast, slow = measure(10.0), measure(100.0)
    found = searches(fast, fast, slow, slow, sweep=sweep, sampler="grid", trials=5, num_places=1)
    assert found.clock_s().expected == 3 * 23.0 + 2 * 203.0
    assert (
        replace(found, spec=found.spec.model_copy(update={"sampler": "tpe"})).clock_s().expected == 3 * 23.0 + 2 * 203.0
    )


def test_children_of_a_multi_trial_search_run_side_by_side() -> None:
    search = {**SEARCH, "strategy": CHILDREN}
    found = searches(measure(10.0), measure(10.0), search=search, trials=1, num_places=9)
    assert found.trial_s().expected == 6 * 43.0, "two epochs of three children of four epochs"
    assert (found.at_once, found.clock_s().expected) == (2, 3 * 43.0)


def test_shared_epochs_are_run_once() -> None:
    found = searches(measure(10.0), measure(10.0), fork={"epoch": 1})
    assert found.clock_s().expected == 13.0 + 2 * 13.0


def test_scheduler_may_stop_all_at_its_first_look() -> None:
    search = {**SEARCH, "epochs": 9}
    found = searches(measure(10.0), measure(10.0), search=search, scheduler={"kind": "asha", "grace_period": 2})
    assert found.trial_s() == Span(23.0, 93.0, 93.0)


def test_what_fits_the_hours_of_a_budget_is_proposed() -> None:
    def fitting(**budget: float) -> Fitting | None:
        search = {**SEARCH, "epochs": 10}
        pair = (measure(97.0), measure(97.0))  # 973 s a search
        found = searches(*pair, search=search, trials=8, budget=budget, resources={"gpu": 0.5})
        return replace(found, gpu=0.5).fitting()

    assert fitting(hours=1.0) == Fitting(trials=6, epochs=9), "three rounds; four rounds of 876 s"
    assert fitting(hours=2.0) == Fitting(trials=8, epochs=10)
    assert fitting(hours=0.2) == Fitting(trials=0, epochs=1)
    assert fitting(gpu_hours=0.5) == Fitting(trials=3, epochs=4)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Span(1, 2, 4)),
        ({"objectives": ONE_OBJECTIVE}, Span(1, 1, 1)),
        ({"retrain": {**RETRAIN, "top": "all", "seeds": 2}}, Span(8, 8, 8)),
        ({"retrain": {**RETRAIN, "top": 9}}, Span(4, 4, 4)),
    ],
)
def test_number_of_retrainings(changes: dict[str, Any], expected: Span) -> None:
    two = [*ONE_OBJECTIVE, {"metric": "child_madds", "mode": "min"}]
    spec = tiny_spec(**{"trials": 4, "sweep": ETA, "objectives": two, "retrain": RETRAIN, **changes})
    assert spec.retrain is not None
    assert num_retrainings(spec, spec.retrain) == expected
