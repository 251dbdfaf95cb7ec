"""Random search with weight sharing: the control of every comparison (Li and Talwalkar, UAI 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from search_core.errors import require
from search_core.strategies.base import SearchContext, WeightSharingOptions
from search_core.strategies.single_path import SinglePathStrategy


@dataclass(frozen=True, kw_only=True)
class RandomSamplingOptions(WeightSharingOptions):
    """Random search with weight sharing (Li and Talwalkar, UAI 2019, section 3.2).

    Attributes:
        kind: names this strategy.
        held_out: share of the training images on which children are ranked, in (0, 1).
        samples: children that are drawn and ranked after each epoch, at least 1; the best so far stays in the race.
        batches: held-out batches by which a child is judged; default: all.

    Raises:
        OptionsError: if a value is out of range.
    """

    summary: ClassVar = "children drawn uniformly, trained and ranked with shared weights: the random control"
    paper: ClassVar = "Li and Talwalkar, UAI 2019"
    uses: ClassVar = ("constraints",)

    kind: Literal["random_sampling"] = "random_sampling"
    held_out: float = 0.2
    samples: int = 16
    batches: int | None = None

    def __post_init__(self) -> None:
        require(
            ("held_out", 0 < self.held_out < 1, f"must be in (0, 1), got {self.held_out}"),
            ("samples", self.samples >= 1, f"must be at least 1, got {self.samples}"),
            ("batches", self.batches is None or self.batches >= 1, f"must be at least 1, got {self.batches}"),
        )

    @property
    def held_out_fraction(self) -> float:
        """Share of the training images that is kept for the ranking."""
        return self.held_out

    def build(self, context: SearchContext) -> RandomSampling:
        """The strategy at the beginning of a search."""
        return RandomSampling(self, context)


class RandomSampling(SinglePathStrategy):
    """Trains a child drawn uniformly in every step and keeps the best of those drawn after each epoch.

    Args:
        options: how children are ranked.
        context: what the strategy is built from.
    """

    def __init__(self, options: RandomSamplingOptions, context: SearchContext) -> None:
        super().__init__(context)
        self._options = options

    def end_epoch(self, generator: torch.Generator) -> None:
        """Rank fresh draws and the best so far, whose weights have moved on, by held-out accuracy."""
        drawn = [self._context.limits.sample(self.space, generator) for _ in range(self._options.samples)]
        scores = [self.score(code, generator, num_batches=self._options.batches) for code in (self._best, *drawn)]
        self._best = (self._best, *drawn)[scores.index(max(scores))]
