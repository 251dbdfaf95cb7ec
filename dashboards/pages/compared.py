"""What chosen trials differ in: their cells in one drawing, their distances, their settings, their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dash import html

from dashboards.analysis.importance import differing_params, edit_distance
from dashboards.analysis.retrained import said_test, tested_cell
from dashboards.formatting import MISSING, counted, metric_name, shown_metric, shown_number
from dashboards.pages.parts import badge, link, table, trial_address
from dashboards.pages.trials_table import edges_left
from dashboards.pages.view import Component, Request, address
from dashboards.records import StudyRecord, Trial
from search_core.space.genotype import Genotype

_RESULTS = ("child_val_error", "child_madds", "child_params")


def cell_differences(
    trials: Mapping[str, Trial], genotypes: Mapping[str, Genotype], request: Request
) -> list[Component]:
    """The first cell in one drawing with each of the others of its kind; nothing if there is no other."""
    if not genotypes:
        return []
    first, *others = genotypes
    is_chain = bool(genotypes[first].layers)
    figures = [
        _drawn_difference(first, other, trials, edit_distance(genotypes[first], genotypes[other]), request)
        for other in others
        if bool(genotypes[other].layers) is is_chain
    ]
    if not figures:
        return []
    title = html.H2("How the cells differ")
    return [html.Section([title, html.Div(figures, className="differences")], className="card wide")]


def _drawn_difference(
    first: str, other: str, trials: Mapping[str, Trial], distance: int, request: Request
) -> Component:
    mine, theirs = trials[first].run, trials[other].run
    options = {"other_study": theirs.study, "other": theirs.run_id, "theme": request.theme.name}
    colours = request.theme.categories
    legend = [
        _key(f"only in {first}", colours[0], "solid"),
        _key(f"only in {other}", colours[1], "dashed"),
        _key("in both", request.theme.muted, "solid"),
        html.Span(f"{counted(distance, 'edge')} to add, drop or change", className="muted"),
    ]
    return html.Figure(
        [
            html.Figcaption(legend, className="keys"),
            html.Img(
                src=address("difference", mine.study, mine.run_id, **options),
                alt=f"Cells of {first} and {other} in one drawing: what only one of them has is in colour",
                className="cells",
            ),
        ]
    )


def _key(text: str, colour: str, line: str) -> Component:
    sign = html.Span(className="key", style={"borderTop": f"3px {line} {colour}"}, **{"aria-hidden": "true"})
    return html.Span([sign, text])


def distances(genotypes: Mapping[str, Genotype]) -> Component:
    """How many edges must change to make one cell the other."""
    title = "Edit distance between the genotypes"
    if len(genotypes) < 2:
        return html.Section([html.H2(title), html.P("Fewer than two genotypes are written yet.")], className="card")
    rows = [
        [name, *(str(edit_distance(mine, other)) for other in genotypes.values())] for name, mine in genotypes.items()
    ]
    note = "Edges to add, drop or give another operation, over both cells."
    return html.Section(
        [html.H2(title), table(title, ("", *genotypes), rows), html.P(note, className="note")], className="card"
    )


def setting_differences(names: Sequence[str], trials: Sequence[Trial]) -> Component:
    """A row for each setting in which the trials differ, a column for each trial."""
    differing = differing_params([trial.run.params for trial in trials])
    rows = [[key, *map(_setting, values)] for key, values in differing.items()]
    content: Component = html.P("All settings are the same.")
    if rows:
        content = table("Settings that differ", ("setting", *names), rows)
    return html.Section([html.H2("Differences in configuration"), content], className="card")


def results_table(trials: Mapping[str, Trial], studies: Mapping[str, StudyRecord]) -> Component:
    """A row for each trial: results, then the settings in which they differ."""
    differing = differing_params([trial.run.params for trial in trials.values()])
    columns = ("trial", "state", "test error", *map(metric_name, _RESULTS), "edges left", *differing)
    rows = []
    for place, (name, trial) in enumerate(trials.items()):
        study, metrics = studies[trial.run.study], trial.run.metrics
        settings = [values[place] for values in differing.values()]
        rows.append(
            [
                link(name, href=trial_address(trial.run.study, trial.number, trial.run.run_id)),
                badge(trial.run.state),
                said_test(study, tested_cell(study, trial)),
                *(shown_metric(metric, metrics.get(metric)) for metric in _RESULTS),
                shown_number(edges_left(trial)),
                *map(_setting, settings),
            ]
        )
    note = "Up to four trials are shown side by side, with their players, curves and cells."
    title = f"{counted(len(trials), 'trial')}, with the settings in which they differ"
    return html.Section(
        [html.H2(title), table("Trials compared", columns, rows), html.P(note, className="note")], className="card wide"
    )


def _setting(text: str | None) -> Component:
    """A setting, of a fraction three figures; pointing at it says all of them."""
    if text is None:
        return MISSING
    try:
        return html.Code(shown_number(float(text)), title=text)
    except ValueError:
        return html.Code(text)
