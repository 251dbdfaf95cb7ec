"""What every strategy must keep. A new strategy inherits all of it by one entry in `STRATEGIES`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from search_core.cell import cell_edges
from search_core.child import inherit_child
from search_core.cost import CostTable
from search_core.genotype import CELL_TYPES, Genotype
from search_core.schedules import PenaltyOptions
from search_core.search import build_strategy
from search_core.strategies.base import EpochSettings, StepResult, Strategy
from search_core.strategies.snas import SnasOptions
from tests.search_core.tiny import CPU, TINY_NETWORK, differences, images_of, seeded, through_file, tiny_options

#: Options of a search with each strategy, and with each setting that changes what its state holds.
STRATEGIES: dict[str, dict[str, Any]] = {
    "snas": {"strategy": SnasOptions()},
    "snas-per-cell": {"strategy": SnasOptions(sample_per="cell")},
    "snas-score-function": {"strategy": SnasOptions(), "penalty": PenaltyOptions(estimator="score_function")},
    "snas-expected": {"strategy": SnasOptions(), "penalty": PenaltyOptions(estimator="expected")},
}
SETTINGS = EpochSettings(temperature=0.7, eta=0.01, theta_lr=0.05)

every_strategy = pytest.mark.parametrize("name", list(STRATEGIES))


def build(name: str, seed: int = 0) -> Strategy:
    options = tiny_options(**STRATEGIES[name], seed=seed)
    strategy = build_strategy(options, images_of(), CostTable(TINY_NETWORK, (1, 8, 8)), CPU)
    strategy.begin_epoch(SETTINGS)
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
        assert strategy.credits()[cell_type].shape == (num_edges,)
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
def test_step_returns_finite_detached_scalars(name: str) -> None:
    for result in train(build(name), 3, seeded()):
        for value in (result.loss, result.penalty, result.correct):
            assert value.shape == ()
            assert not value.requires_grad
            assert value.isfinite()
        assert result.loss > 0
        assert 0 <= result.correct <= 16


@every_strategy
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
def test_steps_lower_the_loss_on_a_batch_that_is_learnt_by_heart(name: str) -> None:
    strategy = build(name)
    strategy.begin_epoch(EpochSettings(temperature=0.7, eta=0.01, theta_lr=0.2))
    batch = next(iter(images_of().train.batches(16)))
    losses = [strategy.step(*batch, seeded(step)).loss.item() for step in range(15)]
    # From ln 10 = 2.3 at random; the mean of five takes the noise of the samples out.
    assert sum(losses[-5:]) / 5 < sum(losses[:5]) / 5 - 0.3


@every_strategy
def test_learning_rate_of_the_epoch_applies(name: str) -> None:
    strategy = build(name)
    strategy.begin_epoch(EpochSettings(temperature=0.7, eta=0.01, theta_lr=0.0))
    theta = [parameter.clone() for parameter in strategy.supernet.parameters()]
    train(strategy, 2, seeded())
    assert all(torch.equal(a, b) for a, b in zip(theta, strategy.supernet.parameters(), strict=True))


@every_strategy
def test_begin_epoch_forgets_credits(name: str) -> None:
    strategy = build(name)
    train(strategy, 1, seeded())
    assert all(credit_E.any() for credit_E in strategy.credits().values())
    strategy.begin_epoch(SETTINGS)
    assert not any(credit_E.any() for credit_E in strategy.credits().values())


@every_strategy
def test_same_seeds_give_the_same_state(name: str) -> None:
    first, second = build(name), build(name)
    train(first, 3, seeded(1))
    train(second, 3, seeded(1))
    assert differences(snapshot(first), snapshot(second)) == []


@every_strategy
def test_other_seeds_give_another_state(name: str) -> None:
    first, other_weights, other_samples = build(name), build(name, seed=1), build(name)
    assert not torch.equal(first.alpha()["normal"], other_weights.alpha()["normal"])
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


@every_strategy
def test_state_round_trip_goes_on_bit_for_bit(name: str) -> None:
    strategy, other = build(name), build(name, seed=1)
    train(strategy, 3, seeded(1))
    state = snapshot(strategy)
    other.load_state_dict(state)
    assert differences(snapshot(other), state) == []
    # A state is taken between epochs: both begin the next one, as `Search` does.
    for resumed in (strategy, other):
        resumed.begin_epoch(SETTINGS)
    results = [train(resumed, 3, seeded(2)) for resumed in (strategy, other)]
    assert results[0] == results[1]
    assert differences(snapshot(strategy), snapshot(other)) == []
    assert differences(strategy.credits(), other.credits()) == []
    assert differences(snapshot(strategy), state) != []


@every_strategy
def test_genotype_lies_in_the_search_space(name: str) -> None:
    strategy = build(name)
    train(strategy, 2, seeded())
    genotype = strategy.genotype()
    assert Genotype.from_json(genotype.to_json()) == genotype
    for cell_type in CELL_TYPES:
        assert genotype.concat(cell_type) == tuple(range(2, TINY_NETWORK.nodes + 2))
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
