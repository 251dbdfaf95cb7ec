"""Hard limits on the child network: the genotypes that a search may choose (SPOS section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from search_core.cost.counts import NetworkCost, bit_operations, child_cost
from search_core.errors import ConstraintsError, require
from search_core.space.code_space import Code, GenotypeSpace
from search_core.space.genotype import Genotype
from search_core.space.plan import NetworkSize, plan_child

if TYPE_CHECKING:
    import torch

#: Draws after which the search for a genotype within the limits is given up.
_MOST_DRAWS = 10_000


@dataclass(frozen=True, kw_only=True)
class Limit:
    """The most that a child may cost.

    Attributes:
        max: above 0, in the unit of the constraint.

    Raises:
        OptionsError: if it is out of range.
    """

    max: float

    def __post_init__(self) -> None:
        require(("max", self.max > 0 and math.isfinite(self.max), f"must be a finite number above 0, got {self.max}"))


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """Hard limits on the child at the size of the search; strategies that choose genotypes never leave them.

    Strategies whose child follows from a distribution (`snas`, `dsnas`, `darts`) are free to: there the study's sampler
    learns which trials broke a limit, and such trials are neither on the front nor retrained.

    Attributes:
        madds: multiply-adds of one image.
        params: parameters.
        latency_ms: milliseconds by `latency.table`.
    """

    madds: Limit | None = None
    params: Limit | None = None
    latency_ms: Limit | None = None

    @property
    def maxima(self) -> dict[str, float]:
        """The limits that are set, by name."""
        return {entry.name: limit.max for entry in fields(self) if (limit := getattr(self, entry.name)) is not None}


class ChildLimits:
    """Says what a child costs and whether it keeps the limits.

    Args:
        constraints: the limits.
        size: of the search, which the children have too.
        latency: milliseconds of a child; needed for `latency_ms` only.
    """

    def __init__(
        self, constraints: Constraints, size: NetworkSize, latency: Callable[[Genotype], float] | None = None
    ) -> None:
        self.maxima, self._size, self.latency = constraints.maxima, size, latency

    def cost(self, genotype: Genotype, cell_channels: Sequence[int] | None = None) -> NetworkCost:
        """Exact counts of the child at the size of the search, or with other channels of each cell."""
        return child_cost(genotype, self._size, cell_channels=cell_channels)

    def bit_operations(
        self,
        genotype: Genotype,
        cell_channels: Sequence[int] | None = None,
        bits: Sequence[tuple[int, int]] | None = None,
    ) -> int:
        """Multiply-adds of the child times bits of both factors, see `counts.bit_operations`; default: 32 bits."""
        plan = plan_child(genotype, self._size, cell_channels)
        return bit_operations(genotype, plan, ((32, 32),) * len(plan.cells) if bits is None else bits)

    def excesses(self, genotype: Genotype, cell_channels: Sequence[int] | None = None) -> dict[str, float]:
        """By how much a child is above each limit, as a share of the limit; none that it keeps are listed.

        Args:
            genotype: of the child.
            cell_channels: as for `cost`; latency is always that of all channels.
        """
        if not self.maxima:
            return {}
        cost = self.cost(genotype, cell_channels)
        amounts: dict[str, float] = {"madds": cost.madds, "params": cost.params}
        if "latency_ms" in self.maxima:
            assert self.latency is not None, "a limit on latency needs a table"
            amounts["latency_ms"] = self.latency(genotype)
        return {name: amounts[name] / most - 1 for name, most in self.maxima.items() if amounts[name] > most}

    def admits(self, genotype: Genotype, cell_channels: Sequence[int] | None = None) -> bool:
        """Whether a child keeps every limit; arguments as for `excesses`."""
        return not self.excesses(genotype, cell_channels)

    def draw(self, space: GenotypeSpace, draw: Callable[[], Code]) -> Code:
        """The first of some draws that keeps the limits.

        Args:
            space: decodes them.
            draw: gives one.

        Raises:
            ConstraintsError: if none of 10,000 does.
        """
        return first_within(self.maxima, draw, lambda code: self.admits(space.decode(code)))

    def sample(self, space: GenotypeSpace, generator: torch.Generator) -> Code:
        """A code drawn uniformly among those that keep the limits.

        Raises:
            ConstraintsError: as `draw`.
        """
        return self.draw(space, lambda: space.sample(generator))


def first_within(maxima: Mapping[str, float], draw: Callable[[], Code], admits: Callable[[Code], bool]) -> Code:
    """The first of some draws that keeps limits.

    Args:
        maxima: the limits by name, for the message.
        draw: gives a code.
        admits: whether a code keeps them.

    Raises:
        ConstraintsError: if none of 10,000 does.
    """
    for _ in range(_MOST_DRAWS):
        code = draw()
        if admits(code):
            return code
    limits = ", ".join(f"{name} {most:g}" for name, most in maxima.items())
    raise ConstraintsError(f"no genotype in {_MOST_DRAWS:,} draws keeps the constraints: at most {limits}")
