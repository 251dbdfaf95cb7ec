"""Numbers, titles and places of the charts of a whole study, with records written by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from dashboards.analysis.front import front_mask
from dashboards.analysis.study_answer import answer_of
from dashboards.charts.parallel import parallel_chart
from dashboards.charts.penalty import penalty_chart
from dashboards.charts.study_charts import front_chart, importance_chart, known_costs
from dashboards.charts.theme import THEMES
from dashboards.formatting import MISSING
from dashboards.records import Objective
from tests.dashboards.generated import generated_study
from tests.dashboards.written import study, trial

LIGHT = THEMES["light"]


def _front(of, *, cost="child_madds", colour_by="eta", published=None):
    return front_chart(of, LIGHT, cost=cost, colour_by=colour_by, published=published or {})


def _scored(number, madds, error, **more):
    return trial(number, metrics={"child_madds": madds * 1e6, "child_val_error": error / 100}, **{"eta": 0.1, **more})


#: On the front by multiply-adds: 0, 1, 2 and its twin 5; 3 is beaten, 4 has failed.
_FIVE = [_scored(0, 1, 30), _scored(1, 2, 20), _scored(2, 4, 10), _scored(3, 4, 15), _scored(4, 0.5, 5, end="failed"),
         _scored(5, 4, 10)]  # fmt: skip


def _markers(chart):
    return [trace for trace in chart.figure["data"] if "markers" in trace["mode"]]


def test_front_states_its_numbers():
    chart = _front(study(_FIVE))
    assert chart.title == "Child error against multiply-adds: 4 of 5 searches on the front"
    assert "on the front by multiply-adds: 0, 1, 2, 5." in chart.summary
    assert chart.columns == ("trial", "state", "eta", "schedule", "child_madds", "child_val_error", "on_front")
    assert chart.rows[2] == (2, "complete", 0.1, "linear", 4e6, 0.1, True)
    assert chart.rows[4] == (4, "failed", 0.1, "linear", 5e5, 0.05, False)
    assert [row[0] for row in chart.rows if row[-1]] == [0, 1, 2, 5]


def test_front_draws_a_staircase_of_complete_trials_in_shown_units():
    stairs, *rest = _front(study(_FIVE)).figure["data"]
    assert (stairs["x"], stairs["y"]) == ([1, 2, 4, 4], pytest.approx([30, 20, 10, 10]))
    assert stairs["line"]["shape"] == "hv"
    assert sorted(x for trace in rest for x in trace["x"]) == pytest.approx([0.5, 1, 2, 4, 4, 4])
    labelled = {text for trace in rest for text in trace.get("text", ())}
    assert labelled == {"0: η 0.1", "1: η 0.1", "2, 5", ""}, "twins share their label"


def test_front_says_the_same_as_the_front_of_the_records():
    record = generated_study(trials=40, epochs=4).record()
    chart = _front(record)
    assert {row[0] for row in chart.rows if row[-1]} == {t.number for t in record.trials if t.on_front}
    points = np.array([row[4:6] for row in chart.rows if row[1] == "complete"], dtype=float)
    assert sum(row[-1] for row in chart.rows) == front_mask(points, ("min", "min")).sum()


def test_front_of_running_searches_has_no_front():
    chart = _front(study([_scored(0, 1, 30, end=None)]))
    assert chart.title.endswith("no result yet")
    assert "by multiply-adds: none." in chart.summary


def test_front_leaves_out_trials_without_both_numbers():
    lacking = [
        trial(7, metrics={"child_madds": 1e6}),
        trial(8, metrics={"child_val_error": math.nan, "child_madds": 1}),
    ]
    chart = _front(study([*_FIVE, *lacking]))
    assert [row[0] for row in chart.rows] == [0, 1, 2, 3, 4, 5]


def test_front_calls_single_searches_by_their_label():
    chart = _front(study([replace(_scored(0, 1, 30, label="by-hand"), number=None)]))
    assert "by multiply-adds: by-hand." in chart.summary
    assert _markers(chart)[0]["text"] == ["by-hand: η 0.1"]


@pytest.mark.parametrize(
    ("etas", "names"), [([0.1, 1], {"η &gt; 0"}), ([0, 0], {"η = 0"}), ([0, 1], {"η &gt; 0", "η = 0"})]
)
def test_front_without_a_penalty_has_a_sign_of_its_own(etas, names):
    traces = _markers(_front(study([_scored(n, 1 + n, 30 - n, eta=eta) for n, eta in enumerate(etas)])))
    assert {trace["name"] for trace in traces} == names
    symbols = {trace["name"]: trace["marker"]["symbol"] for trace in traces}
    assert len(set(symbols.values())) == len(names)
    scales = [trace for trace in traces if trace["marker"].get("showscale")]
    assert len(scales) == ("η &gt; 0" in names)
    for trace in traces:
        if trace["name"] == "η &gt; 0":
            assert trace["marker"]["color"] == [math.log10(eta) for eta in etas if eta][: len(trace["x"])]


def test_front_by_schedule_has_a_named_trace_with_a_symbol_for_each():
    of = study([_scored(n, 1 + n, 30 - n, schedule=name) for n, name in enumerate(["linear", "cosine", "linear"])])
    chart = _front(of, colour_by="schedule")
    symbols = {trace["name"]: trace["marker"]["symbol"] for trace in _markers(chart)}
    assert list(symbols) == ["cosine", "linear"]
    assert symbols["cosine"] != symbols["linear"]
    assert chart.figure["layout"]["showlegend"]
    assert not _front(of).figure["layout"]["showlegend"]


def test_front_by_strategy_draws_no_two_of_them_alike():
    names = [f"strategy {n:02d}" for n in range(14)]
    chart = _front(study([_scored(n, 1 + n, 30, strategy=name) for n, name in enumerate(names)]), colour_by="strategy")
    looks = {trace["name"]: (trace["marker"]["color"], trace["marker"]["symbol"]) for trace in _markers(chart)}
    assert list(looks) == names
    assert len(set(looks.values())) == len(names)


def test_front_axis_is_logarithmic_beyond_tenfold_unless_a_child_is_empty():
    axis = _front(study([_scored(0, 1, 30), _scored(1, 50, 10)])).figure["layout"]["xaxis"]
    assert axis["type"] == "log"
    assert {"1", "2", "5", "10", "20", "50"} <= set(axis["ticktext"])
    for costs in ((1, 5), (0, 50)):
        axis = _front(study([_scored(n, cost, 30) for n, cost in enumerate(costs)])).figure["layout"]["xaxis"]
        assert axis.get("type") != "log"


def test_front_marks_published_cells_near_by_and_says_so():
    of = study([_scored(0, 1, 30), _scored(1, 50, 10)])
    near = {"SNAS_mild": {"child_madds": 10e6}, "far": {"child_madds": 900e6}, "other": {"child_params": 1.0}}
    chart = _front(of, published=near)
    layout = chart.figure["layout"]
    assert [shape["x0"] for shape in layout["shapes"]] == [10]
    assert [(label["text"], label["x"]) for label in layout["annotations"]] == [("SNAS mild", 1.0)]  # log10 of 10
    assert "published cells" in chart.note
    assert "published" not in _front(of).note


def test_names_of_published_cells_side_by_side_do_not_share_a_row():
    of = study([_scored(0, 1, 30), _scored(1, 50, 10)])
    labels = _front(of, published={n: {"child_madds": 1e7 + i} for i, n in enumerate("abc")}).figure["layout"]
    assert [label["yshift"] for label in labels["annotations"]] == [0, 13, 26]


def test_known_costs_are_those_that_trials_report():
    assert known_costs(study(_FIVE)) == ["child_madds"]
    assert known_costs(study()) == []


def _penalised(etas, madds):
    return [
        trial(n, eta=eta, metrics={"child_madds": cost * 1e6, "edges_normal": 5.0, "edges_reduce": 2.0,
                                   "discretization_gap": 0.03})
        for n, (eta, cost) in enumerate(zip(etas, madds, strict=True))
    ]  # fmt: skip


def _penalty(trials):
    return penalty_chart(study(trials), LIGHT, cost="child_madds", colour_by="eta", answer=None)


def test_penalty_states_the_rank_correlation():
    five = _penalty(_penalised([1e-5, 1e-4, 1e-3, 1e-2, 1e-1], [50, 40, 30, 20, 10]))
    assert five.title == "What the penalty strength η buys: rank correlation with multiply-adds -1.00"
    chart = _penalty(_penalised([1e-3, 1e-2, 1e-1], [30, 20, 10]))
    assert chart.title.endswith("too few results to say")
    row = dict(zip(chart.columns, chart.rows[1], strict=True))
    assert {
        "trial": 1,
        "eta": 0.01,
        "edges": 7.0,
        "child_madds": 20e6,
        "discretization_gap": 0.03,
    }.items() <= row.items()
    panels = [trace["y"] for trace in chart.figure["data"]]
    assert panels == [[None] * 3, [None] * 3, [30, 20, 10], [7, 7, 7], [3, 3, 3]]
    assert _penalty(_penalised([1e-3, 1e-2], [3, 2])).title.endswith("too few results to say")


def test_penalty_shows_retrained_errors_with_their_intervals_and_marks_good_and_lost_strengths():
    of = generated_study(trials=24, epochs=12, seed=2).record()
    answer = answer_of(of)
    chart = penalty_chart(of, LIGHT, cost="child_madds", colour_by="eta", answer=answer)
    (squares,) = [trace for trace in chart.figure["data"] if trace["marker"].get("symbol") == "square-dot"]
    kept = squares["customdata"].index(answer.keep.trial)
    low, high = answer.keep.error.interval
    assert squares["y"][kept] == pytest.approx(100 * answer.keep.error.value)
    assert squares["error_y"]["array"][kept] == pytest.approx(100 * (high - answer.keep.error.value))
    assert squares["error_y"]["arrayminus"][kept] == pytest.approx(100 * (answer.keep.error.value - low))
    rows = {row[0]: dict(zip(chart.columns, row, strict=True)) for row in chart.rows}
    assert rows[answer.keep.trial]["test_error_low"] == low
    (good, lost) = [shape for shape in chart.figure["layout"]["shapes"] if shape["xref"] == "x"]
    assert (good["x0"], good["x1"]) == answer.etas
    collapsed = min(trial.eta for trial in of.trials if trial.run.state == "collapsed")
    assert good["x1"] < lost["x0"] < collapsed < lost["x1"]
    assert "most cells are lost from 0.1" in chart.title


def test_penalty_is_related_to_cost_within_each_strategy():
    """Others at one penalty say nothing about it, whatever they cost."""
    swept = _penalised([1e-5, 1e-4, 1e-3, 1e-2, 1e-1], [50, 40, 30, 20, 10])
    others = [
        trial(10 + n, eta=1e-3, strategy="enas", metrics={"child_madds": 1e6 * n, "edges_normal": 5, "edges_reduce": 2})
        for n in range(20)
    ]
    assert _penalty([*swept, *others]).title.endswith(": rank correlation with multiply-adds -1.00 (snas)")


def test_penalty_that_is_the_same_everywhere_is_said():
    chart = _penalty(_penalised([0.0] * 5, [50, 40, 30, 20, 10]))
    assert not chart.figure
    assert chart.empty == "All searches have the same penalty strength, 0."


@pytest.mark.parametrize(
    ("etas", "places", "ticks"),
    [
        ([0, 1e-3, 1e-1], [1e-4, 1e-3, 1e-1], ["0", "1e-3", "1e-2", "1e-1"]),
        ([0, 0], [1e-6, 1e-6], ["0"]),
        ([1e-3, 1e-1], [1e-3, 1e-1], ["1e-3", "1e-2", "1e-1"]),
    ],
)
def test_penalty_of_zero_stands_left_on_the_logarithmic_axis(etas, places, ticks):
    figure = _penalty(_penalised(etas, range(1, len(etas) + 1))).figure
    axis = figure["layout"]["xaxis2"]
    assert axis["type"] == "log"
    assert axis["ticktext"] == ticks
    first = [trace for trace in figure["data"] if trace["xaxis"] == "x" and "hovertext" in trace]
    assert sorted(x for trace in first for x in trace["x"]) == pytest.approx(places)
    hovers = [text for trace in first for text in trace["hovertext"]]
    assert sorted(hovers) == sorted(f"trial {n}, η {eta:.3g}" for n, eta in enumerate(etas))


def test_penalty_of_many_is_a_band_with_the_median():
    draw = np.random.default_rng(0)
    chart = _penalty(_penalised(10 ** draw.uniform(-4, -1, 400), draw.uniform(1, 9, 400)))
    bands = [trace for trace in chart.figure["data"] if trace.get("meta") != "listed"]
    assert len(bands) == 12
    low, high, middle = (np.array(trace["y"]) for trace in bands[3:6])
    assert (low <= middle).all()
    assert (middle <= high).all()
    assert "median of 400 searches" in chart.note
    (listed,) = [trace for trace in chart.figure["data"] if trace not in bands]
    assert (listed["visible"], len(listed["customdata"])) == (False, 400)
    assert len(chart.rows) == 400


def test_importance_names_what_matters_most():
    trials = [trial(n, values={"big": n / 40, "idle": float(n * 7 % 40)},
                    metrics={"child_val_error": n / 40, "child_madds": -n}) for n in range(40)]  # fmt: skip
    chart = importance_chart(study(trials), LIGHT)
    shares = {(row[0], row[1]): row[2] for row in chart.rows}
    assert chart.title == f"What matters for child validation error: big most ({shares['child_val_error', 'big']:.0%})"
    for bar in chart.figure["data"]:
        metric = "child_val_error" if "error" in bar["name"] else "child_madds"
        assert dict(zip(bar["y"], bar["x"], strict=True)) == {k: v for (m, k), v in shares.items() if m == metric}
    assert len({bar["marker"]["pattern"]["shape"] for bar in chart.figure["data"]}) == 2


def test_importance_is_computed_anew_for_a_new_version():
    trials = [trial(n, values={"x": float(n)}, metrics={"child_val_error": float(n)}) for n in range(20)]
    assert importance_chart(study(trials[:3]), LIGHT).figure == {}
    assert importance_chart(study(trials), LIGHT).rows == [("child_val_error", "x", pytest.approx(1.0))]


def test_parallel_leaves_out_what_never_changes():
    trials = [_scored(n, 1 + n, 30, values={"eta": n, "batch": 4}) for n in range(3)]
    columns = parallel_chart(study(trials, swept=["eta", "batch"]), LIGHT).columns
    assert columns[:2] == ("trial", "param eta")
    assert "param batch" not in columns
    assert "param batch" in parallel_chart(study(trials[:1], swept=["eta", "batch"]), LIGHT).columns


def test_parallel_has_a_line_per_complete_trial_over_all_that_was_swept():
    trials = [
        trial(0, values={"eta": 1e-4, "kind": "linear"}, metrics={"child_val_error": 0.1, "child_madds": 1e6}),
        trial(1, values={"eta": 1e-2, "kind": "cosine"}, metrics={"child_val_error": 0.3, "child_madds": 3e6}),
        trial(2, values={"eta": 1e-3, "kind": "linear"}, metrics={"child_val_error": 0.2}),
        trial(3, values={"eta": 1e-3, "kind": "linear"}, end="failed"),
    ]
    chart = parallel_chart(study(trials, swept=["eta", "kind"]), LIGHT)
    assert chart.title.endswith("3 complete searches")
    assert chart.columns == ("trial", "param eta", "param kind", "metric child_val_error", "metric child_madds")
    assert chart.rows[1] == (1, 1e-2, "cosine", 0.3, 3e6)
    lines = {trace["text"][0].split(":")[0]: trace["y"] for trace in chart.figure["data"]}
    assert lines["trial 0"] == pytest.approx([0, 0.75, 0, 0, None])  # names by alphabet: cosine below linear
    assert lines["trial 1"] == pytest.approx([1, 0.25, 1, 1, None])
    assert lines["trial 2"] == pytest.approx([0.5, 0.75, 0.5, None, None])  # eta on a logarithmic axis


def test_parallel_leads_searches_without_a_setting_below_the_others_to_their_results():
    """A setting that only one strategy has must not cut the lines of all others."""
    trials = [
        trial(0, values={"eta": 1.0, "order": "first"}, metrics={"child_val_error": 0.1, "child_madds": 1e6}),
        trial(1, values={"eta": 2.0}, metrics={"child_val_error": 0.3, "child_madds": 3e6}),
        trial(2, values={"eta": 3.0, "order": "second"}, metrics={"child_val_error": 0.2, "child_madds": 2e6}),
    ]
    figure = parallel_chart(study(trials, swept=["eta", "order"]), LIGHT).figure
    lines = {trace["text"][0].split(":")[0]: trace["y"] for trace in figure["data"]}
    assert lines["trial 1"] == pytest.approx([0.5, -0.12, 1, 1, None])
    assert figure["layout"]["yaxis"]["range"][0] < -0.12
    assert (MISSING, -0.12) in [(label["text"], label["y"]) for label in figure["layout"]["annotations"]]


@pytest.mark.parametrize(("mode", "best"), [("min", "trial 0"), ("max", "trial 3")])
def test_parallel_draws_the_best_strongest_and_last(mode, best):
    trials = [trial(n, values={"x": float(n)}, metrics={"score": float(n)}) for n in range(4)]
    of = study(trials, swept=["x"], objectives=(Objective(metric="score", mode=mode),))
    chart = parallel_chart(of, LIGHT)
    last = chart.figure["data"][-1]
    assert last["text"][0].startswith(best)
    assert last["line"]["color"] == LIGHT.sequential[-1][1]
    assert chart.note.startswith(f"Stronger lines have a {'lower' if mode == 'min' else 'higher'} score.")


def test_parallel_of_many_draws_the_best_and_some_of_the_rest_and_counts_all():
    metrics = [{"child_val_error": math.nan if n % 100 == 5 else n / 1000} for n in range(1000)]
    trials = [trial(n, values={"x": float(n)}, metrics=of) for n, of in enumerate(metrics)]
    chart = parallel_chart(study(trials, swept=["x"]), LIGHT)
    drawn = {int(text.split(":")[0][6:]) for trace in chart.figure["data"] for text in trace["text"] if text}
    finite = [n for n in range(1000) if n % 100 != 5]
    assert set(finite[:80]) <= drawn
    assert len(drawn) <= 240
    assert len(chart.rows) == 1000
    assert "1,000 complete searches" in chart.title
    assert "the best 80" in chart.note


def test_parallel_says_why_there_is_nothing():
    assert parallel_chart(study([trial(0, end=None)], swept=["x"]), LIGHT).empty == "No search is complete yet."
    assert parallel_chart(study([trial(0)]), LIGHT).empty == "This study sweeps nothing."


def test_front_of_very_many_searches_draws_the_front_and_some_others_first_and_all_late():
    trials = [_scored(n, 1 + n % 50, 90 - n % 7) for n in range(1000)] + [_scored(1000, 0.5, 1)]
    chart = _front(study(trials))
    _, *rest = chart.figure["data"]
    first, late = (
        {number for trace in rest if (trace.get("meta") == "late") is is_late for number in trace["customdata"]}
        for is_late in (False, True)
    )
    assert 1000 in first
    assert 300 <= len(first) <= 401
    assert not first & late
    assert len(first | late) == 1001
    assert len(chart.rows) == 1001
