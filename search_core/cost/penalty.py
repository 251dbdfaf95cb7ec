"""Costs of every operation of a searchable network as tensors, and the differentiable penalty (SNAS section 3.3).

Shape suffixes: L cells of one type, E edges, O operations.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from search_core.cost.counts import COST_KINDS, primitive_cost
from search_core.cost.latency_table import LatencyTable
from search_core.cost.penalty_options import PenaltyOptions
from search_core.space.genotype import CELL_TYPES, CellType
from search_core.space.plan import NetworkSize, cell_edges, plan_supernet

#: Factor to the unit of a penalty without logarithm; counts are in millions.
_UNIT = {"latency": 1.0}


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
        self._table: dict[tuple[str, CellType], Tensor] = {}
        for cell_type in CELL_TYPES:
            costs_LEO3 = [
                [
                    [primitive_cost(name, cell.channels, *cell.edge_geometry(source)) for name in options.primitives]
                    for source, _ in cell_edges(options.nodes)
                ]
                for cell in plan.cells
                if cell.cell_type == cell_type
            ]
            shape = (len(costs_LEO3), len(cell_edges(options.nodes)), len(options.primitives), 3)
            table = torch.tensor(costs_LEO3, dtype=dtype, device=device).reshape(shape)
            for position, kind in enumerate(COST_KINDS):
                self._table[kind, cell_type] = table[..., position].contiguous()
            if latency is not None:
                times_LEO = [
                    [
                        [latency.edge_ms(name, cell, source) for name in options.primitives]
                        for source, _ in cell_edges(options.nodes)
                    ]
                    for cell in plan.cells
                    if cell.cell_type == cell_type
                ]
                times = torch.tensor(times_LEO, dtype=dtype, device=device)
                self._table["latency", cell_type] = times.reshape(shape[:-1])

    def table(self, kind: str, cell_type: CellType) -> Tensor:
        """Counts of one kind, or milliseconds, shape (L, E, O)."""
        return self._table[kind, cell_type]

    def expected(self, kind: str, probabilities: Mapping[CellType, Tensor]) -> Tensor:
        """Exact expected count of the searchable operations under `probabilities` (E, O) per cell type; a scalar."""
        return torch.stack(
            [(self._table[kind, cell_type] * probabilities[cell_type]).sum() for cell_type in CELL_TYPES]
        ).sum()

    def edge_costs(self, options: PenaltyOptions, z: Mapping[CellType, Tensor]) -> dict[CellType, Tensor]:
        """Each edge's own share of C(Z), in the unit of the penalty.

        The cost is linear in Z and so decomposes over edges (SNAS section 3.3): millions of parameters, multiply-adds
        or elements, or milliseconds; or log(1 + count or milliseconds) with `options.log`.

        Args:
            options: kind of cost, `log`, `mix`, `reduction_ratio`.
            z: architecture sample per cell type, (E, O) shared by all cells or (L, E, O).

        Returns:
            Shares of shape (L, E) per cell type; their sum over both is C(Z).
        """
        shares = {}
        for cell_type in CELL_TYPES:
            counts_LE = {kind: (self._table[kind, cell_type] * z[cell_type]).sum(-1) for kind in _weights(options)}
            shares[cell_type] = self._penalty(counts_LE, cell_type, options)
        return shares

    def expected_penalty(self, options: PenaltyOptions, probabilities: Mapping[CellType, Tensor]) -> Tensor:
        """Exact E_Z[C(Z)] for one-hot Z drawn from `probabilities` (E, O) per cell type; a scalar.

        The expectation is taken of each operation's penalty, so it is exact with `log` too.
        """
        parts = []
        for cell_type in CELL_TYPES:
            counts_LEO = {kind: self._table[kind, cell_type] for kind in _weights(options)}
            parts.append((self._penalty(counts_LEO, cell_type, options) * probabilities[cell_type]).sum())
        return torch.stack(parts).sum()

    def _penalty(self, counts: Mapping[str, Tensor], cell_type: CellType, options: PenaltyOptions) -> Tensor:
        """Turn counts by kind, shape (L, ...), into penalties of the same shape."""
        scaled = [
            weight * (torch.log1p(counts[kind]) if options.log else counts[kind] * _UNIT.get(kind, 1e-6))
            for kind, weight in _weights(options).items()
        ]
        penalty = torch.stack(scaled).sum(0)
        if options.reduction_ratio is None:
            return penalty
        ratio = options.reduction_ratio if cell_type == "reduce" else 1.0
        return penalty * (ratio / max(penalty.shape[0], 1))


def _weights(options: PenaltyOptions) -> dict[str, float]:
    """Weight of each kind of cost that the penalty counts."""
    return vars(options.mix) if options.mix is not None else {options.cost: 1.0}
