"""All strategies by the kind that a study file names. A new one is imported here and joins its union; no other place
knows them by name.
"""

from __future__ import annotations

from typing import get_args

from search_core.strategies.random_sampling import RandomSamplingOptions
from search_core.strategies.snas import SnasOptions
from search_core.strategies.spos import SposOptions

StrategyOptions = SnasOptions | RandomSamplingOptions | SposOptions

#: Options class of every strategy by kind.
STRATEGIES: dict[str, type[StrategyOptions]] = {
    options.__dataclass_fields__["kind"].default: options for options in get_args(StrategyOptions)
}
