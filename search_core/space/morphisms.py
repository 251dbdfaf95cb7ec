"""Changes of one edge after which a child can begin as its parent's function: network morphisms of the cell space."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from search_core.primitives.registry import find
from search_core.space.code_space import Code, GenotypeSpace
from search_core.space.genotype import CELL_TYPES


def keeps_function(before: str, after: str, stride: int) -> bool:
    """Whether weights exist with which `after` on an edge gives what `before` gave there, for all images.

    Two changes have them: an operation where there was none, with its last batch norm at zero, and a larger kernel,
    padded with zeros (Wei et al., ICML 2016). All others do not; docs/strategies.md says why.

    Args:
        before: primitive of the parent, `none` included.
        after: primitive of the child.
        stride: of the edge; a `skip_connect` of stride 1 has no batch norm, and so cannot begin at zero, nor
            is it known of a plug-in's operation that it can.
    """
    if before == "none":
        kind = find(after).kind
        return kind not in ("none", "own") and (kind, stride) != ("skip", 1)
    old, new = find(before), find(after)
    return old.kind == new.kind in ("separable", "dilated") and old.kernel < new.kernel


def morphed_codes(code: Code, space: GenotypeSpace) -> Iterator[Code]:
    """All codes that differ from `code` in one edge whose change keeps the function."""
    edges = [(cell_type, source) for cell_type in CELL_TYPES for source, _ in space.edges]
    for (position, (cell_type, source)), choice in product(enumerate(edges), range(len(space.primitives))):
        stride = 2 if cell_type == "reduce" and source < 2 else 1
        if keeps_function(space.primitives[code[position]], space.primitives[choice], stride):
            yield (*code[:position], choice, *code[position + 1 :])
