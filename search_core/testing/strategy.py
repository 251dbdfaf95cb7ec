"""The contract of a strategy that shares weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from search_core.data.dataset_options import DatasetOptions
from search_core.data.datasets import ImageData, load_data
from search_core.network.child import inherit_child
from search_core.search.options import SearchOptions
from search_core.search.search import build_context
from search_core.space.codes import genotype_space
from search_core.space.genotype import CELL_TYPES
from search_core.space.plan import NetworkOptions, cell_edges
from search_core.strategies.base import EpochSettings, StepResult, Strategy
from search_core.strategies.weight_sharing.ranked_draws_options import RandomSamplingOptions

_NETWORK = NetworkOptions(nodes=2, cells=3, init_channels=4, primitives=("none", "max_pool_3x3", "skip_connect"))
_DATASET = DatasetOptions(name="fake", shape=(1, 8, 8), images=100)
# In the middle of a search, where everything that grows with it is there.
_SETTINGS = EpochSettings(temperature=0.7, eta=0.01, theta_lr=0.05, progress=0.5)


def check_strategy(strategy_class: type[Strategy], **options: Any) -> None:
    """Assert what a search relies on, on noise, in a small space.

    Args:
        strategy_class: of `search_core.strategies.base.Strategy`.
        options: what it is called with after the context.

    Raises:
        AssertionError: with the rule that it breaks.
    """
    data = load_data(_DATASET, torch.device("cpu"))
    before = torch.get_rng_state()
    first, second, other = (_built(strategy_class, options, data, seed) for seed in (0, 0, 1))
    name = strategy_class.__name__
    for strategy in (first, second):
        _check_steps(name, _train(strategy, data, seed=1))
        _check_distributions(name, strategy)
        strategy.end_epoch(_seeded(2))
    _check_equal(name, "equal seeds must give equal states", first, second)
    state = copy.deepcopy(first.state_dict())
    other.load_state_dict(copy.deepcopy(state))
    for strategy in (first, other):
        strategy.begin_epoch(_SETTINGS, _seeded(3))
        _train(strategy, data, seed=4)
        strategy.end_epoch(_seeded(5))
    _check_equal(name, "a state must resume bit for bit", first, other)
    _check_prediction(name, first)
    _check_genotype(name, first)
    assert torch.equal(before, torch.get_rng_state()), f"{name} must leave the global random state alone"


def _built(strategy_class: type[Strategy], options: dict[str, Any], data: ImageData, seed: int) -> Strategy:
    search = SearchOptions(
        dataset=_DATASET, network=_NETWORK, strategy=RandomSamplingOptions(held_out=0.5), batch_size=16, seed=seed
    )
    made: Any = strategy_class
    strategy: Strategy = made(build_context(search, data, torch.device("cpu")), **options)
    strategy.begin_epoch(_SETTINGS, _seeded(99))
    return strategy


def _train(strategy: Strategy, data: ImageData, seed: int) -> list[StepResult]:
    generator = _seeded(seed)
    return [strategy.step(*batch, generator) for batch in list(data.train.batches(16))[:3]]


def _check_steps(name: str, results: list[StepResult]) -> None:
    for result in results:
        for value in (result.loss, result.penalty, result.correct):
            assert value.shape == (), f"{name} must give scalars of a step, got {tuple(value.shape)}"
            assert not value.requires_grad, f"{name} must give detached results of a step"
            assert value.isfinite(), f"{name} must give finite results of a step"


def _check_distributions(name: str, strategy: Strategy) -> None:
    shape = (len(cell_edges(_NETWORK.nodes)), len(_NETWORK.operations))
    for cell_type in CELL_TYPES:
        alpha_EO, probabilities_EO = strategy.alpha()[cell_type], strategy.probabilities()[cell_type]
        for what, value in (("alpha", alpha_EO), ("probabilities", probabilities_EO)):
            assert value.shape == shape, f"{what} of {name} must be {shape}, got {tuple(value.shape)}"
            assert not value.requires_grad, f"{what} of {name} must be detached"
        sums = probabilities_EO.sum(-1)
        is_distribution = (probabilities_EO >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-5)
        assert is_distribution, f"probabilities of {name} must be at least 0 and sum to 1, got sums {sums.tolist()}"
        assert strategy.credits()[cell_type].shape == shape[:1], f"credits of {name} must be one an edge"


def _check_prediction(name: str, strategy: Strategy) -> None:
    strategy.supernet.eval()
    before, images = copy.deepcopy(strategy.state_dict()), torch.randn(6, 1, 8, 8, generator=_seeded(6))
    first, second = (strategy.predict(images, _seeded(7)) for _ in range(2))
    assert first.shape == (6, 10), f"{name}.predict must give (images, classes), got {tuple(first.shape)}"
    assert not first.requires_grad, f"{name}.predict must give detached logits"
    assert torch.equal(first, second), f"{name}.predict must follow the generator"
    assert _equal(before, strategy.state_dict()), f"{name}.predict must change nothing"


def _check_genotype(name: str, strategy: Strategy) -> None:
    genotype, space = strategy.genotype(), genotype_space(_NETWORK)
    assert space.decode(space.encode(genotype)) == genotype, f"{name}.genotype must lie in the search space"
    inherit_child(strategy.supernet, genotype)
    (score,) = strategy.scores([space.encode(genotype)], _seeded(8))
    assert abs(score) < float("inf"), f"{name}.scores must be finite, got {score}"


def _check_equal(name: str, rule: str, first: Strategy, second: Strategy) -> None:
    assert _equal(first.state_dict(), second.state_dict()), f"{rule}: {name}"
    assert first.genotype() == second.genotype(), f"{rule}, and genotypes: {name}"


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return isinstance(second, Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return set(first) == set(second) and all(_equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(_equal, first, second))
    return bool(first == second)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
