"""NASNet beyond what `test_policy_proposer.py` holds: ScheduledDropPath in the training of children."""

from __future__ import annotations

from search_core.search.child_recipe import child_recipe
from search_core.search.options import SearchOptions
from search_core.strategies.multi_trial.estimate_options import EstimateOptions
from search_core.strategies.multi_trial.options import NasnetEstimate, NasnetOptions, RlNasOptions


def test_children_are_trained_with_scheduled_drop_path_by_default() -> None:
    search = SearchOptions(strategy=NasnetOptions(estimate=NasnetEstimate(epochs=3)))
    assert child_recipe(search.strategy.estimate, search).drop_path == 0.2
    assert child_recipe(NasnetOptions(estimate=NasnetEstimate(drop_path=0.0)).estimate, search).drop_path == 0.0
    assert RlNasOptions().estimate == EstimateOptions()
    assert child_recipe(RlNasOptions().estimate, search).drop_path == 0.0
