"""What every strategy must keep. A new strategy inherits all of it by its registration."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from search_core.cost.constraints import Constraints, Limit
from search_core.cost.penalty_options import PenaltyOptions
from search_core.errors import ConstraintsError
from search_core.network.child import inherit_child
from search_core.search.reports import EpochReport
from search_core.search.search import Search, build_context
from search_core.space.code_space import Code, GenotypeSpace
from search_core.space.codes import genotype_space
from search_core.space.genotype import CELL_TYPES, Genotype
from search_core.space.plan import cell_edges
from search_core.strategies.base import EpochSettings, StepResult, Strategy
from search_core.strategies.registry import WEIGHT_SHARING
from search_core.strategies.weight_sharing.build import build_strategy
from search_core.strategies.weight_sharing.differentiable import DifferentiableStrategy
from search_core.strategies.weight_sharing.options import (
    DartsOptions,
    DsnasOptions,
    EnasOptions,
    SnasOptions,
    SposOptions,
)
from search_core.strategies.weight_sharing.ranked_draws_options import (
    OneShotOptions,
    RandomSamplingOptions,
    SmashOptions,
)
from tests.search_core.tiny import CPU, TINY_NETWORK, differences, images_of, seeded, through_file, tiny_options

#: Options of a search with each strategy: small ones where the defaults take long, and each setting that changes what
#: a state holds.
CASES: dict[str, dict[str, Any]] = {
    **{kind: {"strategy": options()} for kind, options in WEIGHT_SHARING.items()},
    "snas-per-cell": {"strategy": SnasOptions(sample_per="cell")},
    "snas-score-function": {"strategy": SnasOptions(), "penalty": PenaltyOptions(estimator="score_function")},
    "snas-expected": {"strategy": SnasOptions(), "penalty": PenaltyOptions(estimator="expected")},
    "darts-first": {"strategy": DartsOptions(order="first")},
    "dsnas-score-function": {
        "strategy": DsnasOptions(stop_at=0.9),
        "penalty": PenaltyOptions(estimator="score_function"),
    },
    "enas": {"strategy": EnasOptions(held_out=0.5, controller_steps=2, derive_samples=2)},
    "enas-own-space": {
        "strategy": EnasOptions(held_out=0.5, controller_steps=2, derive_samples=2),
        "network": replace(TINY_NETWORK, space="enas"),
    },
    "one_shot": {"strategy": OneShotOptions(held_out=0.5, samples=2)},
    "one_shot-choice-blocks": {
        "strategy": OneShotOptions(held_out=0.5, samples=2),
        "network": replace(TINY_NETWORK, space="choice_blocks"),
    },
    "one_shot-kl": {"strategy": OneShotOptions(held_out=0.5, samples=2, rank_by="kl")},
    "smash": {"strategy": SmashOptions(held_out=0.5, samples=2, features=8)},
    "smash-paper": {
        "strategy": SmashOptions(
            held_out=0.5, samples=2, features=8, encoding="memory_banks", layers=2, weight_norm=True
        )
    },
    "random_sampling": {"strategy": RandomSamplingOptions(held_out=0.5, samples=2)},
    "spos": {"strategy": SposOptions(held_out=0.5, preview=2, population=4, generations=2, top_k=2)},
    "spos-choices": {
        "strategy": SposOptions(
            held_out=0.5, preview=1, population=4, generations=2, top_k=2, channels=(0.5, 1.0), bits=(4, 32)
        )
    },
}
# In the middle of a search, where everything that grows with it is there.
SETTINGS = EpochSettings(temperature=0.7, eta=0.01, theta_lr=0.05, progress=0.5)


def cases(uses: str = "") -> pytest.MarkDecorator:
    """Every strategy, or those that use something; those with other settings are slow."""
    names = [name for name, case in CASES.items() if not uses or uses in case["strategy"].uses]
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=pytest.mark.slow) if "-" in name else name for name in names]
    )


every_strategy, differentiable, choosing = cases(), cases("alpha"), cases("constraints")


def build(name: str, seed: int = 0, **changes: Any) -> Strategy:
    options = tiny_options(**{**CASES[name], "batch_size": 16, **changes}, seed=seed)
    context = build_context(options, images_of(), CPU)
    strategy = build_strategy(options.strategy, context)
    strategy.begin_epoch(SETTINGS, seeded(99))
    return strategy


def train(strategy: Strategy, steps: int, generator: torch.Generator) -> list[StepResult]:
    """Steps on the first batches of the training split, over and over."""
    batches = list(images_of().train.batches(16))
    return [strategy.step(*batches[step % len(batches)], generator) for step in range(steps)]


def snapshot(strategy: Strategy) -> dict[str, Any]:
    return through_file(strategy.state_dict())


@every_strategy
def test_shapes_follow_the_search_space(name: str) -> None:
    strategy = build(name)
    train(strategy, 1, seeded())
    num_edges, num_ops = len(cell_edges(TINY_NETWORK.nodes)), len(TINY_NETWORK.primitives)
    for cell_type in CELL_TYPES:
        assert strategy.alpha()[cell_type].shape == (num_edges, num_ops)
        assert strategy.probabilities()[cell_type].shape == (num_edges, num_ops)
        assert strategy.credits()[cell_type].shape == strategy.resource_credits()[cell_type].shape == (num_edges,)
        assert not strategy.alpha()[cell_type].requires_grad
        assert not strategy.probabilities()[cell_type].requires_grad


@every_strategy
def test_probabilities_are_distributions(name: str) -> None:
    strategy = build(name)
    train(strategy, 2, seeded())
    for probabilities_EO in strategy.probabilities().values():
        assert (probabilities_EO >= 0).all()
        torch.testing.assert_close(probabilities_EO.sum(-1), torch.ones(len(probabilities_EO)))


@every_strategy
def test_scores_of_genotypes_are_finite(name: str) -> None:
    """Even where the distribution has given up operations."""
    strategy = build(name)
    if isinstance(strategy, DifferentiableStrategy):
        with torch.no_grad():
            for alpha in strategy._alpha.values():
                alpha[:, 0] = 500.0
    codes = _some_codes(genotype_space(strategy.supernet.options))[:3]
    scores = strategy.scores(codes, seeded())
    assert len(scores) == len(codes)
    assert all(math.isfinite(score) for score in scores)


@every_strategy
def test_step_returns_finite_detached_scalars(name: str) -> None:
    for result in train(build(name), 3, seeded()):
        for value in (result.loss, result.penalty, result.correct):
            assert value.shape == ()
            assert not value.requires_grad
            assert value.isfinite()
        assert result.loss > 0
        assert 0 <= result.correct <= 16


@differentiable
def test_steps_move_alpha_and_theta_and_keep_them_finite(name: str) -> None:
    strategy = build(name)
    alpha = {cell_type: values.clone() for cell_type, values in strategy.alpha().items()}
    theta = [parameter.clone() for parameter in strategy.supernet.parameters()]
    train(strategy, 3, seeded())
    for cell_type, values in strategy.alpha().items():
        assert values.isfinite().all()
        # Every entry, so that no edge or operation is left without a gradient.
        assert (values != alpha[cell_type]).all()
    for before, after in zip(theta, strategy.supernet.parameters(), strict=True):
        assert after.isfinite().all()
        assert not torch.equal(before, after)


@every_strategy
@pytest.mark.slow
def test_steps_lower_the_loss_on_a_batch_that_is_learnt_by_heart(name: str) -> None:
    strategy = build(name)
    strategy.begin_epoch(EpochSettings(temperature=0.7, eta=0.01, theta_lr=0.1), seeded())
    batch = next(iter(images_of().train.batches(16)))
    losses = [strategy.step(*batch, seeded(step)).loss.item() for step in range(60)]
    # From ln 10 = 2.3 at random; the mean of 20 takes the noise of the samples out.
    assert sum(losses[-20:]) / 20 < sum(losses[:20]) / 20 - 0.2


@every_strategy
def test_learning_rate_of_the_epoch_applies(name: str) -> None:
    strategy = build(name)
    strategy.begin_epoch(EpochSettings(temperature=0.7, eta=0.01, theta_lr=0.0), seeded())
    theta = [parameter.clone() for parameter in strategy.supernet.parameters()]
    train(strategy, 2, seeded())
    assert all(torch.equal(a, b) for a, b in zip(theta, strategy.supernet.parameters(), strict=True))


@differentiable
def test_begin_epoch_forgets_credits(name: str) -> None:
    strategy = build(name)
    train(strategy, 1, seeded())
    for credits in (strategy.credits, strategy.resource_credits):
        assert all(credit_E.any() for credit_E in credits().values())
    strategy.begin_epoch(SETTINGS, seeded())
    for credits in (strategy.credits, strategy.resource_credits):
        assert not any(credit_E.any() for credit_E in credits().values())


@pytest.mark.parametrize("estimator", ["reparam", "expected", "discrete", "score_function"])
@differentiable
def test_resource_credits_of_all_edges_are_minus_the_penalty(name: str, estimator: Any) -> None:
    strategy = build(name, penalty=PenaltyOptions(estimator=estimator))
    steps = train(strategy, 3, seeded())
    mean = torch.stack([step.penalty for step in steps]).mean()
    shares = torch.cat(list(strategy.resource_credits().values()))
    assert (shares <= 0).all()
    torch.testing.assert_close(-shares.sum(), mean)


@every_strategy
def test_same_seeds_give_the_same_state(name: str) -> None:
    first, second = build(name), build(name)
    train(first, 3, seeded(1))
    train(second, 3, seeded(1))
    assert differences(snapshot(first), snapshot(second)) == []


@every_strategy
def test_other_seeds_give_another_state(name: str) -> None:
    first, other_weights, other_samples = build(name), build(name, seed=1), build(name)
    if isinstance(first, DifferentiableStrategy):
        assert not torch.equal(first.alpha()["normal"], other_weights.alpha()["normal"])
    assert any("theta." in place for place in differences(snapshot(first), snapshot(other_weights)))
    train(first, 1, seeded(1))
    train(other_samples, 1, seeded(2))
    # Theta, because the first step of Adam moves alpha by its learning rate whatever the gradient.
    assert any("theta." in place for place in differences(snapshot(first), snapshot(other_samples)))


@every_strategy
def test_global_random_state_is_left_alone(name: str) -> None:
    before = torch.get_rng_state()
    strategy = build(name)
    train(strategy, 1, seeded())
    strategy.predict(torch.randn(4, 1, 8, 8, generator=seeded()), seeded())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.slow
@every_strategy
def test_state_round_trip_resumes_bit_for_bit(name: str) -> None:
    strategy, other = build(name), build(name, seed=1)
    train(strategy, 3, seeded(1))
    state = snapshot(strategy)
    other.load_state_dict(state)
    assert differences(snapshot(other), state) == []
    # A state is taken between epochs: both begin the next one, as `Search` does.
    for resumed in (strategy, other):
        resumed.begin_epoch(SETTINGS, seeded(3))
    results = [train(resumed, 3, seeded(2)) for resumed in (strategy, other)]
    assert results[0] == results[1]
    for resumed in (strategy, other):
        resumed.end_epoch(seeded(4))
    assert strategy.genotype() == other.genotype()
    assert differences(snapshot(strategy), snapshot(other)) == []
    assert differences(strategy.credits(), other.credits()) == []
    assert differences(snapshot(strategy), state) != []


@every_strategy
def test_genotype_lies_in_the_search_space(name: str) -> None:
    strategy = build(name)
    train(strategy, 2, seeded())
    strategy.end_epoch(seeded())
    genotype = strategy.genotype()
    assert Genotype.from_json(genotype.to_json()) == genotype
    space = genotype_space(strategy.supernet.options)
    assert space.decode(space.encode(genotype)).concat("normal") == genotype.concat("normal")
    for cell_type in CELL_TYPES:
        for edge in genotype.edges(cell_type):
            assert (edge.source, edge.target) in cell_edges(TINY_NETWORK.nodes)
            assert edge.primitive in TINY_NETWORK.primitives
    assert inherit_child(strategy.supernet, genotype)(torch.randn(2, 1, 8, 8)).shape == (2, 10)


@every_strategy
def test_predict_gives_logits_and_changes_nothing(name: str) -> None:
    strategy = build(name)
    train(strategy, 1, seeded())
    strategy.supernet.eval()
    before, images = snapshot(strategy), torch.randn(6, 1, 8, 8, generator=seeded())
    logits: list[Tensor] = [strategy.predict(images, seeded(seed)) for seed in (3, 3)]
    assert logits[0].shape == (6, 10)
    assert not logits[0].requires_grad
    assert torch.equal(logits[0], logits[1])
    assert differences(before, snapshot(strategy)) == []


@every_strategy
def test_end_of_an_epoch_follows_the_generator_and_leaves_theta_alone(name: str) -> None:
    strategies = build(name), build(name)
    for strategy in strategies:
        train(strategy, 2, seeded(1))
        # Weights that are made from others, as SMASH's pointwise ones, are no theta: they follow the chosen child.
        trained = {key: value for key, value in strategy.supernet.named_parameters() if value.requires_grad}
        theta = {key: value.clone() for key, value in trained.items()}
        strategy.end_epoch(seeded(2))
        assert theta
        for key, value in trained.items():
            assert torch.equal(value, theta[key]), key
    assert differences(*(snapshot(strategy) for strategy in strategies)) == []


@choosing
def test_strategy_that_chooses_among_genotypes_keeps_the_hard_limits(name: str) -> None:
    free = build(name)
    space = genotype_space(free.supernet.options)
    costs = sorted(free._context.limits.cost(space.decode(code)).madds for code in _some_codes(space))
    tight = Constraints(madds=Limit(max=costs[len(costs) // 10]))
    strategy = build(name, constraints=tight)
    for epoch in range(3):
        strategy.begin_epoch(replace(SETTINGS, is_last=epoch == 2), seeded(epoch))
        assert tight.madds is not None
        assert strategy.child_cost(strategy._context.limits).madds <= tight.madds.max
        train(strategy, 1, seeded(epoch))
        strategy.end_epoch(seeded(epoch))
        assert strategy.child_cost(strategy._context.limits).madds <= tight.madds.max


@choosing
def test_limits_that_no_child_keeps_are_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search_core.cost.constraints._MOST_DRAWS", 200)
    with pytest.raises(ConstraintsError, match="no genotype in 200 draws keeps the constraints: at most params 1"):
        build(name, constraints=Constraints(params=Limit(max=1)))


@every_strategy
def test_search_resumes_bit_for_bit(name: str) -> None:
    options = tiny_options(**CASES[name])
    whole, resumed = (Search(options, images_of()) for _ in range(2))
    first = whole.run_epoch()
    resumed.load_state_dict(through_file(whole.state_dict()))
    reports, rest = list(whole), list(resumed)
    assert [_lasting(report) for report in reports] == [_lasting(report) for report in rest]
    assert differences(whole.state_dict(), resumed.state_dict()) == []
    for report in (first, *reports):
        assert all(math.isfinite(value) for value in report.metrics().values())


def _some_codes(space: GenotypeSpace) -> list[Code]:
    generator = seeded(7)
    return [space.sample(generator) for _ in range(200)]


def _lasting(report: EpochReport) -> dict[str, Any]:
    record = report.to_dict()
    for clock in ("seconds", "images_per_s"):
        del record["metrics"][clock]
    return record
