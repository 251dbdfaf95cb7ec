from __future__ import annotations

from collections.abc import Sequence
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
from search_core.space.code_space import Code
from search_core.space.genotype import CELL_TYPES, PRIMITIVES
from search_core.space.plan import NetworkOptions, NetworkSize
from search_core.strategies.base import EpochSettings
from search_core.strategies.weight_sharing.hypernetworks import HyperNetwork, MemoryBanks, Mixture, Slot, normalised
from search_core.strategies.weight_sharing.ranked_draws_options import SmashOptions
from search_core.strategies.weight_sharing.smash import Smash
from search_core.training.evaluation import evaluate
from tests.search_core.tiny import CPU, TINY_NETWORK, images_of, seeded, tiny_options

CONVOLUTIONS = ("none", "skip_connect", "sep_conv_3x3", "dil_conv_3x3")
NETWORK = NetworkOptions(nodes=2, cells=3, init_channels=4, primitives=CONVOLUTIONS)
#: The setting of the paper, with fewer layers.
PAPER: dict[str, Any] = {"encoding": "memory_banks", "layers": 2, "weight_norm": True}
each_setting = pytest.mark.parametrize("setting", [{}, PAPER], ids=["default", "paper"])


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


@each_setting
def test_hypernetwork_makes_the_weights_of_every_pointwise_convolution_of_a_child_and_no_other(
    setting: dict[str, Any],
) -> None:
    smash = build(**setting)
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
    assert isinstance(network, Mixture)
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
    network = Mixture(Supernet(NetworkSize(NETWORK, (1, 8, 8), 10), seed=0), 8, seed=0)
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
    network = Mixture(Supernet(NetworkSize(options, (1, 8, 8), 10), seed=0), 32, seed=0)
    for weight in network(all_of("sep_conv_5x5", options)).values():
        # 1 / C by construction in the mean over slots; within a factor of 4 for each.
        assert 0.25 < weight.var().item() * len(weight) < 4


def assert_small_and_seeded(supernet: Supernet, networks: Sequence[HyperNetwork]) -> None:
    """Networks of the same seed twice and of another have a quarter of what they make, and their seed's weights."""
    first, again, other = networks
    generated = sum(
        weight.numel() for name, weight in supernet.named_parameters() if ".operations." in name and "pointwise" in name
    )
    assert sum(weight.numel() for weight in first.parameters()) < 0.25 * generated
    code = first.space.sample(seeded(2))
    for name, weight in first(code).items():
        assert torch.equal(weight, again(code)[name])
        assert not torch.equal(weight, other(code)[name])


def test_hypernetwork_is_small_and_follows_the_seed() -> None:
    supernet = Supernet(NetworkSize(NetworkOptions(), (3, 32, 32), 10), seed=0)
    assert_small_and_seeded(supernet, [Mixture(supernet, 32, seed=seed) for seed in (0, 0, 1)])


# Memory banks


def memory_banks(network: NetworkOptions = NETWORK, layers: int = 2, *, weight_norm: bool = False) -> MemoryBanks:
    return MemoryBanks(
        Supernet(NetworkSize(network, (1, 8, 8), 10), seed=0), 8, layers, seed=0, weight_norm=weight_norm
    )


def test_encoding_says_what_each_block_of_weights_reads_and_writes() -> None:
    """Spelled out from the genotype: reads, writes, primitive, second convolution, cell."""
    network = memory_banks()
    code = (2, 0, 3, 1, 2, 3, 0, 1, 2, 0)  # sep, none, dil, skip, sep; dil, none, skip, sep, none
    genotype, most = network.space.decode(code), 4  # cells of 4, 8 and 16 channels, banks of 4
    expected = []
    for cell, (cell_type, banks) in enumerate((("normal", 1), ("reduce", 2), ("reduce", 4))):
        for edge in genotype.edges(cell_type):  # type: ignore[arg-type]
            for second in range(2 if edge.primitive == "sep_conv_3x3" else 1):
                for read in range(banks):
                    row = torch.full((28, most), -1.0)  # reads of nodes 0 to 2, writes of nodes 2 and 3
                    row[24, :banks] = 2 * second - 1
                    for written in range(banks):
                        row[edge.source * most + read, written] = 1
                        row[12 + (edge.target - 2) * most + written, written] = 1
                        row[20 + CONVOLUTIONS.index(edge.primitive), written] = 1
                        row[25 + cell, written] = 1
                    expected.append(row)
    encoding, rows = network.encode(code)
    torch.testing.assert_close(encoding.squeeze(0).permute(1, 0, 2), torch.stack(expected))
    assert rows == {
        "cells.0.operations.0.pointwise1.weight": 0,
        "cells.0.operations.0.pointwise2.weight": 1,
        "cells.0.operations.1.pointwise.weight": 2,
        "cells.0.operations.3.pointwise1.weight": 4,
        "cells.0.operations.3.pointwise2.weight": 5,
        "cells.1.operations.0.pointwise.weight": 6,
        "cells.1.operations.2.pointwise1.weight": 10,
        "cells.1.operations.2.pointwise2.weight": 12,
        "cells.2.operations.0.pointwise.weight": 14,
        "cells.2.operations.2.pointwise1.weight": 22,
        "cells.2.operations.2.pointwise2.weight": 26,
    }


def test_each_block_of_a_matrix_is_made_from_its_own_place() -> None:
    """The layout by plain loops, and the network by its definition: dense 3x3 convolutions, then one of 1x1."""
    network = memory_banks()
    code = (2, 0, 3, 1, 2, 3, 0, 1, 2, 0)
    x, rows = network.encode(code)
    first, second = network.convolutions
    x = torch.cat([x, functional.conv2d(x, first, padding=1)], 1)
    x = torch.cat([x, functional.conv2d(functional.leaky_relu(x, 0.02), second, padding=1)], 1)
    made = functional.conv2d(functional.leaky_relu(x, 0.02), network.blocks)[0]
    name = "cells.2.operations.2.pointwise2.weight"
    weight = network(code)[name]
    assert weight.shape == (16, 16, 1, 1)
    for out in range(16):
        for into in range(16):
            place = made[(out % 4) * 4 + into % 4, rows[name] + into // 4, out // 4]
            assert weight[out, into, 0, 0].item() == pytest.approx(place.item() / 4, rel=1e-4, abs=1e-6)


def test_weights_of_memory_banks_depend_on_what_lies_near_alone() -> None:
    """Two 3x3 convolutions see two rows each way; with enough layers the whole network."""
    code = all_of("sep_conv_3x3")
    last = (*code[:-1], NETWORK.primitives.index("dil_conv_3x3"))  # the last edge of both reduction cells
    for layers, changes in ((2, False), (12, True)):
        network = memory_banks(layers=layers)
        before, after = network(code), network(last)
        near, far = "cells.2.operations.3.pointwise2.weight", "cells.0.operations.4.pointwise2.weight"
        assert not torch.equal(before[near], after[near])
        assert torch.equal(before[far], after[far]) != changes


def test_same_operations_of_several_cells_and_banks_get_different_weights() -> None:
    network = memory_banks(NetworkOptions(nodes=2, cells=5, init_channels=4, primitives=CONVOLUTIONS))
    weights = list(network(all_of("sep_conv_3x3")).values())
    blocks = [block for weight in weights for rows in weight.split(4) for block in rows.split(4, dim=1)]
    assert len(blocks) == 10 * (1 + 4 + 4 + 16 + 16)
    flat = torch.stack([block.flatten() for block in blocks])
    assert (torch.cdist(flat, flat) + torch.eye(len(flat)) > 1e-4).all()


def test_hypernetwork_over_memory_banks_is_small_follows_the_seed_and_begins_at_the_scale_of_a_convolution() -> None:
    supernet = Supernet(NetworkSize(NetworkOptions(nodes=3, cells=6), (3, 32, 32), 10), seed=0)
    networks = [MemoryBanks(supernet, 10, 8, seed=seed) for seed in (0, 0, 1)]
    assert_small_and_seeded(supernet, networks)
    for weight in networks[0](networks[0].space.sample(seeded(2))).values():
        assert 0.1 < weight.square().mean().item() * len(weight) < 4


@pytest.mark.parametrize("encoding", ["choices", "memory_banks"])
def test_generated_weights_are_divided_by_their_norm(encoding: str) -> None:
    smash, plain = (build(encoding=encoding, weight_norm=norm) for norm in (True, False))
    code = all_of("sep_conv_3x3")
    made = smash.hypernetwork.matrices_of(code)
    for name, weight in smash.hypernetwork(code).items():
        torch.testing.assert_close(
            weight[:, :, 0, 0], made[name] / made[name].square().sum().sqrt() * len(weight) ** 0.5
        )
        assert weight.norm().item() == pytest.approx(len(weight) ** 0.5)
        assert plain.hypernetwork(code)[name].norm().item() != pytest.approx(len(weight) ** 0.5)
    assert normalised(torch.zeros(2, 2)).eq(0).all()


# Training and ranking


@each_setting
def test_step_trains_the_hypernetwork_and_other_weights_but_not_the_pointwise_ones(setting: dict[str, Any]) -> None:
    smash = build(**setting)
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
@each_setting
def test_gradient_of_the_hypernetwork_is_that_of_the_childs_loss(setting: dict[str, Any]) -> None:
    """By a central difference in a random direction, in float64."""
    smash = build(**setting)
    parameter = list(smash.hypernetwork.parameters())[2]
    images, labels = batch()
    code = all_of("sep_conv_3x3")
    smash.supernet.train()
    loss = functional.cross_entropy(smash._child_logits(images, code), labels)
    (gradient,) = torch.autograd.grad(loss, parameter)
    direction = torch.randn(gradient.shape, generator=seeded(1))
    values = []
    for distance in (1e-6, -2e-6):  # ahead, then as far behind
        with torch.no_grad():
            parameter += distance * direction
            values.append(functional.cross_entropy(smash._child_logits(images, code), labels).item())
    assert (values[0] - values[1]) / 2e-6 == pytest.approx((gradient * direction).sum().item(), rel=1e-4)


@each_setting
def test_supernet_carries_the_generated_weights_of_the_best_child(setting: dict[str, Any]) -> None:
    smash = build(samples=4, **setting)
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


@pytest.mark.slow
@each_setting
@pytest.mark.parametrize("name", list(ODD))
def test_odd_configurations_are_trained_ranked_and_inherited(name: str, setting: dict[str, Any]) -> None:
    network, shape = ODD[name]
    smash = build(network, shape, samples=1, features=3, **setting)
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
