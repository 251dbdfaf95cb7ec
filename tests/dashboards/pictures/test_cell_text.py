"""Cells as text: what stands where, written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dashboards.pictures.cell_layout import cell_edges
from dashboards.pictures.cell_text import MAX_WIDTH, Probabilities, cell_lines
from search_core.space.chain import Layer
from search_core.space.genotype import CELL_TYPES, PRIMITIVES, PUBLISHED, Edge, Genotype

SNAS_MILD = """\
Normal cell: 8 edges, 4 of 4 nodes fed
  from │ c(k-2)   c(k-1)   0  1  2
───────┼──────────────────────────
     0 │ sep 3x3  sep 3x3
     1 │ skip     dil 3x3  ·
     2 │ skip     skip     ·  ·
     3 │ skip     sep 3x3  ·  ·  ·
  c(k) ◄ concatenation of 0, 1, 2, 3

Reduction cell: 8 edges, 4 of 4 nodes fed
  from │ c(k-2)   c(k-1)   0        1  2
───────┼────────────────────────────────
     0 │ max 3x3  max 3x3
     1 │ ·        max 3x3  skip
     2 │ ·        max 3x3  skip     ·
     3 │ max 3x3  ·        dil 5x5  ·  ·
  c(k) ◄ concatenation of 0, 1, 2, 3"""

UNFED = """\
Reduction cell: 2 edges, 2 of 4 nodes fed
  from │ c(k-2)   c(k-1)  0  1  2
───────┼─────────────────────────
     0 │ sep 5x5  ·
     1 │ sep 5x5  ·       ·
     2 ✗ ·        ·       ·  ·
     3 ✗ ·        ·       ·  ·  ·
  c(k) ◄ concatenation of 0, 1, 2, 3
       ✗ no input reaches this node"""


def cell_text(genotype: Genotype, probabilities: Probabilities | None = None, primitives=PRIMITIVES) -> str:
    lines = cell_lines(genotype, probabilities=probabilities, primitives=primitives)
    return "\n".join("".join(span.text for span in line).rstrip() for line in lines)


def uniform(num_nodes: int) -> dict[str, np.ndarray]:
    shape = (len(cell_edges(num_nodes)), len(PRIMITIVES))
    return {cell_type: np.full(shape, 1 / len(PRIMITIVES)) for cell_type in CELL_TYPES}


def test_published_cell_is_drawn_row_by_row() -> None:
    assert cell_text(PUBLISHED["SNAS_mild"]) == SNAS_MILD


def test_nodes_that_no_input_reaches_are_marked() -> None:
    assert cell_text(PUBLISHED["SNAS_aggressive"]).endswith(UNFED)


def test_node_fed_by_unfed_nodes_alone_is_unfed() -> None:
    cell = Genotype((Edge("sep_conv_3x3", 0, 2), Edge("skip_connect", 3, 4)), (2, 4), (), (2,))
    drawn = cell_text(cell)
    assert "     2 ✗ ·        ·       ·  skip" in drawn
    assert "Normal cell: 2 edges, 1 of 3 nodes fed" in drawn
    assert "Reduction cell: 0 edges, 0 of 1 nodes fed" in drawn


def test_two_edges_between_the_same_nodes_are_both_there() -> None:
    drawn = cell_text(PUBLISHED["NASNet"])
    assert "     1 │ sep 5x5 + sep 3x3  ·" in drawn
    assert "     3 │ avg 3x3 + avg 3x3  ·" in drawn


def test_stacked_nodes_are_named() -> None:
    cell = replace(PUBLISHED["NASNet"], reduce_stacked=(3, 6))
    drawn = cell_text(cell)
    assert drawn.count("stacked") == 1
    assert "stacked, not added: 1, 4" in drawn.partition("Reduction cell")[2]


def test_probabilities_stand_behind_their_operations() -> None:
    rows = uniform(4)
    rows["normal"][0, PRIMITIVES.index("sep_conv_3x3")] = 0.987
    drawn = cell_text(PUBLISHED["SNAS_mild"], probabilities=rows)
    assert "     0 │ sep 3x3 0.99  sep 3x3 0.12" in drawn


def test_searched_nodes_that_lost_all_edges_are_drawn() -> None:
    small = Genotype((Edge("skip_connect", 0, 2),), (2,), (Edge("skip_connect", 0, 2),), (2,))
    assert "     3 ✗ ·          ·       ·  ·  ·" in cell_text(small, probabilities=uniform(4))


def test_spans_name_their_operations() -> None:
    spans = [span for line in cell_lines(PUBLISHED["SNAS_mild"]) for span in line if span.primitive is not None]
    edges = [edge for cell_type in CELL_TYPES for edge in PUBLISHED["SNAS_mild"].edges(cell_type)]
    assert sorted(span.primitive or "" for span in spans) == sorted(edge.primitive for edge in edges)


@pytest.mark.parametrize("num_nodes", [1, 4, 7, 12])
def test_lines_fit_100_columns_however_many_nodes(num_nodes: int) -> None:
    edges = tuple(Edge("conv_7x1_1x7", source, target) for source, target in cell_edges(num_nodes))
    nodes = tuple(range(2, num_nodes + 2))
    lines = cell_text(Genotype(edges, nodes, edges, nodes)).splitlines()
    assert max(map(len, lines)) <= MAX_WIDTH
    assert sum(line.count("7x1 1x7") for line in lines) == 2 * len(edges), "every edge once"


def test_probabilities_that_do_not_fit_are_refused() -> None:
    rows = uniform(4)
    rows["normal"] = rows["normal"][:13]
    with pytest.raises(ValueError, match=r"`probabilities` of normal must have 14 edges for 4 nodes, got 13"):
        cell_text(PUBLISHED["SNAS_mild"], probabilities=rows)
    with pytest.raises(ValueError, match="got none named sep_conv_3x3"):
        cell_text(PUBLISHED["SNAS_mild"], probabilities=uniform(4), primitives=("none", "skip_connect"))


def test_chain_has_a_row_a_layer() -> None:
    chain = Genotype(
        normal=(Edge("conv_3x1", 0, 2), Edge("conv_5x5", 0, 3), Edge("conv_5x5", 2, 3)),
        normal_concat=(3,),
        reduce=(),
        reduce_concat=(),
        layers=(Layer(24, 2, 3), Layer(36)),
    )
    assert (
        cell_text(chain)
        == """\
Chain of 2 layers
       │ filters           strides  reads
     0 │ 3x1 x 24          2x3      image
     1 │ 5x5 x 36          1x1      image, 0
logits ◄ concatenation of 1"""
    )
    rows = [[0.25, 0.5, 0.25], [1, 0, 0], [0.5, 0, 0.5], [1, 0, 0], [0.1, 0.5, 0.4]]
    drawn = cell_text(chain, probabilities={"normal": rows}, primitives=("none", "conv_3x1", "conv_5x5"))
    assert "image 0.50, 0 0.40" in drawn
    deep = tuple(Edge("conv_7x7", source, target) for target in range(3, 41) for source in range(2, target))
    long = Genotype((Edge("conv_1x1", 0, 2), *deep), (40,), (), (), layers=(Layer(24),) * 39)
    assert max(map(len, cell_text(long).splitlines())) <= MAX_WIDTH
