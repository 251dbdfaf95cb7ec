"""How often each operation is chosen among some genotypes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from search_core.space.codes import Code, GenotypeSpace
from search_core.space.genotype import CELL_TYPES, CellType
from search_core.transfer import uploaded


def frequencies(codes: Sequence[Code], space: GenotypeSpace, device: torch.device) -> dict[CellType, Tensor]:
    """How often each operation is chosen in some codes, (E, O) per cell type; rows sum to 1.

    Args:
        codes: at least one.
        space: their search space.
        device: of the result.
    """
    chosen = functional.one_hot(uploaded(torch.tensor(codes), device), len(space.primitives))
    shares = chosen.to(torch.get_default_dtype()).mean(0).unflatten(0, (len(CELL_TYPES), len(space.edges)))
    return dict(zip(CELL_TYPES, shares.unbind(), strict=True))
