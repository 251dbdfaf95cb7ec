"""What strategies have in common that draw children at random after each epoch and keep the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from search_core.errors import literal_rules, require
from search_core.genotype_space import Code
from search_core.strategies.base import SearchContext, WeightSharingOptions
from search_core.strategies.single_path import SinglePathStrategy


@dataclass(frozen=True, kw_only=True)
class RankedDrawsOptions(WeightSharingOptions):
    """How children are drawn and ranked.

    Attributes:
        held_out: share of the training images on which children are ranked, in (0, 1).
        samples: children that are drawn and ranked after each epoch, at least 1; the best so far stays in the race.
        batches: held-out batches by which a child is judged; default: all.

    Raises:
        OptionsError: if a value is out of range.
    """

    held_out: float = 0.2
    samples: int = 16
    batches: int | None = None

    def __post_init__(self) -> None:
        require(*self.rules())

    def rules(self) -> tuple[tuple[str, bool, str], ...]:
        """For `require`; a subclass adds its own."""
        return (
            *literal_rules(self),
            ("held_out", 0 < self.held_out < 1, f"must be in (0, 1), got {self.held_out}"),
            ("samples", self.samples >= 1, f"must be at least 1, got {self.samples}"),
            ("batches", self.batches is None or self.batches >= 1, f"must be at least 1, got {self.batches}"),
        )

    @property
    def held_out_fraction(self) -> float:
        """Share of the training images that is kept for the ranking."""
        return self.held_out


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
