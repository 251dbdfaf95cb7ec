"""Bars of a study over time, with runs written by hand."""

from dataclasses import replace

from dashboards.charts.theme import THEMES
from dashboards.charts.timeline import timeline_chart
from tests.dashboards.generated import generated_study
from tests.dashboards.written import retraining, study, trial

LIGHT = THEMES["light"]


def _ran(of, start, end):
    """The trial or retraining, at these seconds."""
    return replace(of, run=replace(of.run, start_s=start, end_s=end + 5.0, last_report_s=end))


def test_bars_lie_in_the_first_free_lane_and_say_state_and_hours():
    hours = {"cpu_core_hours": 0.05}
    trials = [_ran(trial(0, metrics=hours), 0, 60), _ran(trial(1), 10, 100), _ran(trial(2, end="failed"), 60, 70)]
    retrained = [_ran(retraining(1, 0), 120, 130)]
    chart = timeline_chart(study(trials, retrainings=retrained), LIGHT)
    assert chart.title == "Timeline: 3 searches and 1 retraining in 2 min 10 s"
    assert "2 at most at the same time" in chart.summary
    complete, failed = chart.figure["data"]
    assert (complete["name"], complete["y"], failed["y"]) == ("complete", [1, 2, 1], [1])
    assert complete["x"] == [60_000, 90_000, 10_000]
    assert complete["base"][1] == "1970-01-01 00:00:10.000"
    assert complete["width"][0] > complete["width"][2], "retrainings are thin"
    assert complete["hovertext"][0] == (
        "<b>trial 0</b> (complete)<br>1970-01-01 00:00 UTC, 1 min<br>0.05 CPU core hours reserved"
    )
    assert chart.rows[0] == ("trial-0000", 0, "complete", "1970-01-01 00:00:00.000", 60.0, None, 0.05)


def test_a_thousand_trials_are_a_trace_a_state():
    record = generated_study("many", trials=1000, epochs=1, running=2).record()
    chart = timeline_chart(record, LIGHT)
    assert len(chart.figure["data"]) <= 6
    assert sum(len(trace["x"]) for trace in chart.figure["data"]) == 1000
    assert chart.figure["layout"]["height"] <= 420


def test_a_run_that_runs_keeps_its_lane_though_its_bar_ends_with_its_last_report():
    chart = timeline_chart(study([_ran(trial(0, end=None), 0, 10), _ran(trial(1), 20, 30)]), LIGHT)
    assert {trace["name"]: (trace["y"], trace["x"]) for trace in chart.figure["data"]} == {
        "running": ([1], [10_000]),
        "complete": ([2], [10_000]),
    }


def test_timeline_says_why_it_is_empty():
    assert "reported" in timeline_chart(study([]), LIGHT).empty
