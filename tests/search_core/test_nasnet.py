"""NASNet beyond what `test_policy_proposer.py` holds: ScheduledDropPath in the training of children."""

from __future__ import annotations

from search_core.estimate_options import EstimateOptions
from search_core.search_options import SearchOptions
from search_core.strategies.over_trials_options import NasnetEstimate, NasnetOptions, RlNasOptions


def test_children_are_trained_with_scheduled_drop_path_by_default() -> None:
    search = SearchOptions(strategy=NasnetOptions(estimate=NasnetEstimate(epochs=3)))
    assert search.strategy.estimate.recipe(search).drop_path == 0.2
    assert NasnetOptions(estimate=NasnetEstimate(drop_path=0.0)).estimate.recipe(search).drop_path == 0.0
    assert RlNasOptions().estimate == EstimateOptions()
    assert RlNasOptions().estimate.recipe(search).drop_path == 0.0
