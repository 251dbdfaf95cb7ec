"""Resource cost: exact counts per operation and of whole networks; `penalty` makes them differentiable.

`search_core.primitives.counting` has the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search_core.primitives.builtin import POOLS
from search_core.primitives.counting import Cost, Size, conv_cost, factorized_reduce_cost, halved, norm_cost, total
from search_core.primitives.registry import find
from search_core.space.chain_plan import plan_chain
from search_core.space.genotype import Edge, Genotype, has_pool_norm
from search_core.space.plan import CellPlan, NetworkSize, StackPlan, cell_edges, plan_child, plan_supernet

#: What is counted exactly.
COST_KINDS: tuple[str, ...] = ("params", "madds", "memory_access")


@dataclass(frozen=True)
class NetworkCost:
    """Exact counts of a whole network; the auxiliary head's parameters are kept apart."""

    params: int
    madds: int
    memory_access: int
    auxiliary_params: int


def primitive_cost(name: str, channels: int, size: Size, stride: int, *, affine: bool = True) -> Cost:
    """Exact cost of one candidate operation.

    Args:
        name: of a built-in operation or one of a plug-in.
        channels: channels of input and output.
        size: input height and width in pixels.
        stride: 1 or 2.
        affine: whether batch norms have a scale and a shift.

    Raises:
        GenotypeError: if the name is not known.
    """
    return find(name).cost(channels, size, stride, affine)


def snas_cost(name: str, channels: int, size: Size, stride: int) -> Cost:
    """Cost of one candidate operation as the SNAS authors' penalty counts it; arguments as `primitive_cost`.

    Parameters are without batch norm's scale and shift, and a pool has 9 multiply-adds for each element of its output.
    """
    cost = primitive_cost(name, channels, size, stride, affine=False)
    height, width = halved(size) if stride == 2 else size
    return cost._replace(madds=9 * channels * height * width) if name in POOLS else cost


def _stem_cost(plan: StackPlan) -> Cost:
    channels, height, width = plan.size.input_shape
    size, out = (height, width), plan.stem_channels
    if plan.size.network.stem == "cifar":
        return total((conv_cost(channels, out, (3, 3), size, size), norm_cost(out, True)))
    half, quarter = halved(size), halved(halved(size))
    return total(
        (
            conv_cost(channels, out // 2, (3, 3), size, half),
            norm_cost(out // 2, True),
            conv_cost(out // 2, out, (3, 3), half, quarter),
            norm_cost(out, True),
            conv_cost(out, out, (3, 3), quarter, halved(quarter)),
            norm_cost(out, True),
        )
    )


def _cell_inputs_cost(cell: CellPlan, affine: bool) -> Cost:
    previous = total(
        (
            conv_cost(cell.channels_prev, cell.channels, (1, 1), cell.size_in, cell.size_in),
            norm_cost(cell.channels, affine),
        )
    )
    if cell.reduction_prev:
        return total(
            (factorized_reduce_cost(cell.channels_prev_prev, cell.channels, cell.size_prev_prev, affine), previous)
        )
    before = conv_cost(cell.channels_prev_prev, cell.channels, (1, 1), cell.size_in, cell.size_in)
    return total((before, norm_cost(cell.channels, affine), previous))


def _linear(features: int, classes: int) -> Cost:
    weights = features * classes
    return Cost(weights + classes, weights, features + classes + weights + classes)


def auxiliary_params(channels: int, classes: int) -> int:
    """Parameters of the auxiliary head (DARTS' `AuxiliaryHead`): 1x1 conv to 128, 2x2 conv to 768, linear."""
    return channels * 128 + 2 * 128 + 128 * 768 * 4 + 2 * 768 + 768 * classes + classes


def _cell_cost(
    cell: CellPlan, edges: Sequence[Edge], affine: bool, pool_norm: bool, stacked: Sequence[int] = ()
) -> Cost:
    parts = [_cell_inputs_cost(cell, affine)]
    for node in stacked:
        width = cell.channels * sum(edge.target == node for edge in edges)
        join = conv_cost(width, cell.channels, (1, 1), cell.size_out, cell.size_out)
        parts += [join, norm_cost(cell.channels, affine)]
    for edge in edges:
        size, stride = cell.edge_geometry(edge.source)
        is_affine = affine and (pool_norm or edge.primitive not in POOLS)
        parts.append(primitive_cost(edge.primitive, cell.channels, size, stride, affine=is_affine))
    return total(parts)


def _stack_cost(plan: StackPlan, cells: Sequence[Cost]) -> NetworkCost:
    parts = (_stem_cost(plan), *cells, _linear(plan.out_channels, plan.size.num_classes))
    return NetworkCost(*total(parts), auxiliary_params(plan.auxiliary_channels, plan.size.num_classes))


def _child_cells(genotype: Genotype, plan: StackPlan, pool_norm: bool) -> list[Cost]:
    return [
        _cell_cost(cell, genotype.edges(cell.cell_type), True, pool_norm, genotype.stacked(cell.cell_type))
        for cell in plan.cells
    ]


def child_cost(
    genotype: Genotype,
    size: NetworkSize,
    *,
    pool_norm: bool | None = None,
    cell_channels: Sequence[int] | None = None,
) -> NetworkCost:
    """Exact counts of the child network of a genotype as it is trained from scratch (affine batch norms).

    Args:
        genotype: the architecture; of a chain only images and classes of `size` matter.
        size: cells, channels, stem, images and classes.
        pool_norm: whether batch norm follows pools; default as the genotype was published, see `has_pool_norm`.
        cell_channels: channels of every cell's nodes; default: doubled by reduction cells.
    """
    if genotype.layers:
        return _chain_cost(genotype, size)
    plan = plan_child(genotype, size, cell_channels)
    pool_norm = has_pool_norm(genotype) if pool_norm is None else pool_norm
    return _stack_cost(plan, _child_cells(genotype, plan, pool_norm))


def _chain_cost(genotype: Genotype, size: NetworkSize) -> NetworkCost:
    """Counts of a chain; what is concatenated is read by the next convolution, zeros around it included."""
    plan = plan_chain(genotype, size)
    parts = [_linear(plan.out_channels, size.num_classes)]
    for layer in plan.layers:
        parts += [
            conv_cost(layer.channels_in, layer.filters, layer.kernel, layer.size_in, layer.size_out),
            norm_cost(layer.filters, True),
        ]
    return NetworkCost(*total(parts), auxiliary_params=0)


def bit_operations(genotype: Genotype, plan: StackPlan, bits: Sequence[tuple[int, int]]) -> int:
    """Multiply-adds of a child times the bits of their weights times the bits of what these are multiplied with.

    (SPOS section 4, "BitOps".) Stem and classifier have 32 bits both ways.

    Args:
        genotype: of the child.
        plan: of the child.
        bits: widths of both factors in every cell: weights and features.
    """
    ends = _stem_cost(plan).madds + _linear(plan.out_channels, plan.size.num_classes).madds
    cells = _child_cells(genotype, plan, pool_norm=True)
    return ends * 32**2 + sum(cost.madds * of_w * of_x for cost, (of_w, of_x) in zip(cells, bits, strict=True))


def supernet_cost(size: NetworkSize) -> NetworkCost:
    """Exact counts of the searchable network, all operations of all edges running; `params` counts theta."""
    edges = [
        Edge(primitive, source, target)
        for source, target in cell_edges(size.network.nodes)
        for primitive in size.network.operations
    ]
    plan = plan_supernet(size)
    return _stack_cost(plan, [_cell_cost(cell, edges, affine=False, pool_norm=True) for cell in plan.cells])
