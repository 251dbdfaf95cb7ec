"""The hypervolume over the trials: what each added to the front, and whether more of them still pay."""

from __future__ import annotations

import numpy as np

from dashboards.analysis.front import volume_shares
from dashboards.charts.chart import Chart
from dashboards.charts.points import escaped
from dashboards.charts.theme import Theme, layout
from dashboards.formatting import counted, metric_name
from dashboards.records import StudyRecord


def volume_chart(study: StudyRecord, theme: Theme) -> Chart:
    """What the front of two objectives dominates after each trial."""
    key, title = "volume", "What the front dominates, trial by trial"
    goals = study.objectives
    if len(goals) != 2:
        return Chart(key=key, title=title, empty="The hypervolume is drawn for two objectives.")
    signs = np.array([1 if goal.mode == "min" else -1 for goal in goals])
    trials = [trial for trial in study.trials if trial.is_result]
    losses = np.array([[trial.run.metrics.get(goal.metric, np.nan) for goal in goals] for trial in trials])
    losses = losses.reshape(-1, 2) * signs
    is_known = np.isfinite(losses).all(axis=1)
    trials = [trials[place] for place in np.flatnonzero(is_known)]
    shares = volume_shares(losses[is_known])
    if not shares:
        return Chart(key=key, title=title, empty="Two complete searches that differ in both objectives are needed.")
    gains = [place for place, before in enumerate([0.0, *shares[:-1]]) if shares[place] > before]
    drawn = [trials[place] for place in (*gains, -1)]
    said = f"{shares[-1]:.3f} after {counted(len(trials), 'search', 'searches')}"
    said += f", the last gain by {trials[gains[-1]].title}" if gains else ""
    trace = {
        "type": "scatter", "mode": "lines+markers", "name": "hypervolume",
        "x": [trial.number for trial in drawn], "y": [shares[place] for place in (*gains, -1)],
        "line": {"color": theme.categories[0], "width": 2, "shape": "hv"}, "marker": {"size": [7] * len(gains) + [0]},
        "customdata": [trial.number for trial in drawn], "text": [escaped(trial.title) for trial in drawn],
        "hovertemplate": "%{text}: %{y:.3f}<extra></extra>",
    }  # fmt: skip
    return Chart(
        key=key,
        title=f"{title}: {said}",
        summary=f"Hypervolume of {' and '.join(metric_name(goal.metric) for goal in goals)} over the trials: {said}.",
        figure={
            "data": [trace],
            "layout": layout(theme, x="trial", y="hypervolume (share)", height=240, yaxis={"range": [0, 1.04]}),
        },
        columns=("trial", "hypervolume"),
        rows=[(trial.number, share) for trial, share in zip(trials, shares, strict=True)],
        note="Share of the box between the best and the worst value of both objectives. A point moved the front.",
    )
