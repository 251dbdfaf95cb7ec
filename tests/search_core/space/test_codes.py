from __future__ import annotations

from collections import Counter

import pytest

from search_core.errors import GenotypeError
from search_core.space.codes import genotype_space
from search_core.space.genotype import PUBLISHED, Edge, Genotype
from search_core.space.plan import NetworkOptions
from tests.search_core.tiny import FEW_PRIMITIVES, TINY_NETWORK, seeded

SMALL = genotype_space(NetworkOptions(nodes=1, primitives=("none", "skip_connect", "sep_conv_3x3")))


def test_code_names_the_edges_of_the_normal_cell_first() -> None:
    genotype = SMALL.decode((1, 0, 2, 2))
    assert genotype == Genotype(
        (Edge("skip_connect", 0, 2),), (2,), (Edge("sep_conv_3x3", 0, 2), Edge("sep_conv_3x3", 1, 2)), (2,)
    )
    assert SMALL.encode(genotype) == (1, 0, 2, 2)


def test_space_has_every_code_once() -> None:
    codes = list(SMALL.all())
    assert len(codes) == len(set(codes)) == SMALL.size == 3**4
    assert codes[:2] == [(0, 0, 0, 0), (0, 0, 0, 1)]
    assert all(SMALL.encode(SMALL.decode(code)) == code for code in codes)
    assert genotype_space(NetworkOptions()).size == 8**28


def test_order_of_edges_in_a_document_does_not_matter() -> None:
    genotype = SMALL.decode((2, 1, 0, 0))
    turned = Genotype(genotype.normal[::-1], (2,), genotype.reduce, (2,))
    assert SMALL.encode(turned) == (2, 1, 0, 0)


@pytest.mark.parametrize(
    ("genotype", "message"),
    [
        (PUBLISHED["DARTS_V1"], "normal_concat"),
        (Genotype((Edge("max_pool_3x3", 0, 2),), (2,), (), (2,)), "normal: must have one operation of the search"),
        (Genotype((), (2,), (Edge("skip_connect", 0, 2), Edge("sep_conv_3x3", 0, 2)), (2,)), "reduce: must have one"),
    ],
)
def test_genotype_outside_is_refused(genotype: Genotype, message: str) -> None:
    with pytest.raises(GenotypeError, match=message):
        SMALL.encode(genotype)


def test_edge_without_operation_is_refused_where_the_space_has_no_none() -> None:
    space = genotype_space(NetworkOptions(nodes=1, primitives=("skip_connect", "sep_conv_3x3")))
    with pytest.raises(GenotypeError, match="one operation of the search space per edge"):
        space.encode(Genotype((Edge("skip_connect", 0, 2),), (2,), (), (2,)))


def test_code_of_another_length_is_refused() -> None:
    with pytest.raises(GenotypeError, match="a code must have 4 choices, got 3"):
        SMALL.decode((0, 0, 0))


def _chi_square(counts: list[int]) -> float:
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 / expected for count in counts)


def test_samples_are_uniform() -> None:
    """Chi-square of each choice with 3 degrees of freedom; 16.3 is exceeded once in a thousand."""
    space, generator = genotype_space(TINY_NETWORK), seeded(3)
    codes = [space.sample(generator) for _ in range(2000)]
    for position in range(space.num_choices):
        counts = Counter(code[position] for code in codes)
        assert _chi_square([counts[choice] for choice in range(len(FEW_PRIMITIVES))]) < 16.3


def test_one_mutation_changes_one_choice_to_any_other() -> None:
    generator, parent = seeded(), (0, 1, 2, 0)
    children = [SMALL.mutate_one(parent, generator) for _ in range(2000)]
    assert all(sum(a != b for a, b in zip(child, parent, strict=True)) == 1 for child in children)
    counts = Counter(children)
    assert len(counts) == 4 * 2
    assert _chi_square(list(counts.values())) < 24.3  # 7 degrees of freedom, once in a thousand


def test_mutation_draws_each_choice_anew_with_its_probability() -> None:
    generator, parent = seeded(), (0, 1, 2, 0)
    assert SMALL.mutate(parent, 0.0, generator) == parent
    changed = sum(
        a != b for _ in range(2000) for a, b in zip(SMALL.mutate(parent, 0.3, generator), parent, strict=True)
    )
    # 8,000 choices change with 0.3 * 2/3 = 0.2: 1,600 with standard deviation 36.
    assert changed == pytest.approx(1600, abs=4 * 36)


def test_crossing_takes_each_choice_from_either_parent() -> None:
    generator = seeded()
    children = Counter(SMALL.cross((0, 0, 0, 0), (1, 1, 1, 1), generator) for _ in range(3200))
    assert len(children) == 16
    assert _chi_square(list(children.values())) < 37.7  # 15 degrees of freedom, once in a thousand
