"""Regularised and random search: who is proposed, and whether a known optimum is found."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import replace
from typing import Any

import pytest
import torch

from search_core.cost.constraints import ChildLimits, Constraints, Limit
from search_core.errors import ConstraintsError, OptionsError
from search_core.space.code_space import Code
from search_core.space.codes import genotype_space
from search_core.space.morphisms import morphed_codes
from search_core.space.plan import NetworkOptions, NetworkSize
from search_core.strategies.multi_trial.build import build_proposer
from search_core.strategies.multi_trial.options import (
    MultiTrialOptions,
    RandomSearchOptions,
    RegularisedEvolutionOptions,
)
from search_core.strategies.multi_trial.proposer import Proposal, Proposer
from search_core.strategies.multi_trial.regularised_evolution import RegularisedEvolution
from tests.search_core.tiny import FEW_PRIMITIVES, TINY_NETWORK, differences, through_file

SPACE = genotype_space(TINY_NETWORK)
EVOLUTION = RegularisedEvolutionOptions(population=6, sample=3)
both = pytest.mark.parametrize("options", [RandomSearchOptions(), EVOLUTION], ids=["random", "evolution"])


def limits_of(network: NetworkOptions = TINY_NETWORK, **constraints: Limit) -> ChildLimits:
    return ChildLimits(Constraints(**constraints), NetworkSize(network, (1, 8, 8), 10))


def build(options: MultiTrialOptions, seed: int = 0, limits: ChildLimits | None = None) -> Proposer:
    return build_proposer(options, SPACE, limits or limits_of(), seed)


def fitness(code: Code) -> float:
    """Share of the edges that have the one operation that is best there."""
    return sum(choice == position % len(FEW_PRIMITIVES) for position, choice in enumerate(code)) / len(code)


def run(proposer: Proposer, number: int) -> list[Proposal]:
    """Proposals, each scored before the next one is asked for."""
    proposals = []
    for _ in range(number):
        proposal = proposer.ask()
        assert proposal is not None
        proposer.tell(proposal.number, fitness(proposal.code))
        proposals.append(proposal)
    return proposals


@pytest.mark.parametrize("seed", range(5))
def test_evolution_finds_the_known_optimum_where_random_search_does_not(seed: int) -> None:
    """The optimum is 1 of 4^10 codes: 600 uniform draws find it with probability 0.0006, evolution by selection."""
    options = RegularisedEvolutionOptions(population=20, sample=5)
    assert max(fitness(proposal.code) for proposal in run(build(options, seed), 600)) == 1.0
    assert max(fitness(proposal.code) for proposal in run(build(RandomSearchOptions(), seed), 600)) < 1.0


def test_evolution_is_algorithm_1_of_the_paper() -> None:
    """An oracle with the population as a queue: the parent is alive, the best of what can be drawn, changed once."""
    proposer = build(EVOLUTION)
    assert isinstance(proposer, RegularisedEvolution)
    proposals, alive = run(proposer, 40), deque[int]()
    for proposal in proposals:
        if proposal.number < EVOLUTION.population:
            assert proposal.parent is None
        else:
            assert len(alive) == EVOLUTION.population
            assert proposal.parent in alive
            parent = proposals[proposal.parent]
            assert sum(a != b for a, b in zip(proposal.code, parent.code, strict=True)) == 1
        alive.append(proposal.number)
        if len(alive) > EVOLUTION.population:
            alive.popleft()
    assert proposer.population == list(alive), "the oldest die, however good they are"
    assert [proposer.may_be_parent(number) for number in range(40)] == [number in alive for number in range(40)]


def test_evolution_by_morphisms_proposes_no_other_change_while_there_is_one() -> None:
    limits = limits_of(params=Limit(max=4000))
    proposer = build(replace(EVOLUTION, mutation="morphism"), limits=limits)
    proposals, kinds = run(proposer, 80), Counter[bool]()
    for proposal in proposals[EVOLUTION.population :]:
        assert proposal.parent is not None
        morphed = [
            code for code in morphed_codes(proposals[proposal.parent].code, SPACE) if limits.admits(SPACE.decode(code))
        ]
        assert proposal.code in morphed or not morphed
        kinds[bool(morphed)] += 1
    assert min(kinds[True], kinds[False]) >= 5, "it grows, and when it cannot, changes as ever"


def test_tournament_of_size_s_wins_by_rank() -> None:
    """With S draws with replacement from P members, the one of rank r wins with ((P-r+1)^S - (P-r)^S) / P^S."""
    size, sample, draws = 6, 3, 3000
    proposer = build(EVOLUTION)
    ranked = [proposer.ask() for _ in range(size)]
    for rank, proposal in enumerate(ranked):
        assert proposal is not None
        proposer.tell(proposal.number, 1.0 - 0.1 * rank)
    parents = Counter(proposal.parent for _ in range(draws) if (proposal := proposer.ask()) is not None)
    expected = [draws * ((size - r) ** sample - (size - r - 1) ** sample) / size**sample for r in range(size)]
    statistic = sum((parents[rank] - wanted) ** 2 / wanted for rank, wanted in enumerate(expected))
    assert statistic < 20.5, "chi-square of 5 degrees of freedom, 0.1 % level"


def test_random_search_draws_uniformly() -> None:
    proposer, draws = build(RandomSearchOptions()), 4000
    codes = torch.tensor([proposal.code for _ in range(draws) if (proposal := proposer.ask()) is not None])
    for position in range(SPACE.num_choices):
        counts = torch.bincount(codes[:, position], minlength=4).double()
        statistic = ((counts - draws / 4) ** 2 / (draws / 4)).sum()
        assert statistic < 21.1, "chi-square of 3 degrees of freedom, 0.01 % level, as there are ten edges"


def test_evolution_waits_for_its_first_population_and_then_never() -> None:
    proposer = build(EVOLUTION)
    first = [proposer.ask() for _ in range(6)]
    assert proposer.ask() is None
    assert proposer.ask() is None
    for number in range(6):
        proposer.tell(number, 0.5)
    more = [proposer.ask() for _ in range(20)]
    assert None not in first + more
    undisturbed = build(EVOLUTION)
    assert [undisturbed.ask() for _ in range(6)] == first
    for number in range(6):
        undisturbed.tell(number, 0.5)
    assert [undisturbed.ask() for _ in range(20)] == more, "None changed nothing"


def test_failed_children_never_become_parents() -> None:
    proposer = build(EVOLUTION)
    for number in range(6):
        assert proposer.ask() is not None
        proposer.tell(number, math.nan if number != 4 else 0.1)
    assert {proposal.parent for _ in range(10) if (proposal := proposer.ask()) is not None} == {4}
    all_failed = build(EVOLUTION)
    for number in range(6):
        assert all_failed.ask() is not None
        all_failed.tell(number, math.nan)
    proposal = all_failed.ask()
    assert proposal is not None
    assert proposal.parent is None, "it begins again at random"


@both
def test_proposals_keep_the_limits(options: MultiTrialOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = sorted(limits_of().cost(SPACE.decode(proposal.code)).params for proposal in run(build(options), 30))
    limits = limits_of(params=Limit(max=costs[10]))
    codes = [proposal.code for proposal in run(build(options, limits=limits), 60)]
    assert all(limits.admits(SPACE.decode(code)) for code in codes)
    monkeypatch.setattr("search_core.cost.constraints._MOST_DRAWS", 200)
    with pytest.raises(ConstraintsError, match="no genotype in 200 draws"):
        build(options, limits=limits_of(params=Limit(max=1)))


@both
def test_state_round_trip_resumes_exactly(options: MultiTrialOptions) -> None:
    proposer, other = build(options), build(options, seed=1)
    run(proposer, 11)
    open_ones = [proposer.ask() for _ in range(2)]
    state = through_file(proposer.state_dict())
    other.load_state_dict(state)
    assert differences(through_file(other.state_dict()), state) == []
    for each in (proposer, other):
        for proposal in open_ones:
            assert proposal is not None
            each.tell(proposal.number, 0.9)
    assert run(proposer, 10) == run(other, 10)
    assert proposer.best() == other.best()
    assert differences(proposer.probabilities(), other.probabilities()) == []


@both
def test_global_random_state_is_left_alone(options: MultiTrialOptions) -> None:
    before = torch.get_rng_state()
    run(build(options), 10)
    assert torch.equal(before, torch.get_rng_state())


def test_probabilities_are_the_shares_of_the_population() -> None:
    proposer = build(EVOLUTION)
    assert torch.equal(proposer.probabilities()["normal"], torch.full((5, 4), 0.25))
    codes = [proposal.code for proposal in run(proposer, 20)][-6:]
    for cell, offset in (("normal", 0), ("reduce", 5)):
        for edge in range(5):
            counts = Counter(code[offset + edge] for code in codes)
            shares = [counts[choice] / 6 for choice in range(4)]
            assert proposer.probabilities()[cell][edge].tolist() == pytest.approx(shares)  # type: ignore[index]


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"population": 1, "sample": 1}, "`population` must be at least 2, got 1"),
        ({"sample": 21}, "`sample` must be in \\[1, `population`\\] with `population` 20, got 21"),
        ({"sample": 0}, "`sample` must be in"),
        ({"children": 0}, "`children` must be at least 1, got 0"),
        ({"mutation": "wider"}, "`mutation` must be one of any, morphism, got 'wider'"),
    ],
)
def test_options_out_of_range_are_refused(values: dict[str, Any], fault: str) -> None:
    with pytest.raises(OptionsError, match=fault):
        RegularisedEvolutionOptions(**values)
