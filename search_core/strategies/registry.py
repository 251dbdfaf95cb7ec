"""All strategies by the kind that a study file names. A new one is imported here and joins its union; no other place
knows them by name.
"""

from __future__ import annotations

from typing import get_args

from search_core.strategies.darts import DartsOptions
from search_core.strategies.dsnas import DsnasOptions
from search_core.strategies.one_shot import OneShotOptions
from search_core.strategies.random_sampling import RandomSamplingOptions
from search_core.strategies.snas import SnasOptions
from search_core.strategies.spos import SposOptions

#: Strategies inside one search, whose children share their weights.
WeightSharing = (
    SnasOptions
    | DsnasOptions
    | DartsOptions
    | OneShotOptions
    | SposOptions
    | RandomSamplingOptions
)  # fmt: skip
StrategyOptions = WeightSharing

#: Options class of every strategy by kind.
STRATEGIES: dict[str, type[StrategyOptions]] = {
    options.__dataclass_fields__["kind"].default: options for options in get_args(StrategyOptions)
}
