"""Numbers and titles of charts over epochs and of retrainings, with histories written by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from dashboards.analysis.retrained import retrained_cells, said_error
from dashboards.charts import retrain_charts
from dashboards.charts.curve_charts import compared_curves, retrain_curves, search_curves
from dashboards.charts.heat_charts import alpha_chart, credit_chart, edge_names
from dashboards.charts.many_curves import CurveLook, many_curves, smoothed
from dashboards.charts.theme import DASHES, THEMES
from dashboards.history import CellHistory, History
from dashboards.pages.retrain import retrain_view
from dashboards.pages.view import Request
from dashboards.pictures.cell_layout import cell_edges
from tests.dashboards.memory_store import MemoryStore
from tests.dashboards.tree import plain, words
from tests.dashboards.written import curve, retraining, study, trial

LIGHT, DARK = THEMES["light"], THEMES["dark"]


def test_compared_curves_state_the_ends_in_their_unit():
    chart = compared_curves(
        {"a": curve(val_accuracy=[0.1, 0.5]), "b": curve(val_accuracy=[0.25, math.nan])}, "val_accuracy", LIGHT
    )
    assert chart.summary == "Validation accuracy per epoch; at the end a: 50.00%, b: 25.00%."
    assert chart.rows[:2] == [("a", 1, 0.1), ("a", 2, 0.5)]
    first, second = chart.figure["data"]
    assert (first["y"], second["y"]) == ([10, 50], [25, None])
    assert (first["line"]["dash"], second["line"]["dash"]) == DASHES[:2]
    assert first["marker"]["symbol"] != second["marker"]["symbol"]
    assert chart.figure["layout"]["yaxis"]["title"]["text"] == "validation accuracy (%)"


def test_compared_curves_of_nothing_finite_have_a_dash_for_a_number():
    assert compared_curves({"a": curve(val_loss=[math.nan])}, "val_loss", LIGHT).summary.endswith("a: \N{EN DASH}.")


def test_compared_curves_leave_out_who_has_no_such_metric():
    chart = compared_curves({"a": curve(loss=[1.0]), "b": curve(other=[1.0])}, "loss", LIGHT)
    assert [trace["name"] for trace in chart.figure["data"]] == ["a"]
    assert retrain_curves({"b": curve(other=[1.0])}, LIGHT).empty == "No epoch has been recorded yet."


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_many_curves_group_by_penalty_and_mark_the_front(theme):
    trials = [trial(0, eta=0.0), trial(1, eta=1e-5), trial(2, eta=1e-1, on_front=True), trial(3)]
    curves = {n: curve(temperature=[1.0, 0.5]) for n in range(4)}
    chart = many_curves(trials, curves, "temperature", theme)
    assert chart.title == "Temperature per epoch of 4 searches"
    assert chart.summary.endswith("4 searches, 1 of them on the front.")
    lines = {tuple(trace["customdata"]): trace["line"] for trace in chart.figure["data"]}
    assert lines[0, 0, None, 3, 3, None]["dash"] == "dash"
    assert lines[1, 1, None]["color"] == theme.sequential[0][1]
    assert lines[2, 2, None] == {"color": theme.sequential[-1][1], "width": 2.4, "dash": "solid"}
    assert chart.figure["data"][-1]["customdata"][0] == 2  # above all others
    assert chart.rows[0] == (0, 1, 1.0)
    assert len(chart.rows) == 8
    for trace in chart.figure["data"]:
        assert len(trace["x"]) == len(trace["y"]) == len(trace["customdata"])


def test_many_curves_over_time_smoothed_and_logarithmic_keep_the_numbers():
    look = CurveLook(along="time", scale="log", smoothing=3)
    history = curve(loss=[4.0, 1.0, math.nan, 2.0], seconds=[60.0, 30.0, 30.0, 60.0])
    chart = many_curves([trial(0)], {0: history}, "loss", LIGHT, look)
    (line,) = chart.figure["data"]
    assert line["x"] == [1.0, 1.5, 2.0, 3.0, None]
    assert line["y"] == [2.5, 2.5, None, 2.0, None]
    assert chart.figure["layout"]["yaxis"]["type"] == "log"
    assert [row[:3] for row in chart.rows[:2]] == [(0, 1, 4.0), (0, 2, 1.0)]
    assert smoothed(np.array([1.0, 3.0]), 15).tolist() == [2.0, 2.0]


def test_many_curves_as_quartiles_have_a_band_for_each_penalty():
    trials = [trial(n, eta=1e-4 if n < 5 else 1e-1) for n in range(6)]
    curves = {n: curve(loss=[float(n), 2.0 * n]) for n in range(6)}
    chart = many_curves(trials, curves, "loss", LIGHT, CurveLook(show="quartiles"))
    low, high, middle, *strong = chart.figure["data"]
    assert (low["y"], middle["y"], high["y"]) == ([1.0, 2.0], [2.0, 4.0], [3.0, 6.0])
    assert (middle["name"], strong[-1]["name"]) == ("η 0.0001 (n = 5)", "η 0.1 (n = 1)")
    assert len(strong) == 3


def test_many_curves_of_several_strategies_are_distinguished_by_colour_dash_and_legend():
    kinds = [f"kind-{n:02d}" for n in range(13)]
    trials = [trial(n, eta=1e-3, strategy=kinds[n % 13], on_front=n < 2) for n in range(26)]
    chart = many_curves(trials, {n: curve(temperature=[1.0, 0.5]) for n in range(26)}, "temperature", LIGHT)
    assert chart.figure["layout"]["showlegend"]
    assert "strategy" in chart.note
    data = chart.figure["data"]
    assert sorted(trace["name"] for trace in data if trace["showlegend"]) == kinds
    looks = {trace["name"]: (trace["line"]["color"], trace["line"]["dash"]) for trace in data}
    assert len(set(looks.values())) == len(kinds), "no two strategies look alike"


def test_many_curves_count_those_that_have_the_metric():
    trials = [trial(0), trial(1), replace(trial(2), number=None)]
    chart = many_curves(trials, {0: curve(loss=[1.0]), 1: curve(other=[1.0])}, "loss", LIGHT)
    assert chart.title == "Loss per epoch of 1 search"


def test_search_curves_have_a_panel_per_quantity_and_say_the_ends():
    history = curve(supernet_val_accuracy=[0.4, 0.8], child_val_accuracy=[0.1, 0.7], temperature=[1.0, 0.5], own=[1, 2])
    chart = search_curves(history, LIGHT)
    assert chart.title == "The course of the search: 2 epochs"
    assert "supernet validation accuracy 80.00%, child validation accuracy 70.00%, temperature 0.5." in chart.summary
    assert chart.columns == ("epoch", "supernet_val_accuracy", "child_val_accuracy", "temperature", "own")
    assert chart.rows[1] == (2, 0.8, 0.7, 0.5, 2.0)
    supernet, child, temperature = chart.figure["data"]
    assert supernet["yaxis"] == child["yaxis"] == "y"
    assert temperature["yaxis"] == "y2"
    assert supernet["line"]["dash"] != child["line"]["dash"]
    titles = [entry["text"] for entry in chart.figure["layout"]["annotations"]]
    assert "supernet" in titles[0]  # the legend of a panel with two lines
    assert titles[1] == "temperature"


def test_search_curves_show_how_far_pruned_networks_are_from_the_whole_one():
    chart = search_curves(curve(temperature=[1.0, 0.5], pruned_kl=[2.0, 0.25]), LIGHT)
    assert chart.summary.endswith("divergence of pruned networks from the whole one 0.25 nats, temperature 0.5.")
    assert [trace["y"] for trace in chart.figure["data"]] == [[2.0, 0.25], [1.0, 0.5]]


def test_search_curves_of_one_epoch_say_epoch():
    assert search_curves(curve(temperature=[1.0]), LIGHT).title.endswith(": 1 epoch")


def _history():
    """Two epochs of a cell with one intermediate node: two edges, two operations."""
    probabilities = np.array([[[0.5, 0.5], [0.5, 0.5]], [[0.1, 0.9], [0.75, 0.25]]], dtype=np.float32)
    credit = np.array([[0.5, 0.0], [0.25, -1.0]], dtype=np.float32)
    cell = CellHistory(
        alpha=np.log(probabilities),
        probabilities=probabilities,
        entropy=credit * 0,
        credit=credit,
        resource_credit=np.array([[-0.25, 0.0], [-0.5, -0.5]], dtype=np.float32),
    )
    return History(epochs=np.array([3, 4]), metrics={}, cells={"normal": cell}, primitives=("none", "sep_conv_3x3"))


def test_edges_are_named_in_the_order_of_reports():
    assert edge_names(2) == ["k\N{MINUS SIGN}2 → 0", "k\N{MINUS SIGN}1 → 0"]
    assert edge_names(14)[-1] == "2 → 3"
    assert len(edge_names(14)) == len(cell_edges(4)) == 14


def test_alpha_chart_has_a_row_per_edge_and_operation():
    chart = alpha_chart(_history(), "normal", "probability", LIGHT)
    assert chart.summary.endswith(
        "At the end: k\N{MINUS SIGN}2 → 0 sep_conv_3x3 (90%), k\N{MINUS SIGN}1 → 0 none (75%)."
    )
    (heat,) = chart.figure["data"]
    assert heat["x"] == [3, 4]
    assert [tick[-12:] for tick in chart.figure["layout"]["yaxis"]["ticktext"]][1::2] == ["sep_conv_3x3"] * 2
    assert np.array(heat["z"]) == pytest.approx(np.array([[0.5, 0.1], [0.5, 0.9], [0.5, 0.75], [0.5, 0.25]]))
    assert (heat["zmin"], heat["zmax"]) == (0, 1)
    assert chart.rows[5] == (4, "k\N{MINUS SIGN}2 → 0", "sep_conv_3x3", pytest.approx(0.9))
    assert chart.columns == ("epoch", "edge", "operation", "probability")


def test_operation_chart_has_a_row_per_edge_and_a_colour_per_operation():
    chart = alpha_chart(_history(), "normal", "operation", LIGHT)
    heat, *legend = chart.figure["data"]
    # Operation o takes the numbers from o to o + 1, the more probable the higher.
    assert np.array(heat["z"]) == pytest.approx(np.array([[0.5, 1.9], [0.5, 0.75]]))
    assert heat["text"] == [["none 0.500", "sep_conv_3x3 0.900"], ["none 0.500", "none 0.750"]]
    assert [place for place, _ in heat["colorscale"]] == [0.0, 0.5, 0.5, 1.0]
    assert [entry["name"] for entry in legend] == ["none", "sep_conv_3x3"]
    assert chart.rows == alpha_chart(_history(), "normal", "probability", LIGHT).rows


def test_alpha_itself_has_a_scale_around_zero():
    (heat,) = alpha_chart(_history(), "normal", "alpha", LIGHT).figure["data"]
    assert heat["zmax"] == -heat["zmin"] == pytest.approx(-math.log(0.1), abs=1e-3)
    assert alpha_chart(_history(), "reduce", "alpha", LIGHT).empty


def test_credit_chart_names_the_strongest_edge_of_the_last_epoch():
    chart = credit_chart(_history(), "normal", DARK)
    assert chart.title == "Credit of every edge of the normal cell; strongest at the end: k\N{MINUS SIGN}1 → 0"
    first, second = edge_names(2)
    assert chart.columns[2:] == ("credit", "of the task", "of the penalty")
    assert chart.rows == [
        (3, first, 0.25, 0.5, -0.25),
        (3, second, 0.0, 0.0, 0.0),
        (4, first, -0.25, 0.25, -0.5),
        (4, second, -1.5, -1.0, -0.5),
    ]
    assert "lowers the loss by more than its share of the penalty adds." in chart.note
    (heat,) = chart.figure["data"]
    assert heat["colorscale"] == DARK.diverging
    assert heat["zmax"] == -heat["zmin"] == pytest.approx(1.4625)  # 99% between 0.25 and 1.5 of four numbers


def test_credit_chart_of_a_search_without_resource_credits_has_those_of_the_task():
    history = _history()
    cell = replace(history.cells["normal"], resource_credit=np.full((2, 2), np.nan, dtype=np.float32))
    chart = credit_chart(replace(history, cells={"normal": cell}), "normal", DARK)
    assert [row[2:4] for row in chart.rows] == [(0.5, 0.5), (0.0, 0.0), (0.25, 0.25), (-1.0, -1.0)]
    assert "the penalty's share was not recorded." in chart.note


_CELLS = [
    retraining(3, 0, test_accuracy=0.90, params=1e6, madds=5e6),
    retraining(3, 1, test_accuracy=0.92, params=1e6, madds=5e6),
    retraining(3, 2, end="failed"),
    retraining(5, 0, test_accuracy=1.0, params=2e6),
    retraining(8, 0),
]


def test_retrained_cells_have_mean_and_spread_over_seeds():
    cells = retrained_cells(_CELLS)
    assert [cell.name for cell in cells] == ["trial 3", "trial 5", "trial 8"]
    assert cells[0].mean_error == pytest.approx(0.09)
    assert cells[0].spread == pytest.approx(0.02 / math.sqrt(2))
    assert [said_error(cell) for cell in cells] == ["9.00 ± 1.41%", "0.00%", "not known yet"]


@pytest.mark.parametrize("is_cifar10", [True, False])
def test_test_error_states_the_best_and_stands_beside_published_ones(is_cifar10):
    chart = retrain_charts.test_error_chart(retrained_cells(_CELLS), LIGHT, is_cifar10=is_cifar10)
    assert chart.title == "Test error of 2 retrained cells: best 0.00% (trial 5)"
    assert chart.rows[0] == ("trial 3", pytest.approx(0.09), pytest.approx(0.02 / math.sqrt(2)), 2, 1e6, 5e6)
    here, *published = chart.figure["data"]
    assert (here["x"], here["y"]) == ([1000, 2000], pytest.approx([9, 0]))
    assert len(published) == is_cifar10
    if published:
        assert published[0]["marker"]["symbol"] != here["marker"].get("symbol", "circle")


class _Written(MemoryStore):
    """A store of one study written by hand, without files."""

    def __init__(self, record):
        super().__init__()
        self.record = record

    def study(self, name):
        return self.record

    def history(self, run):
        return None

    def models(self, study):
        return {}


def _retrain_page(retrainings, trials):
    store = _Written(study(trials, retrainings=retrainings))
    asked = Request(path=("study", "written", "retrain"), query={}, theme=LIGHT, location="sqlite:///a b.db")
    return words(plain(retrain_view(store, asked)))


def test_a_cell_without_any_error_is_the_best():
    said = _retrain_page(_CELLS, [trial(3), trial(5), trial(8)])
    assert said.index("trial 5 0.00%") < said.index("trial 3 9.00 ± 1.41%") < said.index("trial 8 not known yet")
    assert "MLFLOW_TRACKING_URI='sqlite:///a b.db' snas retrain --run id-trial-0005" in said


def test_a_named_cell_is_not_that_of_a_search_without_number():
    single = replace(trial(0, label="single", metrics={"child_val_accuracy": 0.123}), number=None)
    said = _retrain_page([retraining(None, 0, test_accuracy=0.9, params=1e6)], [single])
    assert "12.3%" not in said
    assert "snas retrain --run id-retrain-cell-seed0" in said
