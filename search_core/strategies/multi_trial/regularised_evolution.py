"""Regularised evolution: tournaments in a population whose oldest member dies (Real et al., AAAI 2019)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from search_core.cost.constraints import ChildLimits
from search_core.errors import ConstraintsError
from search_core.space.code_space import Code, GenotypeSpace
from search_core.space.frequencies import frequencies
from search_core.space.genotype import CellType
from search_core.space.morphisms import morphed_codes
from search_core.strategies.multi_trial.options import RegularisedEvolutionOptions
from search_core.strategies.multi_trial.scored import ScoredProposer


class RegularisedEvolution(ScoredProposer):
    """Proposes mutated winners of tournaments.

    The population is ordered by the time at which its members' scores came in. A child whose training failed never
    joins it. Until the first P children are scored nothing else is proposed: the algorithm fills its population first.
    """

    def __init__(
        self, options: RegularisedEvolutionOptions, space: GenotypeSpace, limits: ChildLimits, seed: int
    ) -> None:
        super().__init__(space, limits, seed)
        self._options = options
        self.population: list[int] = []  # numbers of proposals, oldest first

    def propose(self) -> tuple[Code, int | None] | None:
        """As `ScoredProposer.propose`."""
        if len(self.codes) < self._options.population:
            return self.limits.sample(self.space, self.generator), None
        if any(number not in self.scores for number in range(self._options.population)):
            return None
        if not self.population:  # all failed
            return self.limits.sample(self.space, self.generator), None
        drawn = torch.randint(len(self.population), (self._options.sample,), generator=self.generator)
        parent = max((self.population[index] for index in drawn.tolist()), key=lambda number: self.scores[number])
        return self._mutated(self.codes[parent]), parent

    def learn(self, number: int, score: float) -> None:
        """The newest joins, the oldest dies."""
        if math.isfinite(score):
            self.population = [*self.population, number][-self._options.population :]

    def may_be_parent(self, number: int) -> bool:
        """Whether it is alive."""
        return number in self.population

    def probabilities(self) -> dict[CellType, Tensor]:
        """Shares (E, O) of the operations in the population; uniform while it is empty."""
        if not self.population:
            return super().probabilities()
        return frequencies([self.codes[number] for number in self.population], self.space, torch.device("cpu"))

    def state_dict(self) -> dict[str, Any]:
        """As `Proposer.state_dict`."""
        return {**super().state_dict(), "population": list(self.population)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `Proposer.load_state_dict`."""
        super().load_state_dict(state)
        self.population = list(state["population"])

    def _mutated(self, code: Code) -> Code:
        """A neighbour within the limits; where there is none, a random code."""
        if self._options.mutation == "morphism":
            morphed = list(morphed_codes(code, self.space))
            shuffled: list[int] = torch.randperm(len(morphed), generator=self.generator).tolist()
            for index in shuffled:
                if self.limits.admits(self.space.decode(morphed[index])):
                    return morphed[index]
        try:
            return self.limits.draw(self.space, lambda: self.space.mutate_one(code, self.generator))
        except ConstraintsError:
            return self.limits.sample(self.space, self.generator)
