from __future__ import annotations

import pytest

from search_core.cost.constraints import ChildLimits, Constraints, Limit
from search_core.cost.counts import child_cost
from search_core.errors import ConstraintsError, OptionsError
from search_core.space.codes import genotype_space
from tests.search_core.tiny import TINY_NETWORK, TINY_SIZE, seeded

SPACE = genotype_space(TINY_NETWORK)
HEAVY, LIGHT = SPACE.decode((3,) * SPACE.num_choices), SPACE.decode((0,) * SPACE.num_choices)


def limits(**maxima: float) -> ChildLimits:
    constraints = Constraints(**{name: Limit(max=most) for name, most in maxima.items()})
    return ChildLimits(constraints, TINY_SIZE, lambda genotype: float(len(genotype.normal)))


def test_cost_is_that_of_the_child_at_the_size_of_the_search() -> None:
    assert limits().cost(HEAVY) == child_cost(HEAVY, TINY_SIZE)


def test_without_constraints_everything_is_admitted() -> None:
    assert limits().admits(HEAVY)
    assert limits().excesses(HEAVY) == {}


def test_excess_is_a_share_of_the_limit() -> None:
    cost = limits().cost(HEAVY)
    found = limits(madds=cost.madds / 2, params=cost.params, latency_ms=2.0).excesses(HEAVY)
    assert found == {"madds": pytest.approx(1.0), "latency_ms": pytest.approx(1.5)}  # 5 edges are 5 ms here


def test_limit_itself_is_admitted() -> None:
    cost = limits().cost(HEAVY)
    assert limits(madds=cost.madds).admits(HEAVY)
    assert not limits(madds=cost.madds - 1).admits(HEAVY)


def test_samples_keep_the_limits() -> None:
    tight = limits(params=limits().cost(LIGHT).params + 100)
    generator = seeded()
    assert all(tight.admits(SPACE.decode(tight.sample(SPACE, generator))) for _ in range(20))
    assert not all(tight.admits(SPACE.decode(SPACE.sample(generator))) for _ in range(20))


@pytest.mark.slow
def test_limits_that_nothing_keeps_are_reported_by_name() -> None:
    with pytest.raises(ConstraintsError, match="at most madds 5, params 3"):
        limits(params=3, madds=5).sample(SPACE, seeded())


@pytest.mark.parametrize("most", [0.0, -1.0, float("inf"), float("nan")])
def test_limit_out_of_range_is_refused(most: float) -> None:
    with pytest.raises(OptionsError, match="`max` must be a finite number above 0"):
        Limit(max=most)
