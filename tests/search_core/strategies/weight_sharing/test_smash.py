from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from search_core.data.dataset_options import DatasetOptions
from search_core.errors import OptionsError
from search_core.network.child import inherit_child
from search_core.network.supernet import Supernet
from search_core.search.search import Search, build_context
from search_core.space.codes import Code
from search_core.space.genotype import CELL_TYPES, PRIMITIVES
from search_core.space.plan import NetworkOptions, NetworkSize
from search_core.strategies.base import EpochSettings
from search_core.strategies.weight_sharing.ranked_draws_options import SmashOptions
from search_core.strategies.weight_sharing.smash import HyperNetwork, Slot, Smash
from search_core.training.evaluation import evaluate
from tests.search_core.tiny import CPU, TINY_NETWORK, images_of, seeded, tiny_options

CONVOLUTIONS = ("none", "skip_connect", "sep_conv_3x3", "dil_conv_3x3")
NETWORK = NetworkOptions(nodes=2, cells=3, init_channels=4, primitives=CONVOLUTIONS)


def build(network: NetworkOptions = NETWORK, shape: tuple[int, int, int] = (1, 8, 8), **options: Any) -> Smash:
    strategy = SmashOptions(**{"held_out": 0.5, "samples": 2, "features": 8, **options})
    dataset = DatasetOptions(name="fake", shape=shape, images=100)
    search = tiny_options(network=network, strategy=strategy, dataset=dataset)
    smash = Smash(strategy, build_context(search, images_of(dataset), CPU))
    smash.begin_epoch(EpochSettings(temperature=1.0, eta=0.0, theta_lr=0.1), seeded())
    return smash


def batch(num: int = 8, shape: tuple[int, int, int] = (1, 8, 8)) -> tuple[Tensor, Tensor]:
    generator = seeded(50)
    return torch.randn(num, *shape, generator=generator), torch.randint(10, (num,), generator=generator)


def all_of(primitive: str, network: NetworkOptions = NETWORK) -> Code:
    """Every edge of both cells has one operation."""
    num_edges = sum(range(2, network.nodes + 2))
    return (network.primitives.index(primitive),) * (2 * num_edges)


# The hypernetwork


def test_hypernetwork_makes_the_weights_of_every_pointwise_convolution_of_a_child_and_no_other() -> None:
    smash = build()
    for code in (all_of("sep_conv_3x3"), all_of("dil_conv_3x3"), smash.space.sample(seeded(3))):
        child = inherit_child(smash.supernet, smash.space.decode(code))
        weights = smash.hypernetwork(code)
        expected = {name: value.shape for name, value in child.named_parameters() if "pointwise" in name}
        assert {name: weight.shape for name, weight in weights.items()} == expected
        assert expected
    assert smash.hypernetwork(all_of("none")) == smash.hypernetwork(all_of("skip_connect")) == {}


def test_hypernetwork_computes_what_its_docstring_says() -> None:
    """One slot by plain loops: `sum_f h_f B_f` with `h = relu(relu(A c + p) M)`."""
    smash = build()
    network, code = smash.hypernetwork, smash.space.sample(seeded(3))
    slots = network.slots_of(code)
    name, slot = list(slots.items())[-1]
    assert slot.cell == 2
    position = list(network._rows).index(slot)
    first = network.slots[position].clone()
    for edge, choice in enumerate(code):
        first = first + network.choices[edge, choice]
    features = [sum(max(first[i].item(), 0) * network.mixing[i, j].item() for i in range(8)) for j in range(8)]
    expected = sum(max(h, 0.0) * network.matrices["16"][f] for f, h in enumerate(features))
    torch.testing.assert_close(network(code)[name][:, :, 0, 0], expected, rtol=1e-4, atol=1e-6)


def test_weights_depend_on_the_slot_and_on_every_choice_of_the_code() -> None:
    network = HyperNetwork(Supernet(NetworkSize(NETWORK, (1, 8, 8), 10), seed=0), 8, seed=0)
    code = all_of("sep_conv_3x3")
    weights = network(code)
    of_width: dict[torch.Size, list[Tensor]] = {}
    for weight in weights.values():
        of_width.setdefault(weight.shape, []).append(weight)
    for same in of_width.values():
        for position, weight in enumerate(same[1:]):
            assert not torch.equal(weight, same[position])
    name = "cells.0.operations.0.pointwise1.weight"
    for edge in range(1, len(code)):  # of the normal cell's other edges and the reduction cell's
        other = (*code[:edge], 1, *code[edge + 1 :])
        assert not torch.equal(network(other)[name], weights[name])


def test_initial_weights_are_of_the_scale_of_a_fresh_convolution() -> None:
    options = NetworkOptions(nodes=4, cells=3, init_channels=16)
    network = HyperNetwork(Supernet(NetworkSize(options, (1, 8, 8), 10), seed=0), 32, seed=0)
    for weight in network(all_of("sep_conv_5x5", options)).values():
        # 1 / C by construction in the mean over slots; within a factor of 4 for each.
        assert 0.25 < weight.var().item() * len(weight) < 4


def test_hypernetwork_is_small_and_follows_the_seed() -> None:
    supernet = Supernet(NetworkSize(NetworkOptions(), (3, 32, 32), 10), seed=0)
    first, again, other = (HyperNetwork(supernet, 32, seed=seed) for seed in (0, 0, 1))
    generated = sum(
        weight.numel() for name, weight in supernet.named_parameters() if ".operations." in name and "pointwise" in name
    )
    assert sum(weight.numel() for weight in first.parameters()) < 0.25 * generated
    code = first.space.sample(seeded(2))
    for name, weight in first(code).items():
        assert torch.equal(weight, again(code)[name])
        assert not torch.equal(weight, other(code)[name])


# Training and ranking


def test_step_trains_the_hypernetwork_and_other_weights_but_not_the_pointwise_ones() -> None:
    smash = build()
    smash.sample = lambda generator: all_of("sep_conv_3x3")  # type: ignore[method-assign]
    before = {name: value.clone() for name, value in smash.supernet.named_parameters()}
    hyper = {name: value.clone() for name, value in smash.hypernetwork.named_parameters()}
    smash.step(*batch(), seeded())
    for name, value in smash.supernet.named_parameters():
        assert value.requires_grad == ("pointwise" not in name)
        unused = "dil_conv" in name or "skip_connect" in name
        assert torch.equal(value, before[name]) == ("pointwise" in name or unused), name
    for name, value in smash.hypernetwork.named_parameters():
        assert not torch.equal(value, hyper[name]), name


def test_gradient_of_the_hypernetwork_is_clipped_with_the_others() -> None:
    smash = build()
    smash.step(*batch(), seeded())
    gradients = [
        weight.grad for part in (smash.supernet, smash.hypernetwork) for weight in part.parameters()
        if weight.grad is not None
    ]  # fmt: skip
    norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
    assert norm <= 5.0 + 1e-4


@pytest.mark.usefixtures("float64")
def test_gradient_of_the_hypernetwork_is_that_of_the_childs_loss() -> None:
    """By a central difference in a random direction, in float64."""
    smash = build()
    images, labels = batch()
    code = all_of("sep_conv_3x3")
    smash.supernet.train()
    loss = functional.cross_entropy(smash._child_logits(images, code), labels)
    (gradient,) = torch.autograd.grad(loss, smash.hypernetwork.mixing)
    direction = torch.randn(gradient.shape, generator=seeded(1))
    values = []
    for distance in (1e-6, -2e-6):  # ahead, then as far behind
        with torch.no_grad():
            smash.hypernetwork.mixing += distance * direction
            values.append(functional.cross_entropy(smash._child_logits(images, code), labels).item())
    assert (values[0] - values[1]) / 2e-6 == pytest.approx((gradient * direction).sum().item(), rel=1e-4)


def test_supernet_carries_the_generated_weights_of_the_best_child() -> None:
    smash = build(samples=4)
    smash.step(*batch(), seeded())
    smash.end_epoch(seeded(1))
    child = inherit_child(smash.supernet, smash.genotype())
    parameters = dict(child.named_parameters())
    weights = smash.hypernetwork(smash._best)
    assert weights
    for name, weight in weights.items():
        assert torch.equal(parameters[name], weight), name
    smash.supernet.eval()
    torch.testing.assert_close(child.eval()(batch()[0]), smash._child_logits(batch()[0], smash._best))


def test_score_is_the_accuracy_with_generated_weights() -> None:
    """The weights that lie in the supernet, made for another child, would give other scores."""
    smash, differ = build(), 0
    for _ in range(3):
        smash.step(*batch(), seeded())
    images = smash._context.images
    for seed in range(4):
        code = smash.space.sample(seeded(seed))
        scores = []
        for made in (smash.hypernetwork(code), {}):
            child = inherit_child(smash.supernet, smash.space.decode(code))
            with torch.no_grad():
                for name, weight in made.items():
                    child.get_parameter(name).copy_(weight)
            images.recalibrate(child, seeded(9))
            scores.append(evaluate(child, images.held_out_split).accuracy)
        assert smash.score(code, seeded(9)) == scores[0]
        differ += scores[0] != scores[1]
    assert differ


def test_best_of_the_draws_by_generated_weights_is_chosen() -> None:
    smash = build(samples=6)
    smash.step(*batch(), seeded())
    generator = seeded(2)
    codes = [smash._best, *(smash.space.sample(generator) for _ in range(6))]
    scores = [smash.score(code, generator) for code in codes]
    assert max(scores) > min(scores)
    smash.end_epoch(seeded(2))
    assert smash._best == codes[scores.index(max(scores))]


# Odd configurations

ODD = {
    "one-node": (NetworkOptions(nodes=1, cells=3, init_channels=4, primitives=CONVOLUTIONS), (1, 8, 8)),
    "five-nodes": (NetworkOptions(nodes=5, cells=2, init_channels=2, primitives=CONVOLUTIONS), (1, 8, 8)),
    "no-convolutions": (
        NetworkOptions(nodes=2, cells=3, primitives=("none", "skip_connect", "avg_pool_3x3")),
        (1, 8, 8),
    ),
    "without-none": (NetworkOptions(nodes=2, cells=3, primitives=("sep_conv_7x7", "conv_7x1_1x7")), (1, 8, 8)),
    "imagenet-stem": (
        NetworkOptions(nodes=2, cells=3, init_channels=4, primitives=CONVOLUTIONS, stem="imagenet"),
        (3, 33, 33),
    ),
    "two-channels-one-cell": (NetworkOptions(nodes=2, cells=1, init_channels=2, primitives=PRIMITIVES), (1, 8, 8)),
    "odd-sizes": (NetworkOptions(nodes=2, cells=4, init_channels=2, primitives=PRIMITIVES), (2, 7, 11)),
}


@pytest.mark.parametrize("name", list(ODD))
def test_odd_configurations_are_trained_ranked_and_inherited(name: str) -> None:
    network, shape = ODD[name]
    smash = build(network, shape, samples=1, features=3)
    for seed in range(2):
        result = smash.step(*batch(shape=shape), seeded(seed))
        assert result.loss.isfinite()
    for code in (smash.space.sample(seeded(5)), *(all_of(primitive, network) for primitive in network.primitives)):
        child = inherit_child(smash.supernet, smash.space.decode(code))
        weights, parameters = smash.hypernetwork(code), dict(child.named_parameters())
        assert weights.keys() == {key for key in parameters if "pointwise" in key}
        assert all(weight.shape == parameters[key].shape for key, weight in weights.items())
    smash.end_epoch(seeded(1))
    assert inherit_child(smash.supernet, smash.genotype())(batch(shape=shape)[0]).shape == (8, 10)


def test_space_without_convolutions_leaves_the_hypernetwork_nothing_to_do() -> None:
    smash = build(*ODD["no-convolutions"])
    assert list(smash.hypernetwork._rows) == []
    assert all(weight.requires_grad for weight in smash.supernet.parameters())


def test_slots_are_those_of_all_cells_edges_and_operations() -> None:
    slots = list(build().hypernetwork._rows)
    # 3 cells, 5 edges, two pointwise convolutions of sep_conv and one of dil_conv.
    assert len(slots) == len(set(slots)) == 3 * 5 * 3
    assert Slot(2, "sep_conv_3x3", 4, "pointwise2.weight") in slots


def test_whole_search_runs_and_reports_the_generated_child() -> None:
    strategy = SmashOptions(held_out=0.5, samples=1, features=4)
    search = Search(tiny_options(network=TINY_NETWORK, strategy=strategy, epochs=1), images_of())
    report = search.run_epoch()
    assert set(report.cells) == set(CELL_TYPES)
    assert 0 <= report.child_val_accuracy <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": 0}, "`features` must be at least 1, got 0"),
        ({"held_out": 1.0}, r"`held_out` must be in \(0, 1\), got 1.0"),
        ({"samples": 0}, "`samples` must be at least 1, got 0"),
        ({"batches": 0}, "`batches` must be at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        SmashOptions(**changes)
