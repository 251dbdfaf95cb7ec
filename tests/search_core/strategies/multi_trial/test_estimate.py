"""How a child is trained for its score: images, recipe, learning curves, inherited weights."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from search_core.data.dataset_options import DatasetOptions
from search_core.data.datasets import ImageData, load_data
from search_core.errors import OptionsError, StateError
from search_core.network.child import Child
from search_core.search import child_training
from search_core.search.child_recipe import child_recipe
from search_core.search.child_training import ChildOrder, ChildReport, ChildTraining, inherit_weights
from search_core.search.options import SearchOptions
from search_core.space.codes import genotype_space
from search_core.strategies.multi_trial.estimate import estimate_images
from search_core.strategies.multi_trial.estimate_options import EstimateOptions
from search_core.strategies.multi_trial.learning_curve import CurveStop, predicted_accuracy
from search_core.strategies.multi_trial.options import RandomSearchOptions, RegularisedEvolutionOptions
from search_core.training.evaluation import evaluate, recalibrate
from search_core.training.held_out import SearchImages
from tests.search_core.tiny import (
    CPU,
    TINY_NETWORK,
    TINY_SIZE,
    differences,
    images_of,
    seeded,
    through_file,
    tiny_options,
)

SPACE = genotype_space(TINY_NETWORK)
CODE = (3, 1, 2, 3, 3, 3, 2, 1, 3, 2)


def search_of(**estimate: Any) -> SearchOptions:
    given = {"held_out": 0.5, "epochs": 3, "batch_size": 16, **estimate}
    return tiny_options(strategy=RandomSearchOptions(estimate=EstimateOptions(**given)))


def training_of(order: ChildOrder | None = None, data: ImageData | None = None, **estimate: Any) -> ChildTraining:
    return ChildTraining(search_of(**estimate), data or images_of(), order or ChildOrder(number=0, code=CODE))


def timeless(report: ChildReport) -> ChildReport:
    return replace(report, seconds=0.0, images_per_s=0.0)


def test_children_train_and_are_scored_on_parts_of_the_training_split() -> None:
    data = images_of()
    images = estimate_images(EstimateOptions(held_out=0.25), data)
    parts = SearchImages.of(data, 0.25, batch_size=2, recalibration_batches=1)
    assert images.train.indices.tolist() == parts.weights.indices.tolist()
    assert images.validation.indices.tolist() == parts.held_out_split.indices.tolist()
    assert not set(images.train.indices) & set(images.validation.indices)
    assert {*images.train.indices, *images.validation.indices} == set(data.train.indices)


def test_part_of_the_images_has_the_classes_in_proportion() -> None:
    data = load_data(DatasetOptions(name="digits"), CPU)
    whole, part = (
        estimate_images(EstimateOptions(), data).train,
        estimate_images(EstimateOptions(data_fraction=0.25), data).train,
    )
    assert len(part) == round(0.25 * len(whole))
    assert set(part.indices) < set(whole.indices)
    shares = [np.bincount(split.labels, minlength=10) / len(split) for split in (whole, part)]
    assert np.abs(shares[0] - shares[1]).max() < 1 / len(part), "to less than an image"


def test_images_are_made_smaller_by_the_mean_of_areas() -> None:
    data = images_of()
    images = estimate_images(EstimateOptions(resolution=4), data)
    assert images.input_shape == (1, 4, 4)
    small, labels = next(images.validation.batches(8))
    full, _ = next(estimate_images(EstimateOptions(), data).validation.batches(8))
    assert small.shape == (8, 1, 4, 4)
    torch.testing.assert_close(small, functional.avg_pool2d(full, 2))
    assert labels.tolist() == images.validation.labels[:8].tolist()
    with pytest.raises(OptionsError, match="`resolution` must be at most the images' shorter side 8, got 9"):
        estimate_images(EstimateOptions(resolution=9), data)


def test_recipe_is_that_of_the_search_but_for_what_the_estimate_says() -> None:
    options = search_of(batch_size=None)
    recipe = child_recipe(EstimateOptions(), options)
    assert (recipe.batch_size, recipe.cells, recipe.init_channels) == (32, 3, 4)
    assert (recipe.lr, recipe.momentum) == (options.theta.lr, options.theta.momentum)
    assert (recipe.auxiliary_weight, recipe.drop_path, recipe.label_smoothing) == (0, 0, 0)
    given = child_recipe(
        EstimateOptions(epochs=7, batch_size=8, cells=2, init_channels=2, lr=0.5, drop_path=0.3), options
    )
    assert (given.epochs, given.batch_size, given.cells, given.init_channels, given.lr) == (7, 8, 2, 2, 0.5)


def test_drop_path_grows_linearly() -> None:
    assert [report.drop_path for report in training_of(drop_path=0.3)] == pytest.approx([0.0, 0.1, 0.2])


def test_validation_split_is_looked_at_once_after_the_last_epoch() -> None:
    reports = list(training_of())
    assert [math.isnan(report.val_accuracy) for report in reports] == [True, True, False]
    assert "val_accuracy" not in reports[0].metrics()
    other = replace(images_of(), validation=images_of().test)
    other_reports = list(training_of(data=other))
    assert [r.held_out_accuracy for r in reports] == [r.held_out_accuracy for r in other_reports]
    assert [r.train_loss for r in reports] == [r.train_loss for r in other_reports]
    assert reports[-1].val_loss != other_reports[-1].val_loss


def test_held_out_accuracy_is_measured_with_statistics_of_the_training_images() -> None:
    """An oracle: a copy whose statistics are plain averages over all training images in a batch of their own."""
    plain, recalibrated = training_of(recalibrate=False), training_of()
    reports = list(zip(plain, recalibrated, strict=True))
    assert [one.train_loss for one, _ in reports] == [other.train_loss for _, other in reports], "training is the same"
    differing = [one.held_out_loss != other.held_out_loss for one, other in reports]
    assert differing == [False, False, True], "only the last is the score"
    data = recalibrated._training.data
    child = copy.deepcopy(recalibrated.child)
    recalibrate(child, data.train, batch_size=16, num_batches=2, generator=seeded())
    assert evaluate(child, data.validation).loss == pytest.approx(reports[-1][1].held_out_loss, rel=0.02)
    assert evaluate(plain.child.eval(), data.validation).loss == reports[-1][0].held_out_loss


def test_children_have_seeds_of_their_own() -> None:
    first, again, other = (training_of(ChildOrder(number=number, code=CODE)) for number in (0, 0, 1))
    assert differences(first.child.state_dict(), again.child.state_dict()) == []
    assert differences(first.child.state_dict(), other.child.state_dict()) != []


@pytest.mark.parametrize("epochs_before", [1, 2, 3])
@pytest.mark.slow
def test_training_resumes_bit_for_bit(epochs_before: int) -> None:
    whole, first, second = (training_of(drop_path=0.2, resolution=4) for _ in range(3))
    reports = [timeless(report) for report in whole]
    for _ in range(epochs_before):
        first.run_epoch()
    second.load_state_dict(through_file(first.state_dict()))
    assert [timeless(report) for report in second] == reports[epochs_before:]
    assert differences(second.state_dict(), whole.state_dict()) == []


def test_state_of_another_child_is_refused() -> None:
    state = training_of(ChildOrder(number=0, code=CODE)).state_dict()
    with pytest.raises(StateError, match="they differ in number"):
        training_of(ChildOrder(number=1, code=CODE)).load_state_dict(state)


def test_state_of_a_child_that_is_scored_otherwise_is_refused() -> None:
    state = training_of().state_dict()
    with pytest.raises(StateError, match=r"they differ in recalibrate$"):
        training_of(recalibrate=False).load_state_dict(state)
    options = replace(search_of(), recalibration_batches=5)
    with pytest.raises(StateError, match=r"they differ in recalibration_batches$"):
        ChildTraining(options, images_of(), ChildOrder(number=0, code=CODE)).load_state_dict(state)


@pytest.mark.parametrize(("stop", "times"), [(CurveStop(), 1), (CurveStop(kind="curve"), 3)])
@pytest.mark.slow
def test_statistics_are_recomputed_where_an_accuracy_is_judged(
    stop: CurveStop, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the hours that a strategy is charged grow for nothing; the score is the same."""
    calls = []
    monkeypatch.setattr(
        child_training, "recalibrate", lambda *given, **named: calls.append(recalibrate(*given, **named))
    )
    *_, last = training_of(stop=stop)
    assert len(calls) == times
    (*_, whole) = training_of(stop=CurveStop(kind="curve"))
    assert last.held_out_accuracy == whole.held_out_accuracy
    assert last.held_out_loss == whole.held_out_loss


def test_prediction_is_that_of_the_law_that_made_the_curve() -> None:
    curve = [0.9 - 0.6 * epoch**-0.75 for epoch in range(1, 31)]
    # Exponents are tried on a grid whose neighbours differ by 4 %.
    assert predicted_accuracy(curve[:8], 30) == pytest.approx(curve[29], abs=0.003)
    assert predicted_accuracy([0.5, 0.5, 0.5], 30) == pytest.approx(0.5)
    assert predicted_accuracy([0.6, 0.5, 0.4], 30) == 0.6, "at least what it had"
    assert predicted_accuracy([0.1, 0.5, 0.95], 30) <= 1.0


def test_child_is_stopped_that_will_not_become_the_best() -> None:
    poor = [0.5 - 0.3 * epoch**-1.0 for epoch in range(1, 6)]
    stop = CurveStop(kind="curve", grace=4, margin=0.05)
    assert stop.is_hopeless(poor, 20, best=0.6)
    assert not stop.is_hopeless(poor, 20, best=0.53), "within the margin"
    assert not stop.is_hopeless(poor, 20, best=None)
    assert not stop.is_hopeless(poor[:3], 20, best=0.6), "within its grace"
    assert not stop.is_hopeless(poor, 5, best=0.6), "it is over anyway"
    assert not CurveStop().is_hopeless(poor, 20, best=0.6)


def test_stopped_child_is_over_and_validated() -> None:
    estimate = {"epochs": 8, "stop": CurveStop(kind="curve", margin=0.0)}
    training = training_of(ChildOrder(number=0, code=CODE, best=2.0), **estimate)
    reports = list(training)
    assert len(reports) == 3
    assert training.is_over
    assert reports[-1].stopped == "its curve would stay below the best score 2.0000"
    assert not math.isnan(reports[-1].val_accuracy)
    resumed = training_of(ChildOrder(number=0, code=CODE, best=2.0), **estimate)
    resumed.load_state_dict(through_file(training.state_dict()))
    assert list(resumed) == []


def child_of(code: tuple[int, ...], seed: int, init_channels: int = 4) -> Child:
    size = replace(TINY_SIZE, network=replace(TINY_NETWORK, init_channels=init_channels))
    return Child(SPACE.decode(code), size, seed=seed)


def test_child_inherits_where_primitive_and_shape_agree() -> None:
    parent, child = child_of(CODE, 1), child_of((3, 3, *CODE[2:]), 2)
    fresh = {name: value.clone() for name, value in child.state_dict().items()}
    inherit_weights(child, parent.genotype, parent.state_dict())
    own, theirs = child.state_dict(), parent.state_dict()
    for index, cell in enumerate(child.cells):
        for number, edge in enumerate(cell.kept):  # type: ignore[arg-type]
            prefix = f"cells.{index}.operations.{number}."
            names = [name for name in own if name.startswith(prefix)]
            parents = list(parent.genotype.edges(cell.plan.cell_type))  # type: ignore[union-attr]
            for name in names:
                if edge in parents:
                    source = name.replace(prefix, f"cells.{index}.operations.{parents.index(edge)}.")
                    assert torch.equal(own[name], theirs[source]), name
                else:
                    assert torch.equal(own[name], fresh[name]), name
    assert torch.equal(own["classifier.linear.weight"], theirs["classifier.linear.weight"])
    assert torch.equal(own["stem.conv.weight"], theirs["stem.conv.weight"])


def test_child_of_the_same_code_is_the_parent_and_of_other_size_stays_fresh() -> None:
    parent, twin, wide = child_of(CODE, 1), child_of(CODE, 2), child_of(CODE, 2, init_channels=8)
    inherit_weights(twin, parent.genotype, parent.state_dict())
    images = torch.randn(4, 1, 8, 8, generator=seeded())
    assert torch.equal(twin.eval()(images), parent.eval()(images))
    fresh = {name: value.clone() for name, value in wide.state_dict().items()}
    inherit_weights(wide, parent.genotype, parent.state_dict())
    assert torch.equal(wide.state_dict()["stem.conv.weight"], fresh["stem.conv.weight"])


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"held_out": 0.0}, "`held_out` must be in \\(0, 1\\), got 0.0"),
        ({"epochs": 0}, "`epochs` must be at least 1, got 0"),
        ({"data_fraction": 1.5}, "`data_fraction` must be in \\(0, 1\\], got 1.5"),
        ({"resolution": 3}, "`resolution` must be at least 4, got 3"),
        ({"init_channels": 5}, "`init_channels` must be an even number of at least 2, got 5"),
        ({"cells": 0}, "`cells` must be at least 1, got 0"),
        ({"batch_size": 1}, "`batch_size` must be at least 2, got 1"),
        ({"lr": 0.0}, "`lr` must be a finite number above 0, got 0.0"),
        ({"drop_path": 1.0}, "`drop_path` must be in \\[0, 1\\), got 1.0"),
    ],
)
def test_estimates_out_of_range_are_refused(values: dict[str, Any], fault: str) -> None:
    with pytest.raises(OptionsError, match=fault):
        EstimateOptions(**values)


@pytest.mark.parametrize(
    ("values", "fault"), [({"grace": 2}, "`grace` must be at least 3"), ({"margin": -0.1}, "`margin` must be in")]
)
def test_stops_out_of_range_are_refused(values: dict[str, Any], fault: str) -> None:
    with pytest.raises(OptionsError, match=fault):
        CurveStop(kind="curve", **values)


def test_all_options_are_reported_at_once() -> None:
    with pytest.raises(OptionsError) as caught:
        EstimateOptions(epochs=0, drop_path=2.0, cells=0)
    assert [name for name, _ in caught.value.faults] == ["epochs", "cells", "drop_path"]
    assert RegularisedEvolutionOptions().estimate == EstimateOptions()
