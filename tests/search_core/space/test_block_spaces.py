"""The spaces of NASNet and ENAS: what a code says, what lies inside, and how often."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from search_core.cost.counts import child_cost
from search_core.errors import GenotypeError, OptionsError
from search_core.space.code_space import GenotypeSpace
from search_core.space.codes import genotype_space
from search_core.space.frequencies import frequencies, uniform_frequencies
from search_core.space.genotype import CELL_TYPES, KNOWN_PRIMITIVES, PRIMITIVES, PUBLISHED, Edge, Genotype
from search_core.space.plan import NetworkOptions, NetworkSize, Space
from search_core.strategies.controller import SequenceController
from search_core.strategies.controller_options import ControllerOptions
from tests.search_core.tiny import CPU, seeded

NASNET = genotype_space(NetworkOptions(space="nasnet", nodes=5, primitives=KNOWN_PRIMITIVES))
ENAS = genotype_space(NetworkOptions(space="enas", nodes=5))
FEW = ("max_pool_3x3", "none", "sep_conv_3x3")


def small(space: Space, nodes: int = 2) -> GenotypeSpace:
    return genotype_space(NetworkOptions(space=space, nodes=nodes, primitives=FEW))


# The published cells


@pytest.mark.parametrize(
    ("name", "space", "params", "madds"),
    [
        ("NASNet", NASNET, 3_830_950, 603_452_448),
        ("AmoebaNet", NASNET, 3_145_078, 488_931_552),
        ("ENAS", NASNET, 4_394_710, 693_197_856),
        ("ENAS", ENAS, 4_394_710, 693_197_856),
    ],
)
def test_published_cell_is_a_member_that_the_controller_can_draw(
    name: str, space: GenotypeSpace, params: int, madds: int
) -> None:
    """Counts are those of DARTS' evaluation network: 20 cells of 36 channels on CIFAR-10."""
    code = space.encode(PUBLISHED[name])
    controller = SequenceController(ControllerOptions(), space.options, seed=0)
    # Nearly uniform, for its initial parameters are small.
    uniform = -math.fsum(map(math.log, space.options))
    assert controller.evaluate(torch.tensor([code])).log_prob.item() == pytest.approx(uniform, abs=2.0)
    genotype = space.decode(code)
    assert genotype == PUBLISHED[name]
    cost = child_cost(genotype, NetworkSize(NetworkOptions(cells=20, init_channels=36), (3, 32, 32), 10))
    assert (cost.params, cost.madds) == (params, madds)


def test_code_of_enas_is_the_arc_of_the_authors() -> None:
    """`fixed_arc` of `cifar10_micro_final.sh`: per node first input, its operation, second input, its operation."""
    arc = "0 2 0 0 0 4 0 1 0 4 1 1 1 0 0 1 0 2 1 1 1 0 1 0 0 3 0 2 1 1 3 1 1 0 0 4 0 3 1 1"
    names = ("sep_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3", "skip_connect")
    space = genotype_space(NetworkOptions(space="enas", nodes=5, primitives=("none", *names)))
    numbers = [int(number) for number in arc.split()]
    code = [numbers[node + place] for node in range(0, 40, 4) for place in (0, 2, 1, 3)]
    assert space.decode(code) == PUBLISHED["ENAS"]


# Codes


def test_code_names_inputs_operations_and_combination_of_each_node() -> None:
    genotype = small("nasnet").decode((0, 1, 1, 0, 0, 2, 2, 0, 1, 1, 1, 1, 0, 0, 1, 0, 1, 1, 1, 0))
    assert genotype == Genotype(
        (
            Edge("sep_conv_3x3", 0, 2),
            Edge("max_pool_3x3", 1, 2),
            Edge("max_pool_3x3", 2, 3),
            Edge("sep_conv_3x3", 2, 3),
        ),
        (3,),
        (
            Edge("max_pool_3x3", 1, 2),
            Edge("max_pool_3x3", 1, 2),
            Edge("sep_conv_3x3", 0, 3),
            Edge("sep_conv_3x3", 1, 3),
        ),
        (2, 3),
        normal_stacked=(3,),
        reduce_stacked=(2,),
    )


@pytest.mark.parametrize("space", [NASNET, ENAS, small("nasnet", 3)], ids=["nasnet", "enas", "small"])
def test_every_draw_reads_back_from_its_code_and_its_document(space: GenotypeSpace) -> None:
    generator = seeded()
    for _ in range(50):
        code = space.mutate_one(space.sample(generator), generator)
        genotype = space.decode(code)
        assert space.encode(genotype) == code
        assert Genotype.from_json(genotype.to_json()) == Genotype.from_dict(genotype.to_dict()) == genotype


@pytest.mark.parametrize(("space", "size"), [("nasnet", (2 * 2 * 2 * 2 * 2) ** 2), ("enas", 16**2)])
def test_space_has_every_code_once(space: Space, size: int) -> None:
    codes = list(small(space, 1).all())
    assert len(codes) == len(set(codes)) == small(space, 1).size == size


def test_one_mutation_reaches_every_option_of_every_choice() -> None:
    space, generator = small("nasnet"), seeded()
    parent = space.sample(generator)
    changes = {
        (place, new)
        for _ in range(500)
        for place, (old, new) in enumerate(zip(parent, space.mutate_one(parent, generator), strict=True))
        if old != new
    }
    assert len(changes) == sum(number - 1 for number in space.options)


ENAS_CELL = PUBLISHED["ENAS"]


@pytest.mark.parametrize(
    ("genotype", "message"),
    [
        (PUBLISHED["SNAS_mild"], "normal: must have 5 nodes|normal: node 6 must have two operations"),
        (PUBLISHED["NASNet"], "reduce: node 2 must have two operations of the search space"),  # sep_conv_7x7
        (replace(ENAS_CELL, normal_concat=(2, 3)), r"normal_concat: must be \(2, 3, 4, 5, 6\), got \(2, 3\)"),
        (replace(ENAS_CELL, reduce_stacked=(4,)), "reduce: must have 5 nodes, and none stacked but in"),
        (replace(ENAS_CELL, normal=(*ENAS_CELL.normal, *(Edge("skip_connect", 0, 7),) * 2)), "must have 5 nodes"),
    ],
)
def test_genotype_outside_is_refused(genotype: Genotype, message: str) -> None:
    with pytest.raises(GenotypeError, match=message):
        ENAS.encode(genotype)


def test_common_space_refuses_stacked_nodes() -> None:
    space = genotype_space(NetworkOptions(nodes=1))
    edges = (Edge("skip_connect", 0, 2), Edge("skip_connect", 1, 2))
    with pytest.raises(GenotypeError, match=r"reduce_stacked: must be empty, got \(2,\)"):
        space.encode(Genotype(edges, (2,), edges, (2,), reduce_stacked=(2,)))


@pytest.mark.parametrize("primitives", [PRIMITIVES[1:], ("none", "skip_connect")])
def test_block_space_needs_none_and_two_operations(primitives: tuple[str, ...]) -> None:
    NetworkOptions(primitives=primitives)
    with pytest.raises(OptionsError, match="must be none and at least two others with `space` enas"):
        NetworkOptions(space="enas", primitives=primitives)


# What reports say


@pytest.mark.parametrize("space", ["nasnet", "enas"])
def test_uniform_frequencies_are_those_of_all_codes(space: Space) -> None:
    small_space = small(space, 1)
    expected = frequencies(list(small_space.all()), small_space, CPU)
    uniform = uniform_frequencies(small_space, CPU)
    for cell_type in CELL_TYPES:
        torch.testing.assert_close(uniform[cell_type], expected[cell_type])
    larger = small(space)
    drawn = frequencies([larger.sample(seeded(seed)) for seed in range(500)], larger, CPU)
    for cell_type, share_EO in uniform_frequencies(larger, CPU).items():
        torch.testing.assert_close(share_EO.sum(1), torch.ones(5))
        # A share of 500 draws has a standard error of at most 1 / 44; 4 of them.
        torch.testing.assert_close(drawn[cell_type], share_EO, rtol=0, atol=4 / 44)


def test_two_operations_on_one_edge_are_half_each() -> None:
    space = small("enas", 1)
    share_EO = frequencies([(0, 0, 0, 1, 1, 1, 1, 1)], space, CPU)
    assert share_EO["normal"].tolist() == [[0.5, 0, 0.5], [0, 1, 0]]
    assert share_EO["reduce"].tolist() == [[0, 1, 0], [0, 0, 1]]


def test_heaviest_code_has_the_heaviest_operation_at_each_node() -> None:
    weights_EO = torch.tensor([[1, 9, 5], [2, 9, 3], [1, 9, 1], [8, 9, 1], [1, 9, 4.0]])  # `none` is never chosen
    space = small("nasnet")
    assert space.heaviest(dict.fromkeys(CELL_TYPES, weights_EO)) == (0, 0, 1, 1, 1, 1, 1, 0, 0, 1) * 2
