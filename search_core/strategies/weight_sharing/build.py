"""From the options of a strategy that shares weights to the strategy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from search_core.strategies.base import SearchContext, Strategy
from search_core.strategies.own import own_strategy
from search_core.strategies.weight_sharing.darts import Darts
from search_core.strategies.weight_sharing.dsnas import Dsnas
from search_core.strategies.weight_sharing.enas import Enas
from search_core.strategies.weight_sharing.one_shot import OneShot
from search_core.strategies.weight_sharing.options import (
    DartsOptions,
    DsnasOptions,
    EnasOptions,
    OwnOptions,
    SnasOptions,
    SposOptions,
    WeightSharingOptions,
)
from search_core.strategies.weight_sharing.random_sampling import RandomSampling
from search_core.strategies.weight_sharing.ranked_draws_options import (
    OneShotOptions,
    RandomSamplingOptions,
    SmashOptions,
)
from search_core.strategies.weight_sharing.smash import Smash
from search_core.strategies.weight_sharing.snas import Snas
from search_core.strategies.weight_sharing.spos import Spos

_STRATEGIES: dict[type[WeightSharingOptions], Callable[[Any, SearchContext], Strategy]] = {
    SnasOptions: Snas,
    DsnasOptions: Dsnas,
    DartsOptions: Darts,
    EnasOptions: Enas,
    OneShotOptions: OneShot,
    SposOptions: Spos,
    SmashOptions: Smash,
    RandomSamplingOptions: RandomSampling,
}


def build_strategy(options: WeightSharingOptions, context: SearchContext) -> Strategy:
    """The strategy at the beginning of a search.

    Raises:
        OptionsError: if the options do not fit the search, such as ghost batches of less than two images.
        PluginError: if a strategy of a plug-in cannot be loaded.
    """
    if isinstance(options, OwnOptions):
        return own_strategy(options, Strategy, context)  # type: ignore[type-abstract]
    return _STRATEGIES[type(options)](options, context)
