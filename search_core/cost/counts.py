"""Resource cost: exact counts per operation and of whole networks; `penalty` makes them differentiable.

Counting rules: parameters include batch norm's scale and shift where it has them. Multiply-adds are those of
convolutions and the classifier, for one image. Memory access counts, for every convolution, pool, identity and the
classifier, the elements read, the elements written and the weights, as the SNAS authors' code does; batch norm and
ReLU are taken as fused with the convolution, and `none` moves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from search_core.space.chain_plan import plan_chain
from search_core.space.genotype import POOLS, Edge, Genotype, has_pool_norm
from search_core.space.plan import (
    CellPlan,
    NetworkSize,
    Size,
    StackPlan,
    cell_edges,
    halved,
    plan_child,
    plan_supernet,
)

#: What is counted exactly.
COST_KINDS: tuple[str, ...] = ("params", "madds", "memory_access")


class Cost(NamedTuple):
    """Exact counts of one operation or network, for one image."""

    params: int = 0
    madds: int = 0
    memory_access: int = 0


@dataclass(frozen=True)
class NetworkCost:
    """Exact counts of a whole network; the auxiliary head's parameters are kept apart."""

    params: int
    madds: int
    memory_access: int
    auxiliary_params: int


def total(costs: Iterable[Cost]) -> Cost:
    """Sum of costs, kind by kind."""
    return Cost(*map(sum, zip(*costs, strict=True))) if (costs := tuple(costs)) else Cost()


def _conv(
    channels_in: int, channels_out: int, kernel: tuple[int, int], size_in: Size, size_out: Size, groups: int = 1
) -> Cost:
    weights = channels_in // groups * channels_out * kernel[0] * kernel[1]
    pixels_in, pixels_out = size_in[0] * size_in[1], size_out[0] * size_out[1]
    return Cost(weights, weights * pixels_out, channels_in * pixels_in + channels_out * pixels_out + weights)


def _norm(channels: int, affine: bool) -> Cost:
    return Cost(params=2 * channels if affine else 0)


def _read_and_write(channels: int, size_in: Size, size_out: Size) -> Cost:
    return Cost(memory_access=channels * (size_in[0] * size_in[1] + size_out[0] * size_out[1]))


def _separable(channels: int, kernel: int, size_in: Size, size_out: Size, affine: bool) -> Cost:
    return total(
        (
            _conv(channels, channels, (kernel, kernel), size_in, size_out, groups=channels),
            _conv(channels, channels, (1, 1), size_out, size_out),
            _norm(channels, affine),
        )
    )


def _factorized_reduce(channels_in: int, channels_out: int, size: Size, affine: bool) -> Cost:
    halves = (channels_out // 2, channels_out - channels_out // 2)
    convs = [_conv(channels_in, half, (1, 1), size, halved(size)) for half in halves]
    return total((*convs, _norm(channels_out, affine)))


def primitive_cost(name: str, channels: int, size: Size, stride: int, *, affine: bool = True) -> Cost:
    """Exact cost of one candidate operation.

    Args:
        name: one of `KNOWN_PRIMITIVES`.
        channels: channels of input and output.
        size: input height and width in pixels.
        stride: 1 or 2.
        affine: whether batch norms have a scale and a shift.

    Raises:
        ValueError: if the name is not known.
    """
    out = halved(size) if stride == 2 else size
    if name == "none":
        return Cost()
    if name == "skip_connect" and stride == 1:
        return _read_and_write(channels, size, size)
    if name == "skip_connect":
        return _factorized_reduce(channels, channels, size, affine)
    if name in POOLS:
        return total((_read_and_write(channels, size, out), _norm(channels, affine)))
    if name == "conv_7x1_1x7":
        between = (size[0], out[1])
        return total(
            (
                _conv(channels, channels, (1, 7), size, between),
                _conv(channels, channels, (7, 1), between, out),
                _norm(channels, affine),
            )
        )
    if name.startswith("sep_conv_"):
        kernel = int(name[-1])
        return total((_separable(channels, kernel, size, out, affine), _separable(channels, kernel, out, out, affine)))
    if name.startswith("dil_conv_"):
        return _separable(channels, int(name[-1]), size, out, affine)
    raise ValueError(f"no cost is known for the primitive {name!r}")


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
        return total((_conv(channels, out, (3, 3), size, size), _norm(out, True)))
    half, quarter = halved(size), halved(halved(size))
    return total(
        (
            _conv(channels, out // 2, (3, 3), size, half),
            _norm(out // 2, True),
            _conv(out // 2, out, (3, 3), half, quarter),
            _norm(out, True),
            _conv(out, out, (3, 3), quarter, halved(quarter)),
            _norm(out, True),
        )
    )


def _cell_inputs_cost(cell: CellPlan, affine: bool) -> Cost:
    previous = total(
        (_conv(cell.channels_prev, cell.channels, (1, 1), cell.size_in, cell.size_in), _norm(cell.channels, affine))
    )
    if cell.reduction_prev:
        return total(
            (_factorized_reduce(cell.channels_prev_prev, cell.channels, cell.size_prev_prev, affine), previous)
        )
    before = _conv(cell.channels_prev_prev, cell.channels, (1, 1), cell.size_in, cell.size_in)
    return total((before, _norm(cell.channels, affine), previous))


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
        join = _conv(width, cell.channels, (1, 1), cell.size_out, cell.size_out)
        parts += [join, _norm(cell.channels, affine)]
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
            _conv(layer.channels_in, layer.filters, layer.kernel, layer.size_in, layer.size_out),
            _norm(layer.filters, True),
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
        for primitive in size.network.primitives
    ]
    plan = plan_supernet(size)
    return _stack_cost(plan, [_cell_cost(cell, edges, affine=False, pool_norm=True) for cell in plan.cells])
