"""The searchable network: a stack of cells whose edges mix all candidate operations.

Shape suffixes: E edges, O operations, L cells of one type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from search_core.cell import CellPlan, NetworkOptions, cell_edges, plan_supernet
from search_core.genotype import CellType
from search_core.network import CellInputs, Classifier, build_stem, seeded_weights
from search_core.primitives import build_primitive


class MixedEdge(nn.Module):
    """All candidate operations between two nodes but `none`, which adds nothing and is never built."""

    def __init__(self, primitives: Sequence[str], channels: int, stride: int) -> None:
        super().__init__()
        self.operations = nn.ModuleDict(
            {name: build_primitive(name, channels, stride, affine=False) for name in primitives if name != "none"}
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Output O_k(x) of every operation but `none`, in the order of the primitives, each (N, C, H', W')."""
        return [operation(x) for operation in self.operations.values()]


class SearchCell(nn.Module):
    """One cell of the supernet: every node sums a mixed edge from every node before it."""

    def __init__(self, plan: CellPlan, options: NetworkOptions) -> None:
        super().__init__()
        self.num_nodes = options.nodes
        self.built = [position for position, name in enumerate(options.primitives) if name != "none"]
        self.inputs = CellInputs(plan, affine=False)
        self.edges = nn.ModuleList(
            MixedEdge(options.primitives, plan.channels, plan.edge_geometry(source)[1])
            for source, _ in cell_edges(options.nodes)
        )

    def forward(self, before_previous: Tensor, previous: Tensor, z_EO: Tensor) -> Tensor:
        """Concatenation of all intermediate nodes, (N, nodes * channels, *size_out)."""
        nodes = self.inputs(before_previous, previous)
        z_EO = z_EO[:, self.built]
        first = 0
        for _ in range(self.num_nodes):
            last = first + len(nodes)
            candidates = [
                output for node, edge in zip(nodes, self.edges[first:last], strict=True) for output in edge(node)
            ]
            nodes.append(_weighted_sum(candidates, z_EO[first:last].flatten()))
            first = last
        return torch.cat(nodes[2:], dim=1)


def _weighted_sum(terms: Sequence[Tensor], weights: Tensor) -> Tensor:
    """`x_j = sum_i sum_k Z_ij^k O_ij^k(x_i)` (SNAS equation 3) as one matrix-vector product: few launches."""
    stacked = torch.stack([term.permute(0, 2, 3, 1) for term in terms])  # channels last, as convolutions leave them
    return (weights @ stacked.flatten(1)).view(stacked.shape[1:]).permute(0, 3, 1, 2)


class Supernet(nn.Module):
    """Stack of searchable cells with shared architecture weights (SNAS section 4.1).

    The parameters of this module are theta alone; the architecture sample Z comes in with every forward.

    Args:
        options: size and candidate operations.
        input_shape: channels, height, width of an image.
        num_classes: number of logits.
        seed: seed of the initial weights.
    """

    def __init__(
        self, options: NetworkOptions, input_shape: tuple[int, int, int], num_classes: int, *, seed: int
    ) -> None:
        super().__init__()
        self.options = options
        self.num_classes = num_classes
        self.plan = plan_supernet(options, input_shape)
        with seeded_weights(seed):
            self.stem = build_stem(self.plan)
            self.cells = nn.ModuleList(SearchCell(cell, options) for cell in self.plan.cells)
            self.classifier = Classifier(self.plan.out_channels, num_classes)

    def num_cells(self, cell_type: CellType) -> int:
        """Number of cells of one type in the stack."""
        return sum(cell.cell_type == cell_type for cell in self.plan.cells)

    def forward(self, images: Tensor, z: Mapping[CellType, Tensor]) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W).

        Args:
            images: normalised images.
            z: architecture weights per cell type, (E, O) for all its cells or (L, E, O) one per cell.
        """
        remaining = {
            cell_type: iter(z_EO.expand(self.num_cells(cell_type), -1, -1) if z_EO.dim() == 2 else z_EO)
            for cell_type, z_EO in z.items()
        }
        before_previous, previous = self.stem(images.contiguous(memory_format=torch.channels_last))
        for plan, cell in zip(self.plan.cells, self.cells, strict=True):
            output = cell(before_previous, previous, next(remaining[plan.cell_type]))
            before_previous, previous = previous, output
        return self.classifier(previous)  # type: ignore[no-any-return]
