"""How often each operation is chosen among some genotypes, or among all.

Shape suffixes: N genotypes, E edges, O operations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from search_core.space.chain_space import ChainSpace
from search_core.space.code_space import Code, GenotypeSpace
from search_core.space.codes import EdgeSpace
from search_core.space.genotype import CELL_TYPES, CellType
from search_core.transfer import uploaded


def frequencies(codes: Sequence[Code], space: GenotypeSpace, device: torch.device) -> dict[CellType, Tensor]:
    """How often each operation is chosen in some codes, (E, O) per cell type; rows sum to 1.

    But in `EdgeSpace` `none` stands for an edge that there is not, and two operations on one edge are half each.

    Args:
        codes: at least one.
        space: their search space.
        device: of the result.
    """
    counts = _counts(codes, space, device)
    return dict(zip(CELL_TYPES, (counts / counts.sum(-1, keepdim=True)).mean(1).unbind(), strict=True))


def operation_counts(code: Code, space: GenotypeSpace, device: torch.device) -> dict[CellType, Tensor]:
    """How many of each operation a code has, (E, O) per cell type: up to two on an edge in a block space.

    Args:
        code: the genotype.
        space: its search space.
        device: of the result.
    """
    return dict(zip(CELL_TYPES, _counts([code], space, device).squeeze(1).unbind(), strict=True))


def _counts(codes: Sequence[Code], space: GenotypeSpace, device: torch.device) -> Tensor:
    """The same of several codes, cell types first: (2, N, E, O)."""
    num_edges, num_operations = len(space.edges), len(space.primitives)
    if isinstance(space, EdgeSpace):
        chosen = functional.one_hot(uploaded(torch.tensor(codes), device), num_operations)
        one_hot: Tensor = chosen.to(torch.get_default_dtype()).unflatten(1, (len(CELL_TYPES), num_edges))
        return one_hot.transpose(0, 1)
    rows = {edge: row for row, edge in enumerate(space.edges)}
    counts = torch.zeros(len(CELL_TYPES), len(codes), num_edges, num_operations)
    for number, genotype in enumerate(map(space.decode, codes)):
        for place, cell_type in enumerate(CELL_TYPES):
            for primitive, source, target in genotype.edges(cell_type):
                counts[place, number, rows[source, target], space.primitives.index(primitive)] += 1
    counts[..., space.primitives.index("none")] = (counts.sum(-1) == 0).to(counts)
    return uploaded(counts, device)


def uniform_frequencies(space: GenotypeSpace, device: torch.device) -> dict[CellType, Tensor]:
    """The same over the whole space, all codes being as likely.

    Args:
        space: the search space.
        device: of the result.
    """
    num_operations = len(space.primitives)
    if isinstance(space, ChainSpace):
        return _uniform_chains(space, device)
    share_EO = torch.full((len(space.edges), num_operations), 1 / num_operations, device=device)
    if not isinstance(space, EdgeSpace):
        none = space.primitives.index("none")
        targets_E = torch.tensor([target for _, target in space.edges], device=device)
        absent_E = (1 - 1 / targets_E) ** 2  # neither input of the target is the source
        share_EO = ((1 - absent_E) / (num_operations - 1)).unsqueeze(1).repeat(1, num_operations)
        share_EO[:, none] = absent_E
    return {cell_type: share_EO.clone() for cell_type in CELL_TYPES}


def _uniform_chains(space: ChainSpace, device: torch.device) -> dict[CellType, Tensor]:
    """Each layer reads each earlier one with 1/2, or else the image, by any kernel; there is no reduction cell."""
    # Node 1 is nobody's, and layer t has t earlier ones.
    chances = [0.5 if source >= 2 else 0.5 ** (target - 2) * (source == 0) for source, target in space.edges]
    present_E1 = torch.tensor(chances, device=device).unsqueeze(1)
    num_kernels = len(space.primitives) - 1
    normal_EO = torch.cat([1 - present_E1, present_E1.expand(-1, num_kernels) / num_kernels], 1)
    reduce_EO = functional.one_hot(torch.zeros(len(chances), dtype=torch.long, device=device), num_kernels + 1)
    return {"normal": normal_EO, "reduce": reduce_EO.to(normal_EO)}
