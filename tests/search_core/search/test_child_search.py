"""A multi-trial search in one process: its reports, and that it resumes bit for bit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from search_core.errors import NonFiniteLossError, OptionsError, StateError
from search_core.search.child_search import ChildSearch, make_search
from search_core.search.child_training import ChildOrder, ChildReport, ChildTraining
from search_core.search.children import ChildOutcome
from search_core.search.reports import METRICS, EpochReport
from search_core.search.search import Search
from search_core.space.genotype import CELL_TYPES
from search_core.strategies.multi_trial.estimate_options import EstimateOptions
from search_core.strategies.multi_trial.learning_curve import CurveStop
from search_core.strategies.multi_trial.options import (
    MultiTrialOptions,
    RandomSearchOptions,
    RegularisedEvolutionOptions,
)
from tests.search_core.tiny import differences, images_of, through_file, tiny_options

ESTIMATE = EstimateOptions(epochs=1, held_out=0.5, batch_size=16)
CASES: dict[str, MultiTrialOptions] = {
    "random": RandomSearchOptions(children=2, estimate=ESTIMATE),
    "evolution": RegularisedEvolutionOptions(children=2, population=2, sample=1, estimate=ESTIMATE),
    "inheriting": RegularisedEvolutionOptions(
        children=2, population=2, sample=2, estimate=replace(ESTIMATE, inherit=True)
    ),
    "morphing": RegularisedEvolutionOptions(
        children=2,
        population=2,
        sample=2,
        mutation="morphism",
        estimate=replace(ESTIMATE, inherit=True, morphism=True, widths=(2, 4)),
    ),
    "predicting": RandomSearchOptions(
        children=2,
        at_once=1,
        estimate=replace(ESTIMATE, epochs=4, stop=CurveStop(kind="regression", startup=5, margin=1.0)),
    ),
}
#: What others cover but for a part; a regression needs five children of four epochs each before the one it predicts.
_SLOW = ("inheriting", "predicting")
every_case = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in _SLOW else ()) for name in CASES]
)


def search_of(name: str, **changes: Any) -> ChildSearch:
    search = make_search(tiny_options(strategy=CASES[name], **changes), images_of())
    assert isinstance(search, ChildSearch)
    return search


def timeless(report: EpochReport) -> EpochReport:
    return replace(report, seconds=0.0, images_per_s=0.0)


@every_case
def test_search_gives_its_number_of_reports(name: str) -> None:
    search = search_of(name)
    reports = list(search)
    assert [report.epoch for report in reports] == [0, 1, 2]
    assert len(search.children.codes) == 6
    for report in reports:
        assert all(math.isfinite(report.metrics()[metric]) for metric in METRICS)
        assert report.child_val_error == 1 - report.child_val_accuracy
        assert (report.discretization_gap, report.supernet_val_accuracy) == (0, report.child_val_accuracy)
        for cell_type in CELL_TYPES:
            cell = report.cells[cell_type]
            assert [sum(row) for row in cell.probabilities] == pytest.approx([1.0] * 5)
            assert all(math.isfinite(value) for row in cell.alpha for value in row)
    assert reports[-1].genotype == search.genotype()


@every_case
def test_search_resumes_bit_for_bit(name: str) -> None:
    whole, first = search_of(name), search_of(name)
    reports = [timeless(report) for report in whole]
    first.run_epoch()
    resumed = search_of(name)
    resumed.load_state_dict(through_file(first.state_dict()))
    assert [timeless(report) for report in resumed] == reports[1:]
    assert differences(_without_clock(resumed.state_dict()), _without_clock(whole.state_dict())) == []


def _without_clock(state: dict[str, Any]) -> dict[str, Any]:
    best = state["children"]["best"]
    metrics = {name: value for name, value in best["metrics"].items() if name not in ("seconds", "images_per_s")}
    return {**state, "children": {**state["children"], "best": metrics}}


@pytest.mark.slow
@every_case
def test_seeds_decide(name: str) -> None:
    first, again, other = (list(search_of(name, seed=seed)) for seed in (0, 0, 1))
    assert [timeless(report) for report in first] == [timeless(report) for report in again]
    assert [timeless(report) for report in first] != [timeless(report) for report in other]


@pytest.mark.slow
def test_final_accuracies_are_predicted_without_a_look_at_the_validation_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the laws that the last of six children gets: those of the first five, whose curves are of held-out images."""
    orders: list[ChildOrder] = []

    def train(self: ChildSearch, order: ChildOrder, original: Any = ChildSearch._train) -> ChildOutcome:
        orders.append(order)
        return original(self, order)

    monkeypatch.setattr(ChildSearch, "_train", train)
    options, data = tiny_options(strategy=CASES["predicting"]), images_of()
    reports = list(make_search(options, data))
    own, orders = orders, []
    others = list(make_search(options, replace(data, validation=data.test)))
    assert [len(order.laws) for order in own] == [0, 0, 0, 0, 0, 1]
    assert own == orders
    assert [r.child_val_accuracy for r in reports] != [r.child_val_accuracy for r in others]  # type: ignore[union-attr]


def test_report_is_of_the_best_child_by_held_out_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its accuracy there is the score; what is reported of it comes from the validation split."""
    scores = {0: 0.2, 1: 0.7, 2: 0.7, 3: 0.4, 4: 0.9, 5: 0.1}
    search = faked(monkeypatch, scores)
    reports = list(search)
    assert [report.child_val_accuracy for report in reports] == pytest.approx([0.35, 0.35, 0.45])
    space = search.children.space
    for report, best in zip(reports, (1, 1, 4), strict=True):
        assert report.genotype == space.decode(search.children.codes[best])
        assert report.child_params == search.children._limits.cost(report.genotype).params
    assert [report.seconds for report in reports] == [2.0, 2.0, 2.0], "of the epoch's children together"
    assert reports[0].images_per_s == 8.0


def test_failed_child_does_not_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    reports = list(faked(monkeypatch, {0: math.nan, 1: 0.5, 2: math.nan, 3: math.nan, 4: 0.25, 5: math.nan}))
    assert [report.child_val_accuracy for report in reports] == [0.25, 0.25, 0.25]


def test_search_whose_children_all_fail_ends_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    search = faked(monkeypatch, dict.fromkeys(range(6), math.nan))
    with pytest.raises(NonFiniteLossError, match="got 2 that failed, the last because: child 1 diverged"):
        search.run_epoch()


def faked(monkeypatch: pytest.MonkeyPatch, scores: dict[int, float]) -> ChildSearch:
    """A search whose children have these scores; validation accuracy is half of it."""

    def train(self: ChildTraining) -> Iterator[ChildReport]:
        score = scores[self.order.number]
        if math.isnan(score):
            raise NonFiniteLossError(f"child {self.order.number} diverged")
        yield ChildReport(
            epoch=0,
            train_loss=1.0,
            train_accuracy=score,
            held_out_loss=1.0,
            held_out_accuracy=score,
            lr=0.1,
            drop_path=0.0,
            images_per_s=8.0,
            seconds=1.0,
            val_loss=1.0,
            val_accuracy=score / 2,
            val_accuracy_recalibrated=score / 2,
        )

    monkeypatch.setattr(ChildTraining, "__iter__", train)
    return search_of("random")


def test_weights_are_kept_of_possible_parents_only() -> None:
    assert search_of("evolution").state_dict()["weights"] == {}
    search = search_of("inheriting")
    search.run_epoch()
    assert sorted(search.state_dict()["weights"]) == [0, 1], "the population"
    list(search)
    assert search.state_dict()["weights"] == {}, "no child follows"


def test_search_with_shared_weights_refuses_a_strategy_multi_trial() -> None:
    with pytest.raises(OptionsError, match=r"`strategy\.kind` must be one that shares weights, got random"):
        Search(tiny_options(strategy=CASES["random"]), images_of())
    assert isinstance(make_search(tiny_options(), images_of()), Search)


def test_state_of_another_search_is_refused() -> None:
    state = search_of("random").state_dict()
    with pytest.raises(StateError, match="differ in seed"):
        search_of("random", seed=1).load_state_dict(state)
    with pytest.raises(StateError, match="format"):
        search_of("random").load_state_dict({**state, "format": 99})


@pytest.mark.parametrize("section", ["cuda_graph", "precision"])
def test_what_children_do_not_support_is_refused(section: str) -> None:
    with pytest.raises(OptionsError, match=section):
        tiny_options(strategy=CASES["random"], **{section: {"cuda_graph": True, "precision": "bfloat16"}[section]})
