"""All strategies by the kind that a study file names. A new one is imported here and joins its union; no other place
knows them by name.
"""

from __future__ import annotations

from typing import get_args

from search_core.strategies.enas import EnasOptions
from search_core.strategies.nasnet import NasnetOptions
from search_core.strategies.random_sampling import RandomSamplingOptions
from search_core.strategies.rl_nas import RlNasOptions
from search_core.strategies.snas import SnasOptions

StrategyOptions = SnasOptions | RandomSamplingOptions | EnasOptions
OverTrialsStrategyOptions = RlNasOptions | NasnetOptions

#: Options class of every strategy by kind.
STRATEGIES: dict[str, type[StrategyOptions]] = {
    options.__dataclass_fields__["kind"].default: options for options in get_args(StrategyOptions)
}

#: The same of those over trials.
OVER_TRIALS: dict[str, type[OverTrialsStrategyOptions]] = {
    options.__dataclass_fields__["kind"].default: options for options in get_args(OverTrialsStrategyOptions)
}
