"""Rules of collapse, on reports of real searches and on made-up ones."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest

from search_core.cost.penalty_options import PenaltyOptions
from search_core.errors import OptionsError
from search_core.search.collapse import StopOptions, collapse_reason
from search_core.search.search import Search
from search_core.strategies.optimiser_options import AlphaOptions
from tests.search_core.tiny import CPU, images_of, tiny_options

NEVER = StopOptions(none_edges=False)
#: Probabilities of four primitives.
SURE, UNSURE = (0.97, 0.01, 0.01, 0.01), (0.4, 0.3, 0.2, 0.1)


def record(
    epoch: int, primitives: Sequence[str] = (), row: Sequence[float] = SURE, entropy: float | None = None
) -> dict[str, Any]:
    """A report of two cells of two edges each, all with the same probabilities; the kept edges are shared out."""
    edges = [[primitive, 0, 2 + index // 2] for index, primitive in enumerate(primitives)]
    nats = -sum(p * math.log(p) for p in row) if entropy is None else entropy * math.log(len(row))
    cell = {"probabilities": [list(row)] * 2, "entropy": [nats] * 2}
    genotype = {"normal": edges[::2], "reduce": edges[1::2]}
    return {"epoch": epoch, "genotype": genotype, "cells": {"normal": cell, "reduce": cell}}


def test_search_that_a_penalty_empties_is_stopped_and_says_when() -> None:
    # Elements moved are the one cost that skip_connect has too.
    penalty = PenaltyOptions(strength=1000.0, cost="memory_access", estimator="expected")
    strong = tiny_options(epochs=8, penalty=penalty, alpha=AlphaOptions(lr=0.5))
    history = [json.loads(json.dumps(report.to_dict())) for report in Search(strong, images_of(), CPU)]
    options = StopOptions(patience=2, grace_period=1)
    empty = [entry["epoch"] for entry in history if not entry["genotype"]["normal"] + entry["genotype"]["reduce"]]
    assert set(range(2, 8)) <= set(empty), "the penalty must have emptied both cells"
    reasons = [collapse_reason(options, history[: epoch + 1], 8) for epoch in range(8)]
    first = next(epoch for epoch, reason in enumerate(reasons) if reason)
    assert reasons[first] == f"every edge chose `none` in epochs {first} to {first + 1}"
    assert reasons[-1] is None, "a search that is over needs no stop"


def test_search_without_a_penalty_continues_under_the_default_rules() -> None:
    mild = tiny_options(epochs=3, penalty=PenaltyOptions(strength=0.0))
    history = [report.to_dict() for report in Search(mild, images_of(), CPU)]
    assert collapse_reason(StopOptions(patience=1, grace_period=0), history, 100) is None


def test_defaults_leave_all_rules_but_empty_cells_off() -> None:
    options = StopOptions()
    assert options.none_edges
    skips = [record(epoch, ["skip_connect"] * 4, entropy=1.0) for epoch in range(99)]
    assert collapse_reason(options, skips, 100) is None
    nothing = [record(epoch) for epoch in range(10)]
    assert collapse_reason(options, nothing[:9], 100) is None, "the grace period does not count"
    assert collapse_reason(options, nothing, 100) == "every edge chose `none` in epochs 6 to 10"
    assert collapse_reason(NEVER, nothing, 100) is None


def test_empty_cells_must_be_consecutive() -> None:
    options = StopOptions(patience=3, grace_period=0)
    history = [record(0), record(1, ["max_pool_3x3"]), record(2), record(3)]
    assert collapse_reason(options, history, 20) is None
    assert collapse_reason(options, [*history, record(4)], 20) == "every edge chose `none` in epochs 3 to 5"


def test_empty_cells_of_an_undecided_search_may_still_fill() -> None:
    options = StopOptions(patience=1, grace_period=0)
    assert collapse_reason(options, [record(0, row=UNSURE)], 20) is None
    assert collapse_reason(options, [record(0, row=SURE)], 20) == "every edge chose `none` in epoch 1"


def test_skip_share_counts_the_kept_edges_of_both_cells() -> None:
    options = StopOptions(skip_share=0.5, patience=1, grace_period=0)
    half = record(7, ["skip_connect", "skip_connect", "sep_conv_3x3", "max_pool_3x3"])
    more = record(7, ["skip_connect", "skip_connect", "skip_connect", "max_pool_3x3"])
    assert collapse_reason(options, [half], 20) is None, "the share must be above the threshold"
    assert collapse_reason(options, [more], 20) == (
        "`skip_connect` took 75% or more of the kept edges in epoch 8, above `stop.skip_share` 0.5"
    )
    assert collapse_reason(NEVER, [more], 20) is None


def test_skip_share_must_hold_in_consecutive_epochs() -> None:
    options = StopOptions(skip_share=0.5, patience=2, grace_period=0)
    all_skips, half = ["skip_connect"], ["skip_connect", "max_pool_3x3"]
    assert collapse_reason(options, [record(0, half), record(1, all_skips)], 20) is None
    reason = collapse_reason(options, [record(1, all_skips), record(2, all_skips)], 20)
    assert reason is not None
    assert "100% or more of the kept edges in epochs 2 to 3" in reason


def test_skip_share_of_empty_cells_is_none() -> None:
    options = StopOptions(none_edges=False, skip_share=0.0, patience=1, grace_period=0)
    assert collapse_reason(options, [record(3)], 20) is None


def test_entropy_that_stalls_in_the_last_quarter_stops_the_search() -> None:
    options = StopOptions(stalled_entropy=0.8, patience=3, grace_period=0)
    flat = [record(epoch, ["max_pool_3x3"], entropy=0.9) for epoch in range(20)]
    assert collapse_reason(options, flat[:15], 20) is None, "annealing is not near its end"
    assert collapse_reason(options, flat[:16], 20) == (
        "the entropy of an edge stalled at 90.0% of its maximum in epochs 14 to 16 of 16, "
        "above `stop.stalled_entropy` 0.8"
    )
    low = [record(epoch, ["max_pool_3x3"], entropy=0.7) for epoch in range(16)]
    assert collapse_reason(options, low, 20) is None


@pytest.mark.parametrize(("fall", "stops"), [(0.0, True), (0.002, True), (0.004, False), (-0.001, True)])
def test_entropy_that_still_falls_is_left_alone(fall: float, stops: bool) -> None:
    """Over the three epochs of patience the least fall is 1 % of the maximum."""
    options = StopOptions(stalled_entropy=0.5, patience=3, grace_period=0)
    history = [record(epoch, ["max_pool_3x3"], entropy=0.9 - fall * epoch) for epoch in range(18)]
    assert (collapse_reason(options, history, 20) is not None) == stops


def test_a_tail_of_the_history_gives_the_same_reason() -> None:
    options = StopOptions(stalled_entropy=0.5, skip_share=0.9, patience=4, grace_period=2)
    history = [record(epoch, ["max_pool_3x3"], entropy=0.9) for epoch in range(90)]
    reason = collapse_reason(options, history, 100)
    assert reason is not None
    assert collapse_reason(options, history[-5:], 100) == reason


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"skip_share": 1.5}, r"`skip_share` must be in \[0, 1\], where 1 means never, got 1.5"),
        ({"stalled_entropy": math.nan}, r"`stalled_entropy` must be in \[0, 1\]"),
        ({"patience": 0}, "`patience` must be at least 1 epoch, got 0"),
        ({"grace_period": -1}, "`grace_period` must be at least 0 epochs, got -1"),
    ],
)
def test_options_state_their_rule_and_the_value(change: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        StopOptions(**change)
