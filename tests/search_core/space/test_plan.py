from __future__ import annotations

import pytest

from search_core.errors import OptionsError
from search_core.primitives.counting import halved
from search_core.space.genotype import PRIMITIVES, PUBLISHED
from search_core.space.plan import NetworkOptions, NetworkSize, cell_edges, plan_child, plan_supernet


def test_edges_are_ordered_by_target_then_source() -> None:
    assert cell_edges(2) == ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


@pytest.mark.parametrize(("nodes", "edges"), [(1, 2), (2, 5), (3, 9), (4, 14), (5, 20)])
def test_number_of_edges(nodes: int, edges: int) -> None:
    assert len(cell_edges(nodes)) == edges
    assert all(source < target for source, target in cell_edges(nodes))


@pytest.mark.parametrize(("size", "expected"), [((8, 8), (4, 4)), ((7, 9), (4, 5)), ((1, 1), (1, 1)), ((2, 3), (1, 2))])
def test_halved_rounds_up(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert halved(size) == expected


def test_plan_of_the_search_network_of_the_papers() -> None:
    plan = plan_supernet(NetworkSize(NetworkOptions(), (3, 32, 32), 10))
    # prev_prev, prev, own channels; size in; type; whether node 0 must be halved. By hand: C = 16, L = 8.
    assert [
        (c.channels_prev_prev, c.channels_prev, c.channels, c.size_in[0], c.size_out[0], c.cell_type, c.reduction_prev)
        for c in plan.cells
    ] == [
        (48, 48, 16, 32, 32, "normal", False),
        (48, 64, 16, 32, 32, "normal", False),
        (64, 64, 32, 32, 16, "reduce", False),
        (64, 128, 32, 16, 16, "normal", True),
        (128, 128, 32, 16, 16, "normal", False),
        (128, 128, 64, 16, 8, "reduce", False),
        (128, 256, 64, 8, 8, "normal", True),
        (256, 256, 64, 8, 8, "normal", False),
    ]
    assert (plan.stem_channels, plan.out_channels) == (48, 256)
    assert (plan.auxiliary_cell, plan.auxiliary_channels) == (5, 256)


@pytest.mark.parametrize(
    ("cells", "reductions"),
    [(1, [0]), (2, [0, 1]), (3, [1, 2]), (5, [1, 3]), (8, [2, 5]), (14, [4, 9]), (20, [6, 13])],
)
def test_reduction_cells_sit_at_the_thirds(cells: int, reductions: list[int]) -> None:
    plan = plan_supernet(NetworkSize(NetworkOptions(cells=cells), (3, 32, 32), 10))
    assert [index for index, cell in enumerate(plan.cells) if cell.cell_type == "reduce"] == reductions
    assert plan.auxiliary_cell == 2 * cells // 3


def test_plan_of_the_imagenet_stem() -> None:
    plan = plan_supernet(NetworkSize(NetworkOptions(init_channels=48, cells=14, stem="imagenet"), (3, 224, 224), 10))
    first = plan.cells[0]
    assert plan.stem_channels == first.channels_prev_prev == first.channels_prev == 48
    assert (first.size_prev_prev, first.size_in, first.size_out) == ((56, 56), (28, 28), (28, 28))
    assert first.reduction_prev
    assert plan.cells[-1].size_out == (7, 7)


def test_plan_rounds_odd_sizes_up() -> None:
    plan = plan_supernet(NetworkSize(NetworkOptions(cells=3), (1, 7, 9), 10))
    assert [cell.size_out for cell in plan.cells] == [(7, 9), (4, 5), (2, 3)]
    assert [cell.size_prev_prev for cell in plan.cells] == [(7, 9), (7, 9), (7, 9)]
    assert [cell.reduction_prev for cell in plan.cells] == [False, False, True]


def test_plan_of_a_child_follows_each_cells_own_concatenation() -> None:
    plan = plan_child(PUBLISHED["NASNet"], NetworkSize(NetworkOptions(cells=5, init_channels=4), (3, 8, 8), 10))
    # Five nodes of the normal cell and three of the reduction cell (cells 1 and 3) are concatenated.
    assert [cell.channels_prev for cell in plan.cells] == [12, 5 * 4, 3 * 8, 5 * 8, 3 * 16]
    assert plan.out_channels == 5 * 16
    assert plan.auxiliary_channels == 3 * 16


def test_only_edges_from_the_inputs_of_reduction_cells_halve() -> None:
    normal, reduction, _ = plan_supernet(NetworkSize(NetworkOptions(cells=3), (1, 7, 9), 10)).cells
    assert [normal.edge_geometry(source) for source in (0, 1, 2)] == [((7, 9), 1)] * 3
    assert [reduction.edge_geometry(source) for source in (0, 1, 2, 3)] == [((7, 9), 2)] * 2 + [((4, 5), 1)] * 2


def test_network_options_default_to_the_papers() -> None:
    options = NetworkOptions()
    assert (options.nodes, options.cells, options.init_channels, options.stem) == (4, 8, 16, "cifar")
    assert options.primitives == PRIMITIVES


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 0}, "`nodes` must be at least 1, got 0"),
        ({"nodes": 41, "space": "enas"}, "`nodes` must be at most 40 in the space enas, got 41"),
        ({"cells": 0}, "`cells` must be at least 1, got 0"),
        ({"init_channels": 3}, "`init_channels` must be an even number of at least 2, got 3"),
        ({"init_channels": 0}, "`init_channels` must be an even number of at least 2, got 0"),
        ({"primitives": ("none", "conv_9x9")}, "`primitives` must be among none, .*got conv_9x9"),
        ({"primitives": ("none",)}, r"`primitives` must be at least two different names, got \['none'\]"),
        (
            {"primitives": ("none", "none")},
            r"`primitives` must be at least two different names, got \['none', 'none'\]",
        ),
    ],
)
def test_network_options_reject_values_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        NetworkOptions(**options)  # type: ignore[arg-type]


def test_network_options_report_all_faults_at_once() -> None:
    with pytest.raises(OptionsError) as caught:
        NetworkOptions(nodes=0, cells=-1, init_channels=5, primitives=("sep", "sep"))
    assert [name for name, _ in caught.value.faults] == ["nodes", "cells", "init_channels", "primitives", "primitives"]
