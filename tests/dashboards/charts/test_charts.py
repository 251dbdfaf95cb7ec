"""What all charts have in common: words when empty, plain JSON, no markup from names, signs beside colours."""

import csv
import io
import json
import math
import time
import timeit
from itertools import chain

import numpy as np
import pytest

from dashboards.analysis.retrained import retrained_cells
from dashboards.analysis.study_answer import answer_of
from dashboards.charts import retrain_charts
from dashboards.charts.chart import Chart
from dashboards.charts.curve_charts import compared_curves, retrain_curves, search_curves
from dashboards.charts.heat_charts import alpha_chart, credit_chart
from dashboards.charts.many_curves import many_curves
from dashboards.charts.parallel import parallel_chart
from dashboards.charts.penalty import penalty_chart
from dashboards.charts.slices import slices_chart
from dashboards.charts.study_charts import front_chart, importance_chart
from dashboards.charts.theme import THEMES
from dashboards.charts.volume import volume_chart
from dashboards.history import History
from dashboards.records import Objective
from tests.dashboards.generated import generated_study, published_costs
from tests.dashboards.searches import made_up_search
from tests.dashboards.written import curve, retraining, study, trial

LIGHT = THEMES["light"]
EVIL = "<b>evil</b><a href='https://example.org'>x</a>"
_NOTHING = History(epochs=np.arange(0), metrics={})

_PUBLISHED = published_costs() | {EVIL: {"child_madds": 4e6, "child_params": 6e5}}

#: Every chart as a function of a study, its curves by trial and the history of one search.
CHARTS = {
    "front": lambda of, curves, history, theme: front_chart(
        of, theme, cost="child_madds", colour_by="eta", published=_PUBLISHED
    ),
    "front by schedule": lambda of, curves, history, theme: front_chart(
        of, theme, cost="child_params", colour_by="schedule", published=_PUBLISHED
    ),
    "penalty": lambda of, curves, history, theme: penalty_chart(
        of, theme, cost="child_madds", colour_by="eta", answer=answer_of(of)
    ),
    "penalty by schedule": lambda of, curves, history, theme: penalty_chart(
        of, theme, cost="child_madds", colour_by="schedule", answer=None
    ),
    "importance": lambda of, curves, history, theme: importance_chart(of, theme),
    "parallel": lambda of, curves, history, theme: parallel_chart(of, theme),
    "volume": lambda of, curves, history, theme: volume_chart(of, theme),
    "slices": lambda of, curves, history, theme: slices_chart(of, theme),
    "many": lambda of, curves, history, theme: many_curves(of.trials, curves, "child_val_error", theme),
    "retrain": lambda of, curves, history, theme: retrain_curves({str(k): v for k, v in curves.items()}, theme),
    "compared": lambda of, curves, history, theme: compared_curves(
        {str(k): v for k, v in curves.items()}, "temperature", theme
    ),
    "search": lambda of, curves, history, theme: search_curves(history, theme),
    "alpha": lambda of, curves, history, theme: alpha_chart(history, "normal", "alpha", theme),
    "probability": lambda of, curves, history, theme: alpha_chart(history, "reduce", "probability", theme),
    "credit": lambda of, curves, history, theme: credit_chart(history, "normal", theme),
    "test error": lambda of, curves, history, theme: retrain_charts.test_error_chart(
        retrained_cells(of.retrainings), theme, is_cifar10=True
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def filled():
    generated = generated_study(trials=24, epochs=8)
    curves = {search.number: search.curves() for search in generated.searches if search.epochs}
    curves = {number: of for number, of in curves.items() if number < 9}
    curves[0].metrics["val_accuracy"] = curves[0].metrics["child_val_accuracy"]
    return generated.record(), curves, made_up_search(8)


def _strings(tree):
    if isinstance(tree, dict):
        return chain.from_iterable(map(_strings, tree.values()))
    if isinstance(tree, (list, tuple)):
        return chain.from_iterable(map(_strings, tree))
    return [tree] if isinstance(tree, str) else []


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", CHARTS)
def test_chart_is_plain_json_and_says_what_it_shows(name, theme, filled):
    chart = CHARTS[name](*filled, THEMES[theme])
    json.dumps(chart.figure, allow_nan=False)
    assert chart.figure["data"]
    assert chart.title
    assert chart.summary.endswith(".")
    assert "nan" not in chart.title + chart.summary
    assert not chart.empty
    assert chart.figure["layout"]["font"]["color"] == THEMES[theme].ink
    assert not set(_strings(chart.figure)) & _colours_of({"light": "dark", "dark": "light"}[theme], theme)


def _colours_of(name, but):
    return {c for _, c in THEMES[name].sequential} - {c for _, c in THEMES[but].sequential} | {THEMES[name].ink}


def test_slices_have_a_panel_for_each_setting_and_one_palette_of_eta():
    rows = [(1e-4, "linear", 0.3), (1e-1, "cosine", 0.5), (0.0, "cosine", 0.2)]
    trials = [
        trial(
            number,
            values={"penalty.strength": eta, "temperature.kind": kind},
            params={"penalty.strength": repr(eta)},
            metrics={"child_val_error": error},
        )
        for number, (eta, kind, error) in enumerate(rows)
    ]
    chart = slices_chart(study(trials, swept=["penalty.strength", "temperature.kind"]), LIGHT)
    panels = [(t["xaxis"], t["name"], list(zip(t["x"], t["y"], strict=True))) for t in chart.figure["data"]]
    assert panels == [
        ("x", "by η", [(1e-4, 30.0), (1e-1, 50.0)]),
        ("x", "no penalty", [(0.0, 20.0)]),
        ("x2", "by η", [("linear", 30.0), ("cosine", 50.0)]),
        ("x2", "no penalty", [("cosine", 20.0)]),
    ]
    one, _, two, _ = (t["marker"] for t in chart.figure["data"])
    assert (one["showscale"], two["showscale"]) == (True, False)
    assert one["color"] == two["color"] == [-4.0, -1.0]
    assert (one["cmin"], one["cmax"]) == (two["cmin"], two["cmax"]) == (-4.0, -1.0)
    assert chart.figure["layout"]["xaxis2"]["type"] == "category"


@pytest.mark.parametrize("name", CHARTS)
def test_chart_has_a_table_of_what_it_shows(name, filled):
    chart = CHARTS[name](*filled, LIGHT)
    assert chart.rows
    assert {len(row) for row in chart.rows} == {len(chart.columns)}
    read = list(csv.reader(io.StringIO(chart.csv())))
    assert read[0] == list(chart.columns)
    assert len(read) == len(chart.rows) + 1


@pytest.mark.parametrize("name", CHARTS)
def test_chart_without_anything_says_so_in_words(name):
    chart = CHARTS[name](study(), {}, _NOTHING, LIGHT)
    assert chart.figure == {}
    assert chart.empty.endswith(".")
    assert chart.title


@pytest.mark.parametrize("name", CHARTS)
@pytest.mark.parametrize("eta", [0.0, 1e-3])
def test_chart_of_one_trial(name, eta):
    one = generated_study(trials=1, epochs=1, retrained=1, seeds=1)
    record = one.record()
    params = {**record.trials[0].run.params, "penalty.strength": repr(eta)}
    alone = trial(0, values={"penalty.strength": eta}, params=params, metrics=record.trials[0].run.metrics)
    of = study([alone], swept=["penalty.strength"], retrainings=record.retrainings)
    curves = {0: curve(temperature=[1.0], child_val_error=[0.5], val_accuracy=[0.5])}
    chart = CHARTS[name](of, curves, made_up_search(1), LIGHT)
    json.dumps(chart.figure, allow_nan=False)
    assert bool(chart.figure) == (name not in ("importance", "volume"))
    assert "nan" not in chart.title + chart.summary


@pytest.mark.parametrize("name", CHARTS)
def test_chart_leaves_gaps_where_there_is_no_number(name):
    """One number of three is missing everywhere, in another place for every metric."""
    metrics = ["child_val_error", "child_madds", "child_params", "edges_normal", "discretization_gap"]
    values = np.arange(1.0, 16.0).reshape(3, 5)
    values[[0, 1, 2, 0, 1], range(5)] = math.nan
    values[2, 1] = math.inf
    trials = [trial(n, eta=[0.0, math.nan, 0.1][n], values={"x": [1.0, math.inf, 3.0][n]},
                    metrics=dict(zip(metrics, row, strict=True))) for n, row in enumerate(values.tolist())]  # fmt: skip
    holes = [math.nan, 1.0, math.inf]
    curves = {n: curve(temperature=holes, child_val_error=[math.nan] * 3, val_accuracy=holes) for n in range(3)}
    history = made_up_search(3)
    for array in chain(*(vars(cell).values() for cell in history.cells.values()), history.metrics.values()):
        array[1:] = math.nan
    retrainings = [
        retraining(0, 0, test_accuracy=math.nan, params=1e6),
        retraining(0, 1, test_accuracy=0.9, params=1e6),
    ]
    chart = CHARTS[name](study(trials, swept=["x"], retrainings=retrainings), curves, history, LIGHT)
    json.dumps(chart.figure, allow_nan=False)
    assert "nan" not in chart.title


@pytest.mark.parametrize("name", CHARTS)
def test_chart_lets_no_name_be_markup(name):
    """Plotly reads links and bold letters in what it draws; titles and summaries are text of the page."""
    metrics = {"child_val_error": 0.1, "child_madds": 2e6, "child_params": 3e5, EVIL: 1.0}
    trials = [
        trial(None if n % 2 else n, eta=0.005 * n, schedule=f"{EVIL}{n % 2}", label=f"{EVIL}{n}",
              values={EVIL: f"{EVIL}{n % 3}"}, metrics={key: value * (1 + n) / 14 for key, value in metrics.items()})
        for n in range(14)
    ]  # fmt: skip
    objectives = (Objective(metric="child_val_error", mode="min"), Objective(metric=EVIL, mode="max"))
    of = study(trials, objectives=objectives, swept=[EVIL],
               retrainings=[retraining(0, 0, test_accuracy=0.9, params=1e6)])  # fmt: skip
    history = made_up_search(2)
    history = History(epochs=history.epochs, metrics=history.metrics, cells=history.cells, primitives=[EVIL] * 8)
    curves = {n: curve(child_val_error=[0.1], temperature=[1.0], val_accuracy=[0.1]) for n in (0, 2, 4, EVIL)}
    chart = CHARTS[name](of, curves, history, LIGHT)
    assert chart.figure["data"]
    for text in _strings(chart.figure):
        assert "<a" not in text
        assert "<b>evil" not in text


_BY_COLOUR = ("parallel", "many")  # it says again what place and hover text say


@pytest.mark.parametrize("name", [name for name in CHARTS if name not in _BY_COLOUR])
def test_chart_does_not_distinguish_series_by_colour_alone(name, filled):
    """Markers, lines or bars of one panel differ in symbol, dash or pattern, or are on a scale."""
    signs = {}
    for trace in CHARTS[name](*filled, LIGHT).figure["data"]:
        if trace["type"] == "heatmap" or trace.get("hoverinfo") == "skip":
            continue
        marker, line = trace.get("marker", {}), trace.get("line", {})
        sign = (trace.get("xaxis"), trace.get("mode", "bar"), marker.get("symbol"), line.get("dash"),
                marker.get("pattern", {}).get("shape"))  # fmt: skip
        assert sign not in signs, trace["name"]
        signs[sign] = trace["name"]


def test_twenty_one_series_have_twenty_one_signs():
    histories = {str(n): curve(val_accuracy=[0.1, 0.2]) for n in range(21)}
    traces = retrain_curves(histories, LIGHT).figure["data"]
    signs = [(t["line"]["color"], t["line"]["dash"], t["marker"]["symbol"]) for t in traces]
    for shown in ((0, 1), (0, 2), (1, 2)):  # any two of the three are enough
        assert len({tuple(sign[place] for place in shown) for sign in signs}) == 21


def _many(count):
    draw = np.random.default_rng(0)
    trials = []
    for n in range(count):
        metrics = {"child_val_error": draw.random(), "child_madds": 1e6 * draw.random(), "edges_normal": 7.0,
                   "child_params": 1e5 * draw.random(), "edges_reduce": 3.0, "discretization_gap": 0.1}  # fmt: skip
        eta = float(10 ** draw.uniform(-5, -1))
        trials.append(trial(n, eta=eta, values={"penalty.strength": eta, "end": draw.random()}, metrics=metrics))
    return study(trials, swept=["penalty.strength", "end"])


def _seconds(draw, of):
    curves = {n: curve(child_val_error=[0.5] * 20) for n in range(len(of.trials))}
    timer = timeit.Timer(lambda: draw(of, curves, _NOTHING, LIGHT), timer=time.process_time)  # not what others take
    return min(timer.repeat(repeat=5, number=2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["front", "front by schedule", "penalty", "parallel", "many"])
def test_time_of_a_thousand_trials_grows_with_their_number_and_traces_do_not(name):
    few, many = _many(100), _many(1000)
    assert _seconds(CHARTS[name], many) < 40 * _seconds(CHARTS[name], few)  # 10 if linear, 100 if quadratic
    curves = {n: curve(child_val_error=[0.5]) for n in range(1000)}
    counts = [len(CHARTS[name](of, curves, _NOTHING, LIGHT).figure["data"]) for of in (few, many)]
    assert max(counts) <= 13


def test_csv_quotes_what_a_spreadsheet_would_run_and_leaves_numbers():
    rows = [("=1+1", -1.5, None), ("+x", 0, "-y"), ("@z", True, "\ta"), ("\rb", 1, "\nc"), ("a=b", 2, 'say "x", y')]
    chart = Chart(key="k", title="t", columns=("=head", "number", "text"), rows=rows)
    read = list(csv.reader(io.StringIO(chart.csv(), newline="")))
    assert read[0] == ["'=head", "number", "text"]
    assert read[1:4] == [["'=1+1", "-1.5", ""], ["'+x", "0", "'-y"], ["'@z", "True", "'\ta"]]
    assert read[4:] == [["'\rb", "1", "'\nc"], ["a=b", "2", 'say "x", y']]
