"""Hard limits on the child network: the genotypes that a search may choose (SPOS section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch

from search_core.cell import NetworkOptions
from search_core.cost import NetworkCost, child_cost
from search_core.errors import ConstraintsError, require
from search_core.genotype import Genotype
from search_core.genotype_space import Code, GenotypeSpace

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
        network: the searchable network, whose size the children have.
        input_shape: channels, height, width of an image.
        num_classes: number of logits.
        latency: milliseconds of a child; needed for `latency_ms` only.
    """

    def __init__(
        self,
        constraints: Constraints,
        network: NetworkOptions,
        input_shape: tuple[int, int, int],
        num_classes: int,
        latency: Callable[[Genotype], float] | None = None,
    ) -> None:
        self._maxima, self._network = constraints.maxima, network
        self._input_shape, self._num_classes = input_shape, num_classes
        self.latency = latency

    def cost(self, genotype: Genotype) -> NetworkCost:
        """Exact counts of the child at the size of the search."""
        return child_cost(
            genotype,
            cells=self._network.cells,
            init_channels=self._network.init_channels,
            stem=self._network.stem,
            input_shape=self._input_shape,
            num_classes=self._num_classes,
        )

    def excesses(self, genotype: Genotype) -> dict[str, float]:
        """By how much a child is above each limit, as a share of the limit; none that it keeps are listed."""
        if not self._maxima:
            return {}
        cost = self.cost(genotype)
        amounts: dict[str, float] = {"madds": cost.madds, "params": cost.params}
        if "latency_ms" in self._maxima:
            assert self.latency is not None, "a limit on latency needs a table"
            amounts["latency_ms"] = self.latency(genotype)
        return {name: amounts[name] / most - 1 for name, most in self._maxima.items() if amounts[name] > most}

    def admits(self, genotype: Genotype) -> bool:
        """Whether a child keeps every limit."""
        return not self.excesses(genotype)

    def draw(self, space: GenotypeSpace, draw: Callable[[], Code]) -> Code:
        """The first of some draws that keeps the limits.

        Args:
            space: decodes them.
            draw: gives one.

        Raises:
            ConstraintsError: if none of 10,000 does.
        """
        for _ in range(_MOST_DRAWS):
            code = draw()
            if self.admits(space.decode(code)):
                return code
        limits = ", ".join(f"{name} {most:g}" for name, most in self._maxima.items())
        raise ConstraintsError(f"no genotype in {_MOST_DRAWS:,} draws keeps the constraints: at most {limits}")

    def sample(self, space: GenotypeSpace, generator: torch.Generator) -> Code:
        """A code drawn uniformly among those that keep the limits.

        Raises:
            ConstraintsError: as `draw`.
        """
        return self.draw(space, lambda: space.sample(generator))
