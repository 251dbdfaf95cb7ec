"""The answer of a study at the top of its page: which cell to keep, with which eta, and how sure that is."""

from __future__ import annotations

from dash import html

from dashboards.analysis.answer import Answer, Pick
from dashboards.analysis.answer_text import (
    answer_words,
    cost_words,
    error_name,
    noise_words,
    role_words,
    sureness_words,
)
from dashboards.analysis.retrained import tests_by_trial
from dashboards.formatting import interval_text, shown_metric, shown_number
from dashboards.pages.parts import facts, keep_lines, link, trial_address
from dashboards.pages.view import Component, Request, address
from dashboards.records import StudyRecord, Trial


def answer_card(study: StudyRecord, answer: Answer, request: Request) -> Component:
    """The answer in words, and a panel for each cell that is worth keeping."""
    first, _, rest = answer_words(answer).partition(". ")
    by_number = {trial.number: trial for trial in study.trials}
    panels = [_panel(study, answer, pick, by_number[pick.trial], request) for pick in answer.picks]
    return html.Section(
        [
            html.H2(f"{first.removesuffix('.')}."),
            html.P(rest, className="note"),
            html.Div(panels, className=f"picks of-{len(panels)}"),
        ],
        className="card wide answer",
        **{"aria-label": "Answer"},
    )


def _panel(study: StudyRecord, answer: Answer, pick: Pick, trial: Trial, request: Request) -> Component:
    """One cell: what it is, its numbers, its picture and the commands that take it further."""
    name = study.overview.name
    title = role_words(pick) or "to keep"
    before = f"child before retraining {shown_metric('child_val_error', pick.child_error.value)}"
    said = (
        sureness_words(answer, pick.error),
        before if answer.is_tested else "",
        noise_words(answer, pick),
    )
    return html.Article(
        [
            html.H3([title[0].upper() + title[1:], ": ", link(trial.title, trial_address(name, trial.number, ""))]),
            facts(_numbers(answer, pick)),
            html.P("; ".join(filter(None, said)), className="note"),
            html.Details([html.Summary("Keep it"), *_keep(study, trial, request)]),
            cell_picture(trial, request),
        ],
        className="pick keep" if pick is answer.keep else "pick",
    )


def _numbers(answer: Answer, pick: Pick) -> list[tuple[str, Component]]:
    interval = interval_text(pick.error.interval)
    error = [html.Strong(shown_metric("child_val_error", pick.error.value)), html.Span(interval, className="muted")]
    return [
        (error_name(answer), error),
        ("cost", cost_words(answer, pick)),
        ("penalty strength η", shown_number(pick.eta)),
        ("schedule", pick.schedule),
    ]


def cell_picture(trial: Trial, request: Request) -> Component:
    """The cells of a search that is over, drawn small; the picture says in words what it shows."""
    source = address("cells", trial.run.study, trial.run.run_id, theme=request.theme.name)
    return html.Img(src=source, alt=f"Cells of {trial.title}", className="cells")


def _keep(study: StudyRecord, trial: Trial, request: Request) -> list[Component]:
    assert trial.number is not None, "single searches have no answer"
    cell = tests_by_trial(study.retrainings).get(trial.number)
    return keep_lines(trial.run, request, in_study=True, retrained=None if cell is None else cell.best.run)
