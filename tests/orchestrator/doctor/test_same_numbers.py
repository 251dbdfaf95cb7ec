"""Reports of the same epoch, compared."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from orchestrator.doctor.same_numbers import ABSENT, Difference, differing
from tests.orchestrator.tiny import real_records


def changed(*path: Any, to: Any) -> dict[str, Any]:
    """A real report with another value at a path."""
    report = copy.deepcopy(real_records(1)[0])
    inner = report
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return report


@pytest.mark.parametrize("tolerance", [None, 0.05])
def test_equal_reports_do_not_differ_whatever_their_times(tolerance: float | None) -> None:
    recorded = {"time": 1.0, **changed("metrics", "seconds", to=99.0)}
    recorded["metrics"]["cpu_core_hours"] = 1.0
    count, found = differing(recorded, real_records(1)[0], tolerance)
    assert (count > 50, found) == (True, [])


@pytest.mark.parametrize(
    "path",
    [("metrics", "train_loss"), ("metrics", "child_madds"), ("cells", "normal", "alpha", 0, 1)],
)
def test_the_last_bit_of_any_value_is_found(path: tuple[Any, ...]) -> None:
    value: Any = real_records(1)[0]
    for key in path:
        value = value[key]
    other = math.nextafter(value, math.inf)
    _, found = differing(changed(*path, to=other), real_records(1)[0], None)
    assert found == [Difference(".".join(map(str, path)), other, value)]
    assert differing(changed(*path, to=other), real_records(1)[0], 1e-9)[1] == []


def test_values_that_only_one_report_has_differ() -> None:
    report = changed("metrics", "eta", to=0.0)
    del report["metrics"]["eta"]
    eta = real_records(1)[0]["metrics"]["eta"]
    assert differing(report, real_records(1)[0], 0.05)[1] == [Difference("metrics.eta", ABSENT, eta)]
    assert differing(real_records(1)[0], report, None)[1] == [Difference("metrics.eta", eta, ABSENT)]


def test_types_signs_and_nan_are_told_apart_bit_for_bit() -> None:
    one = {"metrics": {"eta": 0.0, "train_loss": math.nan, "temperature": 1.0}, "genotype": {"normal": []}}
    other = {"metrics": {"eta": -0.0, "train_loss": math.nan, "temperature": 1}, "genotype": {"normal": [["x", 0]]}}
    names = [difference.name for difference in differing(one, other, None)[1]]
    assert names == [
        "metrics.eta",
        "metrics.temperature",
        "genotype.normal",
        "genotype.normal.0.0",
        "genotype.normal.0.1",
    ]
    assert differing(one, other, 0.05) == (3, [])


def test_within_a_tolerance_the_child_is_left_out_and_the_training_is_not() -> None:
    real = real_records(1)[0]
    assert differing(changed("metrics", "child_madds", to=1.0), real, 0.05)[1] == []
    assert differing(changed("genotype", "normal", to=[]), real, 0.05)[1] == []
    loss = real["metrics"]["train_loss"]
    assert differing(changed("metrics", "train_loss", to=loss * 1.04), real, 0.05)[1] == []
    (found,) = differing(changed("metrics", "train_loss", to=loss * 1.06), real, 0.05)[1]
    assert str(found) == f"metrics.train_loss is {loss * 1.06!r} in the journal, recomputed {loss!r}"
