"""All studies, the ones that ran last first."""

from __future__ import annotations

import time
from collections.abc import Sequence

from dash import html

from dashboards.formatting import MISSING, duration, metric_name, moment, shown_metric
from dashboards.pages.parts import badge, link, message, table
from dashboards.pages.view import Component, Request, View, address
from dashboards.records import StudyOverview
from dashboards.store import Store

_COLUMNS = ("study", "state", "searches over", "best so far", "reserved", "time left for searches", "last report")


def studies_view(store: Store, request: Request) -> View:
    """One row per study: state, progress, best, hours, time left."""
    overviews = store.overviews()
    body: list[Component] = [html.H1("Studies"), html.P(f"in {store.location}", className="subtitle")]
    if overviews:
        body.append(table("Studies, the ones that ran last first", _COLUMNS, [_row(entry) for entry in overviews]))
    else:
        body.append(
            message(
                "No study yet",
                "Run one with `snas study run studies/quickstart.yaml`, or name another store with --tracking-uri. "
                "This page looks again every few seconds.",
            )
        )
    is_live = not overviews or any(entry.state == "running" for entry in overviews)
    return View(
        name="studies",
        title="Studies",
        body=[html.Div(body, className="page")],
        is_live=is_live,
        version=_version(overviews),
    )


def _row(entry: StudyOverview) -> list[Component]:
    over = sum(entry.ended.values())
    early = ", ".join(f"{count} {end}" for end, count in entry.ended.items() if count and end != "complete")
    progress = [
        html.Progress(
            value=str(over), max=str(max(1, entry.num_trials)), **{"aria-label": f"searches of {entry.name}"}
        ),
        html.Span(f"{over} of {entry.num_trials}" + (f" ({early})" if early else "")),
    ]
    if entry.retrained[1]:
        progress.append(html.Span(f"retrained {entry.retrained[0]} of {entry.retrained[1]}", className="muted"))
    best = [
        html.Span([html.Span(f"{metric_name(name)} ", className="muted"), shown_metric(name, value)], className="line")
        for name, value in entry.best.items()
    ]
    hours = MISSING if entry.hours is None else f"{entry.hours:.3g} {entry.hours_unit}"
    return [
        link(entry.name, href=address("study", entry.name)),
        badge(entry.state),
        html.Div(progress, className="progress"),
        best or MISSING,
        hours,
        duration(entry.time_left_s) if entry.state == "running" and over < entry.num_trials else MISSING,
        moment(entry.last_report_s or (entry.run.start_s if entry.run else None)),
    ]


def _version(overviews: Sequence[StudyOverview]) -> str:
    now = int(time.time() / 60) if any(entry.state == "running" for entry in overviews) else 0
    shown = [(e.name, e.state, tuple(e.ended.items()), e.retrained, e.hours, e.last_report_s) for e in overviews]
    return str(hash((now, *shown)))
