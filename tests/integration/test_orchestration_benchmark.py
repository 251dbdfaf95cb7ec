"""The benchmark of orchestration, so small that its figures mean nothing but for what must not be lost."""

from __future__ import annotations

import json
import os

import pytest

from tests.preloaded.processes import run_ready

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SMALL = [
    "--trials",
    "6",
    "--reports",
    "3",
    "--starts",
    "4",
    "--seconds",
    "0.5",
    "--searches",
    "2",
    "--repeats",
    "1",
    "--work",
    "stub",
    "--concurrent",
    "1",
    "--json",
]


def test_benchmark_prints_its_figures_and_loses_no_report() -> None:
    done = run_ready(["python", "-m", "tests.benchmarks.orchestration", *SMALL], os.environ)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    figures = ("overhead_percent", "next_trial_start_s", "driver_growth_mb", "events_per_s")
    assert all(isinstance(result[name], float) for name in figures), result
    assert (result["reports_lost"], result["reports_repeated"], result["mlflow_complete"]) == (0, 0, True)
    assert result["mlflow_runs"] == 6
    assert 0 < result["idle_percent"] < 100
    assert result["next_trial_start_s"] > 0
