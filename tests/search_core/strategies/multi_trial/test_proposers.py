"""What every multi-trial strategy must keep. A new one inherits all of it by its registration."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from orchestrator.sampling.bayesian import build_proposer
from search_core.cost.constraints import ChildLimits, Constraints, Limit
from search_core.errors import ConstraintsError
from search_core.space.chain import ChainOptions
from search_core.space.chain_space import ChainSpace
from search_core.space.code_space import Code
from search_core.space.codes import genotype_space
from search_core.space.genotype import CELL_TYPES
from search_core.space.plan import NetworkOptions, Space
from search_core.strategies.multi_trial.options import (
    BayesianOptions,
    DepthGrowth,
    MultiTrialOptions,
    NasnetOptions,
    RegularisedEvolutionOptions,
    RlNasOptions,
)
from search_core.strategies.multi_trial.proposer import Proposal, Proposer
from search_core.strategies.registry import MULTI_TRIAL
from tests.search_core.tiny import TINY_NETWORK, TINY_SIZE, differences, seeded, through_file

#: Options of each strategy: small ones, so that a few children bring it past its first updates.
CASES: dict[str, MultiTrialOptions] = {
    **{kind: options() for kind, options in MULTI_TRIAL.items()},
    "rl_nas": RlNasOptions(batch=3),
    "nasnet": NasnetOptions(batch=3, passes=2),
    "bayesian": BayesianOptions(startup=4),
    "regularised_evolution": RegularisedEvolutionOptions(population=4, sample=2),
    "morphism": RegularisedEvolutionOptions(population=4, sample=2, mutation="morphism"),
}
SPACE = genotype_space(TINY_NETWORK)
CHILDREN = 20

every_proposer = pytest.mark.parametrize("name", list(CASES))


def limits_of(**maxima: float) -> ChildLimits:
    constraints = Constraints(**{name: Limit(max=most) for name, most in maxima.items()})
    return ChildLimits(constraints, TINY_SIZE)


def build(name: str, seed: int = 0, limits: ChildLimits | None = None) -> Proposer:
    # The orchestrator has those too that need Optuna.
    return build_proposer(CASES[name], SPACE, limits or limits_of(), seed)


def fitness(code: Code) -> float:
    """In [0, 1) and different for all codes: their digits after the point, in base 4."""
    assert len(SPACE.primitives) == 4
    return sum(choice / 4**place for place, choice in enumerate(code, 1))


def run(proposer: Proposer, number: int, score: Callable[[Code], float] = fitness) -> list[Proposal]:
    """Children one after another, each scored before the next one."""
    proposals = []
    for _ in range(number):
        proposal = proposer.ask()
        assert proposal is not None, "with nothing open there is always a proposal"
        proposer.tell(proposal.number, score(proposal.code))
        proposals.append(proposal)
    return proposals


def ask_several(proposer: Proposer, most: int) -> list[Proposal]:
    """At least one, fewer than `most` if the strategy waits for scores."""
    proposals: list[Proposal] = []
    while len(proposals) < most and (proposal := proposer.ask()) is not None:
        proposals.append(proposal)
    assert proposals
    return proposals


def in_space(code: Code) -> bool:
    return SPACE.encode(SPACE.decode(code)) == code


@every_proposer
def test_proposals_are_numbered_codes_of_the_space(name: str) -> None:
    proposals = run(build(name), CHILDREN)
    assert [proposal.number for proposal in proposals] == list(range(CHILDREN))
    for proposal in proposals:
        assert all(type(choice) is int for choice in proposal.code)
        assert in_space(proposal.code)
        assert proposal.parent is None or 0 <= proposal.parent < proposal.number
    assert len({proposal.code for proposal in proposals}) > CHILDREN // 2


@every_proposer
def test_many_may_be_open_and_scores_come_in_any_order(name: str) -> None:
    proposer, scores, numbers = build(name), {}, []
    while len(numbers) < CHILDREN:
        proposals = ask_several(proposer, 7)
        numbers += [proposal.number for proposal in proposals]
        for proposal in reversed(proposals):
            scores[proposal.code] = fitness(proposal.code)
            proposer.tell(proposal.number, scores[proposal.code])
    assert numbers == list(range(len(numbers)))
    assert proposer.best() == SPACE.decode(max(scores, key=lambda code: scores[code]))


@every_proposer
def test_equal_seeds_and_calls_give_equal_proposals(name: str) -> None:
    before = torch.get_rng_state()
    first, same, other = (run(build(name, seed), CHILDREN) for seed in (0, 0, 1))
    assert first == same
    assert [proposal.code for proposal in first] != [proposal.code for proposal in other]
    assert torch.equal(before, torch.get_rng_state())


@every_proposer
def test_scores_matter(name: str) -> None:
    """After this many children proposals, or the choice among them, follow the scores."""
    plain, contrary = build(name), build(name)
    run(plain, CHILDREN)
    run(contrary, CHILDREN, lambda code: 1 - fitness(code))
    assert plain.best() != contrary.best()


@every_proposer
def test_best_is_the_child_of_the_highest_score(name: str) -> None:
    proposer = build(name)
    first = ask_several(proposer, 1)[0]
    assert proposer.best() == SPACE.decode(first.code)
    proposer.tell(first.number, 0.1)
    scores = {first.code: 0.1}
    for _ in range(CHILDREN):
        proposal = run(proposer, 1)[0]
        scores[proposal.code] = fitness(proposal.code)
        assert proposer.best() == SPACE.decode(max(scores, key=lambda code: scores[code]))


@every_proposer
def test_failed_child_is_never_the_best_and_the_search_continues(name: str) -> None:
    proposer = build(name)
    failed = run(proposer, 5, lambda _: math.nan)
    assert proposer.best() == SPACE.decode(failed[0].code)
    good = run(proposer, 1, lambda _: 0.01)[0]
    assert proposer.best() == SPACE.decode(good.code)
    run(proposer, CHILDREN, lambda _: math.nan)
    assert proposer.best() == SPACE.decode(good.code)
    for probabilities_EO in proposer.probabilities().values():
        assert probabilities_EO.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "name"),
    [
        (space, name)
        for space in ("nasnet", "enas", "nas_chain")
        for name in sorted(CASES.keys() - {"morphism"})  # refused in these spaces
        if space in CASES[name].spaces
    ],
)
def test_proposals_of_the_spaces_of_papers(name: str, space: Space) -> None:
    """Codes of the space, of which the search learns: their first choice is best at 1. It resumes exactly."""
    chain = NetworkOptions(space="nas_chain", nodes=2, chain=ChainOptions(heights=(1, 3), widths=(1,)))
    network = chain if space == "nas_chain" else replace(TINY_NETWORK, space=space)
    codes = genotype_space(network)

    def of(seed: int) -> Proposer:
        limits = ChildLimits(Constraints(), replace(TINY_SIZE, network=network))
        return build_proposer(CASES[name], codes, limits, seed)

    proposer, other = of(0), of(1)
    proposals = run(proposer, CHILDREN, lambda code: float(code[0]))
    assert all(codes.encode(codes.decode(proposal.code)) == proposal.code for proposal in proposals)
    assert codes.encode(proposer.best())[0] == 1
    for share_EO in proposer.probabilities().values():
        assert share_EO.shape == (5, len(network.operations))
        torch.testing.assert_close(share_EO.sum(1), torch.ones(5))
    other.load_state_dict(through_file(proposer.state_dict()))
    assert run(proposer, 6, lambda _: 0.5) == run(other, 6, lambda _: 0.5)


def test_chains_grow_by_the_number_of_the_child_and_are_learnt_from_together() -> None:
    """From 2 to 4 layers, one more every 4 children; a search that resumes between two depths proposes the same."""
    network = NetworkOptions(space="nas_chain", nodes=4, chain=ChainOptions(heights=(1, 3), widths=(1,)))
    codes = ChainSpace(network)
    limits = ChildLimits(Constraints(), replace(TINY_SIZE, network=network))
    options = RlNasOptions(batch=3, growth=DepthGrowth(every=4, start=2, by=1))
    proposer, other = (build_proposer(options, codes, limits, seed) for seed in (0, 1))
    proposals = run(proposer, 7, lambda code: float(code[0]))
    other.load_state_dict(through_file(proposer.state_dict()))
    assert differences(proposer.probabilities(), other.probabilities()) == []
    more = run(proposer, 5, lambda code: float(code[0]))
    assert more == run(other, 5, lambda code: float(code[0]))
    assert [codes.depth_of(len(each.code)) for each in proposals + more] == [2] * 4 + [3] * 4 + [4] * 4


@every_proposer
@pytest.mark.parametrize("num_open", [1, *(pytest.param(number, marks=pytest.mark.slow) for number in (0, 4))])
def test_state_round_trip_resumes_exactly(name: str, num_open: int) -> None:
    proposer, other = build(name), build(name, seed=1)
    run(proposer, 8)
    still_open = ask_several(proposer, num_open) if num_open else []
    state = through_file(proposer.state_dict())
    other.load_state_dict(state)
    assert differences(through_file(other.state_dict()), state) == []
    for each in (proposer, other):
        for proposal in reversed(still_open):
            each.tell(proposal.number, fitness(proposal.code))
    assert run(proposer, CHILDREN) == run(other, CHILDREN)
    assert proposer.best() == other.best()
    assert differences(proposer.probabilities(), other.probabilities()) == []
    assert differences(through_file(proposer.state_dict()), through_file(other.state_dict())) == []


@every_proposer
def test_state_stays_as_it_was_taken(name: str) -> None:
    """What is asked and reported afterwards must not reach into it."""
    proposer, other = build(name), build(name)
    run(proposer, 8)
    state: dict[str, Any] = proposer.state_dict()
    taken = through_file(state)
    run(proposer, CHILDREN)
    assert differences(through_file(state), taken) == []
    other.load_state_dict(state)
    run(other, CHILDREN)
    assert differences(through_file(state), taken) == []


@every_proposer
def test_hard_limits_are_never_broken(name: str) -> None:
    """Not even when the scores praise the most expensive children."""
    free, generator = limits_of(), seeded(7)
    costs = sorted(free.cost(SPACE.decode(SPACE.sample(generator))).madds for _ in range(200))
    tight = limits_of(madds=costs[20])
    proposer = build(name, limits=tight)
    for proposal in run(proposer, 2 * CHILDREN, lambda code: free.cost(SPACE.decode(code)).madds / costs[-1]):
        assert tight.admits(SPACE.decode(proposal.code))
    assert tight.admits(proposer.best())


@every_proposer
def test_limits_that_no_child_keeps_are_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search_core.cost.constraints._MOST_DRAWS", 200)
    with pytest.raises(ConstraintsError, match="no genotype in 200 draws keeps the constraints: at most params 1"):
        build(name, limits=limits_of(params=1))


@every_proposer
def test_probabilities_are_distributions_and_looking_changes_nothing(name: str) -> None:
    proposer = build(name)
    for number in (0, 1, CHILDREN):
        run(proposer, number)
        before = through_file(proposer.state_dict())
        first, second = proposer.probabilities(), proposer.probabilities()
        assert differences(first, second) == []
        assert differences(through_file(proposer.state_dict()), before) == []
        assert list(first) == list(CELL_TYPES)
        for probabilities_EO in first.values():
            assert probabilities_EO.shape == (len(SPACE.edges), len(SPACE.primitives))
            assert probabilities_EO.device.type == "cpu"
            assert not probabilities_EO.requires_grad
            assert (probabilities_EO >= 0).all()
            torch.testing.assert_close(probabilities_EO.sum(-1), torch.ones(len(SPACE.edges)))


@every_proposer
def test_strategy_is_described(name: str) -> None:
    options = CASES[name]
    assert options.summary
    assert options.paper
    assert type(options) in MULTI_TRIAL.values()
