"""The benchmark of the dashboard, so small that its figures mean nothing but that all views were drawn."""

from __future__ import annotations

import json
import os

import pytest

from tests.preloaded.processes import run_ready

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.browser]

TIMES = (
    "start",
    "cold_first_view",
    "cold_study",
    "first_trial",
    "warm_study",
    "warm_trial",
    "new_trial",
    "first_curves",
    "warm_compare",
    "mlflow_table",
    "mlflow_charts_10",
    "mlflow_charts_100",
)


def test_benchmark_draws_every_view_and_prints_its_figures() -> None:
    small = ["--trials", "20", "--epochs", "4", "--repeats", "1", "--visits", "1", "--servers", "1", "--json"]
    done = run_ready(["python", "-m", "tests.benchmarks.dashboard", *small], os.environ)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert all(0 < result[name] < 120 for name in TIMES), result
    assert result["mlflow_lines_charts_100"] > result["mlflow_lines_charts_10"] > 0
    assert 50 < result["memory_mb"]["pss"] <= result["memory_mb"]["rss"] < 2000
