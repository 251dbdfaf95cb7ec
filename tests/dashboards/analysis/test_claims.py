import math
import warnings

import pytest
from scipy.stats import ttest_ind

from dashboards.analysis.claims import _difference, claims, searches_of
from tests.dashboards.written import curve, trial


def _claim(letter, trials, curves=None):
    found = {claim.letter: claim for claim in claims(searches_of(trials, curves or {}), "snas", "darts")}
    assert list(found) == ["a", "b", "c", "d"]
    return found[letter]


def _pair(mine, theirs, **of_run):
    """One search of either strategy with these metrics."""
    return [
        trial(0, strategy="snas", metrics=mine, **of_run),
        trial(1, strategy="darts", metrics=theirs, **of_run),
    ]


@pytest.mark.parametrize(
    ("ours", "other", "verdict"),
    [
        (0.01, 0.3, "holds"),
        (0.02, 0.021, "holds"),
        (-0.02, 0.3, "holds"),
        (0.03, 0.3, "does not hold"),
        (0.01, 0.015, "does not hold"),
    ],
)
def test_accuracy_is_kept_if_at_most_two_points_are_lost_and_the_other_loses_more(ours, other, verdict):
    claim = _claim("a", _pair({"discretization_gap": ours}, {"discretization_gap": other}))
    assert claim.verdict == verdict
    assert f"snas {100 * ours:.3g} (n = 1) points, darts {100 * other:.3g} (n = 1) points" in claim.evidence
    assert "at most 2 points" in claim.evidence
    assert "averaged statistics" not in claim.evidence


@pytest.mark.parametrize(
    ("ours", "other", "verdict"),
    [
        (0.01, 0.3, "holds"),
        (0.03, 0.3, "does not hold"),
        (-0.05, 0.3, "cannot be said"),  # above it with recalibrated statistics too
        (math.nan, 0.3, "cannot be said"),
    ],
)
def test_a_child_far_above_its_supernet_is_judged_with_recalibrated_statistics(ours, other, verdict):
    mine = {"discretization_gap": -0.1, "discretization_gap_recalibrated": ours}
    claim = _claim("a", _pair(mine, {"discretization_gap": 0.8, "discretization_gap_recalibrated": other}))
    assert claim.verdict == verdict
    assert "recalibrated on both sides: snas " in claim.evidence
    assert claim.evidence.endswith(
        "far above its supernet: snas, as the supernet is judged with averaged statistics, so the recalibrated gap "
        "decides"
    )


def test_accuracy_evidence_has_mean_and_spread():
    trials = [trial(n, metrics={"discretization_gap": gap}) for n, gap in enumerate([0.01, 0.03, 0.02])]
    trials.append(trial(9, strategy="darts", metrics={"discretization_gap": 0.5}))
    assert "snas 2 ± 1 (n = 3) points" in _claim("a", trials).evidence  # points: 1, 3, 2


def test_accuracy_cannot_be_said_without_the_other_or_without_the_metric():
    assert _claim("a", [trial(0, metrics={"discretization_gap": 0.0})]).verdict == "cannot be said"
    claim = _claim("a", _pair({"discretization_gap": 0.0}, {"discretization_gap": math.nan}))
    assert claim.verdict == "cannot be said"
    assert "darts not known" in claim.evidence


def test_only_complete_searches_count():
    trials = _pair({"discretization_gap": 0.0}, {"discretization_gap": 0.5})
    trials.append(trial(2, end="failed", metrics={"discretization_gap": 0.9}))
    trials.append(trial(3, end=None, metrics={"discretization_gap": 0.9}))
    assert "snas 0 (n = 1)" in _claim("a", trials).evidence


def _entropies(normal, reduce):
    return {"entropy_normal": normal, "entropy_reduce": reduce}


def test_entropy_is_that_of_both_cells_after_the_same_epochs():
    trials = _pair(_entropies(1.0, 2.0), _entropies(2.0, 2.5))
    claim = _claim("b", trials)
    assert claim.verdict == "holds"
    assert claim.evidence == "after 10 epochs: snas 3 (n = 1) nats, darts 4.5 (n = 1) nats"
    assert _claim("b", _pair(_entropies(2, 2), _entropies(2, 2))).verdict == "does not hold"


def test_entropy_compares_at_the_most_epochs_that_both_have():
    low, high = _entropies(1.0, 1.0), _entropies(3.0, 3.0)
    trials = [
        trial(0, metrics=high, epochs=10),
        trial(1, metrics=low, epochs=20),
        trial(2, metrics=low, epochs=50),
        trial(3, strategy="darts", metrics=low, epochs=10),
        trial(4, strategy="darts", metrics=high, epochs=20),
    ]
    claim = _claim("b", trials)
    assert claim.verdict == "holds"
    assert claim.evidence == "after 20 epochs: snas 2 (n = 1) nats, darts 6 (n = 1) nats"


def test_entropy_adds_the_cells_of_one_search_never_of_two():
    trials = [
        trial(0, metrics={"entropy_normal": 1.0}),
        trial(1, metrics={"entropy_reduce": 1.0}),
        trial(2, metrics=_entropies(4.0, 5.0)),
        trial(3, strategy="darts", metrics=_entropies(1.0, 1.0)),
    ]
    assert "snas 9 (n = 1) nats" in _claim("b", trials).evidence


@pytest.mark.parametrize(
    ("trials", "evidence"),
    [
        ([], "no complete search of snas or darts here"),
        ([trial(0, metrics=_entropies(1, 1))], "no complete search of darts here"),
        (
            [trial(0, epochs=10), trial(1, strategy="darts", epochs=20)],
            "no two searches have the same number of epochs",
        ),
        ([trial(0), trial(1, strategy="darts")], "no such metric"),
    ],
)
def test_entropy_says_why_it_cannot_be_said(trials, evidence):
    claim = _claim("b", trials)
    assert (claim.verdict, claim.evidence) == ("cannot be said", evidence)


def _sweep(costs, edges, etas=(1e-4, 1e-3, 1e-2, 1e-1)):
    return [
        trial(n, eta=eta, metrics={"child_madds": cost, "edges_normal": left, "edges_reduce": 2.0})
        for n, (eta, cost, left) in enumerate(zip(etas, costs, edges, strict=True))
    ]


_TWICE = (1e-4, 1e-4, 1e-3, 1e-3, 1e-1, 1e-1)


def test_children_get_smaller_with_the_penalty():
    claim = _claim("c", _sweep([40, 39, 30, 29, 10, 11], [14, 13, 9, 8, 2, 2], _TWICE))
    assert claim.verdict == "holds"
    # Welch: difference 4 - 15.5 = -11.5, error sqrt(0.5 / 2) = 0.5, one degree of freedom: t = 12.706.
    assert claim.evidence == (
        "rank correlation of the penalty with multiply-adds -0.96 (6 searches; at most -0.7 counts as monotonic); "
        "edges left 15.5 ± 0.71 (n = 2) at the weakest and 4 ± 0 (n = 2) at the strongest penalties; 95% interval of "
        "the difference in edges -17.9 to -5.15; removed means that it is below 0 and that edges or nodes at least "
        "halve"
    )


@pytest.mark.parametrize(
    ("costs", "edges", "said"),
    [
        ([10, 11, 20, 21, 40, 41], [14, 14, 9, 9, 2, 2], "multiply-adds +0.96"),  # larger
        ([40, 41, 30, 31, 10, 11], [14, 14, 14, 14, 14, 14], "in edges +0 to +0;"),  # smaller, but no edge is gone
        ([40, 41, 30, 31, 10, 11], [14, 14, 13, 13, 13, 13], "in edges -1 to -1;"),  # one edge is gone, not half
        ([40, 41, 30, 31, 10, 11], [14, 2, 9, 9, 2, 2], "in edges "),  # half, but not beyond chance
        ([40, 41, 30, 31, 10, 11], [2, 2, 9, 9, 14, 14], "in edges +12 to +12;"),
        ([25, 25, 25, 25, 25, 25], [14, 14, 9, 9, 2, 2], "all 6 children have the same multiply-adds"),
    ],
)
def test_children_that_do_not_get_smaller(costs, edges, said):
    claim = _claim("c", _sweep(costs, edges, _TWICE))
    assert claim.verdict == "does not hold"
    assert said in claim.evidence


def test_edges_removed_of_a_continuous_sweep_are_those_of_its_thirds():
    etas = (0.0, 1e-4, 1e-3, 1e-2, 2e-2, 1e-1)
    claim = _claim("c", _sweep([40, 39, 30, 29, 10, 9], [14, 14, 9, 9, 2, 2], etas))
    assert claim.verdict == "holds"
    assert "edges left 16 ± 0 (n = 2) at the weakest and 4 ± 0 (n = 2) at the strongest" in claim.evidence


def test_edges_removed_need_two_searches_at_each_end():
    claim = _claim("c", _sweep([40, 30, 20, 10], [14, 12, 8, 2]))
    assert claim.verdict == "cannot be said"
    assert claim.evidence.endswith("for an interval of the edges left both ends of the sweep need two searches")
    assert _claim("c", _sweep([10, 20, 30, 40], [14, 12, 8, 2])).verdict == "does not hold"


def test_nodes_that_halve_count_as_edges_do():
    trials = _sweep([40, 41, 30, 31, 10, 11], [14, 14, 12, 12, 8, 8], _TWICE)
    assert _claim("c", trials).verdict == "does not hold"
    curves = {
        of.run.run_id: curve(nodes_normal=[4.0, nodes], nodes_reduce=[4.0, 1.0])
        for of, nodes in zip(trials, (4.0, 4.0, 3.0, 3.0, 1.0, 1.0), strict=True)
    }
    claim = _claim("c", trials, curves)
    assert claim.verdict == "holds"
    assert "nodes left 5 ± 0 (n = 2) at the weakest and 2 ± 0 (n = 2) at the strongest" in claim.evidence


def test_smaller_children_need_three_penalties():
    claim = _claim("c", _sweep([40, 30, 20, 10], [14, 12, 8, 2], (0.1, 0.1, 0.2, 0.2)))
    assert claim.verdict == "cannot be said"
    assert claim.evidence == "4 complete searches of snas with 2 different penalties are too few; three are needed"
    assert _claim("c", []).evidence.startswith("0 complete searches of snas with 0 different penalties")


def test_smaller_children_leave_out_what_is_not_known():
    trials = [*_sweep([40, 30, 20, 10], [14, 12, 8, 2]), trial(8, eta=1.0, metrics={"child_madds": math.nan})]
    trials += [
        trial(9, metrics={"child_madds": 5.0}),
        trial(10, eta=1.0, strategy="darts", metrics={"child_madds": 99}),
    ]
    assert "(4 searches;" in _claim("c", trials).evidence


def _race(mine, theirs):
    trials = [trial(n) for n in range(len(mine))]
    trials += [trial(10 + n, strategy="darts") for n in range(len(theirs))]
    curves = [curve(supernet_val_accuracy=values) for values in (*mine, *theirs)]
    known = {of.run.run_id: values for of, values in zip(trials, curves, strict=True)}
    return _claim("d", trials, known)


def test_fewer_epochs_to_what_both_reach():
    claim = _race([[0.5, 0.8, 0.9]], [[0.2, 0.4, 0.6, 0.8]])  # both reach 80%: in 2 and in 4 epochs
    assert claim.verdict == "holds"
    assert claim.evidence == (
        "median of epochs to 80% supernet validation accuracy, which both reach on average at their best: "
        "snas 2 (1 of 1 reach it), darts 4 (1 of 1 reach it)"
    )
    assert _race([[0.2, 0.4, 0.6, 0.8]], [[0.5, 0.8, 0.9]]).verdict == "does not hold"
    assert _race([[0.1, 0.8]], [[0.2, 0.8]]).verdict == "does not hold"  # no fewer


def test_fewer_epochs_lets_no_search_win_by_never_getting_there():
    claim = _race([[0.9, 0.9], [0.1, 0.1]], [[0.2, 0.5, 0.5]])  # best 0.9 and 0.1: mean 0.5 as theirs
    assert claim.verdict == "does not hold"
    assert "snas not by half of them (1 of 2 reach it), darts 2 (1 of 1 reach it)" in claim.evidence
    most = _race([[0.9, 0.9], [0.9, 0.9], [0.0, 0.0]], [[0.2, 0.6, 0.6]])
    assert most.verdict == "holds"
    assert "snas 1 (2 of 3 reach it)" in most.evidence


def test_fewer_epochs_counts_epochs_that_reported_nothing():
    assert (
        "snas 3 (1 of 1 reach it), darts 4 (1 of 1 reach it)"
        in _race([[math.nan, math.nan, 0.8]], [[0.1, 0.1, 0.1, 0.8]]).evidence
    )


def test_fewer_epochs_cannot_be_said_without_curves():
    pair = [trial(0), trial(1, strategy="darts")]
    assert _claim("d", pair[:1]).evidence == "no complete search of darts here"
    assert _claim("d", pair).evidence == "no such metric"
    known = {pair[0].run.run_id: curve(supernet_val_accuracy=[0.5])}
    claim = _claim("d", pair, known | {pair[1].run.run_id: curve(supernet_val_accuracy=[math.nan])})
    assert (claim.verdict, claim.evidence) == ("cannot be said", "no such metric")


def test_claims_name_the_strategies_they_are_about():
    for claim in claims([], "snas", "enas"):
        assert "snas" in claim.text
        assert "darts" not in claim.text + claim.evidence


@pytest.mark.parametrize("before", [(9.0, 9.0), (8.0, 10.0, 7.0)], ids=["constant", "spread"])
def test_interval_of_a_difference_is_welchs_and_warns_of_nothing(before):
    after = (4.0, 2.0, 5.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = _difference(before, after)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that are all the same
        expected = ttest_ind(after, before, equal_var=False).confidence_interval(0.95)
    assert found == pytest.approx(tuple(expected))
