"""Costs of every operation of a searchable network as tensors, and the differentiable penalty (SNAS section 3.3).

Shape suffixes: L cells of one type, E edges, O operations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from search_core.cost.counts import COST_KINDS, primitive_cost, snas_cost
from search_core.cost.latency_table import LatencyTable
from search_core.cost.penalty_options import PenaltyOptions
from search_core.space.genotype import CELL_TYPES, CellType
from search_core.space.plan import CellPlan, NetworkSize, cell_edges, plan_supernet

#: Factor to the unit of a penalty without logarithm; counts are in millions.
_UNIT = {"latency": 1.0}
#: The kinds of `cost: snas`; memory access is counted as elsewhere.
_SNAS_KINDS = ("snas_params", "snas_madds", "memory_access")


class CostTable:
    """Costs c of every operation on every edge of every cell, and the penalty C(Z) = sum c Z that they give.

    Args:
        size: of the searchable network.
        device: where the table and the architecture samples live.
        dtype: of the table.
        latency: measured times, for a fourth kind of cost `latency`: milliseconds of an operation and of the addition
            to its node.

    Raises:
        LatencyError: if the measured times lack an operation.
    """

    def __init__(
        self,
        size: NetworkSize,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        latency: LatencyTable | None = None,
    ) -> None:
        plan, options, self.latency = plan_supernet(size), size.network, latency
        sources = [source for source, _ in cell_edges(options.nodes)]
        self._table: dict[tuple[str, CellType], Tensor] = {}
        for cell_type in CELL_TYPES:
            cells = [cell for cell in plan.cells if cell.cell_type == cell_type]
            for kinds, costs_of in _costs(latency).items():
                costs_LEOK = [
                    [[costs_of(name, cell, source) for name in options.operations] for source in sources]
                    for cell in cells
                ]
                shape = (len(cells), len(sources), len(options.primitives), len(kinds))
                table = torch.tensor(costs_LEOK, dtype=dtype, device=device).reshape(shape)
                self._table |= {(kind, cell_type): table[..., k].contiguous() for k, kind in enumerate(kinds)}

    def table(self, kind: str, cell_type: CellType) -> Tensor:
        """Counts of one kind, or milliseconds, shape (L, E, O)."""
        return self._table[kind, cell_type]

    def expected(self, kind: str, probabilities: Mapping[CellType, Tensor]) -> Tensor:
        """Exact expected count of the searchable operations under `probabilities` (E, O) per cell type; a scalar."""
        return torch.stack(
            [(self._table[kind, cell_type] * probabilities[cell_type]).sum() for cell_type in CELL_TYPES]
        ).sum()

    def expected_of_kinds(self, probabilities: Mapping[CellType, Tensor]) -> dict[str, float]:
        """The same for each of `COST_KINDS`."""
        return {kind: self.expected(kind, probabilities).item() for kind in COST_KINDS}

    def edge_costs(self, options: PenaltyOptions, z: Mapping[CellType, Tensor]) -> dict[CellType, Tensor]:
        """Each edge's own part of C(Z), in the unit of the penalty.

        The cost is linear in Z and so decomposes over edges (SNAS section 3.3): millions of parameters, multiply-adds
        or elements, or milliseconds; or log(1 + count or milliseconds) with `options.log`; for `snas` the mean of three
        logarithms.

        Args:
            options: kind of cost, `log`, `mix`, `reduction_ratio`.
            z: architecture sample per cell type, (E, O) shared by all cells or (L, E, O).

        Returns:
            Costs of shape (L, E) per cell type; their sum over both is C(Z).
        """
        edge_costs = {}
        for cell_type in CELL_TYPES:
            counts_LE = {kind: (self._table[kind, cell_type] * z[cell_type]).sum(-1) for kind in _weights(options)}
            edge_costs[cell_type] = self._penalty(counts_LE, cell_type, options)
        return edge_costs

    def expected_edge_costs(
        self, options: PenaltyOptions, probabilities: Mapping[CellType, Tensor]
    ) -> dict[CellType, Tensor]:
        """Each edge's own part of E_Z[C(Z)] for one-hot Z drawn from `probabilities`, as `edge_costs` has those of C.

        The expectation is taken of each operation's penalty, so it is exact with `log` too; with estimator `discrete`
        it is taken of the cost, whose logarithm then is the penalty, as the SNAS authors' code has it.

        Args:
            options: as for `edge_costs`.
            probabilities: (E, O) per cell type.
        """
        if options.estimator == "discrete":
            return self.edge_costs(options, probabilities)
        edge_costs = {}
        for cell_type in CELL_TYPES:
            counts_LEO = {kind: self._table[kind, cell_type] for kind in _weights(options)}
            edge_costs[cell_type] = (self._penalty(counts_LEO, cell_type, options) * probabilities[cell_type]).sum(-1)
        return edge_costs

    def expected_penalty(self, options: PenaltyOptions, probabilities: Mapping[CellType, Tensor]) -> Tensor:
        """E_Z[C(Z)], the sum of `expected_edge_costs`; a scalar."""
        return total(self.expected_edge_costs(options, probabilities))

    def _penalty(self, counts: Mapping[str, Tensor], cell_type: CellType, options: PenaltyOptions) -> Tensor:
        """Turn counts by kind, shape (L, ...), into penalties of the same shape."""
        scaled = [weight * _scaled(counts[kind], kind, options) for kind, weight in _weights(options).items()]
        penalty = torch.stack(scaled).sum(0)
        ratio = 1.0 if options.reduction_ratio is None and options.cost == "snas" else options.reduction_ratio
        if ratio is None:
            return penalty
        return penalty * ((ratio if cell_type == "reduce" else 1.0) / max(penalty.shape[0], 1))


def total(edge_costs: Mapping[CellType, Tensor]) -> Tensor:
    """C(Z), the sum over all edges (L, E) per cell type; a scalar."""
    return torch.stack([cost_LE.sum() for cost_LE in edge_costs.values()]).sum()


def _costs(latency: LatencyTable | None) -> dict[tuple[str, ...], Callable[[str, CellPlan, int], Sequence[float]]]:
    """What gives which kinds of cost of an operation in a cell on an edge from a source."""
    costs: dict[tuple[str, ...], Callable[[str, CellPlan, int], Sequence[float]]] = {
        COST_KINDS: lambda name, cell, source: primitive_cost(name, cell.channels, *cell.edge_geometry(source)),
        _SNAS_KINDS[:2]: lambda name, cell, source: snas_cost(name, cell.channels, *cell.edge_geometry(source))[:2],
    }
    if latency is not None:
        costs[("latency",)] = lambda name, cell, source: (latency.edge_ms(name, cell, source),)
    return costs


def _weights(options: PenaltyOptions) -> dict[str, float]:
    """Weight of each kind of cost that the penalty counts."""
    if options.cost == "snas":
        return dict.fromkeys(_SNAS_KINDS, 1 / len(_SNAS_KINDS))
    return vars(options.mix) if options.mix is not None else {options.cost: 1.0}


def _scaled(count: Tensor, kind: str, options: PenaltyOptions) -> Tensor:
    """A count in the unit of the penalty."""
    if options.cost == "snas":
        return count.clamp(min=1).log()
    return count.log1p() if options.log else count * _UNIT.get(kind, 1e-6)
