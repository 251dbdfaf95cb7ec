"""All strategies by the kind that a study file names. A new one's options join their union here, and the strategy the
table of `build` of its family; no other place knows them by name.
"""

from __future__ import annotations

from typing import get_args

from search_core.strategies.multi_trial.options import (
    BayesianOptions,
    NasnetOptions,
    OwnMultiTrialOptions,
    RandomSearchOptions,
    RegularisedEvolutionOptions,
    RlNasOptions,
)
from search_core.strategies.weight_sharing.options import (
    DartsOptions,
    DsnasOptions,
    EnasOptions,
    OwnOptions,
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
#: Multi-trial strategies, whose children are each trained independently.
MultiTrial = (
    RandomSearchOptions
    | RegularisedEvolutionOptions
    | BayesianOptions
    | RlNasOptions
    | NasnetOptions
)  # fmt: skip
#: With those that a study file names by their class.
StrategyOptions = WeightSharing | MultiTrial | OwnOptions | OwnMultiTrialOptions

#: Options class of every strategy by kind, and those of each family.
WEIGHT_SHARING: dict[str, type[WeightSharing]] = {
    options.__dataclass_fields__["kind"].default: options for options in get_args(WeightSharing)
}
MULTI_TRIAL: dict[str, type[MultiTrial]] = {
    options.__dataclass_fields__["kind"].default: options for options in get_args(MultiTrial)
}
STRATEGIES: dict[str, type[WeightSharing | MultiTrial]] = {**WEIGHT_SHARING, **MULTI_TRIAL}
#: Kinds whose children are each trained independently.
MULTI_TRIAL_KINDS = frozenset({*MULTI_TRIAL, OwnMultiTrialOptions.__dataclass_fields__["kind"].default})
