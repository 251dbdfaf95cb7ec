"""Random search, multi-trial: the control of all strategies that train every child."""

from __future__ import annotations

from search_core.space.code_space import Code
from search_core.strategies.multi_trial.scored import ScoredProposer


class RandomSearch(ScoredProposer):
    """Proposes codes drawn uniformly among those that keep the limits; a code may come again."""

    def propose(self) -> tuple[Code, int | None]:
        """As `ScoredProposer.propose`; it never waits for a score."""
        return self.limits.sample(self.space, self.generator), None
