from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from search_core.cost.penalty_options import CostMix, PenaltyOptions, penalty_strength_at
from search_core.errors import OptionsError
from search_core.search.temperature import TemperatureOptions, temperature_at

# Temperature: values written out for five epochs.


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kind": "constant", "start": 0.7}, [0.7, 0.7, 0.7, 0.7, 0.7]),
        ({"kind": "linear", "start": 1.0, "end": 0.2}, [1.0, 0.8, 0.6, 0.4, 0.2]),
        ({"kind": "linear"}, [1.0, 0.7575, 0.515, 0.2725, 0.03]),
        ({"kind": "exponential", "start": 1.0, "end": 0.0625}, [1.0, 0.5, 0.25, 0.125, 0.0625]),
        ({"kind": "exponential", "start": 1.0, "end": 0.2, "rate": 0.5}, [1.0, 0.5, 0.25, 0.2, 0.2]),
        ({"kind": "exponential", "start": 2.0, "end": 0.1, "rate": 0.9}, [2.0, 1.8, 1.62, 1.458, 1.3122]),
        ({"kind": "cosine", "start": 1.0, "end": 0.2}, [1.0, 0.8828427125, 0.6, 0.3171572875, 0.2]),
        ({"kind": "step", "start": 1.0, "end": 0.3, "every": 2}, [1.0, 1.0, 0.5, 0.5, 0.3]),
        ({"kind": "step", "start": 1.0, "end": 0.001, "factor": 0.1, "every": 1}, [1.0, 0.1, 0.01, 0.001, 0.001]),
    ],
)
def test_temperature_of_every_kind(options: dict[str, Any], expected: list[float]) -> None:
    schedule = TemperatureOptions(**options)
    assert [temperature_at(schedule, epoch, 5) for epoch in range(5)] == pytest.approx(expected, rel=1e-9)


def test_temperature_steps_halve_every_ten_epochs_by_default() -> None:
    schedule = TemperatureOptions(kind="step")
    values = [temperature_at(schedule, epoch, 150) for epoch in (0, 9, 10, 19, 20, 50, 60, 149)]
    assert values == [1.0, 1.0, 0.5, 0.5, 0.25, 0.03125, 0.03, 0.03]


def test_temperature_follows_the_authors_code_by_default() -> None:
    schedule = TemperatureOptions()
    assert (schedule.kind, schedule.start, schedule.end) == ("linear", 1.0, 0.03)
    assert temperature_at(schedule, 149, 150) == pytest.approx(0.03)


@pytest.mark.parametrize("kind", ["constant", "linear", "exponential", "cosine", "step"])
def test_temperature_of_a_single_epoch_is_the_start(kind: Any) -> None:
    assert temperature_at(TemperatureOptions(kind=kind, start=0.9, end=0.1), 0, 1) == pytest.approx(0.9)


@pytest.mark.parametrize("kind", ["linear", "exponential", "cosine", "step"])
def test_temperature_never_rises_and_never_passes_the_end(kind: Any) -> None:
    schedule = TemperatureOptions(kind=kind, start=1.0, end=0.05)
    values = [temperature_at(schedule, epoch, 150) for epoch in range(150)]
    assert all(late <= early for early, late in pairwise(values))
    assert min(values) == pytest.approx(0.05)
    assert min(values) > 0.05 - 1e-12


@pytest.mark.parametrize("kind", ["linear", "exponential", "cosine", "step"])
def test_temperature_may_stay_where_it_starts(kind: Any) -> None:
    schedule = TemperatureOptions(kind=kind, start=0.5, end=0.5)
    assert temperature_at(schedule, 3, 5) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 0.0}, "`start` must be a finite number above 0, got 0.0"),
        ({"start": math.inf}, "`start` must be a finite number above 0, got inf"),
        ({"kind": "constant", "start": -1.0}, "`start` must be a finite number above 0, got -1.0"),
        ({"end": 1.5}, r"`end` must be in \(0, `start`\] with `start` 1.0, got 1.5"),
        ({"end": 0.0}, r"`end` must be in \(0, `start`\]"),
        ({"end": math.nan}, r"`end` must be in \(0, `start`\] with `start` 1.0, got nan"),
        ({"kind": "linear", "rate": 0.5}, "`rate` is for kind exponential only, not linear"),
        ({"kind": "exponential", "rate": 1.0}, r"`rate` must be in \(0, 1\), got 1.0"),
        ({"kind": "exponential", "rate": 0.0}, r"`rate` must be in \(0, 1\), got 0.0"),
        ({"kind": "cosine", "factor": 0.5}, "`factor` is for kind step only, not cosine"),
        ({"kind": "step", "factor": 1.0}, r"`factor` must be in \(0, 1\), got 1.0"),
        ({"kind": "linear", "every": 5}, "`every` is for kind step only, not linear"),
        ({"kind": "step", "every": 0}, "`every` must be at least 1 epoch, got 0"),
    ],
)
def test_temperature_options_reject_values_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        TemperatureOptions(**options)


def test_temperature_options_report_all_faults_at_once() -> None:
    with pytest.raises(OptionsError) as caught:
        TemperatureOptions(kind="linear", start=-1.0, end=2.0, rate=3.0, factor=0.5, every=0)
    assert [name for name, _ in caught.value.faults] == ["start", "end", "rate", "rate", "factor", "every", "every"]
    assert str(caught.value).count(";") == 6


def test_constant_temperature_ignores_the_end() -> None:
    assert temperature_at(TemperatureOptions(kind="constant", start=0.01), 4, 5) == 0.01


# Penalty strength


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedule": "constant"}, [0.4] * 6),
        ({"schedule": "warmup", "warmup_epochs": 4}, [0.0, 0.1, 0.2, 0.3, 0.4, 0.4]),
        ({"schedule": "warmup", "warmup_epochs": 1}, [0.0, 0.4, 0.4, 0.4, 0.4, 0.4]),
        ({"schedule": "step"}, [0.4] * 6),
        ({"schedule": "step", "on_epoch": 2}, [0.0, 0.0, 0.4, 0.4, 0.4, 0.4]),
        ({"schedule": "step", "off_epoch": 2}, [0.4, 0.4, 0.0, 0.0, 0.0, 0.0]),
        ({"schedule": "step", "on_epoch": 1, "off_epoch": 4}, [0.0, 0.4, 0.4, 0.4, 0.0, 0.0]),
    ],
)
def test_penalty_strength_of_every_schedule(options: dict[str, Any], expected: list[float]) -> None:
    schedule = PenaltyOptions(strength=0.4, **options)
    assert [penalty_strength_at(schedule, epoch) for epoch in range(6)] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"strength": -1e-3},
            "`strength` must be a finite number of at least 0, or mild, moderate, aggressive, got -0.001",
        ),
        (
            {"strength": math.inf},
            "`strength` must be a finite number of at least 0, or mild, moderate, aggressive, got inf",
        ),
        (
            {"strength": math.nan},
            "`strength` must be a finite number of at least 0, or mild, moderate, aggressive, got nan",
        ),
        ({"cost": "mix"}, "`mix` must be given for cost mix, and only there"),
        ({"cost": "madds", "mix": CostMix(params=1.0)}, "`mix` must be given for cost mix, and only there"),
        ({"reduction_ratio": -0.5}, "`reduction_ratio` must be at least 0, got -0.5"),
        ({"schedule": "warmup"}, "`warmup_epochs` must be given for schedule warmup, .*schedule is warmup"),
        ({"warmup_epochs": 3}, "`warmup_epochs` must be given for schedule warmup, .*schedule is constant"),
        ({"schedule": "warmup", "warmup_epochs": 0}, "`warmup_epochs` must be at least 1, got 0"),
        ({"on_epoch": 3}, "`on_epoch` is for schedule step only, not constant"),
        ({"schedule": "step", "on_epoch": -1}, "`on_epoch` must be at least 0, got -1"),
        ({"off_epoch": 3}, "`off_epoch` is for schedule step only, not constant"),
        ({"schedule": "step", "off_epoch": 0}, "`off_epoch` must be after `on_epoch` 0, got 0"),
        ({"schedule": "step", "on_epoch": 5, "off_epoch": 5}, "`off_epoch` must be after `on_epoch` 5, got 5"),
    ],
)
def test_penalty_options_reject_values_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        PenaltyOptions(**options)


def test_penalty_options_report_all_faults_at_once() -> None:
    with pytest.raises(OptionsError) as caught:
        PenaltyOptions(strength=-1.0, cost="mix", reduction_ratio=-1.0, schedule="warmup", on_epoch=-1, off_epoch=-2)
    names = [name for name, _ in caught.value.faults]
    assert names == [
        "strength",
        "mix",
        "reduction_ratio",
        "warmup_epochs",
        "on_epoch",
        "on_epoch",
        "off_epoch",
        "off_epoch",
    ]


@pytest.mark.parametrize(
    ("weights", "names"),
    [
        ({}, ["params"]),
        ({"madds": -1.0, "params": 2.0}, ["madds"]),
        ({"params": math.inf}, ["params"]),
        ({"params": -1.0, "memory_access": -1.0}, ["params", "memory_access", "params"]),
    ],
)
def test_cost_mix_rejects_weights_out_of_range(weights: dict[str, float], names: list[str]) -> None:
    with pytest.raises(OptionsError) as caught:
        CostMix(**weights)
    assert [name for name, _ in caught.value.faults] == names
