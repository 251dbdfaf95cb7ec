import itertools
import math
import random

import optuna
import pytest
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from dashboards.analysis.importance import MIN_RATED, differing_params, edit_distance, importances, rank_correlation
from dashboards.records import Objective
from search_core.space.genotype import PRIMITIVES, PUBLISHED, Edge, Genotype
from tests.dashboards.written import ERROR, trial


def _trials(rows):
    """Trials from pairs of swept values and error."""
    return [trial(number, values=values, metrics={"child_val_error": e}) for number, (values, e) in enumerate(rows)]


def _drawn(count=60, seed=0):
    draw = random.Random(seed)
    for _ in range(count):
        eta, end = 10 ** draw.uniform(-5, -1), draw.uniform(0.1, 0.5)
        kind = draw.choice(["linear", "cosine"])
        yield {"eta": eta, "end": end, "kind": kind}, math.log10(eta) ** 2 + end + (kind == "linear")


def test_importances_are_those_of_optuna_itself():
    rows = list(_drawn())
    etas, ends = [values["eta"] for values, _ in rows], [values["end"] for values, _ in rows]
    distributions = {
        "eta": optuna.distributions.FloatDistribution(min(etas), max(etas), log=True),
        "end": optuna.distributions.FloatDistribution(min(ends), max(ends)),
        "kind": optuna.distributions.CategoricalDistribution(["cosine", "linear"]),
    }
    by_hand = optuna.create_study(direction="minimize")
    for values, error in rows:
        by_hand.add_trial(optuna.trial.create_trial(params=values, distributions=distributions, value=error))
    expected = get_param_importances(by_hand, evaluator=PedAnovaImportanceEvaluator(target_quantile=0.25))
    found = importances(_trials(rows), ERROR)
    assert found == pytest.approx(expected)
    assert list(found) == sorted(found, key=lambda key: -found[key])
    assert sum(found.values()) == pytest.approx(1)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_importances_find_the_one_setting_that_decides_all(mode):
    draw = random.Random(3)
    rows = [({"decides": (x := draw.random()), "idle": draw.random()}, (x if mode == "min" else -x)) for _ in range(80)]
    found = importances(_trials(rows), Objective(metric="child_val_error", mode=mode))
    assert next(iter(found)) == "decides"
    assert found["decides"] > 0.8


def test_importances_turn_with_the_mode():
    """What makes the good trials differ is not what makes the bad ones differ."""
    draw = random.Random(1)
    rows = []
    for _ in range(200):
        a, b = draw.random(), draw.random()
        rows.append(({"a": a, "b": b}, a if a < 0.5 else 0.5 + b))
    best_low = importances(_trials(rows), ERROR)
    best_high = importances(_trials(rows), Objective(metric="child_val_error", mode="max"))
    assert best_low["a"] > best_low["b"]
    assert best_high["b"] > best_low["b"]


def test_importances_leave_out_what_does_not_vary_or_is_not_everywhere():
    rows = [({"x": float(i), "same": 1.0} | ({"some": float(i)} if i else {}), float(i)) for i in range(MIN_RATED)]
    assert importances(_trials(rows), ERROR) == pytest.approx({"x": 1.0})


def test_importances_count_complete_trials_with_a_finite_metric_only():
    trials = _trials([({"x": float(i)}, float(i)) for i in range(MIN_RATED)])
    assert importances(trials, ERROR) == pytest.approx({"x": 1.0})
    assert importances(trials[1:], ERROR) == {}
    assert importances([*trials[1:], trial(99, values={"x": 9.0}, metrics={"child_val_error": math.nan})], ERROR) == {}
    failed = trial(99, values={"x": 9.0}, end="failed", metrics={"child_val_error": 1})
    assert importances([*trials[1:], failed], ERROR) == {}
    assert importances(trials, Objective(metric="latency", mode="min")) == {}


def test_importances_take_mixed_and_infinite_values_as_names():
    rows = [({"clip": value}, float(i)) for i, value in enumerate([5.0, math.inf, 5.0, "none", 5.0, math.inf] * 2)]
    assert importances(_trials(rows), ERROR) == pytest.approx({"clip": 1.0})


def test_importances_take_numbers_that_come_again_as_names():
    """As in a comparison, where one strategy has four penalties and all others have one of them."""
    draw = random.Random(0)
    rows = [({"eta": eta, "kind": "a"}, draw.random()) for eta in (1e-4, 1e-3, 1e-2, 1e-1) for _ in range(3)]
    rows += [({"eta": 1e-3, "kind": kind}, (kind > "g") + draw.random()) for kind in "bcdefghijklm" for _ in range(3)]
    as_numbers = importances(_trials(rows), ERROR)
    as_names = importances(_trials([(values | {"eta": f"{values['eta']}"}, error) for values, error in rows]), ERROR)
    assert as_numbers == pytest.approx(as_names)
    assert as_numbers["kind"] > 0.3


def test_importances_say_nothing_about_a_metric_that_never_changes():
    assert importances(_trials([({"x": float(i), "y": float(-i)}, 0.5) for i in range(20)]), ERROR) == {}


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([1, 2, 3], [10, 100, 1000], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 0.8),  # 1 - 6 * 4 / (5 * 24)
        ([1, 2, 2, 3], [1, 2, 3, 4], 4.5 / math.sqrt(22.5)),  # ranks 1 2.5 2.5 4: covariance 4.5, squares 4.5 and 5
        ([1, 2, math.nan, 3], [1, 2, 99, 3], 1.0),
        ([1, 2, 3, 4], [1, 2, 3, -math.inf], 1.0),
    ],
)
def test_rank_correlation_of_written_out_ranks(x, y, expected):
    assert rank_correlation(x, y) == pytest.approx(expected)


def test_rank_correlation_with_ties_is_that_of_pandas():
    pandas = pytest.importorskip("pandas")
    draw = random.Random(0)
    for _ in range(20):
        x, y = [draw.randrange(6) for _ in range(30)], [draw.randrange(9) for _ in range(30)]
        ranks = pandas.Series(x).rank().corr(pandas.Series(y).rank())
        assert rank_correlation(x, y) == pytest.approx(ranks)


@pytest.mark.parametrize(
    ("x", "y"), [([], []), ([1, 2], [1, 2]), ([1, 2, math.nan], [1, 2, 3]), ([1, 1, 1], [1, 2, 3])]
)
def test_rank_correlation_says_nothing_about_too_little(x, y):
    assert rank_correlation(x, y) is None


def test_rank_correlation_wants_pairs():
    with pytest.raises(ValueError, match="shorter"):
        rank_correlation([1, 2, 3, 4], [1, 2, 3])


def _genotype(normal, reduce=()):
    return Genotype(tuple(Edge(*edge) for edge in normal), (2, 3), tuple(Edge(*edge) for edge in reduce), (2, 3))


_SKIP, _POOL, _SEP = "skip_connect", "max_pool_3x3", "sep_conv_3x3"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (_genotype([(_SKIP, 0, 2)]), _genotype([]), 1),  # dropped
        (_genotype([(_SKIP, 0, 2)]), _genotype([(_POOL, 0, 2)]), 1),  # another operation
        (_genotype([(_SKIP, 0, 2)]), _genotype([(_SKIP, 1, 2)]), 2),  # one dropped, one added
        (_genotype([(_SKIP, 0, 2)]), _genotype([], [(_SKIP, 0, 2)]), 2),  # cells are not mixed
        (_genotype([(_SKIP, 0, 2), (_SKIP, 0, 2)]), _genotype([(_SKIP, 0, 2)]), 1),  # a twin counts
        (_genotype([(_SKIP, 0, 2), (_POOL, 0, 2)]), _genotype([(_POOL, 0, 2), (_SKIP, 0, 2)]), 0),  # order does not
        (_genotype([(_SKIP, 0, 2), (_POOL, 0, 2)]), _genotype([(_SEP, 0, 2), (_SEP, 0, 2)]), 2),
    ],
)
def test_edit_distance_of_written_out_cells(first, second, expected):
    assert edit_distance(first, second) == edit_distance(second, first) == expected


def test_edit_distance_leaves_concatenations_out():
    first = _genotype([(_SKIP, 0, 2)])
    assert edit_distance(first, Genotype(first.normal, (3,), first.reduce, (2,))) == 0


def test_edit_distance_of_published_cells_keeps_the_bounds_of_multisets():
    for first, second in itertools.combinations(PUBLISHED.values(), 2):
        expected = 0
        for cell_type in ("normal", "reduce"):
            for slot in itertools.product(range(8), range(8)):
                mine = sorted(edge.primitive for edge in first.edges(cell_type) if edge[1:] == slot)
                others = sorted(edge.primitive for edge in second.edges(cell_type) if edge[1:] == slot)
                expected += max(len(mine), len(others)) - _common(mine, others)
        assert edit_distance(first, second) == expected > 0


def _common(mine, others):
    others = list(others)
    return sum(1 for name in mine if name in others and (others.remove(name) or True))


def test_edit_distance_between_the_mild_and_the_moderate_cell():
    mild, moderate = PUBLISHED["SNAS_mild"], PUBLISHED["SNAS_moderate"]
    # normal 0>2, 1>2, 0>3, 1>3 and 0>5, 1>5 get another operation, 0>4 and 1>4 keep theirs: 6.
    # reduction 0>2 and 1>2 agree; 1>3, 1>4, 0>5 get another operation; 2>3, 2>4, 2>5 go; 0>3, 0>4, 1>5 come: 9.
    assert edit_distance(mild, moderate) == 15


def _random_genotype(draw):
    edges = [
        [
            Edge(draw.choice(PRIMITIVES[1:4]), source, target)
            for target in (2, 3)
            for source in range(target)
            for _ in range(draw.randrange(3))
        ]
        for _ in range(2)
    ]
    return Genotype(tuple(edges[0]), (2, 3), tuple(edges[1]), (2, 3))


def test_edit_distance_is_a_metric_on_random_genotypes():
    draw = random.Random(7)
    for _ in range(300):
        a, b, c = (_random_genotype(draw) for _ in range(3))
        assert edit_distance(a, a) == 0
        assert edit_distance(a, b) == edit_distance(b, a)
        assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


def test_differing_params_names_what_differs_and_what_is_missing():
    runs = [{"lr": "0.1", "seed": "0", "old": "x"}, {"lr": "0.1", "seed": "1"}]
    assert differing_params(runs) == {"old": ["x", None], "seed": ["0", "1"]}
    assert differing_params([runs[0], runs[0]]) == differing_params([]) == {}
