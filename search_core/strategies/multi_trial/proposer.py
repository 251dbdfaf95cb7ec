"""Multi-trial strategies: they propose genotypes, each is trained as a trial, and its score is reported to them.

Where the weights of children are not shared, a strategy is no more than this: it needs neither images nor a network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from search_core.space.code_space import Code, GenotypeSpace
from search_core.space.genotype import CellType, Genotype


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A child to be trained.

    Attributes:
        number: 0, 1, ... in the order of proposals.
        code: the child, within the limits.
        parent: number of the proposal from which it was changed; None if it has none.
    """

    number: int
    code: Code
    parent: int | None = None


class Proposer(ABC):
    """Ask and tell. It owns its randomness: equal seeds and equal calls in equal order give equal proposals."""

    space: GenotypeSpace

    @abstractmethod
    def ask(self) -> Proposal | None:
        """The next child to train; None while a score that is still open is needed first.

        With nothing open it never gives None. None leaves its state as it was.
        """

    @abstractmethod
    def tell(self, number: int, score: float) -> None:
        """Take the score of a proposed child.

        Args:
            number: of the proposal; each once, in any order.
            score: validation accuracy, a fraction; NaN if the training failed.
        """

    def may_be_parent(self, number: int) -> bool:
        """Whether a later proposal may name this one as its parent, so that its weights must be kept."""
        return False

    @abstractmethod
    def best(self) -> Genotype:
        """The child of the highest score; before the first score, the first proposal."""

    @abstractmethod
    def probabilities(self) -> dict[CellType, Tensor]:
        """Probability (E, O) per cell type of each operation in what is proposed now; rows sum to 1, CPU."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to resume exactly; loads with `weights_only=True`."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of an equal strategy; proposals that are open stay open."""
