"""What all search spaces are: genotypes as codes that are drawn, changed, crossed and listed."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from search_core.errors import GenotypeError
from search_core.space.genotype import CELL_TYPES, CellType, Edge, Genotype
from search_core.space.plan import NetworkOptions, cell_edges

if TYPE_CHECKING:
    import torch

#: Index of the chosen option of every choice: those of the normal cell, then the reduction cell's; or layer by layer.
Code = tuple[int, ...]


class GenotypeSpace(ABC):
    """All genotypes that a search may choose.

    Args:
        network: nodes and primitives.
        options: number of options of every choice.

    Attributes:
        edges: all that a cell may have, in the order of `cell_edges`; reports have a row for each.
        primitives: candidate operations; reports have a column for each.
        options: number of options of every choice.
    """

    def __init__(self, network: NetworkOptions, options: Sequence[int]) -> None:
        self.edges, self.primitives = cell_edges(network.nodes), network.operations
        self.options = tuple(options)

    @property
    def num_choices(self) -> int:
        """Length of a code."""
        return len(self.options)

    @property
    def size(self) -> int:
        """Number of codes."""
        return math.prod(self.options)

    @abstractmethod
    def decode(self, code: Sequence[int]) -> Genotype:
        """The genotype of a code.

        Raises:
            GenotypeError: if the code has another length.
        """

    @abstractmethod
    def encode(self, genotype: Genotype) -> Code:
        """A code of a genotype of this space, which `decode` gives back.

        Raises:
            GenotypeError: if the genotype lies outside.
        """

    def sample(self, generator: torch.Generator) -> Code:
        """A code drawn uniformly: every option of every choice is as likely."""
        return tuple(self.draw(generator).tolist())

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """As `sample`, on the generator's device, so that the host need not wait for it."""
        return _integers(self.options, generator)

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
        """One choice becomes another one (Real et al., AAAI 2019: of an input or of an operation)."""
        position = int(_integers((len(code),), generator))
        num_options = self.options[position]
        step = int(_integers((num_options - 1,), generator))
        return (*code[:position], (code[position] + 1 + step) % num_options, *code[position + 1 :])

    def cross(self, first: Code, second: Code, generator: torch.Generator) -> Code:
        """Each choice comes from either parent, as likely from one as from the other (SPOS algorithm 1)."""
        from_first = _fractions(len(first), generator) < 0.5
        return tuple(a if take else b for a, b, take in zip(first, second, from_first.tolist(), strict=True))

    def all(self) -> Iterator[Code]:
        """Every code, the last choice changing fastest."""
        return itertools.product(*map(range, self.options))


class CellSpace(GenotypeSpace):
    """A space of two cells, which have the same choices.

    Args:
        network: nodes and primitives.
        options: number of options of each choice in one cell.
    """

    def __init__(self, network: NetworkOptions, options: Sequence[int]) -> None:
        super().__init__(network, len(CELL_TYPES) * tuple(options))

    def decode(self, code: Sequence[int]) -> Genotype:
        """As `GenotypeSpace.decode`."""
        if len(code) != self.num_choices:
            raise GenotypeError(f"a code must have {self.num_choices} choices, got {len(code)}")
        half = self.num_choices // len(CELL_TYPES)
        return self._decode({"normal": code[:half], "reduce": code[half:]})

    def encode(self, genotype: Genotype) -> Code:
        """As `GenotypeSpace.encode`."""
        return tuple(itertools.chain.from_iterable(self._encode(genotype, cell_type) for cell_type in CELL_TYPES))

    @abstractmethod
    def _decode(self, choices: Mapping[CellType, Sequence[int]]) -> Genotype:
        """The genotype of the choices in both cells."""

    @abstractmethod
    def _encode(self, genotype: Genotype, cell_type: CellType) -> Sequence[int]:
        """The choices of one cell."""

    @abstractmethod
    def heaviest(self, weights_EO: Mapping[CellType, torch.Tensor]) -> Code:
        """The code whose operations weigh most.

        Args:
            weights_EO: of every operation on every edge, per cell type.
        """


def loose_ends(edges: Sequence[Edge], nodes: Sequence[int]) -> tuple[int, ...]:
    """Nodes that no other reads, at least the last one."""
    read = {edge.source for edge in edges}
    return tuple(node for node in nodes if node not in read)


def _integers(below: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Whole numbers, each drawn uniformly from [0, its bound)."""
    import torch  # not above: a study file is checked without it

    from search_core.transfer import uploaded

    # A draw below a common multiple leaves every remainder as often as any other.
    drawn = torch.randint(math.lcm(*below), (len(below),), generator=generator, device=generator.device)
    return drawn if len(set(below)) == 1 else drawn % uploaded(torch.tensor(below), generator.device)


def _fractions(count: int, generator: torch.Generator) -> torch.Tensor:
    """Numbers drawn uniformly from [0, 1)."""
    import torch  # not above: a study file is checked without it

    return torch.rand(count, generator=generator, device=generator.device)
