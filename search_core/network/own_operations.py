"""Operations of plug-ins in a searchable cell: by their own modules, edge by edge, beside the fused ones.

Shape suffixes: as in `search_cell`, Q operations of plug-ins.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from search_core.network.cell_sources import DropPath
from search_core.primitives.registry import find


class OwnOperations(nn.Module):
    """Modules of every edge for every operation of a plug-in: `edges[q][b]`, edges ordered as in `edges_by_source`.

    Args:
        primitives: all candidate operations of the cell.
        channels: channels of a node.
        lengths: edges of each source.
        strides: of these edges.
    """

    columns: Tensor
    droppable_EQ: Tensor

    def __init__(
        self, primitives: Sequence[str], channels: int, lengths: Sequence[int], strides: Sequence[int]
    ) -> None:
        super().__init__()
        self.primitives = [find(name) for name in primitives if find(name).kind == "own"]
        self.names = [primitive.name for primitive in self.primitives]
        self.lengths = lengths
        of_edges = [stride for stride, length in zip(strides, lengths, strict=True) for _ in range(length)]
        self.edges = nn.ModuleList(
            nn.ModuleList(primitive.module(channels, stride, affine=False) for stride in of_edges)
            for primitive in self.primitives
        )
        droppable = [[not isinstance(module, nn.Identity) for module in modules.children()] for modules in self.edges]
        columns = torch.tensor([primitives.index(name) for name in self.names], dtype=torch.long)
        self.register_buffer("columns", columns, persistent=False)
        self.register_buffer("droppable_EQ", torch.tensor(droppable, dtype=torch.bool).t(), persistent=False)

    def factors(self, z_EO: Tensor, drop_path: DropPath | None) -> list[Tensor]:
        """Factors (B, Q, N or 1) of every source; `z_EO` and `drop_path` have edges ordered as in `edges_by_source`."""
        factors_EQN = z_EO.index_select(1, self.columns).unsqueeze(2)
        if drop_path is not None:
            kept_EQN = drop_path.keep_EON.index_select(1, self.columns) * drop_path.scale
            factors_EQN = torch.where(self.droppable_EQ.unsqueeze(2), factors_EQN * kept_EQN, factors_EQN)
        return list(factors_EQN.split(list(self.lengths)))

    def added(
        self, source: int, x_NHWC: Tensor, factors_BQN: Tensor, bases_NHWC: Sequence[Tensor | None]
    ) -> list[Tensor]:
        """What has arrived at the targets of a source, `bases_NHWC`, and what these operations send there."""
        first, x_NCHW = sum(self.lengths[:source]), x_NHWC.permute(0, 3, 1, 2)
        sums = list(bases_NHWC)
        for column, (primitive, modules) in enumerate(zip(self.primitives, self.edges, strict=True)):
            assert isinstance(modules, nn.ModuleList)
            outputs = primitive.outputs(list(modules[first : first + self.lengths[source]]), x_NCHW)
            for target, output in enumerate(outputs):
                factor_N111 = factors_BQN[target, column].view(-1, 1, 1, 1)
                term = factor_N111 * output.permute(0, 2, 3, 1)
                before = sums[target]
                sums[target] = term if before is None else before + term
        return [x.to(x_NHWC.dtype).contiguous() for x in sums if x is not None]

    def state_of(self, name: str, edge: int) -> dict[str, Tensor]:
        """Weights and statistics themselves of one operation, by their names in its module."""
        modules = self.edges[self.names.index(name)]
        assert isinstance(modules, nn.ModuleList)
        return dict([*modules[edge].named_parameters(), *modules[edge].named_buffers()])
