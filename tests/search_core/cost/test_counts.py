from __future__ import annotations

import itertools
import math
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor

from search_core.cost.counts import COST_KINDS, Cost, child_cost, primitive_cost, supernet_cost, total
from search_core.cost.penalty import CostTable
from search_core.cost.penalty_options import CostMix, PenaltyOptions
from search_core.network.child import Child
from search_core.network.supernet import Supernet
from search_core.space.genotype import CELL_TYPES, PUBLISHED, CellType, Edge, Genotype
from search_core.space.plan import NetworkOptions, NetworkSize, cell_edges, plan_supernet
from tests.search_core.plain_supernet import PlainSupernet
from tests.search_core.tiny import (
    FEW_PRIMITIVES,
    TINY_NETWORK,
    TINY_SIZE,
    count_madds,
    genotype_of,
    num_params,
    published_cells,
    random_choices,
    seeded,
)

#: (architecture, stem) of every figure in the reference file; named here so that collecting reads no file.
FIGURES = [
    ("SNAS_mild", "cifar"),
    ("SNAS_moderate", "cifar"),
    ("DARTS_V2", "cifar"),
    ("DARTS_V2", "imagenet"),
]
MIX = CostMix(params=1.0, madds=0.5, memory_access=0.25)
PENALTIES = {
    "log": PenaltyOptions(cost="madds"),
    "linear": PenaltyOptions(cost="madds", log=False),
    "params": PenaltyOptions(cost="params", log=False),
    "memory": PenaltyOptions(cost="memory_access"),
    "mix-log": PenaltyOptions(cost="mix", mix=MIX),
    "mix-linear-ratio": PenaltyOptions(cost="mix", mix=MIX, log=False, reduction_ratio=0.5),
    "ratio": PenaltyOptions(cost="madds", reduction_ratio=2.0),
}


def meta_child(name: str, size: NetworkSize, *, auxiliary: bool) -> Child:
    with torch.device("meta"):
        return Child(PUBLISHED[name], size, auxiliary=auxiliary)


def size_of(figure: dict[str, Any], stem: Any) -> NetworkSize:
    """Of a row of the reference file."""
    network = NetworkOptions(cells=figure["cells"], init_channels=figure["init_channels"], stem=stem)
    return NetworkSize(network, tuple(figure["input"]), figure.get("classes", 10))


# The published figures


def test_every_published_figure_is_tested() -> None:
    architectures = published_cells()["architectures"]
    assert [(name, stem) for name, entry in architectures.items() for stem in entry["expected"]] == FIGURES


@pytest.mark.parametrize(("name", "stem"), FIGURES)
def test_child_cost_meets_published_figures(name: str, stem: Any) -> None:
    expected = published_cells()["architectures"][name]["expected"][stem]
    cost = child_cost(PUBLISHED[name], size_of(expected, stem))
    assert cost.params == expected["params"]
    assert cost.madds == expected["madds"]
    assert cost.auxiliary_params == expected.get("auxiliary_params", cost.auxiliary_params)


@pytest.mark.parametrize(("name", "stem"), FIGURES)
def test_built_child_meets_published_figures(name: str, stem: Any) -> None:
    expected = published_cells()["architectures"][name]["expected"][stem]
    child = meta_child(name, size_of(expected, stem), auxiliary="auxiliary_params" in expected)
    auxiliary = 0 if child.auxiliary is None else num_params(child.auxiliary)
    assert num_params(child) - auxiliary == expected["params"]
    assert auxiliary == expected.get("auxiliary_params", 0)
    assert count_madds(child.eval(), torch.empty(1, *expected["input"], device="meta")) == expected["madds"]


@pytest.mark.parametrize("position", [0, 1])
def test_supernet_meets_published_parameters(position: int) -> None:
    figure = published_cells()["supernets"][position]
    options = NetworkOptions(cells=figure["cells"], init_channels=figure["init_channels"])
    assert supernet_cost(NetworkSize(options, (3, 32, 32), figure["classes"])).params == figure["params_theta"]
    with torch.device("meta"):
        supernet = Supernet(NetworkSize(options, (3, 32, 32), figure["classes"]), seed=0)
    assert num_params(supernet) == figure["params_theta"]


# Counts of whole networks against what is really built


@pytest.mark.parametrize(
    ("input_shape", "cells", "channels", "stem"),
    [
        ((1, 8, 8), 3, 4, "cifar"),
        ((3, 32, 32), 5, 6, "cifar"),
        ((1, 7, 9), 4, 4, "cifar"),
        ((3, 17, 33), 6, 8, "imagenet"),
        pytest.param((3, 224, 224), 14, 48, "imagenet", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", list(PUBLISHED))
def test_child_cost_counts_what_the_child_has_and_does(
    name: str, input_shape: tuple[int, int, int], cells: int, channels: int, stem: Any
) -> None:
    size = NetworkSize(NetworkOptions(cells=cells, init_channels=channels, stem=stem), input_shape, 10)
    child, cost = meta_child(name, size, auxiliary=True), child_cost(PUBLISHED[name], size)
    assert child.auxiliary is not None
    assert num_params(child.auxiliary) == cost.auxiliary_params
    assert num_params(child) == cost.params + cost.auxiliary_params
    assert count_madds(child.eval(), torch.empty(1, *input_shape, device="meta")) == cost.madds


@pytest.mark.parametrize(("input_shape", "moved"), [((1, 8, 8), 1072 + 512 + 704), ((1, 7, 9), 1056 + 608 + 800)])
def test_child_cost_counts_what_stacked_nodes_have_and_do(input_shape: tuple[int, int, int], moved: int) -> None:
    """`moved` by hand: 3 x 4 channels to 4 at full size, 2 x 8 to 8 at half and 2 x 16 to 16 at a quarter of it."""
    three = (Edge("skip_connect", 0, 2), Edge("skip_connect", 1, 2), Edge("max_pool_3x3", 1, 2))
    two = (Edge("skip_connect", 0, 3), Edge("dil_conv_3x3", 2, 3))
    stacked = Genotype(three, (2,), two, (2, 3), normal_stacked=(2,), reduce_stacked=(3,))
    size = NetworkSize(TINY_NETWORK, input_shape, 10)
    child, cost = Child(stacked, size), child_cost(stacked, size)
    assert num_params(child) == cost.params
    assert count_madds(child.eval(), torch.empty(1, *input_shape)) == cost.madds
    assert cost.memory_access - child_cost(Genotype(three, (2,), two, (2, 3)), size).memory_access == moved


@pytest.mark.parametrize("pool_norm", [True, False])
def test_child_cost_follows_pool_norm(pool_norm: bool) -> None:
    child = Child(PUBLISHED["SNAS_mild"], TINY_SIZE, pool_norm=pool_norm)
    cost = child_cost(PUBLISHED["SNAS_mild"], TINY_SIZE, pool_norm=pool_norm)
    assert num_params(child) == cost.params


@pytest.mark.slow
@pytest.mark.parametrize("input_shape", [(1, 8, 8), (3, 7, 9)])
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_supernet_cost_counts_what_the_supernet_has_and_does(input_shape: tuple[int, int, int], stem: Any) -> None:
    options = NetworkOptions(nodes=3, cells=4, init_channels=4, stem=stem)
    with torch.device("meta"):
        plain = PlainSupernet(
            nodes=3,
            cells=4,
            init_channels=4,
            primitives=options.primitives,
            stem=stem,
            input_channels=input_shape[0],
            num_classes=7,
        )
        z = {cell_type: torch.empty(len(cell_edges(3)), len(options.primitives)) for cell_type in CELL_TYPES}
        madds = count_madds(plain, torch.empty(2, *input_shape), z)
    cost = supernet_cost(NetworkSize(options, input_shape, 7))
    assert (cost.params, cost.madds) == (num_params(plain), madds)
    assert num_params(Supernet(NetworkSize(options, input_shape, 7), seed=0)) == cost.params


def test_counts_of_a_network_that_can_be_counted_by_hand() -> None:
    # One cell, so a reduction cell: 4 channels, a single halving skip on 1x8x8; three classes.
    genotype = Genotype((), (2,), (Edge("skip_connect", 0, 2),), (2,))
    cost = child_cost(genotype, NetworkSize(NetworkOptions(cells=1, init_channels=2), (1, 8, 8), 3))
    stem, inputs, skip, classifier = 9 * 6, 2 * (6 * 4), 2 * (4 * 2), 4 * 3
    assert cost.params == (stem + 12) + (inputs + 2 * 8) + (skip + 8) + (classifier + 3)
    assert cost.madds == stem * 64 + inputs * 64 + skip * 16 + classifier
    assert cost.memory_access == (
        (64 + 6 * 64 + stem)  # stem reads 1x8x8, writes 6x8x8
        + 2 * (6 * 64 + 4 * 64 + 24)  # both cell inputs bring 6 channels to 4
        + 2 * (4 * 64 + 2 * 16 + 8)  # each half of the skip reads 4x8x8, writes 2x4x4
        + (4 + 3 + classifier + 3)
    )


@pytest.mark.parametrize(
    ("name", "stride", "elements"),
    [
        ("none", 1, 0),
        ("none", 2, 0),
        ("skip_connect", 1, 256 + 256),
        ("skip_connect", 2, 2 * (256 + 32 + 8)),
        ("max_pool_3x3", 1, 256 + 256),
        ("avg_pool_3x3", 2, 256 + 64),
        ("dil_conv_3x3", 1, (256 + 256 + 36) + (256 + 256 + 16)),
        ("dil_conv_5x5", 2, (256 + 64 + 100) + (64 + 64 + 16)),
        ("sep_conv_3x3", 1, 2 * ((256 + 256 + 36) + (256 + 256 + 16))),
        ("sep_conv_3x3", 2, (256 + 64 + 36) + (64 + 64 + 16) + (64 + 64 + 36) + (64 + 64 + 16)),
        ("sep_conv_7x7", 1, 2 * ((256 + 256 + 196) + (256 + 256 + 16))),
        ("conv_7x1_1x7", 2, (256 + 128 + 112) + (128 + 64 + 112)),
    ],
)
def test_memory_access_counts_reads_writes_and_weights(name: str, stride: int, elements: int) -> None:
    """4 channels at 8x8: an image of 256 elements, 64 after halving."""
    assert primitive_cost(name, 4, (8, 8), stride).memory_access == elements


def test_unknown_primitive_has_no_cost() -> None:
    with pytest.raises(ValueError, match=r"the primitive must be one of .*, got 'conv_9x9'"):
        primitive_cost("conv_9x9", 4, (8, 8), 1)


def test_total_adds_kind_by_kind() -> None:
    assert total([Cost(1, 2, 3), Cost(10, 20, 30)]) == Cost(11, 22, 33)
    assert total([]) == Cost(0, 0, 0)


# The table of the search


def table_of(options: NetworkOptions = TINY_NETWORK) -> CostTable:
    return CostTable(NetworkSize(options, (1, 8, 8), 10), dtype=torch.float64)


def plain_share(options: PenaltyOptions, counts: Cost, num_cells: int, cell_type: CellType) -> float:
    """Penalty of one operation of one cell, spelled out."""
    weights = asdict(options.mix) if options.mix else {options.cost: 1.0}
    share = 0.0
    for kind, weight in weights.items():
        count = getattr(counts, kind)
        share += weight * (math.log(1 + count) if options.log else count / 1e6)
    if options.reduction_ratio is None:
        return share
    return share / num_cells * (options.reduction_ratio if cell_type == "reduce" else 1)


def plain_penalty(options: PenaltyOptions, network: NetworkOptions, choices: dict[CellType, Tensor]) -> float:
    """C(Z) of one-hot choices: a loop over the cells and edges of the plan."""
    plan = plan_supernet(NetworkSize(network, (1, 8, 8), 10))
    penalty = 0.0
    for cell in plan.cells:
        num_cells = sum(other.cell_type == cell.cell_type for other in plan.cells)
        for (source, _), row in zip(cell_edges(network.nodes), choices[cell.cell_type].tolist(), strict=True):
            name = network.primitives[row.index(1)]
            counts = primitive_cost(name, cell.channels, *cell.edge_geometry(source))
            penalty += plain_share(options, counts, num_cells, cell.cell_type)
    return penalty


@pytest.mark.parametrize("cell_type", CELL_TYPES)
@pytest.mark.parametrize("kind", COST_KINDS)
def test_table_holds_the_cost_of_every_operation(kind: str, cell_type: CellType) -> None:
    table = table_of().table(kind, cell_type)
    plans = [plan for plan in plan_supernet(TINY_SIZE).cells if plan.cell_type == cell_type]
    assert table.shape == (len(plans), 5, len(FEW_PRIMITIVES))
    for plan, costs_EO in zip(plans, table, strict=True):
        for (source, _), costs_O in zip(cell_edges(2), costs_EO, strict=True):
            size, stride = plan.edge_geometry(source)
            expected = [getattr(primitive_cost(name, plan.channels, size, stride), kind) for name in FEW_PRIMITIVES]
            assert costs_O.tolist() == expected


@pytest.mark.parametrize("kind", COST_KINDS)
def test_expected_count_of_one_hot_choices_is_what_the_child_has_more_than_an_empty_one(kind: str) -> None:
    empty = child_cost(Genotype((), (2, 3), (), (2, 3)), TINY_SIZE)
    generator = seeded(3)
    for _ in range(5):
        choices = random_choices(TINY_NETWORK, generator)
        child = child_cost(genotype_of(TINY_NETWORK, choices), TINY_SIZE)
        expected = table_of().expected(kind, {name: choice.double() for name, choice in choices.items()})
        assert expected.item() == getattr(child, kind) - getattr(empty, kind)


@pytest.mark.parametrize("name", list(PENALTIES))
def test_shares_of_one_hot_choices_sum_to_the_penalty(name: str) -> None:
    options, generator = PENALTIES[name], seeded(4)
    for _ in range(5):
        choices = random_choices(TINY_NETWORK, generator)
        shares = table_of().edge_costs(options, {name: choice.double() for name, choice in choices.items()})
        assert shares["normal"].shape == (1, 5)
        assert shares["reduce"].shape == (2, 5)
        penalty = sum(share.sum().item() for share in shares.values())
        assert penalty == pytest.approx(plain_penalty(options, TINY_NETWORK, choices), rel=1e-12)


@pytest.mark.parametrize("name", list(PENALTIES))
def test_an_edges_choice_moves_only_its_own_share(name: str) -> None:
    choices = random_choices(TINY_NETWORK, seeded(5))
    none, dilated_conv = torch.eye(4, dtype=torch.long)[[0, 3]]
    choices["reduce"][3] = none
    before = table_of().edge_costs(PENALTIES[name], choices)
    choices["reduce"][3] = dilated_conv
    after = table_of().edge_costs(PENALTIES[name], choices)
    assert torch.equal(before["normal"], after["normal"])
    assert (before["reduce"] != after["reduce"]).any(0).tolist() == [False, False, False, True, False]


def test_shares_of_a_relaxed_sample_are_the_penalty_of_its_mean_count() -> None:
    z = {cell_type: torch.full((5, 4), 0.25, dtype=torch.float64) for cell_type in CELL_TYPES}
    table = table_of()
    for cell_type in CELL_TYPES:
        mean_LE = table.table("madds", cell_type).mean(-1)
        torch.testing.assert_close(table.edge_costs(PenaltyOptions(cost="madds"), z)[cell_type], mean_LE.log1p())
        linear = table.edge_costs(PenaltyOptions(cost="madds", log=False), z)[cell_type]
        torch.testing.assert_close(linear, mean_LE * 1e-6)


def test_a_sample_per_cell_is_charged_cell_by_cell() -> None:
    table, generator = table_of(), seeded(6)
    z = {"normal": torch.rand(1, 5, 4, generator=generator), "reduce": torch.rand(2, 5, 4, generator=generator)}
    together = table.edge_costs(PenaltyOptions(cost="madds"), z)["reduce"]
    for position in range(2):
        shared = {"normal": z["normal"][0], "reduce": z["reduce"][position]}
        torch.testing.assert_close(
            together[position], table.edge_costs(PenaltyOptions(cost="madds"), shared)["reduce"][position]
        )


@pytest.mark.parametrize("name", list(PENALTIES))
def test_expected_penalty_and_its_gradient_equal_enumeration(name: str) -> None:
    """All 3^4 architectures of a cell with one node; float64, so only rounding of 81 terms may differ."""
    network = NetworkOptions(nodes=1, cells=4, init_channels=4, primitives=("none", "skip_connect", "sep_conv_3x3"))
    generator = seeded(7)
    alpha: dict[CellType, Tensor] = {
        cell_type: torch.randn(2, 3, dtype=torch.float64, generator=generator).requires_grad_()
        for cell_type in CELL_TYPES
    }
    probabilities = {cell_type: values.softmax(-1) for cell_type, values in alpha.items()}
    enumerated = torch.zeros((), dtype=torch.float64)
    for normal_0, normal_1, reduce_0, reduce_1 in itertools.product(range(3), repeat=4):
        picks: dict[CellType, list[int]] = {"normal": [normal_0, normal_1], "reduce": [reduce_0, reduce_1]}
        probability = torch.ones((), dtype=torch.float64)
        for cell_type, pick in picks.items():
            for edge, op in enumerate(pick):
                probability = probability * probabilities[cell_type][edge, op]
        choices = {cell_type: torch.eye(3)[pick] for cell_type, pick in picks.items()}
        enumerated = enumerated + probability * plain_penalty(PENALTIES[name], network, choices)
    expected = table_of(network).expected_penalty(PENALTIES[name], probabilities)
    assert expected.item() == pytest.approx(enumerated.item(), rel=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(expected, list(alpha.values()), retain_graph=True),
        torch.autograd.grad(enumerated, list(alpha.values())),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("cells", [1, 2])
@pytest.mark.parametrize("ratio", [None, 1.0])
def test_a_stack_without_normal_cells_has_their_costs_at_zero(cells: int, ratio: float | None) -> None:
    network = NetworkOptions(nodes=2, cells=cells, init_channels=4, primitives=FEW_PRIMITIVES)
    table = table_of(network)
    z = {cell_type: torch.full((5, 4), 0.25) for cell_type in CELL_TYPES}
    penalty = PenaltyOptions(reduction_ratio=ratio)
    assert table.table("madds", "normal").shape == (0, 5, 4)
    assert table.edge_costs(penalty, z)["normal"].sum() == 0
    assert 0 < table.expected_penalty(penalty, z) < math.inf
