from __future__ import annotations

import statistics
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import one_hot

from search_core.cost.constraints import ChildLimits, Constraints
from search_core.cost.penalty import CostTable
from search_core.cost.penalty_options import CostTarget, PenaltyOptions, final_strength
from search_core.cost.penalty_target import EtaSteering, WholeCost
from search_core.data.dataset_options import DatasetOptions
from search_core.errors import OptionsError
from search_core.search.options import SearchOptions
from search_core.search.search import Search
from search_core.search.temperature import TemperatureOptions
from search_core.space.code_space import Code
from search_core.space.codes import genotype_space
from search_core.space.genotype import CELL_TYPES, CellType
from search_core.space.plan import NetworkOptions
from search_core.strategies.optimiser_options import AlphaOptions, ThetaOptions
from tests.search_core.tiny import TINY_SIZE, images_of, seeded

SPACE = genotype_space(TINY_SIZE.network)
LIMITS = ChildLimits(Constraints(), TINY_SIZE)
NUM_OPS = len(TINY_SIZE.network.primitives)


def whole(target: CostTarget) -> WholeCost:
    return WholeCost.of(target, CostTable(TINY_SIZE, dtype=torch.float64), LIMITS, SPACE)


def certain(code: Code) -> dict[CellType, torch.Tensor]:
    """The distribution that has no other child."""
    rows = one_hot(torch.tensor(code), NUM_OPS).double().chunk(2)
    return dict(zip(CELL_TYPES, rows, strict=True))


@pytest.mark.parametrize("kind", ["madds", "params"])
def test_expected_cost_is_that_of_the_child_as_a_whole(kind: str) -> None:
    cost = whole(CostTarget(**{kind: 30_000.0}))
    for code in (SPACE.sample(seeded(seed)) for seed in range(10)):
        genotype = SPACE.decode(code)
        expected = getattr(LIMITS.cost(genotype), kind)
        assert cost.of_child(genotype) == expected
        assert cost.expected(certain(code)) == pytest.approx(expected, rel=1e-12)


def test_target_must_be_one_that_a_child_has() -> None:
    costs = [LIMITS.cost(SPACE.decode([choice] * 10)).madds for choice in range(NUM_OPS)]
    least, most = min(costs), max(costs)  # the operations have one order on all edges
    for fits in (least, most):
        EtaSteering(1e-3, whole(CostTarget(madds=fits)))
    for beyond in (least - 1, most + 1):
        with pytest.raises(OptionsError, match=rf"`penalty.target.madds` must be in \[{least:,}, {most:,}\]"):
            EtaSteering(1e-3, whole(CostTarget(madds=beyond)))


def test_eta_grows_while_the_child_is_too_expensive_and_falls_below_0_while_it_is_too_cheap() -> None:
    dear, cheap = ([choice] * 10 for choice in (NUM_OPS - 1, 0))
    ends = {}
    for name, code in (("dear", dear), ("cheap", cheap)):
        steering = EtaSteering(1e-3, whole(CostTarget(madds=40_000)))
        etas = [steering.eta]
        for _ in range(40):
            steering.update(certain(code), SPACE.decode(code), progress=1.0)
            etas.append(steering.eta)
        assert etas == sorted(etas, reverse=name == "cheap")
        assert etas[0] == 1e-3
        ends[name] = etas[-1]
    assert ends["dear"] == -ends["cheap"] == pytest.approx(81.4, abs=0.1), "it is bounded"


def test_progress_moves_the_error_from_the_expected_cost_to_that_of_the_child() -> None:
    """Each operation as likely costs more than the target, the child that is chosen from them less."""
    even = {cell_type: torch.full((5, NUM_OPS), 1 / NUM_OPS, dtype=torch.float64) for cell_type in CELL_TYPES}
    none = SPACE.decode([0] * 10)
    cost = whole(CostTarget(madds=(LIMITS.cost(none).madds + whole(CostTarget(madds=1)).expected(even)) / 2))
    etas = []
    for progress in (0.0, 0.5, 1.0):
        steering = EtaSteering(1.0, cost)
        steering.update(even, none, progress)
        etas.append(steering.eta)
    assert etas[0] > 1 > etas[2]
    assert etas == sorted(etas, reverse=True)


def test_options_refuse_what_does_not_go_with_a_target() -> None:
    with pytest.raises(OptionsError) as caught:
        PenaltyOptions(target=CostTarget(madds=1e5), strength=0.0, schedule="warmup", warmup_epochs=2)
    assert [name for name, _ in caught.value.faults] == ["strength", "schedule"]
    with pytest.raises(OptionsError, match="must have exactly one of params, madds, latency_ms, got none"):
        CostTarget()
    with pytest.raises(OptionsError, match=r"`madds` must be a finite number above 0, got -1"):
        CostTarget(madds=-1, params=2)


def test_strength_of_a_search_is_the_last_one_where_it_was_steered() -> None:
    fixed, steered = PenaltyOptions(strength=0.1), PenaltyOptions(strength=0.1, target=CostTarget(params=9))
    assert [final_strength(options, {"eta": 3.0}) for options in (fixed, steered)] == [0.1, 3.0]
    assert final_strength(steered, {"eta": -3.0}) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("target", [150_000, 200_000, 250_000])
def test_children_of_digits_meet_the_target_within_10_percent(target: int) -> None:
    """Children of this search cost 100,800 to 310,464 multiply-adds, one operation of the normal cell 11,648 or so.

    What is chosen differs with the rounding of a machine as it does with the seed: of twelve seeds, 33 children of 36
    ended within 10 %, so it is the median of three that is asked for.
    """
    operations = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3")
    options = SearchOptions(
        dataset=DatasetOptions(name="digits", train_images=240, validation_images=60),
        network=NetworkOptions(nodes=3, cells=2, init_channels=8, primitives=operations),
        temperature=TemperatureOptions(end=0.1),
        penalty=PenaltyOptions(target=CostTarget(madds=target)),
        theta=ThetaOptions(lr=0.1),
        alpha=AlphaOptions(lr=0.2),
        epochs=25,
        batch_size=80,
        recalibration_batches=1,
    )
    errors = []
    for seed in range(3):
        *_, last = Search(replace(options, seed=seed), images_of(options.dataset))
        errors.append(abs(last.child_madds / target - 1))
    assert statistics.median(errors) < 0.1
