"""The parts that a child's latency is put together from, each with its shape: what is measured and what is summed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from search_core.errors import require
from search_core.network.blocks import CellInputs, Classifier, build_stem
from search_core.primitives.counting import Size
from search_core.primitives.registry import find
from search_core.space.genotype import CELL_TYPES, CellType, Genotype
from search_core.space.plan import CellPlan, NetworkSize, StackPlan, cell_edges, plan_child, plan_supernet

#: Channels, height, width of one input of a part.
Shape = tuple[int, int, int]


class Part(NamedTuple):
    """One piece of a network that runs by itself.

    Attributes:
        key: what it is and of which shape; equal keys take equal time.
        build: makes it, with fresh weights.
        inputs: shape of each of its inputs, for one image.
    """

    key: str
    build: Callable[[], nn.Module]
    inputs: tuple[Shape, ...]


class _Sum(nn.Module):
    """One addition of a node that has several inputs."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first + second


class _Concat(nn.Module):
    """The output of a cell."""

    def forward(self, *nodes: Tensor) -> Tensor:
        return torch.cat(nodes, dim=1)


class _StemOfImages(nn.Module):
    """A stem with the change of memory layout that `Child` does first."""

    def __init__(self, plan: StackPlan) -> None:
        super().__init__()
        self.stem = build_stem(plan)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        both: tuple[Tensor, Tensor] = self.stem(images.contiguous(memory_format=torch.channels_last))
        return both


class _Inputs(CellInputs):
    """Cell inputs whose batch norms have a scale and a shift, as a child's have."""

    def __init__(self, plan: CellPlan) -> None:
        super().__init__(plan, affine=True)


def operation_key(primitive: str, channels: int, size: Size, stride: int) -> str:
    """Key of a candidate operation; `none` has no part, for a child leaves it out."""
    return f"{primitive} {_shown((channels, *size))} stride {stride}"


def sum_key(cell: CellPlan) -> str:
    """Key of the addition of two inputs of a node."""
    return f"sum {_shown((cell.channels, *cell.size_out))}"


def network_parts(size: NetworkSize) -> Iterator[Part]:
    """Every distinct part that a child of the search space may have.

    Raises:
        OptionsError: for another space than `darts`, where cells concatenate different numbers of nodes.
    """
    space = size.network.space
    require(("network.space", space == "darts", f"must be darts for a table of latency, got {space}"))
    plan, options = plan_supernet(size), size.network
    distinct = {part.key: part for part in _fixed(plan, dict.fromkeys(CELL_TYPES, options.nodes))}
    for cell in plan.cells:
        for source, _ in cell_edges(options.nodes):
            found = [_operation(name, cell, source) for name in options.operations if name != "none"]
            distinct |= {part.key: part for part in (*found, _sum(cell))}
    yield from distinct.values()


def child_parts(genotype: Genotype, size: NetworkSize) -> Iterator[Part]:
    """The parts of one child, one after another; a node of n inputs has n - 1 additions."""
    plan = plan_child(genotype, size)
    yield from _fixed(plan, {name: len(genotype.concat(name)) for name in CELL_TYPES})
    for cell in plan.cells:
        edges = genotype.edges(cell.cell_type)
        yield from (_operation(edge.primitive, cell, edge.source) for edge in edges)
        yield from [_sum(cell)] * (len(edges) - len({edge.target for edge in edges}))


def _fixed(plan: StackPlan, num_concat: Mapping[CellType, int]) -> Iterator[Part]:
    """Stem, cell inputs, concatenations and classifier, which no edge decides."""
    image, num_classes = plan.size.input_shape, plan.size.num_classes
    key = f"{plan.size.network.stem} stem {_shown(image)} to {plan.stem_channels}"
    yield Part(key, partial(_StemOfImages, plan), (image,))
    for cell in plan.cells:
        before, previous = (cell.channels_prev_prev, *cell.size_prev_prev), (cell.channels_prev, *cell.size_in)
        key = f"cell inputs {_shown(before)} and {_shown(previous)} to {cell.channels}"
        yield Part(key, partial(_Inputs, cell), (before, previous))
        node, number = (cell.channels, *cell.size_out), num_concat[cell.cell_type]
        yield Part(f"concatenation of {number} x {_shown(node)}", _Concat, (node,) * number)
    last = (plan.out_channels, *plan.cells[-1].size_out)
    key = f"classifier {_shown(last)} to {num_classes}"
    yield Part(key, partial(Classifier, plan.out_channels, num_classes), (last,))


def _operation(primitive: str, cell: CellPlan, source: int) -> Part:
    size, stride = cell.edge_geometry(source)
    return Part(
        operation_key(primitive, cell.channels, size, stride),
        partial(find(primitive).module, cell.channels, stride, True),
        ((cell.channels, *size),),
    )


def _sum(cell: CellPlan) -> Part:
    return Part(sum_key(cell), _Sum, ((cell.channels, *cell.size_out),) * 2)


def _shown(shape: Shape) -> str:
    return "x".join(map(str, shape))
