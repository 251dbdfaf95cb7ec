"""Predicted times: on work whose cost is known exactly, and on real steps."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch

from search_core.data.datasets import ImageData
from search_core.search import pace as module
from search_core.search.pace import Pace, merged, retrain_pace, search_pace
from search_core.space.genotype import PUBLISHED
from search_core.strategies.multi_trial.options import RandomSearchOptions
from search_core.strategies.weight_sharing.options import SposOptions
from search_core.training.retrain_options import RetrainOptions
from tests.search_core.tiny import CPU, TINY_DATASET, images_of, tiny_options

PACE = Pace(load_s=1.0, build_s=2.0, epoch_s=(3.0,), last_s=4.0, state_bytes=5)


class Clock:
    """Seconds that work adds; nobody else does."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class KnownWork:
    """An epoch of 5 s, 2 s a training batch, 1/8 s a validation image, 3 s for each of 4 batches of statistics."""

    def __init__(self, data: ImageData, epochs: int, clock: Clock) -> None:
        self.data, self.epochs, self.clock, self.epoch = data, epochs, clock, 0
        self.generator = torch.Generator().manual_seed(0)
        clock.now += 7  # to build it

    def run_epoch(self) -> None:
        train = self.data.train
        for _ in train.batches(4, generator=self.generator, augment=self.data.augmentation, drop_last=True):
            self.clock.now += 2
        for _, labels in self.data.validation.batches(64):
            self.clock.now += len(labels) / 8
        for _ in islice(train.batches(4, generator=self.generator), 4):
            self.clock.now += 3
        self.epoch += 1
        self.clock.now += 5 + (11 if self.epoch == self.epochs else 0)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch}


def test_whole_epoch_is_predicted_from_two_shares_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    data = images_of(replace(TINY_DATASET, images=1000))
    steps = data.train.num_batches(4, drop_last=True)

    def load() -> ImageData:
        clock.now += 100
        return data

    pace = module._measured(lambda images, epochs: KnownWork(images, epochs, clock), load, 4)  # type: ignore[arg-type,return-value]
    assert pace.epoch_s == pytest.approx([2 * steps + len(data.validation) / 8 + 12 + 5] * 2, rel=1e-3)
    assert pace.last_s == pytest.approx(11, abs=0.5), "a share of the images is a whole number of them"
    assert (pace.build_s, pace.load_s) == pytest.approx((7, 100), abs=0.5)
    assert pace.unit_s(10)[1] == pytest.approx(7 + 10 * pace.epoch_s[0] + pace.last_s)


def test_epoch_of_few_steps_is_measured_whole() -> None:
    assert module._whole(2.0, 5.0, short=0.5, long=1.0) == 5.0
    assert module._whole(2.0, 5.0, short=0.25, long=0.5) == 11.0
    assert module._whole(5.0, 4.0, short=0.25, long=0.5) == 4.0, "noise"


def test_paces_measured_side_by_side_are_one() -> None:
    one = Pace(load_s=1.0, build_s=2.0, epoch_s=(3.0, 9.0), last_s=4.0, state_bytes=5)
    two = Pace(load_s=3.0, build_s=2.0, epoch_s=(4.0, 5.0), last_s=6.0, state_bytes=5)
    both = merged([one, two])
    assert both == Pace(load_s=2.0, build_s=2.0, epoch_s=(3.0, 4.0, 5.0, 9.0), last_s=5.0, state_bytes=5)
    assert both.unit_s(2) == (13.0, 16.0, 25.0)


def steps_taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counts: list[int] = []
    original = torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda self, *rest, **named: (counts.append(1), original(self))[1])
    return counts


@pytest.mark.parametrize("multi_trial", [pytest.param(False, marks=pytest.mark.slow), True])
def test_few_steps_of_a_search_are_run(monkeypatch: pytest.MonkeyPatch, multi_trial: bool) -> None:
    counts = steps_taken(monkeypatch)
    strategy = RandomSearchOptions() if multi_trial else tiny_options().strategy
    pace = search_pace(tiny_options(epochs=50, batch_size=4, strategy=strategy), images_of, CPU)
    short, long = (2, 6) if multi_trial else (2, 8)  # of 12 steps an epoch of a child, or 16
    assert len(counts) == long + 2 * (short + long) + (short + short) + (short + long)
    assert 0 < pace.epoch_s[0] <= pace.epoch_s[1]
    assert pace.state_bytes > 1000


def test_last_epoch_of_spos_has_all_its_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[int] = []
    monkeypatch.setattr(
        module,
        "_measured",
        lambda build, *_: (judged.append(build(images_of(), 2).options.strategy.generations), PACE)[1],
    )
    options = tiny_options(batch_size=8, strategy=SposOptions(generations=7, population=4, top_k=2))
    assert (search_pace(options, images_of, CPU).last_s, judged) == (7 * PACE.last_s, [1])


@pytest.mark.slow
def test_retraining_is_measured_with_its_test() -> None:
    recipe = RetrainOptions(epochs=3, cells=3, init_channels=4, batch_size=8, drop_path=0.0)
    assert retrain_pace(PUBLISHED["SNAS_mild"], recipe, images_of, CPU).epoch_s[0] > 0
