"""NASNet beyond what `test_policy_proposer.py` holds: ScheduledDropPath in the training of children."""

from __future__ import annotations

from search_core.search.child_recipe import child_recipe
from search_core.search.options import SearchOptions
from search_core.strategies.multi_trial.estimate_options import EstimateOptions
from search_core.strategies.multi_trial.options import NasnetEstimate, NasnetOptions, RlNasOptions


def test_children_are_trained_with_scheduled_drop_path_by_default() -> None:
    for estimate, drop_path in ((NasnetEstimate(epochs=3), 0.2), (NasnetEstimate(drop_path=0.0), 0.0)):
        assert child_recipe(SearchOptions(strategy=NasnetOptions(estimate=estimate))).drop_path == drop_path
    assert RlNasOptions().estimate == EstimateOptions()
    assert child_recipe(SearchOptions(strategy=RlNasOptions())).drop_path == 0.0
