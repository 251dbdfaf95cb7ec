"""SGD on used rows against plain SGD on a supernet that has one parameter for every edge."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from search_core.network.child import inherit_child
from search_core.search.search import build_context
from search_core.space.code_space import Code
from search_core.space.genotype import CELL_TYPES
from search_core.space.plan import cell_edges, edges_by_source
from search_core.strategies.base import EpochSettings
from search_core.strategies.optimiser_options import ThetaOptions
from search_core.strategies.weight_sharing.build import build_strategy
from search_core.strategies.weight_sharing.dsnas import Dsnas
from search_core.strategies.weight_sharing.options import DsnasOptions, EnasOptions, SposOptions
from search_core.strategies.weight_sharing.ranked_draws_options import RandomSamplingOptions, SmashOptions
from tests.search_core.tiny import CPU, TINY_NETWORK, differences, images_of, seeded, through_file, tiny_options

#: Edges 0 -> 2, 1 -> 2, 0 -> 3, 1 -> 3, 2 -> 3 of both cells: none 0, max pool 1, skip 2, dilated convolution 3.
FIRST, SECOND = (3, 2, 3, 0, 3) * 2, (3, 3, 2, 2, 1) * 2
#: Decay that is felt, and a gradient that is clipped.
THETA = ThetaOptions(grad_clip=0.5, weight_decay=0.05)
STRATEGIES = [
    RandomSamplingOptions(held_out=0.5),
    EnasOptions(held_out=0.5),
    SmashOptions(held_out=0.5, features=4),
    SposOptions(held_out=0.5),
    DsnasOptions(),
]

each = pytest.mark.parametrize("options", STRATEGIES, ids=lambda options: options.kind)


def build(options: Any, theta: ThetaOptions = THETA) -> Any:
    search = tiny_options(strategy=options, batch_size=16, theta=theta)
    strategy = build_strategy(options, build_context(search, images_of(), CPU))
    strategy.begin_epoch(EpochSettings(temperature=1.0, eta=0.0, theta_lr=0.1), seeded())
    return strategy


def batch() -> tuple[Tensor, Tensor]:
    return next(iter(images_of().train.batches(16)))


def step(strategy: Any, code: Code) -> None:
    """One step on a child that is not drawn."""
    if isinstance(strategy, Dsnas):
        choices = dict(zip(CELL_TYPES, torch.tensor(code).split(len(code) // 2), strict=True))
        strategy._sample = lambda _: choices  # type: ignore[method-assign]
    else:
        strategy.sample = lambda _: code
    strategy.step(*batch(), seeded())


def rows(network: nn.Module) -> dict[tuple[str, int | None], Tensor]:
    """Parameters as in a supernet with one for every edge."""
    split: dict[tuple[str, int | None], Tensor] = {}
    for name, weight in network.named_parameters():
        if ".operations." in name:
            split |= {(name, row): weight[row] for row in range(len(weight))}
        else:
            split[name, None] = weight
    return {place: value.detach().clone() for place, value in split.items()}


def momenta(strategy: Any) -> dict[tuple[str, int | None], Tensor]:
    """Momentum of each of them; zeros where there is none yet."""
    found: dict[tuple[str, int | None], Tensor] = {}
    for name, weight in strategy.supernet.named_parameters():
        momentum = strategy._theta_optimiser.state.get(weight, {}).get("momentum_buffer")
        momentum = torch.zeros_like(weight) if momentum is None else momentum
        parts = enumerate(momentum) if ".operations." in name else [(None, momentum)]
        found |= {(name, row): part.clone() for row, part in parts}
    return found


def is_used(place: tuple[str, int | None], code: Code) -> bool:
    name, row = place
    if row is None:
        return True
    _, cell, _, primitive, *_ = name.split(".")
    offset = 0 if cell == "0" else len(code) // 2  # of three cells the last two reduce
    edge = cell_edges(TINY_NETWORK.nodes).index(edges_by_source(TINY_NETWORK.nodes)[row])
    return TINY_NETWORK.primitives[code[offset + edge]] == primitive


@each
def test_rows_of_edges_that_chose_another_operation_rest_with_their_momentum(options: Any) -> None:
    strategy = build(options)
    step(strategy, FIRST)  # gives momentum to what it uses
    before, momentum = rows(strategy.supernet), momenta(strategy)
    step(strategy, SECOND)
    after, moved_momentum = rows(strategy.supernet), momenta(strategy)
    trained = {name for name, weight in strategy.supernet.named_parameters() if weight.requires_grad}
    rested = [place for place in before if not is_used(place, SECOND)]
    assert any(momentum[place].any() for place in rested)  # used by the first child only
    for place in before:
        rests = place in rested or place[0] not in trained
        assert torch.equal(before[place], after[place]) == rests, place
        assert torch.equal(momentum[place], moved_momentum[place]) == rests, place


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_are_those_of_plain_sgd_with_one_parameter_for_every_edge(momentum: float) -> None:
    theta = ThetaOptions(grad_clip=0.5, weight_decay=0.05, momentum=momentum)
    strategy, reference = (
        build(RandomSamplingOptions(held_out=0.5), theta),
        build(RandomSamplingOptions(held_out=0.5), theta),
    )
    plain = {place: nn.Parameter(value) for place, value in rows(reference.supernet).items()}
    sgd = torch.optim.SGD(plain.values(), 0.1, momentum=momentum, weight_decay=0.05)
    for code in (FIRST, SECOND, FIRST):
        step(strategy, code)
        with torch.no_grad():  # the oracle's network is a child that gets the weights of its edges
            for name, weight in reference.supernet.named_parameters():
                for row in range(len(weight)) if ".operations." in name else [None]:
                    (weight if row is None else weight[row]).copy_(plain[name, row])
        sgd.zero_grad()
        _gradients_of_child(reference, code, plain)
        nn.utils.clip_grad_norm_(plain.values(), theta.grad_clip)
        sgd.step()
        found = rows(strategy.supernet)
        for place, weight in plain.items():
            torch.testing.assert_close(found[place], weight.detach(), rtol=1e-4, atol=1e-6)


def _gradients_of_child(strategy: Any, code: Code, plain: dict[tuple[str, int | None], nn.Parameter]) -> None:
    """Give each edge's parameter the gradient of the child's own weight; None where the child has none."""
    child = inherit_child(strategy.supernet, strategy.space.decode(code)).train()
    images, labels = batch()
    functional.cross_entropy(child(images), labels).backward()
    by_source = edges_by_source(TINY_NETWORK.nodes)
    for name, weight in child.named_parameters():
        if ".operations." not in name:
            plain[name, None].grad = weight.grad
            continue
        _, cell, _, number, leaf = name.split(".", 4)
        kept = child.cells[int(cell)].kept[int(number)]
        row = by_source.index((kept.source, kept.target))
        plain[f"cells.{cell}.operations.{kept.primitive}.{leaf}", row].grad = weight.grad


@each
def test_state_between_two_children_resumes_bit_for_bit(options: Any) -> None:
    whole, resumed = build(options), build(options)
    step(whole, FIRST)
    resumed.load_state_dict(through_file(whole.state_dict()))
    for strategy in (whole, resumed):
        step(strategy, SECOND)
    assert differences(whole.state_dict(), resumed.state_dict()) == []
