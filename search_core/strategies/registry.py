"""All strategies by the kind that a study file names. A new one is imported here and joins its union; no other place
knows them by name.
"""

from __future__ import annotations

from typing import get_args

from search_core.strategies.multi_trial.options import (
    BayesianOptions,
    NasnetOptions,
    RandomSearchOptions,
    RegularisedEvolutionOptions,
    RlNasOptions,
)
from search_core.strategies.weight_sharing.options import (
    DartsOptions,
    DsnasOptions,
    EnasOptions,
    SnasOptions,
    SposOptions,
)
from search_core.strategies.weight_sharing.ranked_draws_options import (
    OneShotOptions,
    RandomSamplingOptions,
    SmashOptions,
)

#: Strategies inside one search, whose children share their weights.
WeightSharing = (
    SnasOptions
    | DsnasOptions
    | DartsOptions
    | EnasOptions
    | OneShotOptions
    | SposOptions
    | SmashOptions
    | RandomSamplingOptions
)  # fmt: skip
#: Strategies over trials, whose children are trained each for itself.
OverTrials = (
    RandomSearchOptions
    | RegularisedEvolutionOptions
    | BayesianOptions
    | RlNasOptions
    | NasnetOptions
)  # fmt: skip
StrategyOptions = WeightSharing | OverTrials

#: Options class of every strategy by kind, and those of each family.
WEIGHT_SHARING: dict[str, type[WeightSharing]] = {
    options.__dataclass_fields__["kind"].default: options for options in get_args(WeightSharing)
}
OVER_TRIALS: dict[str, type[OverTrials]] = {
    options.__dataclass_fields__["kind"].default: options for options in get_args(OverTrials)
}
STRATEGIES: dict[str, type[StrategyOptions]] = {**WEIGHT_SHARING, **OVER_TRIALS}
