"""Evolution against fitnesses whose optimum is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch

from search_core.errors import ConstraintsError
from search_core.space.code_space import Code, GenotypeSpace
from search_core.space.codes import genotype_space
from search_core.space.plan import NetworkOptions
from search_core.strategies.evolution import Evolution, Evolved
from tests.search_core.tiny import FEW_PRIMITIVES, seeded

#: 10 choices of 4: a million codes.
WIDE = genotype_space(NetworkOptions(nodes=2, primitives=FEW_PRIMITIVES))
#: 4 choices of 4: 256 codes.
NARROW = genotype_space(NetworkOptions(nodes=1, primitives=FEW_PRIMITIVES))


@dataclass
class Separable:
    """Sum of one gain per choice, so that the optimum is known edge by edge; remembers whom it judged."""

    gains: list[list[float]]
    judged: list[Code] = field(default_factory=list)

    def __call__(self, code: Code) -> float:
        self.judged.append(code)
        return self.value(code)

    def value(self, code: Code) -> float:
        return sum(row[choice] for row, choice in zip(self.gains, code, strict=True))

    @property
    def optimum(self) -> Code:
        return tuple(row.index(max(row)) for row in self.gains)


def separable(space: GenotypeSpace, seed: int) -> Separable:
    shape = (space.num_choices, len(space.primitives))
    return Separable(torch.rand(shape, generator=seeded(seed)).tolist())


def evolve(
    space: GenotypeSpace, fitness: Separable, seed: int, admits: Callable[[Code], bool] = lambda _: True, **changes: int
) -> Evolved:
    settings = {"population": 50, "generations": 20, "top_k": 10, **changes}
    evolution = Evolution(space=space, admits=admits, fitness=fitness, mutation=0.1, **settings)
    return evolution.run(seeded(seed))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.slow
def test_evolution_finds_the_known_optimum_in_a_thousandth_of_the_space(seed: int) -> None:
    fitness = separable(WIDE, seed)
    evolved = evolve(WIDE, fitness, seed)
    assert len(evolved.scores) == 1000
    assert evolved.best == fitness.optimum


@pytest.mark.parametrize("seed", range(4))
def test_evolution_beats_random_search_with_equal_evaluations(seed: int) -> None:
    fitness, generator = separable(WIDE, seed), seeded(100 + seed)
    evolved = evolve(WIDE, fitness, seed, generations=8)
    drawn = [fitness.value(WIDE.sample(generator)) for _ in range(len(evolved.scores))]
    assert evolved.scores[evolved.best] > max(drawn)
    # Not by one lucky child: ten of the last generation are better than all of them.
    assert sorted(map(fitness.value, evolved.population))[-10] > max(drawn)


@pytest.mark.parametrize("seed", range(8))
def test_no_candidate_is_illegal_or_judged_twice(seed: int) -> None:
    fitness = separable(WIDE, seed)

    def admits(code: Code) -> bool:  # the weights of a budget that only some codes keep
        return sum(code) <= 12

    evolved = evolve(WIDE, fitness, seed, admits, generations=6)
    assert len(fitness.judged) == len(set(fitness.judged)) == 300
    assert all(map(admits, fitness.judged))
    assert list(evolved.scores) == fitness.judged
    assert evolved.population == tuple(fitness.judged[-50:])
    assert evolved.scores[evolved.best] == max(evolved.scores.values())


@pytest.mark.parametrize("seed", range(4))
def test_optimum_under_constraints_is_that_of_all_legal_codes(seed: int) -> None:
    fitness = separable(NARROW, seed)

    def admits(code: Code) -> bool:
        return sum(code) <= 4

    legal = [code for code in NARROW.all() if admits(code)]
    evolved = evolve(NARROW, fitness, seed, admits, population=10, generations=6, top_k=5)
    assert len(evolved.scores) == 60 < len(legal)
    assert evolved.best == max(legal, key=fitness.value)


@pytest.mark.parametrize("seed", range(4))
def test_space_smaller_than_the_population_is_exhausted_without_a_hang(seed: int) -> None:
    fitness = separable(NARROW, seed)
    legal = {code for code in NARROW.all() if sum(code) <= 2}
    evolved = evolve(NARROW, fitness, seed, lambda code: code in legal)
    # Each of 1,000 draws without a new one meets a missing code with 1/256, so one is overlooked about once in fifty.
    assert set(evolved.scores) == legal
    assert len(fitness.judged) == len(legal) == 15
    assert evolved.population == tuple(evolved.scores)
    assert evolved.best == max(legal, key=fitness.value)


def test_nothing_legal_is_an_error() -> None:
    with pytest.raises(ConstraintsError, match="no candidate in 1,000 draws keeps the constraints"):
        evolve(NARROW, separable(NARROW, 0), 0, lambda _: False)


def test_given_codes_open_the_first_generation_if_they_are_legal() -> None:
    fitness = separable(NARROW, 0)
    evolution = Evolution(
        space=NARROW,
        admits=lambda code: code[0] != 3,
        fitness=fitness,
        population=4,
        generations=1,
        top_k=2,
        mutation=1,
    )
    evolved = evolution.run(seeded(), first=((3, 0, 0, 0), (1, 2, 3, 0), (1, 2, 3, 0)))
    assert evolved.population[0] == (1, 2, 3, 0)
    assert len(set(evolved.population)) == 4
    assert (3, 0, 0, 0) not in evolved.scores


@dataclass
class Spy:
    """A space that remembers how each child came about."""

    space: GenotypeSpace
    births: dict[Code, tuple[str, tuple[Code, ...]]] = field(default_factory=dict)
    probabilities: set[float] = field(default_factory=set)

    def sample(self, generator: torch.Generator) -> Code:
        return self._born("drawn", self.space.sample(generator))

    def mutate(self, code: Code, probability: float, generator: torch.Generator) -> Code:
        self.probabilities.add(probability)
        return self._born("mutated", self.space.mutate(code, probability, generator), code)

    def cross(self, first: Code, second: Code, generator: torch.Generator) -> Code:
        return self._born("crossed", self.space.cross(first, second, generator), first, second)

    def _born(self, how: str, code: Code, *parents: Code) -> Code:
        self.births.setdefault(code, (how, parents))
        return code


def test_later_generations_are_half_crossed_half_mutated_from_the_fittest() -> None:
    spy, fitness = Spy(WIDE), separable(WIDE, 3)
    evolution = Evolution(
        space=spy, admits=lambda _: True, fitness=fitness, population=9, generations=3, top_k=5, mutation=0.2
    )
    evolution.run(seeded(5))
    generations = _batched(fitness)
    assert [spy.births[code][0] for code in generations[0]] == ["drawn"] * 9
    assert spy.probabilities == {0.2}
    for number, generation in enumerate(generations[1:], 1):
        assert [spy.births[code][0] for code in generation] == ["crossed"] * 4 + ["mutated"] * 5
        before = sorted(fitness.judged[: 9 * number], key=fitness.value, reverse=True)[:5]
        for code in generation:
            assert set(spy.births[code][1]) <= set(before)


def _batched(fitness: Separable) -> list[tuple[Code, ...]]:
    return [tuple(fitness.judged[start : start + 9]) for start in range(0, len(fitness.judged), 9)]


def test_same_seed_evolves_the_same() -> None:
    runs = [evolve(WIDE, separable(WIDE, 1), 4, generations=3) for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0].scores.keys() != evolve(WIDE, separable(WIDE, 1), 5, generations=3).scores.keys()
