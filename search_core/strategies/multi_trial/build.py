"""From the options of a multi-trial strategy to the strategy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from search_core.cost.constraints import ChildLimits
from search_core.errors import OptionsError
from search_core.space.code_space import GenotypeSpace
from search_core.strategies.multi_trial.nasnet import Nasnet
from search_core.strategies.multi_trial.options import (
    MultiTrialOptions,
    NasnetOptions,
    OwnMultiTrialOptions,
    RandomSearchOptions,
    RegularisedEvolutionOptions,
    RlNasOptions,
)
from search_core.strategies.multi_trial.proposer import Proposer
from search_core.strategies.multi_trial.random_search import RandomSearch
from search_core.strategies.multi_trial.regularised_evolution import RegularisedEvolution
from search_core.strategies.multi_trial.rl_nas import RlNas
from search_core.strategies.own import own_strategy

_PROPOSERS: dict[type[MultiTrialOptions], Callable[[Any, GenotypeSpace, ChildLimits, int], Proposer]] = {
    RandomSearchOptions: lambda _, space, limits, seed: RandomSearch(space, limits, seed),
    RegularisedEvolutionOptions: RegularisedEvolution,
    RlNasOptions: RlNas,
    NasnetOptions: Nasnet,
}


def build_proposer(options: MultiTrialOptions, space: GenotypeSpace, limits: ChildLimits, seed: int) -> Proposer:
    """The strategy at the beginning of a search.

    Args:
        options: of the strategy.
        space: the genotypes.
        limits: hard limits on the children.
        seed: seed of all its randomness.

    Raises:
        ConstraintsError: if no genotype keeps the limits.
        PluginError: if a strategy of a plug-in cannot be loaded.
        OptionsError: for a strategy that needs Optuna; `orchestrator.sampling.bayesian.build_proposer` builds it.
    """
    if isinstance(options, OwnMultiTrialOptions):
        return own_strategy(options, Proposer, space, limits, seed)  # type: ignore[type-abstract]
    if type(options) not in _PROPOSERS:
        message = "needs Optuna, which search_core does without: give `make_search` the orchestrator's `build_proposer`"
        raise OptionsError((("strategy.kind", message),))
    return _PROPOSERS[type(options)](options, space, limits, seed)
