"""The genotypes of a search space as points: one choice of primitive per edge, `none` included.

Strategies that choose among genotypes draw, change and list them here; a *code* is the tuple of choices of all edges.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from search_core.errors import GenotypeError
from search_core.space.genotype import CELL_TYPES, CellType, Edge, Genotype
from search_core.space.plan import NetworkOptions, cell_edges

if TYPE_CHECKING:
    import torch

#: Index of the chosen primitive of every edge: those of the normal cell in the order of `cell_edges`, then the
#: reduction cell's.
Code = tuple[int, ...]


class GenotypeSpace:
    """All genotypes that a searchable network can become.

    Args:
        options: nodes and primitives.
    """

    def __init__(self, options: NetworkOptions) -> None:
        self.edges, self.primitives = cell_edges(options.nodes), options.primitives
        self._concat = tuple(range(2, options.nodes + 2))

    @property
    def num_choices(self) -> int:
        """Length of a code: the edges of both cells."""
        return len(CELL_TYPES) * len(self.edges)

    @property
    def size(self) -> int:
        """Number of genotypes."""
        return int(len(self.primitives) ** self.num_choices)

    def decode(self, code: Sequence[int]) -> Genotype:
        """The genotype of a code; edges whose choice is `none` are left out."""
        if len(code) != self.num_choices:
            raise GenotypeError(f"a code must have {self.num_choices} choices, got {len(code)}")
        kept: dict[CellType, tuple[Edge, ...]] = {}
        for position, cell_type in enumerate(CELL_TYPES):
            own = code[position * len(self.edges) : (position + 1) * len(self.edges)]
            names = [self.primitives[choice] for choice in own]
            kept[cell_type] = tuple(
                Edge(name, *nodes) for name, nodes in zip(names, self.edges, strict=True) if name != "none"
            )
        return Genotype(kept["normal"], self._concat, kept["reduce"], self._concat)

    def encode(self, genotype: Genotype) -> Code:
        """The code of a genotype of this space; `decode` gives it back with edges in their order.

        Raises:
            GenotypeError: if the genotype lies outside: another edge or primitive, two operations on one edge, an edge
                without operation where the space has no `none`, or another concatenation.
        """
        code: list[int] = []
        for cell_type in CELL_TYPES:
            if genotype.concat(cell_type) != self._concat:
                raise GenotypeError(f"{cell_type}_concat: must be {self._concat}, got {genotype.concat(cell_type)}")
            chosen = {(edge.source, edge.target): edge.primitive for edge in genotype.edges(cell_type)}
            names = [chosen.get(nodes, "none") for nodes in self.edges]
            strange = set(chosen) - set(self.edges) or set(names) - set(self.primitives)
            if strange or len(chosen) != len(genotype.edges(cell_type)):
                raise GenotypeError(f"{cell_type}: must have one operation of the search space per edge, got {chosen}")
            code += [self.primitives.index(name) for name in names]
        return tuple(code)

    def sample(self, generator: torch.Generator) -> Code:
        """A code drawn uniformly: every primitive of every edge is as likely."""
        return tuple(self.draw(generator).tolist())

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """As `sample`, on the generator's device, so that the host need not wait for it."""
        return _integers(len(self.primitives), (self.num_choices,), generator)

    def mutate(self, code: Code, probability: float, generator: torch.Generator) -> Code:
        """Each choice is drawn again with a probability (SPOS algorithm 1); it may come out the same.

        Args:
            code: the parent.
            probability: per choice, in [0, 1].
            generator: source of the draws.
        """
        changed = _fractions(len(code), generator) < probability
        fresh = self.sample(generator)
        return tuple(new if change else old for old, new, change in zip(code, fresh, changed.tolist(), strict=True))

    def mutate_one(self, code: Code, generator: torch.Generator) -> Code:
        """One choice becomes another one (Real et al., AAAI 2019, without their hidden state mutation)."""
        position = int(_integers(len(code), (), generator))
        step = 1 + int(_integers(len(self.primitives) - 1, (), generator))
        return (*code[:position], (code[position] + step) % len(self.primitives), *code[position + 1 :])

    def cross(self, first: Code, second: Code, generator: torch.Generator) -> Code:
        """Each choice comes from either parent, as likely from one as from the other (SPOS algorithm 1)."""
        from_first = _fractions(len(first), generator) < 0.5
        return tuple(a if take else b for a, b, take in zip(first, second, from_first.tolist(), strict=True))

    def all(self) -> Iterator[Code]:
        """Every code, the last choice changing fastest."""
        return itertools.product(range(len(self.primitives)), repeat=self.num_choices)


def _integers(below: int, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Whole numbers drawn uniformly from [0, `below`)."""
    import torch  # not above: a study file is checked without it

    return torch.randint(below, shape, generator=generator, device=generator.device)


def _fractions(count: int, generator: torch.Generator) -> torch.Tensor:
    """Numbers drawn uniformly from [0, 1)."""
    import torch  # not above: a study file is checked without it

    return torch.rand(count, generator=generator, device=generator.device)
