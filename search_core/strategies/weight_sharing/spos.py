"""SPOS: a supernet trained along uniform single paths, then constrained evolution (Guo et al., ECCV 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from search_core.cost.constraints import ChildLimits
from search_core.cost.counts import NetworkCost
from search_core.network.child import discretised_forward, inherit_child
from search_core.space.code_space import Code
from search_core.space.codes import genotype_space
from search_core.space.frequencies import frequencies
from search_core.space.genotype import CellType, Genotype
from search_core.strategies.base import SearchContext
from search_core.strategies.evolution import Evolution
from search_core.strategies.weight_sharing.options import SposOptions
from search_core.strategies.weight_sharing.path_space import PathLimits, PathSpace
from search_core.strategies.weight_sharing.single_path import SinglePathStrategy


class Spos(SinglePathStrategy):
    """Trains a path drawn uniformly in every step; after the last epoch evolves paths with the weights they share.

    Codes are those of `PathSpace`: with default options those of the genotypes.

    Raises:
        ConstraintsError: if no path keeps the hard limits.
    """

    def __init__(self, options: SposOptions, context: SearchContext) -> None:
        self._options = options
        genotypes = genotype_space(context.supernet.options)
        self.paths = PathSpace(genotypes, context.supernet.plan, options.channels, options.widths)
        self._limits = PathLimits(self.paths, context.limits, options.max_bit_operations)
        self._population: tuple[Code, ...] = ()
        super().__init__(context)

    def sample(self, generator: torch.Generator) -> Code:
        """The path of a step: every option of every choice is as likely (SPOS section 3.2)."""
        return self.paths.sample(generator)

    def sample_within_limits(self, generator: torch.Generator) -> Code:
        """A path drawn uniformly among those that keep the hard limits."""
        return self._limits.sample(generator)

    def admits(self, code: Code) -> bool:
        """Whether a path keeps the hard limits."""
        return self._limits.admits(code)

    def end_epoch(self, generator: torch.Generator) -> None:
        """Evolve after the last epoch; before, let the best so far compete with a few draws, as a preview."""
        if self._settings.is_last:
            self._evolve(generator)
        elif self._options.preview:
            drawn = [self.sample_within_limits(generator) for _ in range(self._options.preview)]
            scores = {code: self._fitness(code, generator) for code in dict.fromkeys((self._best, *drawn))}
            self._best = max(scores, key=scores.__getitem__)

    def scores(self, codes: Sequence[Code], generator: torch.Generator) -> list[float]:
        """Fitness of each genotype with all channels and the most bits, as the evolution judges."""
        return [self._fitness(self.paths.widest(code), generator) for code in codes]

    def probabilities(self) -> dict[CellType, Tensor]:
        """Uniform (E, O) per cell type; after the evolution the frequencies in its last generation."""
        if not self._population:
            return super().probabilities()
        genotypes = [code[: self.space.num_choices] for code in self._population]
        return frequencies(genotypes, self.space, self._device)

    def genotype(self) -> Genotype:
        """Operations of the best path so far."""
        return self.paths.genotype(self._best)

    def child(self) -> nn.Module:
        """The best path so far, with its channels and bits."""
        return self._child_of(self._best)

    def child_cost(self, limits: ChildLimits) -> NetworkCost:
        """Exact counts of the best path, with its channels; bits do not count here."""
        return self._limits.cost(self._best)

    def choices(self) -> dict[str, Any]:
        """`CellChoices` of the best path as plain data, `channels` and `bit_operations`; empty without a choice."""
        choices, channels = self.paths.choices(self._best), self.paths.channels(self._best)
        if choices is None or channels is None:
            return {}
        counts = {"channels": list(channels), "bit_operations": self._limits.bit_operations(self._best)}
        return {**choices.to_dict(), **counts}

    def state_dict(self) -> dict[str, Any]:
        """Theta, its optimiser, the best path and the last generation of the evolution."""
        return {**super().state_dict(), "population": [list(code) for code in self._population]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave for equal options."""
        super().load_state_dict(state)
        self._population = tuple(map(tuple, state["population"]))

    def _evolve(self, generator: torch.Generator) -> None:
        evolution = Evolution(
            space=self.paths,
            admits=self._limits.admits,
            fitness=lambda code: self._fitness(code, generator),
            population=self._options.population,
            generations=self._options.generations,
            top_k=self._options.top_k,
            mutation=self._options.mutation,
        )
        evolved = evolution.run(generator, first=(self._best,))
        self._best, self._population = evolved.best, evolved.population

    def _fitness(self, code: Code, generator: torch.Generator) -> float:
        return self.score(code, generator, num_batches=self._options.batches)

    def _logits(self, code: Code, images: Tensor) -> Tensor:
        return discretised_forward(self.supernet, self.paths.genotype(code), images, self.paths.choices(code))

    def _child_of(self, code: Code) -> nn.Module:
        return inherit_child(self.supernet, self.paths.genotype(code), self.paths.choices(code))
