"""Two to four trials side by side, more as a table; two strategies held against the claims of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from dash import dcc, html

from dashboards.analysis.claims import claims, searches_of
from dashboards.analysis.retrained import said_test, tested_cell
from dashboards.charts.chart import Chart
from dashboards.charts.curve_charts import compared_curves
from dashboards.errors import NotFoundError
from dashboards.formatting import metric_name, shown_metric
from dashboards.history import History
from dashboards.pages.asked import asked
from dashboards.pages.compared import cell_differences, distances, results_table, setting_differences
from dashboards.pages.parts import (
    badge,
    chart_card,
    choices,
    facts,
    link,
    message,
    notices,
    table,
    trail,
    trial_address,
)
from dashboards.pages.trial import FACTS, find_trial, player_frame
from dashboards.pages.view import Component, Request, View
from dashboards.records import StudyRecord, Trial
from dashboards.store import Store
from search_core.space.genotype import Genotype

_CURVES = ("supernet_val_accuracy", "child_val_accuracy", "entropy_normal", "temperature")
_SIDE_BY_SIDE = 4  # more are a table
_MOST = 40  # an address has at most fifty options
_MOST_STUDIES = 5
_RUN_ID = 16  # so long is no number of a trial, but the id of a run
_MOST_OPTIONS = 2000


def compare_view(store: Store, request: Request) -> View:
    """The trials named in the address as `trial=STUDY:NUMBER`, or the strategies of `study=NAME`.

    Single searches, which have no number, go by their run: `trial=STUDY:RUN`.
    """
    names = list(dict.fromkeys(request.query.get("trial", [])))[:_MOST]
    studies = {name: store.study(name) for name in _studies(names, request)}
    trials = [
        find_trial(studies[study], "trial" if key.isdigit() and len(key) < _RUN_ID else "run", key)
        for study, key in map(_parsed, names)
    ]
    body: list[Component] = [trail(("Studies", "/"), ("Compare", "")), html.H1("Compare")]
    body += [notice for study in studies.values() for notice in notices(study)]
    body.append(_picker(studies, names, store))
    charts: tuple[Chart, ...] = ()
    if len(trials) > _SIDE_BY_SIDE:
        body.append(results_table(dict(zip(_names(trials), trials, strict=True)), studies))
    elif len(trials) >= 2:
        charts = _add_trials(body, store, trials, studies, request)
    else:
        body.append(message("Choose two or more trials", "Here, or with the boxes in a study's table of trials."))
    body += _strategies(store, studies, request)
    return View(
        name="compare",
        title="Compare",
        body=[html.Div(body, className="page")],
        charts=charts,
        is_live=any(trial.run.state == "running" for trial in trials),
        version="".join(study.version for study in studies.values()),
    )


def _studies(names: Sequence[str], request: Request) -> list[str]:
    return list(dict.fromkeys([*(_parsed(name)[0] for name in names), *request.query.get("study", [])]))


def _parsed(name: str) -> tuple[str, str]:
    study, separator, number = name.rpartition(":")
    if not separator or not study:
        raise NotFoundError(f"`trial` must be STUDY:NUMBER or STUDY:RUN, got {name!r}")
    return study, number


def _picker(studies: Mapping[str, StudyRecord], names: Sequence[str], store: Store) -> Component:
    """Trials of the chosen studies and of those that ran last, so that trials of several studies can be chosen."""
    others = [entry.name for entry in store.overviews()[:_MOST_STUDIES] if entry.name not in studies]
    options = [
        {"value": f"{study.overview.name}:{_key(trial)}", "label": f"{study.overview.name}: {_described(trial)}"}
        for study in (*studies.values(), *map(store.study, others))
        for trial in sorted(study.trials, key=lambda trial: not trial.on_front)
    ]
    return html.Div(
        [
            html.Label("Trials to compare: up to four side by side, more as a table", htmlFor="compare-picker"),
            dcc.Dropdown(id="compare-picker", options=options[:_MOST_OPTIONS], value=list(names), multi=True),
        ],
        className="card wide picker",
    )


def _key(trial: Trial) -> str:
    return trial.run.run_id if trial.number is None else str(trial.number)


def _described(trial: Trial) -> str:
    error = shown_metric("child_val_error", trial.run.metrics.get("child_val_error"))
    madds = shown_metric("child_madds", trial.run.metrics.get("child_madds"))
    return f"{trial.title}, error {error}, {madds} multiply-adds" + (", on the front" if trial.on_front else "")


def _add_trials(
    body: list[Component],
    store: Store,
    trials: Sequence[Trial],
    studies: Mapping[str, StudyRecord],
    request: Request,
) -> tuple[Chart, ...]:
    """Cells, facts, curves, distances and differences of the chosen trials."""
    names = _names(trials)
    histories: dict[str, History] = {}
    genotypes: dict[str, Genotype] = {}
    for name, trial in zip(names, trials, strict=True):
        history = asked(partial(store.history, trial.run), f"The history of {name} cannot be shown", body)
        genotype = asked(partial(store.genotype, trial.run), f"The genotype of {name} cannot be used", body)
        if history is not None:
            histories[name] = history
        if genotype is not None:
            genotypes[name] = genotype
    body.append(html.Div([_column(studies[trial.run.study], name, trial, histories.get(name), request)
                           for name, trial in zip(names, trials, strict=True)],
                         className=f"side-by-side of-{len(trials)}"))  # fmt: skip
    body += cell_differences(dict(zip(names, trials, strict=True)), genotypes, request)
    charts = tuple(compared_curves(histories, metric, request.theme) for metric in _CURVES)
    body.append(html.Div([chart_card(chart, request) for chart in charts], className="cards"))
    body.append(html.Div([distances(genotypes), setting_differences(names, trials)], className="cards"))
    return charts


def _names(trials: Sequence[Trial]) -> list[str]:
    """What trials are called here: with their study if there are several."""
    is_one_study = len({trial.run.study for trial in trials}) == 1
    return [trial.title if is_one_study else f"{trial.run.study} {trial.title}" for trial in trials]


def _column(study: StudyRecord, name: str, trial: Trial, history: History | None, request: Request) -> Component:
    href = trial_address(trial.run.study, trial.number, trial.run.run_id)
    entries = [("state", badge(trial.run.state)), ("strategy", trial.strategy)]
    entries.append(("test error, retrained", said_test(study, tested_cell(study, trial))))
    entries += [(metric_name(key), shown_metric(key, trial.run.metrics.get(key))) for key in FACTS]
    return html.Section(
        [html.H2(link(name, href=href)), player_frame(trial, history, request, compact=True), facts(entries)],
        className="card",
    )


def _strategies(store: Store, studies: Mapping[str, StudyRecord], request: Request) -> list[Component]:
    """The claims of the paper about two strategies, over all trials of the chosen studies."""
    trials = [trial for study in studies.values() for trial in study.trials]
    known = sorted({trial.strategy for trial in trials}, key=lambda name: (name != "snas", name))
    if not known:
        return []
    title = html.H2("Two strategies against the claims of the paper")
    if len(known) < 2:
        text = f"All searches here use the strategy `{known[0]}`; the claims need a second one beside it."
        return [html.Section([title, message("One strategy only", text)], className="card wide")]
    ours = request.option("ours", known)
    others = [name for name in known if name != ours]
    other = request.option("other", others)
    curves: dict[str, History] = {}
    faults: list[Component] = []
    for study in studies.values():
        runs = {t.number: t.run.run_id for t in study.trials if t.strategy in (ours, other) and t.number is not None}
        found = asked(partial(store.curves, study, list(runs)), "Some curves cannot be read", faults) or {}
        curves |= {runs[number]: history for number, history in found.items()}
    rows = [
        [f"({claim.letter}) {claim.text}", html.Strong(claim.verdict), claim.evidence]
        for claim in claims(searches_of(trials, curves), ours, other)
    ]
    return [
        html.Section(
            [
                title,
                choices("ours", "Strategy", {name: name for name in known}, ours, request),
                choices("other", "against", {name: name for name in others}, other, request),
                *faults,
                table(f"Claims about {ours} and {other}", ("claim", "verdict", "evidence"), rows),
            ],
            className="card wide",
        )
    ]
