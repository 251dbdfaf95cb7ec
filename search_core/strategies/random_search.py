"""Random search over trials: the control of all strategies that train every child."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from search_core.constraints import ChildLimits
from search_core.genotype_space import Code, GenotypeSpace
from search_core.strategies.over_trials import OverTrialsOptions
from search_core.strategies.scored import ScoredProposer


@dataclass(frozen=True, kw_only=True)
class RandomSearchOptions(OverTrialsOptions):
    """Random search (Bergstra and Bengio, JMLR 2012): children drawn uniformly and independently.

    Attributes:
        kind: names this strategy.
    """

    summary: ClassVar = "children drawn uniformly, each trained for itself: the random control"
    paper: ClassVar = "Bergstra and Bengio, JMLR 2012"

    kind: Literal["random"] = "random"

    def build(self, space: GenotypeSpace, limits: ChildLimits, *, children: int, seed: int) -> RandomSearch:
        """As `OverTrialsOptions.build`."""
        return RandomSearch(space, limits, seed)


class RandomSearch(ScoredProposer):
    """Proposes codes drawn uniformly among those that keep the limits; a code may come again."""

    def propose(self) -> tuple[Code, int | None]:
        """As `ScoredProposer.propose`; it never waits for a score."""
        return self.limits.sample(self.space, self.generator), None
