"""Paths through a supernet with choice blocks: a genotype, and channels and bits of every cell of the stack."""

from __future__ import annotations

import itertools
import math

import torch

from search_core.cost.constraints import ChildLimits, first_within
from search_core.cost.counts import NetworkCost
from search_core.space.choices import Bits, CellChoices
from search_core.space.code_space import Code, GenotypeSpace
from search_core.space.genotype import Genotype
from search_core.space.plan import StackPlan


class PathSpace:
    """Codes of paths: the genotype's code, then one choice of channels per cell, then one of bits per cell.

    A choice with one option takes no place in the code and no random numbers.

    Args:
        genotypes: space of the genotypes.
        plan: of the supernet.
        channels: shares of a cell's channels to choose from, in (0, 1].
        bits: bit widths to choose from.
    """

    def __init__(
        self, genotypes: GenotypeSpace, plan: StackPlan, channels: tuple[float, ...], bits: tuple[Bits, ...]
    ) -> None:
        self.genotypes, self._plan = genotypes, plan
        self._channels, self._bits = channels, bits
        self._num_options = [len(options) for options in (channels, bits) if len(options) > 1]

    @property
    def size(self) -> int:
        """Number of paths."""
        paths = self.genotypes.size
        for options in self._num_options:
            paths *= options ** len(self._plan.cells)
        return paths

    def genotype(self, code: Code) -> Genotype:
        """The genotype of a path."""
        return self.genotypes.decode(code[: self.genotypes.num_choices])

    def choices(self, code: Code) -> CellChoices | None:
        """Channels and bits of each cell of a path; None if the space has all channels and full precision only."""
        if self._channels == (1.0,) and self._bits == (Bits(),):
            return None
        num_cells, rest = len(self._plan.cells), iter(code[self.genotypes.num_choices :])
        shares = [self._channels[next(rest) if len(self._channels) > 1 else 0] for _ in range(num_cells)]
        bits = [self._bits[next(rest) if len(self._bits) > 1 else 0] for _ in range(num_cells)]
        return CellChoices(tuple(shares), tuple(bits))

    def channels(self, code: Code) -> tuple[int, ...] | None:
        """Channels of each cell of a path; None where the space has no choices."""
        choices = self.choices(code)
        return None if choices is None else choices.channels(self._plan.cells)

    def widest(self, genotype: Code) -> Code:
        """The path of a genotype with the most channels and bits."""
        most = []
        if len(self._channels) > 1:
            most.append(self._channels.index(max(self._channels)))
        if len(self._bits) > 1:
            most.append(self._bits.index(max(self._bits, key=math.prod)))
        return (*genotype, *itertools.chain.from_iterable([choice] * len(self._plan.cells) for choice in most))

    def sample(self, generator: torch.Generator) -> Code:
        """A path drawn uniformly: every option of every choice is as likely."""
        drawn = [self.genotypes.draw(generator), *self._draw_cells(generator)]
        return tuple(torch.cat(drawn).tolist())  # the host waits once

    def mutate(self, code: Code, probability: float, generator: torch.Generator) -> Code:
        """Each choice is drawn again with a probability (SPOS algorithm 1); it may come out the same."""
        split = self.genotypes.num_choices
        head = self.genotypes.mutate(code[:split], probability, generator)
        if not self._num_options:
            return head
        changed = torch.rand(len(code) - split, generator=generator, device=generator.device) < probability
        fresh = torch.cat(self._draw_cells(generator))
        triples = zip(code[split:], fresh.tolist(), changed.tolist(), strict=True)
        return (*head, *(new if change else old for old, new, change in triples))

    def cross(self, first: Code, second: Code, generator: torch.Generator) -> Code:
        """Each choice comes from either parent, as likely from one as from the other (SPOS algorithm 1)."""
        return self.genotypes.cross(first, second, generator)  # it asks nothing of a code but its length

    def _draw_cells(self, generator: torch.Generator) -> list[torch.Tensor]:
        shape = (len(self._plan.cells),)
        return [torch.randint(n, shape, generator=generator, device=generator.device) for n in self._num_options]


class PathLimits:
    """Says what the child of a path costs and whether it keeps the limits.

    Multiply-adds and parameters are those of the narrower child itself. Latency is that of the genotype with all
    channels in full precision, as tables know no others: not less than the child takes.

    Args:
        paths: the paths.
        limits: hard limits of the search.
        max_bit_operations: limit on `ChildLimits.bit_operations`; None for no limit.
    """

    def __init__(self, paths: PathSpace, limits: ChildLimits, max_bit_operations: float | None = None) -> None:
        self._paths, self._limits, self._max_bit_operations = paths, limits, max_bit_operations

    def cost(self, code: Code) -> NetworkCost:
        """Exact counts of the child of a path."""
        return self._limits.cost(self._paths.genotype(code), self._paths.channels(code))

    def bit_operations(self, code: Code) -> int:
        """Multiply-adds times bits of both factors, see `cost.counts.bit_operations`."""
        choices = self._paths.choices(code)
        bits = None if choices is None else choices.bits
        return self._limits.bit_operations(self._paths.genotype(code), self._paths.channels(code), bits)

    def admits(self, code: Code) -> bool:
        """Whether the child of a path keeps every limit."""
        if not self._limits.admits(self._paths.genotype(code), self._paths.channels(code)):
            return False
        return self._max_bit_operations is None or self.bit_operations(code) <= self._max_bit_operations

    def sample(self, generator: torch.Generator) -> Code:
        """A path drawn uniformly among those that keep the limits.

        Raises:
            ConstraintsError: if none of 10,000 draws does.
        """
        maxima = self._limits.maxima
        if self._max_bit_operations is not None:
            maxima = {**maxima, "bit operations": self._max_bit_operations}
        return first_within(maxima, lambda: self._paths.sample(generator), self.admits)
