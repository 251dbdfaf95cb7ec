"""What multi-trial strategies have in common that remember every proposal and its score.

Shape suffixes: E edges, O operations.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from search_core.cost.constraints import ChildLimits
from search_core.space.code_space import Code, GenotypeSpace
from search_core.space.frequencies import uniform_frequencies
from search_core.space.genotype import CellType, Genotype
from search_core.strategies.multi_trial.proposer import Proposal, Proposer


class ScoredProposer(Proposer):
    """Numbers proposals and keeps their scores; a subclass says what comes next (`propose`).

    Args:
        space: the genotypes.
        limits: hard limits on the children.
        seed: seed of all its randomness.

    Raises:
        ConstraintsError: if no genotype keeps the limits.
    """

    def __init__(self, space: GenotypeSpace, limits: ChildLimits, seed: int) -> None:
        self.space, self.limits = space, limits
        self.generator = torch.Generator().manual_seed(seed)
        # Before anything is proposed a draw of its own stands for the search.
        self._first: Code = limits.sample(space, torch.Generator().manual_seed(seed))
        self.codes: list[Code] = []
        self.scores: dict[int, float] = {}

    @abstractmethod
    def propose(self) -> tuple[Code, int | None] | None:
        """Code and parent of the next proposal, or None while a score is needed first."""

    def learn(self, number: int, score: float) -> None:
        """What a subclass does with a score."""

    def ask(self) -> Proposal | None:
        """As `Proposer.ask`."""
        proposed = self.propose()
        if proposed is None:
            return None
        code, parent = proposed
        self.codes.append(code)
        return Proposal(number=len(self.codes) - 1, code=code, parent=parent)

    def tell(self, number: int, score: float) -> None:
        """As `Proposer.tell`."""
        assert 0 <= number < len(self.codes), "a score must be that of a proposal"
        assert number not in self.scores, "a proposal is scored once"
        self.scores[number] = score
        self.learn(number, score)

    def best(self) -> Genotype:
        """As `Proposer.best`; of equal scores that of the earliest proposal."""
        scored = [number for number, score in self.scores.items() if math.isfinite(score)]
        if scored:
            code = self.codes[min(scored, key=lambda number: (-self.scores[number], number))]
        else:
            code = self.codes[0] if self.codes else self._first
        return self.space.decode(code)

    def probabilities(self) -> dict[CellType, Tensor]:
        """Those (E, O) of codes drawn uniformly, per cell type."""
        return uniform_frequencies(self.space, torch.device("cpu"))

    def state_dict(self) -> dict[str, Any]:
        """As `Proposer.state_dict`."""
        return {
            "codes": [list(code) for code in self.codes],
            "scores": [[number, None if math.isnan(score) else score] for number, score in self.scores.items()],
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `Proposer.load_state_dict`."""
        self.codes = [tuple(code) for code in state["codes"]]
        self.scores = {number: math.nan if score is None else score for number, score in state["scores"]}
        self.generator.set_state(state["generator"].cpu())
