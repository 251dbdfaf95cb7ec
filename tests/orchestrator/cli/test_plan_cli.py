"""A plan in words."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.cli.plan import _lines, _rows
from orchestrator.cluster.forecast import Fitting, Span
from orchestrator.cluster.plan import Part, StudyPlan
from orchestrator.jobs import Reservation
from tests.orchestrator.tiny import ETA, tiny_spec

PART = Part(
    count=Span(1, 2, 4),
    at_once=8,
    per_gpu=4,
    one_s=Span(50, 60, 3600),
    all_s=Span(60, 90, 7200),
    disk_bytes=Span(1e6, 2e6, 3e6),
    energy_kwh=Span(0.1, 0.2, 0.3),
)


def lines(budget: dict[str, float], **changes: Any) -> list[str]:
    found: dict[str, Any] = {
        "name": "tiny",
        "reservation": Reservation(1.0, 0.25, None, "one search peaks at 20.0 GB"),
        "start_s": 5.0,
        "searches": PART,
        "retrainings": None,
        "memory_bytes": 2_000_000_000,
        "gpu_bytes": 20_000_000_000,
        "fitting": None,
        "notes": ("without the ground truth",),
    }
    spec = tiny_spec(sweep=ETA, trials=4, budget=budget, resources={"gpu": 0.25})
    return _lines(spec, StudyPlan(**{**found, **changes}))


def test_plan_says_times_memory_disk_and_energy_in_words() -> None:
    assert _rows("search", PART) == [
        ["one search", "1 min", "50 s", "1 h"],
        ["all 2 (1 to 4) searches, 8 at a time", "1 min 30 s", "1 min", "2 h"],
    ]
    assert lines({}) == [
        "memory of a search: 2.0 GB, 20.0 GB of its GPU",
        "searches on a GPU: 4; one search peaks at 20.0 GB",
        "disk: 3.0 MB of checkpoints at the end",
        "energy: 0.2 kWh of its GPUs (0.1 to 0.3)",
        "without the ground truth",
    ]
    silent = Part(**{**vars(PART), "energy_kwh": None})
    assert "energy: unknown, no GPU tells its power" in lines({}, searches=silent)


@pytest.mark.parametrize(
    ("fitting", "said"),
    [
        (Fitting(trials=4, epochs=2), "all searches are expected to fit"),
        (Fitting(trials=1, epochs=1), "1 trial of 2 epochs or 4 trials of 1 epoch are expected to fit"),
        (Fitting(trials=3, epochs=None), "3 trials of 2 epochs are expected to fit"),
        (Fitting(trials=0, epochs=0), "not even one trial, or one epoch, fits"),
    ],
)
def test_what_fits_a_budget_is_said(fitting: Fitting, said: str) -> None:
    count = Part(**{**vars(PART), "count": Span(4, 4, 4)})
    assert f"`budget.hours` 2: {said}" in lines({"hours": 2}, searches=count, fitting=fitting)
