"""Which cell to keep and how sure that is, on errors counted by hand."""

import math

import pytest
from scipy.stats import binomtest

from dashboards.analysis.answer import Candidate, find_answer, measured
from dashboards.analysis.answer_text import answer_words
from dashboards.analysis.noise import estimate, is_beyond_noise, wilson
from dashboards.analysis.study_answer import answer_of
from dashboards.records import Objective
from tests.dashboards.generated import generated_study

GOALS = (Objective(metric="child_val_error", mode="min"), Objective(metric="child_madds", mode="min"))
IMAGES = {"validation": 300, "test": 359}


def _cell(trial, error, cost, *, eta=None, tests=(), strategy="snas"):
    return Candidate(
        trial=trial, eta=eta, schedule="linear to 0.10", strategy=strategy, error=error, cost=cost, tests=tests
    )


@pytest.mark.parametrize(("wrong", "images"), [(0, 20), (8, 359), (359, 359), (1, 10_000)])
def test_interval_of_one_training_is_wilsons(wrong, images):
    known = binomtest(wrong, images).proportion_ci(method="wilson")
    assert wilson(wrong / images, images) == pytest.approx((known.low, known.high), abs=1e-12)


def test_seeds_widen_the_interval_by_students_t():
    one, three = estimate([0.10], 1000), estimate([0.08, 0.10, 0.12], 1000)
    assert one.interval[0] < 0.10 < one.interval[1]
    half = 4.302653 * 0.02 / math.sqrt(3)  # t of two degrees of freedom
    assert three.interval[1] - 0.10 == pytest.approx(math.hypot(one.interval[1] - 0.10, half), abs=1e-6)
    assert (three.seeds, three.images) == (3, 1000)
    assert estimate([0.1, 0.2], None).interval is None


def test_eight_against_nine_wrong_of_359_is_no_ranking():
    assert is_beyond_noise(estimate([8 / 359], 359), estimate([9 / 359], 359)) is False
    assert is_beyond_noise(estimate([8 / 359], 359), estimate([40 / 359], 359)) is True
    assert is_beyond_noise(estimate([40 / 359], 359), estimate([8 / 359], 359)) is True
    assert is_beyond_noise(estimate([0.1], None), estimate([0.2], 100)) is None


def test_knee_is_kept_and_the_ends_of_the_front_stand_beside_it():
    cells = [_cell(0, 0.30, 1e6), _cell(1, 0.06, 2e6), _cell(2, 0.05, 9e6), _cell(3, 0.40, 5e6)]
    found = find_answer(cells, GOALS, IMAGES, is_over=True)
    assert [(pick.trial, pick.roles) for pick in found.picks] == [
        (1, ("knee",)), (2, ("most accurate",)), (0, ("cheapest",)),
    ]  # fmt: skip
    assert [pick.differs for pick in found.picks] == [None, False, True]
    said = answer_words(found)
    assert said.startswith("Keep trial 1, the knee of the front: linear to 0.10, child error 6.00% (95%: 3.8")
    assert "Trial 2, the most accurate, has 5.00% and 4.5 times the multiply-adds: inside the noise, 15 against" in said
    assert "Trial 0, the cheapest, has 30.00% and 0.5 times the multiply-adds: worse beyond the noise." in said
    assert "must be retrained" in said


def test_retrained_cells_alone_are_compared_by_their_test_error():
    cells = [
        _cell(1, 0.02, 2e6, tests=(9 / 359,)),
        _cell(7, 0.05, 1e6, tests=(8 / 359,)),
        _cell(5, 0.01, 5e5),
    ]
    found = find_answer(cells, GOALS, IMAGES, is_over=False)
    assert (found.is_tested, found.compared, found.keep.trial) == (True, 2, 7)
    assert found.keep.roles == ("most accurate", "cheapest")
    assert answer_words(found).startswith("So far: keep trial 7, the most accurate and the cheapest: ")
    one = find_answer([cells[0], cells[2]], GOALS, IMAGES, is_over=True)
    assert (one.is_tested, one.keep.trial) == (False, 5), "a single retrained cell is compared with nothing"


def test_a_front_without_knee_gives_the_cheapest_inside_the_noise():
    cells = [_cell(0, 0.30, 1e6), _cell(1, 0.28, 6e6), _cell(2, 0.05, 7e6), _cell(3, 0.045, 7.2e6)]
    found = find_answer(cells, GOALS, IMAGES, is_over=True)
    assert (found.keep.trial, found.keep.roles) == (2, ("knee",))
    two = find_answer(cells[2:], GOALS, IMAGES, is_over=True)
    assert (two.keep.trial, two.keep.roles) == (2, ("cheapest",))
    unknown = find_answer(cells[2:], GOALS, {}, is_over=True)
    assert unknown.keep.roles == ("most accurate",), "without an interval nothing is as good as the best"
    assert "noise" not in answer_words(unknown)
    bulging = [_cell(0, 0.12, 1e6), _cell(1, 0.06, 8e6), _cell(2, 0.05, 8.1e6)]
    assert find_answer(bulging, GOALS, IMAGES, is_over=True).keep.roles == ("as good",)


def test_range_of_eta_ends_where_children_are_worse_beyond_the_noise():
    errors = {1e-4: 0.20, 1e-3: 0.06, 1e-2: 0.05, 3e-2: 0.06, 1e-1: math.nan}
    cells = [_cell(n, error, 1e6 / (n + 1), eta=eta) for n, (eta, error) in enumerate(errors.items())]
    found = find_answer(cells, GOALS, IMAGES, is_over=True)
    assert found.etas == (1e-3, 3e-2)
    assert "η from 0.001 to 0.03 mostly finds cells that are not worse" in answer_words(found)
    one_bad = [*cells, _cell(5, 0.30, 3e6, eta=2e-3), _cell(6, 0.055, 3e6, eta=5e-4)]
    assert find_answer(one_bad, GOALS, IMAGES, is_over=True).etas == (5e-4, 3e-2), "another setting may be to blame"
    assert find_answer(cells, GOALS, {}, is_over=True).etas is None
    assert find_answer(cells[:1], GOALS, IMAGES, is_over=True).etas is None


def test_children_without_edges_and_searches_without_results_give_no_answer():
    empty = {"child_val_error": 0.9, "child_madds": 10.0, "edges_normal": 4.0, "edges_reduce": 0.0}
    assert all(map(math.isnan, measured(empty, GOALS)))
    assert find_answer([_cell(0, math.nan, math.nan)], GOALS, IMAGES, is_over=True) is None
    recalibrated = [Objective(metric="child_val_accuracy_recalibrated", mode="max")]
    assert measured({"child_val_accuracy_recalibrated": 0.75, "child_madds": 3.0}, recalibrated) == (0.25, 3.0)


def test_answer_of_a_study_reads_its_images_and_retrainings():
    study = generated_study(trials=24, epochs=12).record()
    found = answer_of(study)
    assert found.is_tested
    assert found.compared == 3
    assert found.keep.error.images == 10_000
    assert found.keep.error.seeds in (2, 3)
    assert answer_words(found) == answer_words(answer_of(study))
    running = answer_of(generated_study(trials=24, epochs=12, running=4).record())
    assert not running.is_tested
    assert not running.is_over
