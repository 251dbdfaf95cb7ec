"""Strategies that rank draws: one way to judge, for their own choice and for callers that want scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from search_core.errors import OptionsError
from search_core.search.search import build_context
from search_core.strategies.base import EpochSettings
from search_core.strategies.weight_sharing.build import build_strategy
from search_core.strategies.weight_sharing.ranked_draws import RankedDraws
from search_core.strategies.weight_sharing.ranked_draws_options import (
    OneShotOptions,
    RandomSamplingOptions,
    RankedDrawsOptions,
    SmashOptions,
)
from tests.search_core.tiny import CPU, images_of, seeded, tiny_options

CASES: list[RankedDrawsOptions] = [
    RandomSamplingOptions(held_out=0.5, samples=4),
    SmashOptions(held_out=0.5, samples=4, features=4),
    OneShotOptions(held_out=0.5, samples=4),
    OneShotOptions(held_out=0.5, samples=4, rank_by="kl"),
]

each = pytest.mark.parametrize("options", CASES, ids=["random_sampling", "smash", "one_shot", "one_shot-kl"])


def build(options: Any) -> RankedDraws:
    search = tiny_options(strategy=options, batch_size=16)
    strategy = build_strategy(options, build_context(search, images_of(), CPU))
    strategy.begin_epoch(EpochSettings(temperature=1.0, eta=0.0, theta_lr=0.1), seeded())
    strategy.step(*next(iter(images_of().train.batches(16))), seeded())
    return strategy


@each
def test_best_of_the_draws_is_that_of_the_highest_score(options: RankedDrawsOptions) -> None:
    strategy, generator = build(options), seeded(2)
    codes = [strategy._best, *(strategy.space.sample(generator) for _ in range(4))]
    scores = strategy.scores(codes, generator)
    assert max(scores) > min(scores)
    strategy.end_epoch(seeded(2))
    assert strategy._best == codes[scores.index(max(scores))]


@pytest.mark.slow
@each
def test_scores_are_of_as_many_batches_as_the_ranking_has(options: RankedDrawsOptions) -> None:
    strategy, fewer = build(options), build(replace(options, batches=1))
    codes = [strategy.space.sample(generator) for generator in [seeded(3)] for _ in range(6)]
    assert strategy.scores(codes, seeded()) != fewer.scores(codes, seeded())


def test_all_broken_rules_are_named_at_once() -> None:
    with pytest.raises(OptionsError) as caught:
        OneShotOptions(held_out=1.0, samples=0, batches=0, rate=0.0, rank_by="loss")  # type: ignore[arg-type]
    assert {name for name, _ in caught.value.faults} == {"held_out", "samples", "batches", "rate", "rank_by"}
