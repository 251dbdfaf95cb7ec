"""Pieces that all pages are made of."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from dash import dcc, html

from dashboards.charts.chart import Chart
from dashboards.pages.view import Component, Request, address
from dashboards.records import RunRecord, State, StudyRecord

#: Sign before a state's name, so that states differ without colour.
_SIGNS: dict[State, str] = {
    "running": "▶",
    "interrupted": "⏸",
    "complete": "✓",
    "stopped": "■",
    "collapsed": "▼",
    "cancelled": "⊘",
    "failed": "✕",
}


def link(content: Any, href: str, style: str = "", *, is_current: bool = False) -> Component:
    """A link to another view of this app, followed without loading the page again; `style` is a class of the sheet."""
    current = {"aria-current": "page"} if is_current else {}
    return html.A(content, href=href, className=style, **{"data-inside": "true", **current})


def badge(state: State) -> Component:
    """A state with its sign and colour."""
    return html.Span([html.Span(_SIGNS[state], **{"aria-hidden": "true"}), f" {state}"], className=f"badge {state}")


def slot(content: Sequence[Component]) -> Component:
    """A place that is there though it may be empty: what stands around it is not built again when it fills."""
    return html.Div(list(content), className="slot")


def facts(entries: Sequence[tuple[str, Any]]) -> Component:
    """Names and values in a row of small blocks."""
    return html.Dl([html.Div([html.Dt(name), html.Dd(value)]) for name, value in entries], className="facts")


def message(title: str, text: str, *, kind: str = "empty") -> Component:
    """What there is to say instead of a picture; `kind` is empty, notice or error."""
    role = {"role": "alert"} if kind == "error" else {"role": "status"}
    return html.Div([html.Strong(title), html.P(prose(text))], className=f"message {kind}", **role)


def prose(text: str) -> list[Component]:
    """Text in which what stands between backticks is code."""
    return [html.Code(part) if place % 2 else part for place, part in enumerate(text.split("`"))]


def chart_card(
    chart: Chart,
    request: Request,
    *,
    wide: bool = False,
    controls: Sequence[Component] = (),
    drag: Literal["lasso", "select"] | None = None,
    below: Sequence[Component] = (),
) -> Component:
    """A chart with its title, controls, downloads, and how to read it.

    Args:
        chart: what is shown.
        request: says where the downloads are.
        wide: whether it takes the width of the page.
        controls: beside its title.
        drag: how dragging chooses trials; None: it does not.
        below: what stands below it.
    """
    identity = f"chart-{chart.key}"
    figure, note = chart.figure, chart.note
    if drag is not None and figure:
        outline = {"line": {"color": request.theme.ink, "dash": "dot", "width": 1.4}}
        figure = {**figure, "layout": {**figure["layout"], "dragmode": drag, "newselection": outline}}
        note = f"Drag to choose trials, double-click to show all. {note}"
    body: Component
    if chart.figure:
        body = html.Div(
            dcc.Graph(
                id=identity, figure=figure, responsive=True, config={"displayModeBar": False},
                style={"height": f"{chart.figure['layout'].get('height', 360)}px"},
            ),
            role="img", className="graph", **{"aria-label": chart.summary or chart.title},
        )  # fmt: skip
    else:
        body = html.P(chart.empty, className="empty-chart")
    csv = "/csv" + request.with_option("chart", chart.key)
    downloads = [
        html.A("CSV", href=csv, download=f"{chart.key}.csv", **{"aria-label": f"{chart.title}: CSV"}),
        *(_picture_button(identity, kind, chart) for kind in ("svg", "png")),
    ]
    return html.Figure(
        [
            html.Figcaption([html.H2(chart.title), *controls]),
            body,
            html.Div(
                [html.P(note, className="note"), html.Div(downloads if chart.figure else [], className="tools")],
                className="below",
            ),
            *below,
        ],
        id=f"card-{chart.key}",
        className="card wide" if wide else "card",
    )


def choices(name: str, label: str, options: Mapping[str, str], chosen: str, request: Request) -> Component:
    """A row of links of which one is chosen; the choice is in the address."""
    links = [
        link(text, request.with_option(name, value), "choice", is_current=value == chosen)
        for value, text in options.items()
    ]  # fmt: skip
    return html.Nav([html.Span(label, className="label"), *links], className="choices", **{"aria-label": label})


def copied_command(label: str, command: str) -> Component:
    """A command with a button that copies it."""
    return html.Div(
        [
            html.Span(label, className="label"),
            html.Code(command, tabIndex="0"),
            html.Button("Copy", type="button", **{"data-copy": command, "aria-label": f"Copy the command: {label}"}),
        ],
        className="command",
    )


def keep_commands(run: RunRecord, request: Request, *, in_study: bool, retrained: RunRecord | None = None) -> Component:
    """The commands that take a found cell further, as a section; arguments as of `keep_lines`."""
    lines = keep_lines(run, request, in_study=in_study, retrained=retrained)
    return html.Section([html.H2("Keep this cell"), *lines], className="card wide keep")


def keep_lines(run: RunRecord, request: Request, *, in_study: bool, retrained: RunRecord | None) -> list[Component]:
    """The commands that take a found cell further; each is one line for a shell.

    Args:
        run: a search, or a retraining of a cell that no search found.
        request: says where the store is.
        in_study: whether it is a trial of a study, whose recipe retraining takes; else the user names one.
        retrained: a complete retraining of the cell, which can be exported; None if there is none.
    """
    recipe = "" if in_study else " --config RECIPE.yaml"
    sizes = {"--init-channels": "network.init_channels", "--cells": "network.cells"}
    size = "".join(f" {option} {shlex.quote(run.params[key])}" for option, key in sizes.items() if key in run.params)
    store, run_id = f"MLFLOW_TRACKING_URI={shlex.quote(request.location)} ", shlex.quote(run.run_id)
    commands = {
        "retrain": f"snas retrain --run {run_id}{recipe}",
        "profile": f"snas profile --run {run_id}{size}",
        "genotype": f"mlflow artifacts download --run-id {run_id} --artifact-path genotype.json -d .",
    }
    if retrained is not None:
        folder = shlex.quote(retrained.label)
        commands = {"export": f"snas export --run {shlex.quote(retrained.run_id)} --to {folder}", **commands}
    return [copied_command(name, store + command) for name, command in commands.items()]


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Component]]) -> Component:
    """A small plain table; larger ones are grids."""
    head = html.Thead(html.Tr([html.Th(column, scope="col") for column in columns]))
    body = html.Tbody([html.Tr([html.Th(row[0], scope="row"), *map(html.Td, row[1:])]) for row in rows])
    return html.Div(
        html.Table([html.Caption(caption), head, body]), className="table-frame", tabIndex="0", role="region",
        **{"aria-label": caption},
    )  # fmt: skip


def trail(*steps: tuple[str, str]) -> Component:
    """Where this page is: links to what is above it, then its own name."""
    *above, here = steps
    links = [html.Li(link(name, href=href)) for name, href in above]
    return html.Nav(
        html.Ol([*links, html.Li(here[0], **{"aria-current": "page"})]),
        className="trail",
        **{"aria-label": "Breadcrumb"},
    )


def study_tabs(study: StudyRecord, chosen: str) -> Component:
    """The views of one study."""
    name = study.overview.name
    tabs = {
        "Study": address("study", name),
        "Curves": address("study", name, "curves"),
        "Retrain": address("study", name, "retrain"),
        "Timeline": address("study", name, "timeline"),
        "Compare": address("compare", study=name),
    }
    return html.Nav(
        [link(title, href, is_current=title == chosen) for title, href in tabs.items()],
        className="tabs",
        **{"aria-label": "Views of this study"},
    )


def notices(study: StudyRecord) -> list[Component]:
    """What the reader must know before the rest."""
    return [message("Note", study.notice, kind="notice")] if study.notice else []


def trial_address(study: str, number: int | None, run_id: str) -> str:
    """Where a trial is shown; single searches have no number and go by their run."""
    return address("study", study, "run", run_id) if number is None else address("study", study, "trial", str(number))


def _picture_button(identity: str, kind: str, chart: Chart) -> Component:
    return html.Button(
        kind.upper(), type="button",
        **{"data-picture": kind, "data-graph": identity, "data-title": chart.title, "data-name": chart.key,
           "aria-label": f"{chart.title}: {kind.upper()} picture"},
    )  # fmt: skip
