"""Ranges to Optuna distributions, conditions, and the grid."""

from __future__ import annotations

import itertools
import pickle

import optuna
import pytest

from orchestrator.study_file import sweep as space
from orchestrator.study_file.sweep import (
    Scalar,
    SweepEntry,
    condition_faults,
    corner_points,
    grid_points,
    parents_first,
    suggest,
)
from search_core.errors import OptionsError


def swept(**entries: dict[str, object]) -> dict[str, SweepEntry]:
    """Entries in the form of the study file; `__` stands for the dot of a key."""
    return {key.replace("__", "."): SweepEntry.from_data(data) for key, data in entries.items()}


#: The condition comes before the key that it names: order must not matter.
CONDITIONAL = swept(
    temperature__rate={"uniform": [0.8, 0.95], "when": {"temperature.kind": "exponential"}},
    temperature__kind={"choice": ["linear", "exponential", "cosine"]},
    penalty__strength={"log_uniform": [1e-5, 1e-1]},
    network__cells={"int": [2, 5]},
)


def test_entry_reads_and_writes_the_file_form() -> None:
    data = {"int": [2, 5], "when": {"temperature.kind": ["linear"], "seed": [1, 2]}}
    entry = SweepEntry.from_data(data)
    assert entry == SweepEntry(kind="int", values=(2, 5), when={"temperature.kind": ("linear",), "seed": (1, 2)})
    assert entry.to_data() == data
    assert SweepEntry.from_data({"choice": [1], "when": {"a": "x"}}).when == {"a": ("x",)}
    assert pickle.loads(pickle.dumps(entry)) == entry


def test_entry_checks_itself_in_python_too() -> None:
    with pytest.raises(OptionsError, match=r"`log_uniform` must have low above 0, .* got \[0.0, 1.0\]"):
        SweepEntry(kind="log_uniform", values=(0.0, 1.0))
    with pytest.raises(OptionsError, match="finite"):
        SweepEntry(kind="uniform", values=(0.0, float("inf")))
    with pytest.raises(OptionsError, match="single values"):
        SweepEntry(kind="choice", values=(1.0, float("nan")))
    with pytest.raises(OptionsError, match="more than once"):
        SweepEntry(kind="choice", values=(1, True))


def test_entry_shows_faults_of_range_and_condition_together() -> None:
    with pytest.raises(OptionsError) as caught:
        SweepEntry.from_data({"uniform": [2, 1], "when": {"a": []}})
    assert [name for name, _ in caught.value.faults] == ["uniform", "when"]


def test_suggest_declares_matching_distributions() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: float(len(suggest(trial, CONDITIONAL))), n_trials=40)
    distributions: dict[str, optuna.distributions.BaseDistribution] = {}
    for trial in study.trials:
        distributions |= trial.distributions
    assert distributions == {
        "temperature.rate": optuna.distributions.FloatDistribution(0.8, 0.95),
        "temperature.kind": optuna.distributions.CategoricalDistribution(("linear", "exponential", "cosine")),
        "penalty.strength": optuna.distributions.FloatDistribution(1e-5, 1e-1, log=True),
        "network.cells": optuna.distributions.IntDistribution(2, 5),
    }


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")  # of `group`
def test_suggest_leaves_out_inactive_keys() -> None:
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(multivariate=True, group=True, seed=1))
    for _ in range(30):
        trial = study.ask()
        values = suggest(trial, CONDITIONAL)
        assert values == trial.params
        assert ("temperature.rate" in values) == (values["temperature.kind"] == "exponential")
        study.tell(trial, 0.5)
    rates = {"temperature.rate" in trial.params for trial in study.trials}
    assert rates == {True, False}, "both cases were drawn"


def test_suggest_takes_fixed_values() -> None:
    params: dict[str, Scalar] = {
        "temperature.kind": "exponential",
        "temperature.rate": 0.9,
        "penalty.strength": 1e-3,
        "network.cells": 3,
    }
    assert suggest(optuna.trial.FixedTrial(params), CONDITIONAL) == params
    params |= {"temperature.kind": "linear"}
    assert "temperature.rate" not in suggest(optuna.trial.FixedTrial(params), CONDITIONAL)


def test_condition_on_inactive_key_is_not_met() -> None:
    chain = swept(
        c={"choice": [1, 2], "when": {"b": ["x"]}},
        b={"choice": ["x", "y"], "when": {"a": True}},
        a={"choice": [True, False]},
    )
    assert parents_first(chain) == ["a", "b", "c"]
    assert suggest(optuna.trial.FixedTrial({"a": False, "b": "x", "c": 1}), chain) == {"a": False}
    assert suggest(optuna.trial.FixedTrial({"a": True, "b": "x", "c": 1}), chain) == {"a": True, "b": "x", "c": 1}


def test_all_conditions_must_hold() -> None:
    both = swept(a={"choice": [1, 2]}, b={"choice": [1, 2]}, c={"choice": [0], "when": {"a": 1, "b": [2]}})
    active = [(point["a"], point["b"]) for point in grid_points(both) if "c" in point]
    assert active == [(1, 2)]


def test_grid_has_each_active_combination_once() -> None:
    sweep = swept(
        factor={"choice": [0.5, 0.25], "when": {"kind": "step"}},
        kind={"choice": ["linear", "step"]},
        cells={"int": [2, 4]},
    )
    points = grid_points(sweep)
    expected: list[dict[str, Scalar]] = [{"kind": "linear", "cells": cells} for cells in (2, 3, 4)]
    expected += [{"kind": "step", "cells": c, "factor": f} for c, f in itertools.product((2, 3, 4), (0.5, 0.25))]
    assert len(points) == len(expected) == 9
    assert all(point in points for point in expected)
    assert grid_points(sweep, limit=4) == points[:4]
    assert grid_points({}) == [{}]


def test_grid_of_a_long_range_stops_at_its_limit() -> None:
    sweep = swept(seed={"int": [0, 10**12]}, cells={"int": [2, 10**9]})
    assert grid_points(sweep, limit=2) == [{"seed": 0, "cells": 2}, {"seed": 0, "cells": 3}]


def test_grid_refuses_ranges_without_end() -> None:
    with pytest.raises(ValueError, match="only `choice` and `int` can be listed, got `uniform`"):
        grid_points(swept(a={"uniform": [0, 1]}))


def test_corners_hold_ends_choices_and_asked_values() -> None:
    sweep = swept(n={"int": [1, 99]}, x={"uniform": [0, 1], "when": {"n": 4}})
    assert list(corner_points(sweep)) == [{"n": 1}, {"n": 99}, {"n": 4, "x": 0.0}, {"n": 4, "x": 1.0}]


def test_corners_hold_every_number_of_a_short_range() -> None:
    assert [point["n"] for point in corner_points(swept(n={"int": [8, 12]}))] == [8, 9, 10, 11, 12]


def test_many_corners_vary_one_key_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "MAX_CORNER_POINTS", 8)
    points = list(corner_points(swept(a={"choice": [1, 2, 3]}, b={"choice": [1, 2, 3]})))
    assert points == [{"a": a, "b": 1} for a in (1, 2, 3)] + [{"a": 1, "b": b} for b in (1, 2, 3)]


def test_condition_faults_find_circles_through_several_keys() -> None:
    sweep = swept(
        a={"choice": [1], "when": {"c": 1}}, b={"choice": [1], "when": {"a": 1}}, c={"choice": [1], "when": {"b": 1}}
    )
    ((key, message),) = condition_faults(sweep)
    assert key in sweep
    assert message.startswith("`when` goes round in a circle")
    assert condition_faults(CONDITIONAL) == []
