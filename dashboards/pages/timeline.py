"""When each search and retraining of a study ran."""

from __future__ import annotations

from dash import html

from dashboards.charts.timeline import timeline_chart
from dashboards.pages.parts import chart_card
from dashboards.pages.study import head
from dashboards.pages.view import Request, View
from dashboards.store import Store


def timeline_view(store: Store, request: Request) -> View:
    """The study named in the path over time; all of it is in the runs that every page reads."""
    study = store.study(request.path[1])
    chart = timeline_chart(study, request.theme)
    cards = html.Div([chart_card(chart, request, wide=True)], className="cards")
    return View(
        name="timeline",
        title=f"Timeline of {study.overview.name}",
        body=[html.Div([*head(study, "Timeline", store.location), cards], className="page")],
        charts=(chart,),
        is_live=study.overview.state == "running",
        version=study.version,
    )
