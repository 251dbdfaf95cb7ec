"""Final accuracies predicted from finished trainings: exact where the curves obey a law, and what a search hands on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from search_core.cost.counts import child_cost
from search_core.errors import OptionsError
from search_core.space.codes import genotype_space
from search_core.strategies.multi_trial.curve_regression import CurveLaw, _ridge, fit_law
from search_core.strategies.multi_trial.estimate_options import EstimateOptions
from search_core.strategies.multi_trial.finished_curves import FinishedCurves, known_beforehand
from search_core.strategies.multi_trial.learning_curve import CurveStop, predicted_accuracy
from tests.search_core.tiny import TINY_NETWORK, TINY_SIZE, through_file

EPOCHS = 10
STOP = CurveStop(kind="regression", startup=5, margin=0.0)
LAW = CurveLaw(constant=0.3, weights=(0.0, 0.0, 0.5), deviation=0.02)


def curve_of(size: float, speed: float, epochs: int = EPOCHS) -> list[float]:
    """Exponential, which the power law of an extrapolation is not; `size` decides where it ends."""
    return [0.5 + 0.4 * size - 0.4 * math.exp(-speed * epoch) for epoch in range(1, epochs + 1)]


def trainings(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Known features (N, 1) and curves (N, EPOCHS)."""
    draw = np.random.default_rng(seed)
    sizes, speeds = draw.random(num), draw.uniform(0.2, 0.5, num)
    return sizes[:, None], np.array([curve_of(*each) for each in zip(sizes, speeds, strict=True)])


def test_law_is_found_where_the_last_accuracy_is_linear_in_what_is_seen_and_known() -> None:
    draw = np.random.default_rng(0)
    known, seen = draw.random((30, 2)), draw.random((30, 3))
    last = 0.1 + 0.3 * known[:, 0] - 0.2 * known[:, 1] + seen @ [0.1, -0.3, 0.8]
    law = fit_law(known, np.column_stack([seen, last]), np.array([0.5, 0.25]), seen=3)
    assert law.constant == pytest.approx(0.1 + 0.15 - 0.05, abs=1e-3)
    assert law.weights == pytest.approx((0.1, -0.3, 0.8), abs=1e-3)
    assert law.deviation < 1e-3


def test_architecture_tells_what_a_curve_does_not() -> None:
    """All curves begin alike, and end by size: only a regression that knows the size can say which ends where."""
    known = np.linspace(0, 1, 12)[:, None]
    curves = np.array([[0.2, 0.3, 0.4, 0.5 + 0.4 * size] for (size,) in known])
    predicted = [fit_law(known, curves, np.array([size]), 3).predicted([0.2, 0.3, 0.4]) for size in (0.1, 0.9)]
    assert predicted == pytest.approx([0.54, 0.86], abs=0.01)
    assert fit_law(known[:, :0], curves, np.array([]), 3).predicted([0.2, 0.3, 0.4]) == pytest.approx(0.7)


@pytest.mark.parametrize("seen", [3, 5])
def test_regression_is_nearer_than_extrapolation_on_curves_of_another_law(seen: int) -> None:
    known, curves = trainings(30)
    others_known, others = trainings(20, seed=1)
    errors: dict[str, list[float]] = {"regression": [], "extrapolation": []}
    for own, curve in zip(others_known, others, strict=True):
        law = fit_law(known, curves, own, seen)
        errors["regression"].append(abs(law.predicted(curve[:seen]) - curve[-1]))
        errors["extrapolation"].append(abs(predicted_accuracy(curve[:seen].tolist(), EPOCHS) - curve[-1]))
    assert np.mean(errors["regression"]) < 0.2 * np.mean(errors["extrapolation"])


def test_deviation_is_that_of_trainings_left_out() -> None:
    """An oracle that refits for each training, at the strength that was chosen, on the same centred features."""
    draw = np.random.default_rng(3)
    x = draw.standard_normal((15, 4))
    x -= x.mean(0)
    y = x @ [1.0, 0.5, 0.0, 0.0] + 0.3 * draw.standard_normal(15)
    weights, deviation = _ridge(x, y)

    def left_out(ridge: float) -> float:
        errors = []
        for out in range(15):
            rest = np.arange(15) != out
            design = np.column_stack([np.ones(14), x[rest]])
            penalty = ridge * np.diag([0.0, 1, 1, 1, 1])  # the mean is free
            solved = np.linalg.solve(design.T @ design + penalty, design.T @ y[rest])
            errors.append(y[out] - solved @ [1, *x[out]])
        return float(np.sqrt(np.mean(np.square(errors))))

    strengths = 15 * np.geomspace(1e-4, 1e2, 25)
    assert deviation == pytest.approx(min(map(left_out, strengths)))
    best = min(strengths, key=left_out)
    assert weights == pytest.approx(np.linalg.solve(x.T @ x + best * np.eye(4), x.T @ (y - y.mean())))


def test_child_is_stopped_where_the_law_is_confident() -> None:
    """The law says 0.5 with a deviation of 0.02; the normal quantile of 95 % is 1.645."""
    seen = [0.1, 0.2, 0.4]
    assert LAW.predicted(seen) == pytest.approx(0.5)
    assert LAW.chance(seen, 0.5) == pytest.approx(0.5)
    assert LAW.chance(seen, 0.5 + 1.645 * 0.02) == pytest.approx(0.05, abs=1e-4)
    assert STOP.is_hopeless(seen, EPOCHS, 0.534, [LAW])
    assert not STOP.is_hopeless(seen, EPOCHS, 0.532, [LAW])
    assert not CurveStop(kind="regression", margin=0.01).is_hopeless(seen, EPOCHS, 0.534, [LAW])
    assert not STOP.is_hopeless(seen, EPOCHS, None, [LAW])
    later = CurveLaw(constant=0.0, weights=(0.0, 0.0, 0.0, 1.0), deviation=0.02)
    assert not STOP.is_hopeless([*seen, 0.9], EPOCHS, 0.534, [LAW, later]), "each epoch has a law of its own"
    assert LAW.predicted([0, 0, 9]) == 1.0


def test_without_laws_a_curve_is_extrapolated() -> None:
    poor = [0.5 - 0.3 / epoch for epoch in range(1, 6)]
    for best in (0.4, 0.47, 0.6):
        assert STOP.is_hopeless(poor, 20, best) == CurveStop(kind="curve", margin=0.0).is_hopeless(poor, 20, best)


def filled(curves: FinishedCurves, lengths: Sequence[int]) -> FinishedCurves:
    for number, length in enumerate(lengths):
        assert curves.laws(number, [number / 10]) == ()
        curves.ended(number, curve_of(number / 10, 0.3, length))
    return curves


def test_laws_are_made_of_enough_children_with_all_their_epochs() -> None:
    curves = filled(FinishedCurves(EstimateOptions(epochs=EPOCHS, stop=STOP)), [10, 3, 10, 10, 0, 10])
    assert curves.laws(6, [0.6]) == (), "four had all their epochs"
    curves.ended(6, curve_of(0.6, 0.3))
    laws = curves.laws(7, [0.7])
    assert [len(law.weights) for law in laws] == [3, 4, 5, 6, 7, 8, 9]
    whole = np.array([0.0, 0.2, 0.3, 0.5, 0.6])
    expected = fit_law(whole[:, None], np.array([curve_of(size, 0.3) for size in whole]), np.array([0.7]), 3)
    assert laws[0] == expected


def test_curves_resume_from_their_state() -> None:
    estimate = EstimateOptions(epochs=EPOCHS, stop=STOP)
    first, second = filled(FinishedCurves(estimate), [10, 10, 3, 10, 10]), FinishedCurves(estimate)
    first.laws(5, [0.5])
    second.load_state_dict(through_file(first.state_dict()))
    for curves in (first, second):
        curves.ended(5, curve_of(0.5, 0.3))
    assert first.laws(6, [0.6]) == second.laws(6, [0.6]) != ()


def test_known_beforehand_are_architecture_and_settings() -> None:
    space = genotype_space(TINY_NETWORK)
    code = (3, 1, 2, 3, 3, 3, 2, 1, 3, 2)
    cost = child_cost(space.decode(code), TINY_SIZE)
    known = known_beforehand(code, space, cost, 8, None)
    sizes = [math.log1p(cost.params), math.log1p(cost.madds)]
    assert known == [*sizes, 0, 1, 1, 3, 0, 1, 2, 2, math.log(8), 0, 0]
    assert known_beforehand(code, space, cost, 8, 0.75)[-2:] == [1, 0.75]
    enas = genotype_space(replace(TINY_NETWORK, space="enas"))  # four choices a node: two inputs, two operations
    assert known_beforehand((0, 0, 1, 1, 1, 2, 0, 2) * 2, enas, cost, 8, None)[2:10] == [1, 1, 2, 1] * 2


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"startup": 4}, "`startup` must be at least 5, got 4"),
        ({"confidence": 1.0}, "`confidence` must be in \\[0.5, 1\\), got 1.0"),
        ({"kind": "curves"}, "`kind` must be one of none, curve, regression, got 'curves'"),
    ],
)
def test_regressions_out_of_range_are_refused(values: dict[str, object], fault: str) -> None:
    with pytest.raises(OptionsError, match=fault):
        CurveStop(**{"kind": "regression", **values})  # type: ignore[arg-type]
