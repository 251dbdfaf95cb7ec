"""Random search with weight sharing: the control of every comparison (Li and Talwalkar, UAI 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from search_core.strategies.base import SearchContext
from search_core.strategies.ranked_draws import RankedDraws, RankedDrawsOptions


@dataclass(frozen=True, kw_only=True)
class RandomSamplingOptions(RankedDrawsOptions):
    """Random search with weight sharing (Li and Talwalkar, UAI 2019, section 3.2).

    Attributes:
        kind: names this strategy.

    Raises:
        OptionsError: if a value is out of range.
    """

    summary: ClassVar = "children drawn uniformly, trained and ranked with shared weights: the random control"
    paper: ClassVar = "Li and Talwalkar, UAI 2019"
    uses: ClassVar = ("constraints",)

    kind: Literal["random_sampling"] = "random_sampling"

    def build(self, context: SearchContext) -> RandomSampling:
        """The strategy at the beginning of a search."""
        return RandomSampling(self, context)


class RandomSampling(RankedDraws):
    """Trains a child drawn uniformly in every step and keeps the best of those drawn after each epoch.

    Args:
        options: how children are ranked.
        context: what the strategy is built from.
    """
