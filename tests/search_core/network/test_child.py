from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from search_core.cost.counts import child_cost
from search_core.errors import GenotypeError
from search_core.kernels.backend import torch_only
from search_core.network.blocks import AuxiliaryHead
from search_core.network.child import Child, ChildCell, discretised_forward, drop_path, inherit_child
from search_core.network.search_cell import SearchCell
from search_core.network.supernet import Supernet
from search_core.primitives.modules import FactorizedReduce
from search_core.space.codes import genotype_space
from search_core.space.genotype import CELL_TYPES, PUBLISHED, CellType, Edge, Genotype
from search_core.space.plan import NetworkOptions, NetworkSize, cell_edges
from tests.search_core.tiny import (
    TINY_NETWORK,
    TINY_SIZE,
    genotype_of,
    num_params,
    random_choices,
    seeded,
)

SPACES = [
    TINY_NETWORK,
    NetworkOptions(nodes=3, cells=4, init_channels=4),
    NetworkOptions(nodes=1, cells=5, init_channels=2, primitives=("none", "skip_connect", "conv_7x1_1x7")),
    NetworkOptions(nodes=4, cells=3, init_channels=2, primitives=("none", "avg_pool_3x3", "dil_conv_5x5")),
    NetworkOptions(nodes=2, cells=3, init_channels=4, primitives=("sep_conv_5x5", "skip_connect")),
]


def tiny_child(name: str, size: NetworkSize = TINY_SIZE, **settings: Any) -> Child:
    return Child(PUBLISHED[name] if name in PUBLISHED else Genotype((), (2,), (), (2,)), size, **settings)


def with_cells(cells: int) -> NetworkSize:
    return replace(TINY_SIZE, network=replace(TINY_NETWORK, cells=cells))


def trained_supernet(options: NetworkOptions, input_shape: tuple[int, int, int] = (1, 8, 8)) -> Supernet:
    """A supernet whose batch norm statistics and affine stem are not the initial ones."""
    supernet = Supernet(NetworkSize(options, input_shape, 10), seed=1)
    with torch.no_grad():
        for parameter in supernet.stem.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=seeded(2)))
        choices = random_choices(options, seeded(3))
        uniform = {
            name: torch.ones_like(choice, dtype=torch.get_default_dtype()) / choice.shape[1]
            for name, choice in choices.items()
        }
        for seed in range(2):
            supernet(torch.randn(8, *input_shape, generator=seeded(seed)), uniform)
    return supernet


# Published cells


@pytest.mark.parametrize("input_shape", [(1, 8, 8), (3, 32, 32), (1, 7, 9), (2, 1, 1)])
@pytest.mark.parametrize("name", list(PUBLISHED))
def test_published_cells_train_at_every_size(name: str, input_shape: tuple[int, int, int]) -> None:
    child = tiny_child(name, replace(TINY_SIZE, input_shape=input_shape), auxiliary=True)
    images = torch.randn(2, *input_shape, generator=seeded())
    logits, auxiliary = child.forward_with_auxiliary(images)
    assert auxiliary is not None
    assert logits.shape == auxiliary.shape == (2, 10)
    (logits.square().sum() + auxiliary.square().sum()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in child.parameters())
    assert child.eval()(images).isfinite().all()


@pytest.mark.parametrize("input_shape", [(3, 224, 224), (3, 57, 90)])
def test_published_cell_runs_on_imagenet_sizes(input_shape: tuple[int, int, int]) -> None:
    child = tiny_child("DARTS_V2", NetworkSize(replace(TINY_NETWORK, cells=5, stem="imagenet"), input_shape, 1000))
    with torch.no_grad():
        assert child(torch.randn(2, *input_shape, generator=seeded())).shape == (2, 1000)


# The DAG


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["NASNet", "AmoebaNet", "SNAS_aggressive"])
def test_cell_sums_its_edges_and_concatenates_the_named_nodes(name: str) -> None:
    child = tiny_child(name)
    cell, genotype = child.cells[1], PUBLISHED[name]
    assert isinstance(cell, ChildCell)
    assert cell.plan.cell_type == "reduce"
    images = torch.randn(4, 1, 8, 8, generator=seeded())
    stem = child.stem(images)
    first = child.cells[0](*stem, 0.0, None)
    nodes = dict(enumerate(cell.inputs(stem[1], first)))
    for target in range(2, 7):
        nodes[target] = torch.zeros(4, 8, 4, 4)
        for edge, operation in zip(genotype.reduce, cell.operations, strict=True):
            if edge.target == target:
                nodes[target] = nodes[target] + operation(nodes[edge.source])
    expected = torch.cat([nodes[node] for node in genotype.reduce_concat], 1)
    torch.testing.assert_close(cell(stem[1], first, 0.0, None), expected)


@pytest.mark.usefixtures("float64")
def test_stacked_node_is_projected_from_the_channels_of_its_edges() -> None:
    """Node 3 stacks an operation on each input of the cell, in the order of its edges; node 2 adds its two."""
    edges = (
        Edge("skip_connect", 1, 3),
        Edge("max_pool_3x3", 0, 2),
        Edge("avg_pool_3x3", 0, 3),
        Edge("skip_connect", 1, 2),
    )
    child = Child(Genotype(edges, (2, 3), (), (2,), normal_stacked=(3,)), TINY_SIZE)
    cell, x = child.cells[0], child.stem(torch.randn(4, 1, 8, 8, generator=seeded()))
    zero, one = cell.inputs(*x)
    skip, largest, mean, other = cell.operations
    join = cell.joins["3"]
    both = torch.cat([skip(one), mean(zero)], 1).relu()
    projected = torch.einsum("oi,nihw->nohw", join[1].weight[:, :, 0, 0], both)
    expected = torch.cat([largest(zero) + other(one), join[2](projected)], 1)
    torch.testing.assert_close(cell(*x, 0.0, None), expected)


def test_nodes_without_inputs_are_zeros_and_unused_inputs_get_no_gradient() -> None:
    child = tiny_child("SNAS_aggressive", with_cells(5))
    cell = child.cells[1]
    images = torch.randn(4, 1, 8, 8, generator=seeded())
    stem = child.stem(images)
    output = cell(stem[1], child.cells[0](*stem, 0.0, None), 0.0, None)
    channels = cell.plan.channels
    assert output.shape == (4, 4 * channels, 4, 4)
    assert not output[:, 2 * channels :].any()  # nodes 4 and 5 lost all inputs
    assert output[:, : 2 * channels].any()
    child(images).sum().backward()
    assert all(parameter.grad is None for parameter in cell.inputs.previous.parameters())
    assert all(parameter.grad is not None for parameter in cell.inputs.before_previous.parameters())


def test_edges_may_be_listed_in_any_order() -> None:
    edges = (Edge("sep_conv_3x3", 2, 3), Edge("skip_connect", 0, 2))
    forwards, backwards = (Genotype(order, (2, 3), (), (2,)) for order in (edges, edges[::-1]))
    first = Child(forwards, TINY_SIZE)
    second = Child(backwards, TINY_SIZE)
    state = {
        name.replace("operations.0", "operations.x")
        .replace("operations.1", "operations.0")
        .replace("operations.x", "operations.1"): value
        for name, value in first.state_dict().items()
    }
    second.load_state_dict(state)
    images = torch.randn(2, 1, 8, 8, generator=seeded())
    assert torch.equal(first(images), second(images))


def test_a_genotype_without_any_edge_runs() -> None:
    child = tiny_child("empty")
    logits = child(torch.randn(3, 1, 8, 8))
    torch.testing.assert_close(logits, child.classifier.linear.bias.expand(3, 10))


def test_weights_follow_the_seed_and_leave_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    first, second, other = (tiny_child("SNAS_mild", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    first_weights, second_weights, other_weights = (
        nn.utils.parameters_to_vector(child.parameters()) for child in (first, second, other)
    )
    assert torch.equal(first_weights, second_weights)
    assert not torch.equal(first_weights, other_weights)


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norms_of_cells_are_affine_as_asked(affine: bool) -> None:
    cells = tiny_child("SNAS_mild", affine=affine).cells
    norms = [module for module in cells.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(norm.affine is affine for norm in norms)


@pytest.mark.parametrize(("name", "expected"), [("SNAS_mild", True), ("DARTS_V2", False)])
def test_pools_have_batch_norm_as_published(name: str, expected: bool) -> None:
    cell = tiny_child(name).cells[1]
    pools = [
        operation for operation in cell.operations if any(isinstance(m, nn.MaxPool2d) for m in operation.modules())
    ]
    assert pools
    assert all(any(isinstance(m, nn.BatchNorm2d) for m in pool.modules()) is expected for pool in pools)


# Loose ends


def test_child_of_the_enas_space_is_the_supernet_without_what_the_loose_ends_leave_out() -> None:
    """A supernet whose readers have zeros for the other nodes, run with how often each operation is there."""
    options = replace(TINY_NETWORK, space="enas", nodes=3, cells=5)
    supernet, space = trained_supernet(options).eval(), genotype_space(options)
    genotype = space.decode((0, 1, 0, 1, 2, 2, 2, 2, 1, 0, 1, 0, 1, 1, 0, 0, 0, 1, 0, 1, 2, 3, 1, 2))
    assert (genotype.normal_concat, genotype.reduce_concat) == ((3, 4), (4,))
    images = torch.randn(4, 1, 8, 8, generator=seeded(5))
    counts = {cell_type: torch.zeros(9, len(options.primitives)) for cell_type in CELL_TYPES}
    for cell_type in CELL_TYPES:
        for primitive, source, target in genotype.edges(cell_type):
            row = cell_edges(3).index((source, target))
            counts[cell_type][row, options.primitives.index(primitive)] += 1
    assert counts["normal"].max() == 2  # twice the same operation on one edge
    logits = discretised_forward(supernet, genotype, images)
    torch.testing.assert_close(inherit_child(supernet, genotype)(images), logits)
    logits.sum().backward()
    plain = copy.deepcopy(supernet)
    readers = [*((cell.inputs.previous[1].weight, place) for place, cell in enumerate(plain.cells, -1))]
    readers += [(plain.classifier.linear.weight, 4)]
    for place, cell in enumerate(plain.cells, -2):
        before = cell.inputs.before_previous
        convs = [before.conv_even, before.conv_odd] if isinstance(before, FactorizedReduce) else [before[1]]
        readers += [(conv.weight, place) for conv in convs]
    with torch.no_grad():
        for weight, place in readers:
            for node in () if place < 0 else {2, 3, 4} - set(genotype.concat(plain.cells[place].plan.cell_type)):
                weight.unflatten(1, (3, -1))[:, node - 2] = 0
    torch.testing.assert_close(plain(images, counts), logits)
    gradient = supernet.classifier.linear.weight.grad
    assert gradient is not None
    assert gradient.unflatten(1, (3, -1)).abs().amax((0, 2)).bool().tolist() == [False, True, True]


def test_equal_operations_on_one_edge_move_its_statistics_once() -> None:
    options = replace(TINY_NETWORK, space="enas", nodes=1, cells=1)
    once, twice = trained_supernet(options), trained_supernet(options)
    images = torch.randn(4, 1, 8, 8, generator=seeded(5))
    edge, nothing = Edge("dil_conv_3x3", 0, 2), (Edge("skip_connect", 0, 2),) * 2
    for supernet, edges in ((once, (edge,)), (twice, (edge, edge))):
        discretised_forward(supernet, Genotype(edges, (2,), nothing, (2,)), images)
    for name, buffer in once.named_buffers():
        assert torch.equal(buffer, twice.get_buffer(name)), name


# Auxiliary head


def test_auxiliary_head_answers_in_training_only() -> None:
    child, images = tiny_child("SNAS_mild", auxiliary=True), torch.randn(2, 1, 8, 8)
    assert child.forward_with_auxiliary(images)[1] is not None
    assert child.eval().forward_with_auxiliary(images)[1] is None
    assert tiny_child("SNAS_mild").forward_with_auxiliary(images)[1] is None


def test_auxiliary_head_reads_the_cell_at_two_thirds() -> None:
    child = tiny_child("SNAS_mild", with_cells(6), auxiliary=True)
    seen: list[Tensor] = []
    child.cells[4].register_forward_hook(lambda _, __, output: seen.append(output))
    assert child.auxiliary is not None
    child.auxiliary.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    child.forward_with_auxiliary(torch.randn(2, 1, 8, 8))
    assert seen[0] is seen[1]


@pytest.mark.parametrize(("side", "windows"), [(8, [0, 3]), (7, [0, 2])])
def test_auxiliary_head_pools_published_sizes_by_windows_of_5(side: int, windows: list[int]) -> None:
    head, x = AuxiliaryHead(3, 10).eval(), torch.randn(2, 3, side, side, generator=seeded())
    seen: list[Tensor] = []
    head.features.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    head(x)
    expected = torch.stack(
        [
            torch.stack([x.relu()[:, :, row : row + 5, column : column + 5].mean((2, 3)) for column in windows], -1)
            for row in windows
        ],
        -2,
    )
    torch.testing.assert_close(seen[0], expected)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 3), (14, 14)])
def test_auxiliary_head_takes_every_size(size: tuple[int, int]) -> None:
    assert AuxiliaryHead(3, 10)(torch.randn(2, 3, *size)).shape == (2, 10)


# Drop path


def test_drop_path_zeroes_whole_images_and_keeps_the_expectation() -> None:
    num, probability = 100_000, 0.3
    x = torch.rand(num, 2, 2, 1, generator=seeded()) + 0.5
    dropped = drop_path(x, probability, seeded(1))
    kept = (dropped != 0).flatten(1)
    assert torch.equal(kept.any(1), kept.all(1))
    torch.testing.assert_close(dropped[kept.all(1)], x[kept.all(1)] / 0.7)
    # A proportion over 1e5 images: four standard errors.
    share = kept.all(1).double().mean().item()
    assert abs(share - 0.7) < 4 * (0.3 * 0.7 / num) ** 0.5
    # The mean of x, about 1, times Bernoulli(0.7) / 0.7 of standard deviation (0.3 / 0.7)^0.5 = 0.65.
    assert abs((dropped.mean() / x.mean()).item() - 1) < 4 * 0.7 / num**0.5


def test_drop_path_spares_identities_and_nothing_else() -> None:
    skip, conv = Edge("skip_connect", 0, 2), Edge("sep_conv_3x3", 0, 3)
    child = Child(Genotype((skip, conv), (2, 3), (skip,), (2,)), TINY_SIZE).eval()
    normal, reduction = child.cells[0], child.cells[1]
    stem = child.stem(torch.randn(64, 1, 8, 8, generator=seeded()))
    # With p = 0.5 the chance that none or all of 64 images are dropped is 1e-19.
    plain, dropped = normal(*stem, 0.0, None), normal(*stem, 0.5, seeded(1))
    assert torch.equal(dropped[:, :4], plain[:, :4])
    assert {
        round((d / p).item(), 4)
        for d, p in zip(dropped[:, 4:].sum((1, 2, 3)), plain[:, 4:].sum((1, 2, 3)), strict=True)
    } == {0.0, 2.0}
    # A skip that halves is a factorized reduce, not an identity.
    assert isinstance(reduction.operations[0], FactorizedReduce)
    halved = reduction(stem[1], plain, 0.5, seeded(2)).flatten(1)
    assert 0 < (halved == 0).all(1).sum() < 64


def test_drop_path_follows_its_generator() -> None:
    child, images = tiny_child("SNAS_mild"), torch.randn(8, 1, 8, 8, generator=seeded())
    first, second, other = (child.forward_with_auxiliary(images, 0.5, seeded(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


# Inherited children


def statistics(cell: ChildCell, search_cell: SearchCell, options: NetworkOptions) -> list[tuple[Tensor, Tensor]]:
    """Pairs of running statistics: of the child's operations and of the supernet's on the same edges."""
    edges = sorted((source, target) for target in range(2, options.nodes + 2) for source in range(target))
    pairs = [(buffer, search_cell.inputs.get_buffer(name)) for name, buffer in cell.inputs.named_buffers()]
    for edge, operation in zip(cell.kept, cell.operations, strict=True):
        for name, buffer in operation.named_buffers():
            if not name.endswith("num_batches_tracked"):
                theirs = search_cell.weights_of(edge.primitive, edges.index((edge.source, edge.target)))[name]
                pairs.append((buffer, theirs))
    return pairs


@pytest.mark.parametrize("position", range(len(SPACES)))
def test_child_equals_the_supernet_with_one_hot_weights(position: int) -> None:
    """Same logits and same statistics, evaluating and training; 20 random architectures over the spaces.

    The sums differ in the order of their float32 terms only, hence 1e-5.
    """
    options, generator = SPACES[position], seeded(position)
    images = torch.randn(16, 1, 8, 8, generator=seeded(100))
    for _ in range(4):
        supernet = trained_supernet(options)
        choices = random_choices(options, generator)
        z = {name: choice.float() for name, choice in choices.items()}
        child = inherit_child(supernet.eval(), genotype_of(options, choices))
        assert not child.training
        with torch.no_grad():
            torch.testing.assert_close(child(images), supernet(images, z), rtol=1e-5, atol=1e-5)
            supernet.train()
            child.train()
            torch.testing.assert_close(child(images), supernet(images, z), rtol=1e-5, atol=1e-5)
        for cell, search_cell in zip(child.cells, supernet.cells, strict=True):
            assert isinstance(cell, ChildCell)
            assert isinstance(search_cell, SearchCell)
            for ours, theirs in statistics(cell, search_cell, options):
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("input_shape", [(3, 32, 32), (3, 23, 38)])
def test_child_equals_the_supernet_at_other_sizes_and_stems(input_shape: tuple[int, int, int], stem: Any) -> None:
    options = replace(TINY_NETWORK, stem=stem)
    supernet, choices = trained_supernet(options, input_shape).eval(), random_choices(options, seeded(9))
    child = inherit_child(supernet, genotype_of(options, choices))
    images = torch.randn(4, *input_shape, generator=seeded(8))
    z = {name: choice.float() for name, choice in choices.items()}
    with torch.no_grad():
        torch.testing.assert_close(child(images), supernet(images, z), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kept", [(), (3,), (0, 4)])
def test_child_with_few_edges_equals_the_supernet(kept: tuple[int, ...]) -> None:
    """Edges 0 to 4 are 0>2, 1>2, 0>3, 1>3, 2>3: nodes without inputs, and node 3 fed by an empty node 2."""
    supernet = trained_supernet(TINY_NETWORK).eval()
    one = torch.zeros(5, dtype=torch.long)
    one[list(kept)] = 3
    choices: dict[CellType, Tensor] = {name: nn.functional.one_hot(one, 4) for name in CELL_TYPES}
    genotype = genotype_of(TINY_NETWORK, choices)
    assert len(genotype.normal) == len(kept)
    images = torch.randn(4, 1, 8, 8, generator=seeded())
    with torch.no_grad():
        expected = supernet(images, {name: choice.float() for name, choice in choices.items()})
        torch.testing.assert_close(inherit_child(supernet, genotype)(images), expected, rtol=1e-5, atol=1e-5)


def test_inherited_weights_are_copies() -> None:
    supernet = trained_supernet(TINY_NETWORK)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    child = inherit_child(supernet, genotype_of(TINY_NETWORK, random_choices(TINY_NETWORK, seeded(1))))
    assert child.training
    with torch.no_grad():
        for value in (*child.parameters(), *(buffer for buffer in child.buffers() if buffer.is_floating_point())):
            value.add_(1)
    assert all(torch.equal(before[name], value) for name, value in supernet.state_dict().items())


def test_inherited_child_is_narrower_than_the_supernet() -> None:
    supernet = trained_supernet(TINY_NETWORK)
    child = inherit_child(supernet, genotype_of(TINY_NETWORK, random_choices(TINY_NETWORK, seeded(1))))
    assert num_params(child) < num_params(supernet)
    assert not any(norm.affine for norm in child.cells.modules() if isinstance(norm, nn.BatchNorm2d))


@pytest.mark.parametrize(
    ("genotype", "message"),
    [
        (
            Genotype((Edge("sep_conv_5x5", 0, 2),), (2, 3), (), (2, 3)),
            "the supernet has no sep_conv_5x5 on the edge 0 -> 2",
        ),
        (
            Genotype((Edge("skip_connect", 2, 4),), (2, 3), (), (2, 3)),
            "the supernet has no skip_connect on the edge 2 -> 4",
        ),
        (Genotype((), (2,), (), (2, 3)), r"normal_concat: .*\(2, 3\).*got \(2,\)"),
        (Genotype((), (2, 3), (), (3, 2)), r"reduce_concat: .*\(2, 3\).*got \(3, 2\)"),
        (Genotype((), (2, 3), (), (2, 3, 4)), r"reduce_concat: "),
    ],
)
def test_inherit_refuses_what_the_supernet_does_not_have(genotype: Genotype, message: str) -> None:
    with pytest.raises(GenotypeError, match=message):
        inherit_child(trained_supernet(TINY_NETWORK), genotype)


# Discretised forward


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("position", range(len(SPACES)))
def test_discretised_forward_equals_one_hot_weights_in_logits_gradients_and_statistics(position: int) -> None:
    options = SPACES[position]
    images = torch.randn(6, 1, 8, 8, generator=seeded(100))
    for seed in range(3):
        choices = random_choices(options, seeded(seed))
        one_hot, discretised = trained_supernet(options), trained_supernet(options)
        logits = discretised_forward(discretised, genotype_of(options, choices), images)
        expected = one_hot(images, {name: choice.double() for name, choice in choices.items()})
        torch.testing.assert_close(logits, expected, rtol=1e-11, atol=1e-11)
        for network, output in ((one_hot, expected), (discretised, logits)):
            (output * torch.randn(output.shape, generator=seeded(5))).sum().backward()
            network.eval()
        for (name, ours), theirs in zip(discretised.named_parameters(), one_hot.parameters(), strict=True):
            gradient = torch.zeros_like(ours) if ours.grad is None else ours.grad
            torch.testing.assert_close(gradient, theirs.grad, rtol=1e-9, atol=1e-10, msg=name)
        ours_child, their_child = (
            inherit_child(network, genotype_of(options, choices)) for network in (discretised, one_hot)
        )
        for (name, ours), theirs in zip(ours_child.named_buffers(), their_child.buffers(), strict=True):
            if not name.endswith("num_batches_tracked"):
                torch.testing.assert_close(ours, theirs, msg=name)


def test_discretised_forward_computes_the_chosen_operations_only() -> None:
    """Its multiply-adds are those of the child network."""
    options = NetworkOptions(nodes=3, cells=3, init_channels=4)
    supernet, genotype = trained_supernet(options), genotype_of(options, random_choices(options, seeded(1)))
    counter = FlopCounterMode(display=False)
    with counter, torch_only():
        discretised_forward(supernet, genotype, torch.randn(1, 1, 8, 8))
    expected = child_cost(genotype, TINY_SIZE).madds
    assert counter.get_total_flops() == 2 * expected


@pytest.mark.parametrize("edge", [Edge("sep_conv_7x7", 0, 2), Edge("skip_connect", 4, 5)])
def test_discretised_forward_refuses_what_the_supernet_does_not_have(edge: Edge) -> None:
    genotype = Genotype((edge,), (2, 3), (), (2, 3))
    with pytest.raises(GenotypeError, match=f"the supernet has no {edge.primitive} on the edge"):
        discretised_forward(Supernet(TINY_SIZE, seed=0), genotype, torch.randn(2, 1, 8, 8))
