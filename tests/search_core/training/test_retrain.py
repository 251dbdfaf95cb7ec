from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from search_core.data.dataset_options import DatasetOptions
from search_core.data.datasets import ImageData
from search_core.errors import DataError, NonFiniteLossError, OptionsError, StateError
from search_core.space.choices import Bits, CellChoices
from search_core.space.genotype import PUBLISHED, Edge, Genotype
from search_core.training.retrain import Retrain, RetrainReport, learning_rate_at
from search_core.training.retrain_options import RetrainOptions
from tests.search_core.search.test_search import Untouchable
from tests.search_core.tiny import count_madds, differences, images_of, num_params, seeded, through_file

EPOCHS = 3
TINY = RetrainOptions(epochs=EPOCHS, batch_size=32, cells=3, init_channels=4, cutout=2)
RETRAINS: dict[str, RetrainOptions] = {
    "default": TINY,
    "imagenet-recipe": replace(
        TINY, stem="imagenet", lr_schedule="exponential", label_smoothing=0.1, auxiliary_weight=0.0, drop_path=0.0
    ),
}


def make(options: RetrainOptions = TINY, *, name: str = "SNAS_mild", seed: int = 0) -> Retrain:
    return Retrain(PUBLISHED[name], options, images_of(), seed=seed)


#: Cells of 2, 8 and 10 channels of 4, 8 and 16; one of full precision; pairs of widths that differ.
CHOICES = CellChoices((0.5, 1.0, 0.6), (Bits(2, 3), Bits(32, 32), Bits(1, 2)))
EVERYTHING = Genotype(
    (Edge("sep_conv_3x3", 0, 2), Edge("dil_conv_3x3", 1, 2), Edge("conv_7x1_1x7", 2, 3), Edge("max_pool_3x3", 0, 3)),
    (2, 3),
    (Edge("skip_connect", 0, 2), Edge("sep_conv_3x3", 1, 2), Edge("avg_pool_3x3", 2, 3), Edge("dil_conv_3x3", 2, 3)),
    (2, 3),
)


def widths_in_use(child: nn.Module, images: Tensor) -> dict[str, tuple[int, int]]:
    """Distinct values of the weights and of the input of each convolution in a forward pass."""
    seen: dict[str, tuple[int, int]] = {}

    def look(name: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        return lambda module, inputs: seen.update({name: (len(module.weight.unique()), len(inputs[0].unique()))})

    handles = [
        module.register_forward_pre_hook(look(name))
        for name, module in child.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    child(images)
    for handle in handles:
        handle.remove()
    return seen


def timeless(report: RetrainReport) -> RetrainReport:
    return replace(report, seconds=0.0)


@cache
def whole(name: str) -> tuple[list[RetrainReport], dict[str, Any]]:
    retrain = make(RETRAINS[name])
    return [timeless(report) for report in retrain], through_file(retrain.state_dict())


# Determinism and resumption


@pytest.mark.parametrize("name", list(RETRAINS))
def test_same_seed_gives_equal_reports_and_states(name: str) -> None:
    before = torch.get_rng_state()
    retrain = make(RETRAINS[name])
    assert [timeless(report) for report in retrain] == whole(name)[0]
    assert differences(retrain.state_dict(), whole(name)[1]) == []
    assert torch.equal(before, torch.get_rng_state())


def images(number: int) -> Tensor:
    return torch.randn(number, 1, 8, 8, generator=seeded(4))


def with_choices(choices: CellChoices | None = CHOICES, genotype: Genotype = EVERYTHING, **changes: Any) -> Retrain:
    return Retrain(genotype, replace(TINY, **{"epochs": 2, **changes}), images_of(), choices=choices)


def test_trained_child_has_the_channels_and_bits_that_were_chosen() -> None:
    retrain, fresh = with_choices(), with_choices()
    list(retrain)
    child = retrain.child.eval()
    assert [cell.channels for cell in child.plan.cells] == [2, 8, 10]
    assert all(conv.weight.shape[0] in (2, 1) for conv in child.cells[0].modules() if isinstance(conv, nn.Conv2d)), (
        "halves of a factorized reduction have one"
    )
    seen = widths_in_use(child, images(8))
    most = {"cells.0": (4, 8), "cells.2": (2, 4)}
    for name, (weights, features) in seen.items():
        limits = most.get(name[:7])
        assert limits is None or (weights <= limits[0] and features <= limits[1]), name
    assert max(weights for name, (weights, _) in seen.items() if name.startswith("cells.0")) > 2
    assert max(features for name, (_, features) in seen.items() if name.startswith("cells.0")) > 4
    assert max(weights for name, (weights, _) in seen.items() if name.startswith("cells.1")) > 50, "full precision"
    assert max(weights for name, (weights, _) in seen.items() if name.startswith("stem")) > 16
    for name, weight in child.named_parameters():  # those kept are in full precision, and all of them were trained
        if name.startswith("cells.0.operations") and weight.dim() == 4:
            assert len(weight.unique()) == weight.numel(), name
            assert not torch.equal(weight, fresh.child.get_parameter(name)), name


def test_counts_are_those_of_the_chosen_channels_and_the_product_of_both_widths() -> None:
    retrain = with_choices(auxiliary_weight=0.0)
    list(retrain)
    metrics, child, x = retrain.final_metrics(), retrain.child.eval(), images(1)
    assert metrics["params"] == num_params(child)
    assert metrics["madds"] == count_madds(child, x)
    madds, outputs = [], list(child.stem(x))
    for cell in child.cells:
        madds.append(count_madds(cell, *outputs[-2:], 0.0, None))
        outputs.append(cell(*outputs[-2:], 0.0, None))
    ends = metrics["madds"] - sum(madds)
    assert metrics["bit_operations"] == ends * 32**2 + madds[0] * 2 * 3 + madds[1] * 32**2 + madds[2] * 1 * 2


def test_child_of_few_bits_is_kept_whole() -> None:
    """As a registered model is: pickled with its hooks."""
    child, buffer = with_choices().child.eval(), io.BytesIO()
    torch.save(child, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert torch.equal(loaded(images(4)), child(images(4)))
    assert widths_in_use(loaded, images(4)) == widths_in_use(child, images(4))


def test_retraining_with_choices_resumes_bit_for_bit_and_only_with_these() -> None:
    retrain = with_choices()
    retrain.run_epoch()
    state = through_file(retrain.state_dict())
    second = timeless(retrain.run_epoch())
    resumed = with_choices()
    resumed.load_state_dict(state)
    assert timeless(resumed.run_epoch()) == second
    assert differences(resumed.state_dict(), retrain.state_dict()) == []
    for other in (None, CellChoices(CHOICES.shares, (Bits(), Bits(), Bits()))):
        with pytest.raises(StateError):
            with_choices(other).load_state_dict(state)
    assert "choices" not in with_choices(None).definition(), "so that states of earlier versions still fit"


def test_deeper_child_takes_the_choices_at_its_share_of_the_depth() -> None:
    child = with_choices(cells=6, init_channels=8).child
    assert [cell.channels for cell in child.plan.cells] == [4, 4, 16, 16, 20, 20]  # of 8, 8, 16, 16, 32, 32
    assert child.bits == (CHOICES.bits[0],) * 2 + (CHOICES.bits[1],) * 2 + (CHOICES.bits[2],) * 2


def test_another_seed_gives_other_reports() -> None:
    assert make(seed=1).run_epoch().train_loss != whole("default")[0][0].train_loss


@pytest.mark.parametrize("stop", [1, *(pytest.param(stop, marks=pytest.mark.slow) for stop in range(2, EPOCHS + 1))])
@pytest.mark.parametrize("name", list(RETRAINS))
def test_retraining_resumed_from_a_file_equals_one_never_stopped(name: str, stop: int) -> None:
    reports, state = whole(name)
    retrain = make(RETRAINS[name])
    before = [retrain.run_epoch() for _ in range(stop)]
    resumed = make(RETRAINS[name])
    resumed.load_state_dict(through_file(retrain.state_dict()))
    assert resumed.epoch == stop
    assert [timeless(report) for report in [*before, *resumed]] == reports
    assert differences(resumed.state_dict(), state) == []


@pytest.mark.parametrize("changes", [{"seed": 1}, {"name": "DARTS_V2"}, {"options": replace(TINY, lr=0.1)}])
def test_state_of_another_retraining_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(StateError, match="the state must come from equal options and data; they differ in "):
        make(**changes).load_state_dict(whole("default")[1])


@pytest.mark.parametrize("state", [{}, {"format": 0}])
def test_state_of_another_format_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(StateError, match=r"the state's format must be 2, got (None|0)"):
        make().load_state_dict(state)


# The recipe


def test_learning_rate_falls_as_a_cosine_to_0() -> None:
    options = RetrainOptions(epochs=4, lr=0.2)
    # 0.1 (1 + cos(pi e / 4)); 0 itself would come after the last epoch.
    expected = [0.2, 0.1707106781, 0.1, 0.0292893219]
    assert [learning_rate_at(options, epoch) for epoch in range(4)] == pytest.approx(expected)
    assert learning_rate_at(options, 4) == 0


def test_learning_rate_falls_by_a_factor() -> None:
    options = RetrainOptions(lr=0.1, lr_schedule="exponential")
    expected = [0.1, 0.097, 0.09409, 0.0912673]
    assert [learning_rate_at(options, epoch) for epoch in range(4)] == pytest.approx(expected)


def test_reports_follow_the_schedules() -> None:
    reports, state = whole("default")
    assert [report.epoch for report in reports] == [0, 1, 2]
    assert [report.lr for report in reports] == pytest.approx([0.025, 0.01875, 0.00625])
    # As in DARTS, drop path * epoch / epochs: the last epoch comes close to the option.
    assert [report.drop_path for report in reports] == pytest.approx([0.0, 0.2 / 3, 0.4 / 3])
    assert state["optimiser"]["param_groups"][0]["lr"] == reports[-1].lr
    for report in reports:
        assert 0 < report.train_loss < 10
        assert (64 * report.train_accuracy).is_integer()
        assert (16 * report.val_accuracy).is_integer()
    assert set(reports[0].metrics()) == set(vars(reports[0])) - {"epoch"}
    assert reports[0].to_dict() == {"epoch": 0, "metrics": reports[0].metrics()}


def test_drop_path_is_off_in_the_first_epoch_and_on_later() -> None:
    reports = [list(make(replace(TINY, drop_path=probability))) for probability in (0.0, 0.5)]
    assert reports[0][0].train_loss == reports[1][0].train_loss
    assert reports[0][1].train_loss != reports[1][1].train_loss


@pytest.mark.parametrize("weight", [0.0, 0.4])
def test_auxiliary_head_is_built_only_with_a_weight(weight: float) -> None:
    retrain = make(replace(TINY, auxiliary_weight=weight))
    auxiliary = retrain.child.auxiliary
    assert (auxiliary is not None) == (weight > 0)
    params = num_params(retrain.child) - (num_params(auxiliary) if auxiliary is not None else 0)
    assert retrain.cost().params == params


def test_auxiliary_loss_trains_but_is_not_reported() -> None:
    reports, states = [], []
    for weight in (0.1, 0.4):
        retrain = make(replace(TINY, auxiliary_weight=weight, epochs=1, batch_size=64))
        reports.append(retrain.run_epoch())
        states.append(retrain.state_dict()["child"])
    # One step: the same first loss of the main classifier, other weights after it.
    assert reports[0].train_loss == reports[1].train_loss
    assert any(place.startswith("state.stem") for place in differences(*states))


def test_label_smoothing_changes_the_loss() -> None:
    losses = [make(replace(TINY, label_smoothing=value)).run_epoch().train_loss for value in (0.0, 0.3)]
    assert losses[0] != losses[1]


def test_cutout_is_that_of_the_recipe_not_of_the_search() -> None:
    data = images_of(DatasetOptions(name="fake", shape=(1, 8, 8), images=100, cutout=4))
    assert data.augmentation.cutout == 4
    recipes = [
        Retrain(PUBLISHED["SNAS_mild"], replace(TINY, cutout=2), images).run_epoch() for images in (images_of(), data)
    ]
    assert timeless(recipes[0]) == timeless(recipes[1])
    without = Retrain(PUBLISHED["SNAS_mild"], replace(TINY, cutout=0), data).run_epoch()
    assert without.train_loss != recipes[0].train_loss


def test_retraining_learns() -> None:
    digits = images_of(DatasetOptions(name="digits", train_images=256, validation_images=100))
    options = replace(TINY, epochs=5, lr=0.1, auxiliary_weight=0.0, drop_path=0.0, cutout=0)
    reports = list(Retrain(PUBLISHED["SNAS_mild"], options, digits))
    # Chance is 0.1; 0.4 is over ten standard errors (0.03) of 100 images above it.
    assert reports[-1].val_accuracy > 0.4
    assert reports[-1].train_loss < reports[0].train_loss


# The test split


def test_test_is_refused_before_the_last_epoch() -> None:
    retrain = make(replace(TINY, epochs=2))
    for done in (0, 1):
        with pytest.raises(StateError, match=f"the test split is for the final figure: {done} of 2 epochs done"):
            retrain.test()
        retrain.run_epoch()
    evaluation = retrain.test()
    assert evaluation.loss > 0
    assert (20 * evaluation.accuracy).is_integer()  # 20 test images


def test_training_does_not_touch_the_test_split() -> None:
    data: ImageData = replace(images_of(), test=Untouchable())  # type: ignore[arg-type]
    reports: Iterator[RetrainReport] = iter(Retrain(PUBLISHED["SNAS_mild"], TINY, data))
    assert [timeless(report) for report in reports] == whole("default")[0]


def test_test_uses_no_drop_path_and_no_batch_statistics() -> None:
    retrain = make(replace(TINY, drop_path=0.5))
    list(retrain)
    retrain.child.train()
    first = retrain.test()
    assert first == retrain.test()
    ((images, labels),) = retrain.data.test.batches(100)
    with torch.no_grad():
        one_by_one = torch.cat([retrain.child(image[None]) for image in images])
    assert first.accuracy == (one_by_one.argmax(1) == labels).double().mean().item()


# Failure


def test_non_finite_loss_ends_the_retraining() -> None:
    with pytest.raises(NonFiniteLossError, match="the training loss must stay finite, got nan in epoch"):
        list(make(replace(TINY, lr=1e30)))


def test_a_batch_larger_than_the_training_split_is_refused() -> None:
    with pytest.raises(DataError, match="`batch_size` must be at most the number of training images 64, got 65"):
        make(replace(TINY, batch_size=65))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "`epochs` must be at least 1, got 0"),
        ({"batch_size": 1}, "`batch_size` must be at least 2, got 1"),
        ({"cells": 0}, "`cells` must be at least 1, got 0"),
        ({"init_channels": 7}, "`init_channels` must be an even number of at least 2, got 7"),
        ({"lr": math.nan}, "`lr` must be a finite number above 0, got nan"),
        ({"lr_decay": 0.0}, r"`lr_decay` must be in \(0, 1\], got 0.0"),
        ({"momentum": 1.0}, r"`momentum` must be in \[0, 1\), got 1.0"),
        ({"weight_decay": -1e-4}, "`weight_decay` must be at least 0, got -0.0001"),
        ({"grad_clip": 0.0}, "`grad_clip` must be above 0, got 0.0"),
        ({"label_smoothing": 1.0}, r"`label_smoothing` must be in \[0, 1\), got 1.0"),
        ({"auxiliary_weight": -0.4}, "`auxiliary_weight` must be at least 0, got -0.4"),
        ({"drop_path": 1.0}, r"`drop_path` must be in \[0, 1\), got 1.0"),
        ({"cutout": -1}, "`cutout` must be at least 0, got -1"),
        ({"validation_fraction": 1.0}, r"`validation_fraction` must be in \(0, 1\), got 1.0"),
    ],
)
def test_retrain_options_reject_values_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        RetrainOptions(**options)


def test_retrain_options_report_all_faults_at_once() -> None:
    with pytest.raises(OptionsError) as caught:
        RetrainOptions(epochs=0, batch_size=0, lr=-1.0, drop_path=2.0, validation_fraction=0.0)
    assert [name for name, _ in caught.value.faults] == [
        "epochs",
        "batch_size",
        "lr",
        "drop_path",
        "validation_fraction",
    ]


def test_defaults_are_the_cifar_recipe() -> None:
    options = RetrainOptions()
    assert (options.epochs, options.batch_size, options.cells, options.init_channels) == (600, 96, 20, 36)
    assert (options.lr, options.lr_schedule, options.weight_decay, options.grad_clip) == (0.025, "cosine", 3e-4, 5.0)
    assert (options.auxiliary_weight, options.drop_path, options.label_smoothing) == (0.4, 0.2, 0.0)


def test_gradients_are_clipped() -> None:
    """With a clip of 1e-6 one step of SGD without weight decay moves the weights by at most lr times that."""
    retrain = make(replace(TINY, batch_size=64, grad_clip=1e-6, weight_decay=0.0, lr=1.0, epochs=1))
    before = torch.nn.utils.parameters_to_vector(retrain.child.parameters()).clone()
    retrain.run_epoch()
    moved = torch.nn.utils.parameters_to_vector(retrain.child.parameters()) - before
    # Float32 weights of up to 1 round steps of this size by 6e-8 each, over some 5e5 weights.
    assert 0 < moved.norm().item() < 1e-6 + 6e-8 * math.sqrt(moved.numel())


def test_generator_of_drop_path_is_its_own() -> None:
    first = make(replace(TINY, drop_path=0.5))
    first._generators["drop_path"].set_state(seeded(99).get_state())
    reports = list(first), list(make(replace(TINY, drop_path=0.5)))
    assert reports[0][0].train_loss == reports[1][0].train_loss
    assert reports[0][1].train_loss != reports[1][1].train_loss
