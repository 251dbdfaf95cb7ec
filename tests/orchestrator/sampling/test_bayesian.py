"""TPE over genotypes: it learns, keeps the limits, and is the same after a restart."""

from __future__ import annotations

import math

import pytest
import torch

from orchestrator.sampling.bayesian import Bayesian, build_proposer
from search_core.cost.constraints import ChildLimits, Constraints, Limit
from search_core.errors import OptionsError
from search_core.space.code_space import Code
from search_core.space.codes import genotype_space
from search_core.strategies.multi_trial.build import build_proposer as build_alone
from search_core.strategies.multi_trial.options import BayesianOptions
from search_core.strategies.multi_trial.proposer import Proposer
from tests.search_core.tiny import FEW_PRIMITIVES, TINY_NETWORK, TINY_SIZE, differences, through_file

SPACE = genotype_space(TINY_NETWORK)


def build(seed: int = 0, startup: int = 5, **constraints: Limit) -> Proposer:
    limits = ChildLimits(Constraints(**constraints), TINY_SIZE)
    return build_proposer(BayesianOptions(startup=startup), SPACE, limits, seed)


def fitness(code: Code) -> float:
    """Share of the edges that have the one operation that is best there."""
    return sum(choice == position % len(FEW_PRIMITIVES) for position, choice in enumerate(code)) / len(code)


def run(proposer: Proposer, number: int) -> list[Code]:
    codes = []
    for _ in range(number):
        proposal = proposer.ask()
        assert proposal is not None
        proposer.tell(proposal.number, fitness(proposal.code))
        codes.append(proposal.code)
    return codes


def test_later_proposals_are_better_than_random_ones() -> None:
    """A random code has 1/4 of the edges right, with a standard deviation of 0.14."""
    codes = run(build(startup=10), 80)
    assert sum(map(fitness, codes[:10])) / 10 < 0.45
    assert sum(map(fitness, codes[-20:])) / 20 > 0.6


def test_children_are_drawn_uniformly_until_startup_have_scores() -> None:
    """Children that still train do not count, so that with several at a time more than `startup` are drawn."""
    few, never = build(startup=3), build(startup=100)
    drawn = [[proposer.ask() for _ in range(8)] for proposer in (few, never)]
    assert drawn[0] == drawn[1], "eight are open, none has a score"
    for number in range(3):
        assert few.ask() == never.ask()
        for proposer in (few, never):
            proposer.tell(number, 0.1 * number)
    assert [few.ask() for _ in range(8)] != [never.ask() for _ in range(8)], "the model proposes"


def test_proposals_keep_the_limits_and_are_drawn_where_the_model_finds_none() -> None:
    free = build()
    assert isinstance(free, Bayesian)
    params = sorted(free.limits.cost(SPACE.decode(code)).params for code in run(free, 30))
    tight = build(params=Limit(max=params[1]))
    assert isinstance(tight, Bayesian)
    assert all(tight.limits.admits(SPACE.decode(code)) for code in run(tight, 12))


def test_state_round_trip_resumes_exactly() -> None:
    proposer, other = build(), build(seed=0)
    run(proposer, 8)
    failed, still_open = proposer.ask(), proposer.ask()
    assert failed is not None
    assert still_open is not None
    proposer.tell(failed.number, math.nan)
    state = through_file(proposer.state_dict())
    other.load_state_dict(state)
    assert differences(through_file(other.state_dict()), state) == []
    for each in (proposer, other):
        each.tell(still_open.number, 0.4)
    assert run(proposer, 6) == run(other, 6)
    assert proposer.best() == other.best()


def test_seeds_decide_and_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    assert run(build(), 8) == run(build(), 8)
    assert run(build(), 8) != run(build(seed=1), 8)
    assert torch.equal(before, torch.get_rng_state())


def test_probabilities_lean_to_the_best_tenth() -> None:
    proposer = build()
    assert torch.equal(proposer.probabilities()["normal"], torch.full((5, 4), 0.25))
    codes = run(proposer, 10)
    best = max(codes, key=fitness)
    rows = proposer.probabilities()["normal"]
    assert rows[0, best[0]].item() == pytest.approx(0.5 + 0.5 / 4), "one good child, and as much for all alike"
    torch.testing.assert_close(rows.sum(-1), torch.ones(5))


def test_options_are_checked_and_the_strategy_needs_optuna() -> None:
    with pytest.raises(OptionsError, match="`startup` must be at least 1, got 0"):
        BayesianOptions(startup=0)
    with pytest.raises(OptionsError, match="`candidates` must be at least 1, got 0"):
        BayesianOptions(candidates=0)
    limits = ChildLimits(Constraints(), TINY_SIZE)
    with pytest.raises(OptionsError, match="needs Optuna, which search_core does without"):
        build_alone(BayesianOptions(), SPACE, limits, 0)
