"""Cells of choice blocks: what a code says, which weights a child has, and how often each edge is there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from search_core.errors import GenotypeError
from search_core.network.child import inherit_child
from search_core.network.supernet import Supernet
from search_core.space.codes import ChoiceBlockSpace, genotype_space
from search_core.space.frequencies import frequencies, operation_counts, uniform_frequencies
from search_core.space.genotype import CELL_TYPES, Edge, Genotype
from search_core.space.plan import NetworkOptions
from tests.search_core.tiny import CPU, TINY_NETWORK, TINY_SIZE, seeded

NETWORK = replace(TINY_NETWORK, space="choice_blocks")
SPACE = ChoiceBlockSpace(NETWORK)


def test_code_says_one_or_two_inputs_and_operations_of_each_node() -> None:
    """Operations are max pool, skip and dilated convolution; what is chosen twice is one."""
    normal = (1, 0, 2, 0, *(2, 2, 1, 1))
    genotype = SPACE.decode((*normal, *(0, 0, 0, 0), *(0, 1, 1, 1)))
    pool, skip, dilated = "max_pool_3x3", "skip_connect", "dil_conv_3x3"
    assert genotype == Genotype(
        normal=(Edge(pool, 0, 2), Edge(dilated, 0, 2), Edge(pool, 1, 2), Edge(dilated, 1, 2), Edge(skip, 2, 3)),
        normal_concat=(2, 3),
        reduce=(Edge(pool, 0, 2), Edge(skip, 0, 3), Edge(skip, 1, 3)),
        reduce_concat=(2, 3),
    )
    assert SPACE.encode(genotype) == (0, 1, 0, 2, *(2, 2, 1, 1), *(0, 0, 0, 0), *(0, 1, 1, 1))


def test_every_code_comes_back_as_its_genotype_and_frequencies_are_the_uniform_ones() -> None:
    small = genotype_space(replace(NETWORK, nodes=1))
    codes = list(small.all())
    assert len(codes) == small.size == (2 * 2 * 3 * 3) ** 2
    genotypes = {small.decode(code) for code in codes}
    assert len(genotypes) == (3 * 6) ** 2  # of two inputs and of three operations one or two
    assert all(small.decode(small.encode(genotype)) == genotype for genotype in genotypes)
    counted, uniform = frequencies(codes, small, CPU), uniform_frequencies(small, CPU)
    for cell_type in CELL_TYPES:
        torch.testing.assert_close(counted[cell_type], uniform[cell_type])


def test_child_is_the_supernet_with_the_operations_of_its_code() -> None:
    supernet, generator = Supernet(replace(TINY_SIZE, network=NETWORK), seed=0), seeded()
    images = torch.randn(6, 1, 8, 8, generator=generator)
    for _ in range(5):
        code = SPACE.sample(generator)
        child = inherit_child(supernet, SPACE.decode(code)).train()
        z_EO = operation_counts(code, SPACE, CPU)
        for own_EO in z_EO.values():
            own_EO[:, SPACE.primitives.index("none")] = 0
        torch.testing.assert_close(child(images), supernet.train()(images, z_EO), rtol=1e-4, atol=1e-4)


def test_heaviest_code_has_two_inputs_and_operations() -> None:
    weights_EO = torch.tensor([[9, 1, 5, 0], [9, 3, 2, 0], [9, 1, 1, 1], [9, 8, 1, 1], [9, 2, 4, 7.0]])
    assert SPACE.heaviest(dict.fromkeys(CELL_TYPES, weights_EO)) == (0, 1, 0, 1, 1, 2, 0, 2) * 2


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ((), "node 2 must have one or two inputs and operations"),
        ((Edge("skip_connect", 0, 2), Edge("max_pool_3x3", 1, 2)), "each operation of a node on each of its inputs"),
        ((Edge("sep_conv_7x7", 0, 2),), "node 2 must have one or two inputs and operations"),
    ],
)
def test_cell_outside_of_the_space_has_no_code(edges: tuple[Edge, ...], message: str) -> None:
    space = genotype_space(NetworkOptions(space="choice_blocks", nodes=1))
    with pytest.raises(GenotypeError, match=message):
        space.encode(Genotype(edges, (2,), (Edge("skip_connect", 0, 2),), (2,)))
