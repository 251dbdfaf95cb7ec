"""Chains of layers: what a code says, what lies inside, how often, and what a document must keep."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from search_core.errors import GenotypeError, OptionsError
from search_core.space.chain import ChainOptions, Layer
from search_core.space.chain_space import ChainSpace
from search_core.space.codes import genotype_space
from search_core.space.frequencies import frequencies, uniform_frequencies
from search_core.space.genotype import Edge, Genotype
from search_core.space.plan import NetworkOptions
from tests.search_core.tiny import CPU, seeded

PAPER = ChainOptions(strides=(1, 2, 3))


def space_of(layers: int, chain: ChainOptions = PAPER) -> ChainSpace:
    space = genotype_space(NetworkOptions(space="nas_chain", nodes=layers, chain=chain))
    assert isinstance(space, ChainSpace)
    return space


def test_code_says_layer_by_layer_what_is_read_and_by_which_filters() -> None:
    """By default strides are 1 and no choice; who reads no layer reads the image, loose ends are the output."""
    code = (1, 2, 0, *(0, 3, 3, 2), *(1, 0, 0, 0, 1), *(0, 1, 0, 2, 2, 3))
    assert space_of(4, ChainOptions()).decode(code) == Genotype(
        normal=(
            Edge("conv_3x5", 0, 2),
            Edge("conv_7x7", 0, 3),
            Edge("conv_1x1", 2, 4),
            Edge("conv_5x5", 3, 5),
        ),
        normal_concat=(4, 5),
        reduce=(),
        reduce_concat=(),
        layers=(Layer(24), Layer(48), Layer(36), Layer(64)),
    )
    strided = space_of(1).decode((1, 2, 1, 2, 0))
    assert (strided.normal, strided.layers) == ((Edge("conv_3x5", 0, 2),), (Layer(24, 2, 3),))


def test_codes_and_chains_of_every_depth_go_through_each_other_and_through_a_document() -> None:
    space, generator = space_of(5), seeded()
    assert space.size == (4 * 4 * 3 * 3 * 4) ** 5 * 2**10
    for depth in (1, 3, 5):
        for _ in range(20):
            code = space.sample(generator)[: space.num_choices_of(depth)]
            genotype = space.decode(code)
            assert len(genotype.layers) == depth
            assert genotype.num_nodes("normal") == genotype.num_active_nodes("normal") == depth
            assert space.encode(genotype) == code
            assert Genotype.from_json(genotype.to_json()) == genotype
            assert Genotype.from_dict(genotype.to_dict()) == genotype
    with pytest.raises(GenotypeError, match=r"a code must have 5 or 11 or 18 or 26 or 35 choices, got 12"):
        space.decode(code[:12])


def test_codes_of_a_small_space_are_different_chains_and_their_frequencies_the_uniform_ones() -> None:
    space = space_of(3, ChainOptions(heights=(1, 3), widths=(1,), filters=(4,)))
    codes = list(space.all())
    assert len({space.decode(code) for code in codes}) == len(codes) == space.size == 2**3 * 2**3
    counted, uniform = frequencies(codes, space, CPU), uniform_frequencies(space, CPU)
    for cell_type in ("normal", "reduce"):
        torch.testing.assert_close(counted[cell_type], uniform[cell_type])


def test_largest_chain_reads_all_and_has_the_most_filters_without_strides() -> None:
    largest = space_of(3).decode(space_of(3).largest())
    assert {edge.primitive for edge in largest.normal} == {"conv_7x7"}
    assert len(largest.normal) == 1 + 1 + 2
    assert set(largest.layers) == {Layer(64)}


CHAIN: dict[str, Any] = {
    "normal": [["conv_3x1", 0, 2], ["conv_5x5", 2, 3]],
    "normal_concat": [3],
    "reduce": [],
    "reduce_concat": [],
    "layers": [[4, 1, 1], [8, 2, 1]],
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": [[4, 1, 1]]}, r"layers: must be one for each node from 2, got 1 and the nodes \[3\]"),
        (
            {"layers": [[4, 1, 1], [8, 0, 1]]},
            r"layers\[1\]: must be filters and strides of at least 1, got \[8, 0",
        ),
        ({"layers": [[4, 1, 1], [8, 2]]}, r"layers: must be a list of \[filters, stride, stride\]"),
        ({"layers": 3}, r"layers: must be a list of \[filters, stride, stride\], got 3"),
        ({"normal": [["conv_3x1", 0, 2]]}, r"node 3 must read the image \(0\) or earlier layers"),
        ({"normal": [["conv_3x1", 0, 2], ["conv_5x5", 2, 3], ["conv_3x5", 0, 3]]}, "node 3 must read the image"),
        ({"normal": [["conv_3x1", 0, 2], ["conv_4x5", 2, 3]]}, "by one conv_HxW of odd height and width"),
        ({"normal": [["sep_conv_3x3", 0, 2], ["conv_5x5", 2, 3]]}, "by one conv_HxW of odd height and width"),
        ({"normal": [["conv_3x1", 1, 2], ["conv_5x5", 2, 3]]}, r"got 2 and the nodes \[1\]"),
        ({"reduce_concat": [2]}, "layers: a chain must have no reduction cell"),
        ({"normal_concat": []}, "normal_concat: must name distinct intermediate nodes"),
    ],
)
def test_malformed_chain_is_an_error(changes: dict[str, Any], message: str) -> None:
    assert Genotype.from_dict(CHAIN).layers[1] == Layer(8, 2, 1)
    with pytest.raises(GenotypeError, match=message):
        Genotype.from_dict({**CHAIN, **changes})


def test_chain_outside_of_the_space_has_no_code() -> None:
    genotype = Genotype.from_dict(CHAIN)
    choices = ChainOptions(strides=(1, 2), filters=(4, 8))
    assert space_of(2, choices).encode(genotype) == (1, 0, 0, 0, 0, 1, 2, 2, 1, 0, 1)
    with pytest.raises(GenotypeError, match="node 2 must be a layer of the search space, got conv_3x1"):
        space_of(2).encode(genotype)
    with pytest.raises(GenotypeError, match="must be a chain of 1 to 1 layers"):
        space_of(1, choices).encode(genotype)
    with pytest.raises(GenotypeError, match="reduce_concat: must name"):
        Genotype.from_dict({**CHAIN, "layers": []})


def test_options_out_of_range_are_errors() -> None:
    with pytest.raises(OptionsError, match=r"`heights` must be distinct odd numbers, got \[2\]"):
        ChainOptions(heights=(2,))
    with pytest.raises(OptionsError, match=r"`filters` must be distinct numbers above 0, got \[\]"):
        ChainOptions(filters=())
    with pytest.raises(OptionsError, match=r"`heights` must give at least two kernels with `widths` \[3\], got \[1\]"):
        ChainOptions(heights=(1,), widths=(3,))
    with pytest.raises(OptionsError, match="`primitives` must be left out with `space` nas_chain"):
        NetworkOptions(space="nas_chain", primitives=("none", "skip_connect", "sep_conv_3x3"))
