"""What multi-trial strategies have in common whose proposals a controller emits.

Shape suffixes: N sequences, T decisions, E edges, O operations.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from search_core.cost.constraints import ChildLimits
from search_core.space.code_space import Code, GenotypeSpace
from search_core.space.genotype import CellType
from search_core.strategies.controller import ABSENT
from search_core.strategies.multi_trial.scored import ScoredProposer
from search_core.strategies.policy_gradient import Experience, Learner


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """A sequence, the log probabilities (T,) of its decisions when it was drawn, and its reward: 0 without a score."""

    code: Code
    log_probs: Tensor
    reward: float = 0.0


class PolicyProposer(ScoredProposer):
    """Draws children from a controller, which learns from every `batch` scores that have come in.

    It never waits: a child is drawn from the controller as it is when asked, so scores may come in any order and late.
    A child whose training failed is worth 0. So is, for the controller alone, one that was drawn on the way to a
    proposal and is beyond the limits: it costs no training, and without it the controller would not learn to stay
    within them. Of these the last `batch` join an update, or they would drown the scores where limits are tight.

    Args:
        space: the genotypes.
        limits: hard limits on the children.
        learner: the controller and how it learns.
        batch: scores an update.
        seed: seed of the draws.

    Raises:
        ConstraintsError: if no genotype keeps the limits.
    """

    def __init__(self, space: GenotypeSpace, limits: ChildLimits, learner: Learner, *, batch: int, seed: int) -> None:
        super().__init__(space, limits, seed)
        self._learner, self._batch = learner, batch
        self._open: dict[int, _Drawn] = {}
        self._finished: list[_Drawn] = []  # since the last update, as those
        self._beyond: deque[_Drawn] = deque(maxlen=batch)  # the limits

    def propose(self) -> tuple[Code, None]:
        """A child drawn from the controller, within the limits."""
        drawn: deque[_Drawn] = deque(maxlen=self._batch + 1)

        def draw() -> Code:
            rollout = self._learner.controller.sample(1, self.generator)
            drawn.append(_Drawn(code=rollout.as_codes()[0], log_probs=rollout.log_probs[0]))
            return drawn[-1].code

        code = self.limits.draw(self.space, draw)
        *beyond, self._open[len(self.codes)] = drawn
        self._beyond += beyond
        return code, None

    def learn(self, number: int, score: float) -> None:
        """The controller learns when `batch` new scores are there."""
        drawn = self._open.pop(number)
        self._finished.append(replace(drawn, reward=score) if math.isfinite(score) else drawn)
        if len(self.scores) % self._batch == 0:
            learnt = [*self._beyond, *self._finished]
            codes = [torch.tensor(each.code) for each in learnt]  # of unequal lengths where children grow
            self._learner.update(
                Experience(
                    codes=pad_sequence(codes, batch_first=True, padding_value=ABSENT),
                    log_probs=pad_sequence([each.log_probs for each in learnt], batch_first=True),
                    rewards=torch.tensor([each.reward for each in learnt]),
                )
            )
            self._finished.clear()
            self._beyond.clear()

    def probabilities(self) -> dict[CellType, Tensor]:
        """Shares (E, O) of the operations in what the controller emits, per cell type."""
        return self._learner.controller.shares(self.space)

    def state_dict(self) -> dict[str, Any]:
        """Controller, its optimiser and baseline, and all that is open or not yet learnt from."""
        return {
            **super().state_dict(),
            "learner": copy.deepcopy(self._learner.state_dict()),  # learning continues in place
            "open": {number: asdict(drawn) for number, drawn in self._open.items()},
            "finished": [asdict(drawn) for drawn in self._finished],
            "beyond": [asdict(drawn) for drawn in self._beyond],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `Proposer.load_state_dict`."""
        super().load_state_dict(state)
        self._learner.load_state_dict(copy.deepcopy(state["learner"]))
        self._open = {number: _Drawn(**drawn) for number, drawn in state["open"].items()}
        self._finished = [_Drawn(**drawn) for drawn in state["finished"]]
        self._beyond = deque((_Drawn(**drawn) for drawn in state["beyond"]), maxlen=self._batch)
