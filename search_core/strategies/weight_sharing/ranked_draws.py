"""What strategies have in common that draw children at random after each epoch and keep the best."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from search_core.space.code_space import Code
from search_core.strategies.base import SearchContext
from search_core.strategies.weight_sharing.ranked_draws_options import RankedDrawsOptions
from search_core.strategies.weight_sharing.single_path import SinglePathStrategy


class RankedDraws(SinglePathStrategy):
    """Ranks fresh draws and the best so far after each epoch.

    Args:
        options: how children are ranked.
        context: what the strategy is built from.

    Raises:
        ConstraintsError: if no genotype keeps the hard limits.
    """

    def __init__(self, options: RankedDrawsOptions, context: SearchContext) -> None:
        super().__init__(context)
        self._ranking = options

    def end_epoch(self, generator: torch.Generator) -> None:
        """Rank fresh draws and the best so far, whose weights have moved on, by `scores`."""
        drawn = [self.sample_within_limits(generator) for _ in range(self._ranking.samples)]
        codes = [self._best, *drawn]
        scores = self.scores(codes, generator)
        self._best = codes[scores.index(max(scores))]

    def scores(self, codes: Sequence[Code], generator: torch.Generator) -> list[float]:
        """What children are ranked by: held-out accuracy with shared weights, on as many batches as `batches` says."""
        return [self.score(code, generator, num_batches=self._ranking.batches) for code in codes]
