"""ENAS: rewards against the supernet itself, what the controller learns from, and odd configurations."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch

from search_core.cost.constraints import Constraints, Limit
from search_core.cost.penalty import CostTable
from search_core.cost.penalty_options import PenaltyOptions
from search_core.data.dataset_options import DatasetOptions
from search_core.errors import OptionsError
from search_core.search.search import Search, build_context
from search_core.space.code_space import Code
from search_core.space.codes import genotype_space
from search_core.space.genotype import CELL_TYPES
from search_core.space.plan import NetworkOptions
from search_core.strategies.base import EpochSettings
from search_core.strategies.weight_sharing.build import build_strategy
from search_core.strategies.weight_sharing.enas import Enas
from search_core.strategies.weight_sharing.options import EnasController, EnasOptions
from search_core.training.held_out import Batch
from tests.search_core.tiny import (
    CPU,
    FEW_PRIMITIVES,
    TINY_NETWORK,
    TINY_SIZE,
    differences,
    images_of,
    seeded,
    through_file,
    tiny_options,
)

SMALL = EnasOptions(held_out=0.5, controller_steps=2, derive_samples=2)
SPACE = genotype_space(TINY_NETWORK)


def build(options: EnasOptions = SMALL, eta: float = 0.0, **changes: Any) -> Enas:
    search = tiny_options(strategy=options, batch_size=16, **changes)
    strategy = build_strategy(options, build_context(search, images_of(), CPU))
    strategy.begin_epoch(EpochSettings(temperature=1.0, eta=eta, theta_lr=0.05), seeded(9))
    for images, labels in images_of().train.batches(16):
        strategy.step(images, labels, seeded(1))
    return strategy


def held_out_batch(strategy: Enas) -> Batch:
    return next(strategy._context.images.held_out_batches(seeded(3)))


def some_codes(number: int) -> list[Code]:
    generator = seeded(5)
    return [SPACE.sample(generator) for _ in range(number)]


def one_hot(code: Code) -> dict[str, torch.Tensor]:
    chosen = torch.nn.functional.one_hot(torch.tensor(code), len(SPACE.primitives)).float()
    return dict(zip(CELL_TYPES, chosen.split(len(SPACE.edges)), strict=True))


def test_reward_is_the_accuracy_of_the_one_hot_supernet_with_batch_statistics() -> None:
    strategy = build()
    images, labels = held_out_batch(strategy)
    rewards = []
    for code in some_codes(20):
        supernet = copy.deepcopy(strategy.supernet).train()
        logits = supernet(images, one_hot(code))
        rewards.append((logits.argmax(1) == labels).float().mean().item())
        assert strategy.reward(code, (images, labels)) == pytest.approx(rewards[-1])
    assert len(set(rewards)) > 2, "children must differ for this to say anything"


def test_reward_subtracts_the_penalty_at_the_strength_of_the_epoch() -> None:
    penalty = PenaltyOptions(strength=5.0, cost="params", log=False)  # the epoch's eta counts
    strategy, free = build(eta=0.25, penalty=penalty), build(penalty=penalty)
    table = CostTable(TINY_SIZE)
    for code in some_codes(5):
        counts = sum((table.table("params", name) * z_EO).sum() for name, z_EO in one_hot(code).items())
        batch = held_out_batch(strategy)
        free.supernet.load_state_dict(strategy.supernet.state_dict())
        assert strategy.reward(code, batch) == pytest.approx(free.reward(code, batch) - 0.25e-6 * float(counts))


def test_penalty_in_the_own_space_counts_both_operations_of_an_edge() -> None:
    """Twice the same dilated convolution from the first input to the first node, and skips elsewhere."""
    penalty = PenaltyOptions(strength=0.25, cost="params", log=False)
    strategy = build(eta=0.25, penalty=penalty, network=replace(TINY_NETWORK, space="enas"))
    code, without = ((0, 0, *first, 1, 1, 1, 1, *(0, 0, 1, 1) * 2) for first in ((2, 2), (1, 1)))
    table = CostTable(TINY_SIZE).table("params", "normal")
    convolution = table.sum(0)[0, FEW_PRIMITIVES.index("dil_conv_3x3")].item()
    added = strategy._penalty(code).item() - strategy._penalty(without).item()
    assert added == pytest.approx(0.25e-6 * 2 * convolution)
    assert convolution == 4 * 9 + 4 * 4 + 2 * 4


def test_step_reports_the_penalty_of_its_child(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = build(eta=0.01)
    code = some_codes(1)[0]
    monkeypatch.setattr(strategy, "sample", lambda generator: code)
    images, labels = next(iter(images_of().train.batches(16)))
    shares = CostTable(TINY_SIZE).edge_costs(PenaltyOptions(), one_hot(code))  # type: ignore[arg-type]
    expected = 0.01 * sum(share_LE.sum() for share_LE in shares.values())
    assert strategy.step(images, labels, seeded()).penalty.item() == pytest.approx(float(expected))
    assert expected > 0


def test_child_beyond_the_limits_counts_as_accuracy_0() -> None:
    codes, free = some_codes(30), build()
    most = free._context.limits.cost(SPACE.decode(codes[0])).madds
    strategy, batch = build(constraints=Constraints(madds=Limit(max=most))), held_out_batch(free)
    beyond = [code for code in codes if not strategy._context.limits.admits(SPACE.decode(code))]
    assert [strategy.reward(code, batch) for code in beyond] == [0.0] * len(beyond)
    free.supernet.load_state_dict(strategy.supernet.state_dict())
    assert sum(free.reward(code, batch) for code in beyond) > 0
    assert strategy.reward(codes[0], batch) == free.reward(codes[0], batch) > 0


def test_end_of_an_epoch_leaves_the_supernet_alone_with_its_statistics() -> None:
    strategy = build()
    before = through_file(strategy.state_dict())
    strategy.end_epoch(seeded())
    after = through_file(strategy.state_dict())
    assert differences(before["theta"], after["theta"]) == []
    assert differences(before["theta_optimiser"], after["theta_optimiser"]) == []
    assert differences(before["learner"]["controller"], after["learner"]["controller"]) != []


def test_derived_child_has_the_highest_reward_of_those_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = build(replace(SMALL, controller_steps=3, children_per_step=2, derive_samples=5))
    judged: list[tuple[Code, Batch, float]] = []
    reward = strategy.reward

    def note(code: Code, batch: Batch) -> float:
        judged.append((code, batch, reward(code, batch)))
        return judged[-1][2]

    monkeypatch.setattr(strategy, "reward", note)
    strategy.end_epoch(seeded(4))
    assert len(judged) == 3 * 2 + 5
    training, derivation = judged[:6], judged[6:]
    assert len({id(batch) for _, batch, _ in training}) == 3
    assert len({id(batch) for _, batch, _ in derivation}) == 1, "all are judged by one batch"
    assert all(len(labels) == 16 for _, (_, labels), _ in judged)
    best = max(derivation, key=lambda each: each[2])
    assert strategy.genotype() == SPACE.decode(best[0])


@pytest.mark.slow
def test_controller_learns_what_is_rewarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a reward that is known: the share of edges with the last primitive, 1/4 for random children."""
    strategy = build(EnasOptions(held_out=0.5, controller_steps=100, children_per_step=4))
    wanted = len(SPACE.primitives) - 1
    monkeypatch.setattr(strategy, "reward", lambda code, _: code.count(wanted) / len(code))
    before = torch.cat(list(strategy.probabilities().values()))[:, wanted].mean()
    for epoch in range(2):
        strategy.end_epoch(seeded(epoch))
    after = torch.cat(list(strategy.probabilities().values()))[:, wanted].mean()
    assert before == pytest.approx(0.25, abs=0.02)
    assert after > 0.6
    assert SPACE.encode(strategy.genotype()).count(wanted) >= 8
    # Children for theta come from the controller too: 200 choices have a standard error of at most 0.036.
    generator = seeded(7)
    drawn = [strategy.sample(generator).count(wanted) / SPACE.num_choices for _ in range(20)]
    assert sum(drawn) / 20 == pytest.approx(after.item(), abs=0.11)


def test_scores_are_log_probabilities_of_whole_genotypes_under_the_controller() -> None:
    """Those of all 16 genotypes of a small space are of a distribution, which is that of the samples."""
    network = NetworkOptions(nodes=1, cells=3, init_channels=4, primitives=("none", "skip_connect"))
    search = tiny_options(network=network, batch_size=16)
    strategy = build_strategy(
        EnasOptions(held_out=0.5, controller=EnasController(init=1.0, temperature=None)),
        build_context(search, images_of(), CPU),
    )
    assert isinstance(strategy, Enas)
    codes = list(itertools.product(range(2), repeat=4))
    scores = strategy.scores(codes, seeded())
    p = torch.tensor(scores).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-5)
    assert p.max() > 2 * p.min()
    drawn = strategy.controller.sample(4000, seeded(1)).codes.tolist()
    counts = torch.tensor([drawn.count(list(code)) for code in codes])
    # 15 degrees of freedom: 37.7 is exceeded in 0.1 % of cases.
    assert ((counts - 4000 * p).square() / (4000 * p)).sum() < 37.7
    assert strategy.scores([], seeded()) == []


def test_no_choice_becomes_impossible() -> None:
    """Logits stay in (-2.5, 2.5), so none of 4 choices falls below 1 / (1 + 3 e^5)."""
    controller = build().controller
    with torch.no_grad():
        controller.biases[:, 0] = 1e6
    assert controller.marginals().min() >= 1 / (1 + 3 * 148.42) - 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (NetworkOptions(nodes=1, cells=3, init_channels=4, primitives=FEW_PRIMITIVES), (1, 8, 8)),
        (NetworkOptions(nodes=5, cells=3, init_channels=2, primitives=FEW_PRIMITIVES), (1, 8, 8)),
        (NetworkOptions(nodes=2, cells=3, init_channels=4, primitives=("none", "skip_connect")), (1, 8, 8)),
        (NetworkOptions(nodes=2, cells=3, init_channels=4, primitives=("max_pool_3x3", "sep_conv_3x3")), (1, 8, 8)),
        (NetworkOptions(nodes=2, cells=2, init_channels=4, primitives=FEW_PRIMITIVES), (1, 8, 8)),
        (NetworkOptions(nodes=2, cells=3, init_channels=4, primitives=FEW_PRIMITIVES), (3, 7, 11)),
        (NetworkOptions(nodes=2, cells=3, init_channels=4, primitives=FEW_PRIMITIVES, stem="imagenet"), (3, 33, 17)),
    ],
    ids=["1-node", "5-nodes", "2-primitives", "no-none", "no-normal-cell", "odd-size", "imagenet-stem"],
)
def test_odd_configurations(network: NetworkOptions, shape: tuple[int, int, int]) -> None:
    dataset = DatasetOptions(name="fake", shape=shape, images=100)
    options = tiny_options(network=network, dataset=dataset, strategy=SMALL, batch_size=16, epochs=1)
    (report,) = Search(options, images_of(dataset))
    num_edges = sum(range(2, network.nodes + 2))
    for cell_type in CELL_TYPES:
        probabilities = report.cells[cell_type].probabilities
        assert len(probabilities) == num_edges
        assert all(len(row) == len(network.primitives) for row in probabilities)
    space = genotype_space(network)
    assert space.decode(space.encode(report.genotype)) == report.genotype


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out": 0.0}, r"`held_out` must be in \(0, 1\), got 0.0"),
        ({"held_out": 1.0}, r"`held_out` must be in \(0, 1\), got 1.0"),
        ({"controller_steps": 0}, "`controller_steps` must be at least 1, got 0"),
        ({"children_per_step": 0}, "`children_per_step` must be at least 1, got 0"),
        ({"derive_samples": 0}, "`derive_samples` must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        EnasOptions(**changes)


def test_defaults_of_the_controller_are_those_of_the_paper() -> None:
    controller = EnasOptions().controller
    assert isinstance(controller, EnasController)
    assert (controller.hidden, controller.init) == (100, 0.1)
    assert (controller.temperature, controller.tanh_constant) == (5.0, 2.5)
