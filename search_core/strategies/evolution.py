"""Evolutionary search over codes under hard constraints (SPOS algorithm 1), for any fitness."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from search_core.errors import ConstraintsError
from search_core.space.code_space import Code

#: Tries per wanted child of crossover and mutation, after which random draws fill the generation (authors' release).
_TRIES_PER_CHILD = 10
#: Random draws in a row without a new candidate, after which the space counts as exhausted.
_DRAWS_IN_VAIN = 1_000


class CodeSpace(Protocol):
    """How codes come about; `GenotypeSpace` and `PathSpace` are such spaces."""

    def sample(self, generator: torch.Generator) -> Code:
        """A code drawn uniformly."""

    def mutate(self, code: Code, probability: float, generator: torch.Generator) -> Code:
        """Each choice drawn again with a probability."""

    def cross(self, first: Code, second: Code, generator: torch.Generator) -> Code:
        """Each choice from either parent."""


@dataclass(frozen=True, kw_only=True)
class Evolved:
    """Outcome of an evolution.

    Attributes:
        best: the fittest code; of equal ones the first.
        scores: fitness of every code that was evaluated, in the order of evaluation.
        population: the last generation.
    """

    best: Code
    scores: dict[Code, float]
    population: tuple[Code, ...]


@dataclass(frozen=True, kw_only=True)
class Evolution:
    """Evolutionary architecture search (Guo et al., ECCV 2020, algorithm 1).

    The first generation is random. Each later one has `population // 2` children of two parents each and as many
    mutated children as are missing, all of parents drawn among the `top_k` fittest of all generations. No code is
    evaluated that breaks a constraint or was evaluated before; as in the authors' release, random draws take the place
    of children that cannot be found. A space that has no new codes ends the evolution early.

    Attributes:
        space: how codes come about.
        admits: whether a code keeps the constraints.
        fitness: the greater, the better; called once per code.
        population: codes per generation, at least 2.
        generations: number of generations, the first one included, at least 1.
        top_k: number of parents, at least 1.
        mutation: probability of each choice to be drawn again in a mutated child.
    """

    space: CodeSpace
    admits: Callable[[Code], bool]
    fitness: Callable[[Code], float]
    population: int
    generations: int
    top_k: int
    mutation: float

    def run(self, generator: torch.Generator, first: Sequence[Code] = ()) -> Evolved:
        """Evolve, at most `population * generations` evaluations.

        Args:
            generator: source of all draws.
            first: codes that join the first generation if they keep the constraints.

        Raises:
            ConstraintsError: if no code is found that keeps the constraints.
        """
        scores: dict[Code, float] = {}
        population: tuple[Code, ...] = ()
        for _ in range(self.generations):
            born = self._next_generation(scores, first, generator)
            if not born:
                break
            population = tuple(born)
            scores |= {code: self.fitness(code) for code in population}
        if not scores:
            raise ConstraintsError(f"no candidate in {_DRAWS_IN_VAIN:,} draws keeps the constraints")
        return Evolved(best=self._fittest(scores)[0], scores=scores, population=population)

    def _fittest(self, scores: dict[Code, float]) -> list[Code]:
        return sorted(scores, key=scores.__getitem__, reverse=True)[: self.top_k]  # stable with `reverse` too

    def _next_generation(
        self, scores: dict[Code, float], first: Sequence[Code], generator: torch.Generator
    ) -> list[Code]:
        """New codes that keep the constraints, `population` of them where they can be found."""
        born: dict[Code, None] = {}  # a set in the order of birth

        def breed(draw: Callable[[], Code], most: int, tries: int | None) -> None:
            """Add new children until there are `most`; give up after that many tries or draws without a new one."""
            tried = in_vain = 0
            while len(born) < most and (tried < tries if tries is not None else in_vain < _DRAWS_IN_VAIN):
                code = draw()
                tried, in_vain = tried + 1, in_vain + 1
                if code not in scores and code not in born and self.admits(code):
                    born[code] = None
                    in_vain = 0

        if scores:
            parents = self._fittest(scores)
            num_crossed = self.population // 2
            num_mutated = self.population - num_crossed
            breed(
                lambda: self.space.cross(_pick(parents, generator), _pick(parents, generator), generator),
                num_crossed,
                _TRIES_PER_CHILD * num_crossed,
            )
            breed(
                lambda: self.space.mutate(_pick(parents, generator), self.mutation, generator),
                len(born) + num_mutated,
                _TRIES_PER_CHILD * num_mutated,
            )
        else:
            given = iter(first)
            breed(lambda: next(given), self.population, len(first))
        breed(lambda: self.space.sample(generator), self.population, None)
        return list(born)


def _pick(codes: Sequence[Code], generator: torch.Generator) -> Code:
    return codes[int(torch.randint(len(codes), (), generator=generator, device=generator.device))]
