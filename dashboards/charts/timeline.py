"""A study over time: when each search and retraining ran, how it ended and what it reserved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from dashboards.charts.chart import Chart
from dashboards.charts.points import escaped
from dashboards.charts.theme import Theme, layout
from dashboards.formatting import HOURS, counted, duration, hours_text, moment
from dashboards.records import RunRecord, State, StudyRecord

#: Colour (place in the theme's categories) and pattern of each state, so that bars can be told apart without colour.
_LOOKS: dict[State, tuple[int, str]] = {
    "complete": (2, ""),
    "running": (0, "-"),
    "stopped": (6, "/"),
    "collapsed": (4, "."),
    "failed": (1, "x"),
    "cancelled": (3, "\\"),
    "interrupted": (5, "+"),
}
_WIDTHS = {"search": 0.84, "retrain": 0.4}  # of a lane
_LANE_PX, _MOST_PX = 24, 420
_LEAST_SHARE = 0.008  # of the whole time


class _Bar(NamedTuple):
    """A run, how it is called, its trial, when it began and ended (unix seconds), and its lane from 1."""

    run: RunRecord
    title: str
    trial: int | None
    start_s: float
    end_s: float
    lane: int

    @property
    def hours(self) -> str:
        """What it reserved, in words; empty if it is not known."""
        metric = next((name for name in HOURS if name in self.run.metrics), None)
        return "" if metric is None else f"{hours_text(metric, self.run.metrics[metric])} reserved"


def timeline_chart(study: StudyRecord, theme: Theme) -> Chart:
    """A bar for each search and retraining over the time of day; runs at the same time lie in different lanes."""
    bars, key = _bars(study), "timeline"
    if not bars:
        return Chart(key=key, title="Timeline", empty="No search has reported an epoch yet.")
    lanes = max(bar.lane for bar in bars)
    begin, end = min(bar.start_s for bar in bars), max(bar.end_s for bar in bars)
    num_searches = sum(bar.run.kind == "search" for bar in bars)
    what = counted(num_searches, "search", "searches")
    if num_searches < len(bars):
        what += f" and {counted(len(bars) - num_searches, 'retraining')}"
    title = f"Timeline: {what} in {duration(end - begin)}"
    figure_layout = layout(
        theme, x="time (UTC)", y="lane", height=min(_MOST_PX, 130 + _LANE_PX * lanes), showlegend=True,
        barmode="overlay", hovermode="closest", margin={"l": 52, "r": 16, "t": 44, "b": 52},
        xaxis={"type": "date", "nticks": 6, "tickangle": 0, "range": [_date(begin), _date(end + 0.01 * (end - begin))]},
        yaxis={"range": [lanes + 0.6, 0.4], "dtick": max(1, lanes // 8), "tick0": 1, "showgrid": False},
    )  # fmt: skip
    return Chart(
        key=key,
        title=title,
        summary=f"{title}, from {moment(begin)} to {moment(end)}, {lanes} at most at the same time.",
        figure={"data": _traces(bars, theme, _LEAST_SHARE * (end - begin)), "layout": figure_layout},
        columns=("run", "trial", "state", "start (UTC)", "seconds", *HOURS),
        rows=[
            (bar.run.label, bar.trial, bar.run.state, _date(bar.start_s), round(bar.end_s - bar.start_s, 3),
             *(bar.run.metrics.get(name) for name in HOURS))
            for bar in bars
        ],
        note="Thick: searches, thin: retrainings, each from its begin to its last report. What ran at the same time "
        "lies in different lanes; a lane is no machine.",
    )  # fmt: skip


def _bars(study: StudyRecord) -> list[_Bar]:
    """All runs by start, each in the first lane that is free."""
    runs = [(trial.run, trial.title, trial.number) for trial in study.trials]
    runs += [(one.run, one.run.label.replace("retrain-", "retraining ", 1), one.trial) for one in study.retrainings]
    free_s: list[float] = []  # when each lane is free again
    bars = []
    for run, title, number in sorted(runs, key=lambda entry: entry[0].start_s):
        end = max(run.start_s, _end(run))
        lane = next((lane for lane, free in enumerate(free_s) if free <= run.start_s), len(free_s))
        free_s[lane : lane + 1] = [math.inf if run.state == "running" else end]
        bars.append(_Bar(run, title, number, run.start_s, end, lane + 1))
    return bars


def _end(run: RunRecord) -> float:
    """When a run reported last; MLflow may have been told of its end much later."""
    return min((known for known in (run.last_report_s, run.end_s) if known is not None), default=run.start_s)


def _traces(bars: Sequence[_Bar], theme: Theme, short_s: float) -> list[dict[str, Any]]:
    """One trace for each state, whatever the number of runs; short bars have a rim of their own colour, to be seen."""
    traces = []
    for state, (colour, pattern) in _LOOKS.items():
        members = [bar for bar in bars if bar.run.state == state]
        if not members:
            continue
        own = theme.categories[colour]
        rims = [own if bar.end_s - bar.start_s < short_s else theme.surface for bar in members]
        marker = {
            "color": own, "line": {"width": 0.6, "color": rims},
            "pattern": {"shape": pattern, "fgcolor": theme.surface, "fillmode": "overlay", "size": 6},
        }  # fmt: skip
        traces.append(
            {
                "type": "bar", "orientation": "h", "name": state, "marker": marker,
                "base": [_date(bar.start_s) for bar in members],
                "x": [round(1000 * (bar.end_s - bar.start_s)) for bar in members],
                "y": [bar.lane for bar in members], "width": [_WIDTHS[bar.run.kind] for bar in members],
                "hovertext": [_hover(bar) for bar in members], "hovertemplate": "%{hovertext}<extra></extra>",
            }
        )  # fmt: skip
    return traces


def _hover(bar: _Bar) -> str:
    lines = [
        f"<b>{escaped(bar.title)}</b> ({bar.run.state})",
        f"{moment(bar.start_s)}, {duration(bar.end_s - bar.start_s)}",
    ]
    return "<br>".join([*lines, *([bar.hours] if bar.hours else [])])


def _date(unix_s: float) -> str:
    """A point in time as Plotly reads dates."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
