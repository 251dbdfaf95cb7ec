"""Strategies that train every child for itself, each as a trial: they propose genotypes and hear their scores.

Where the weights of children are not shared, a strategy is no more than this: it needs neither images nor a network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from search_core.constraints import ChildLimits
from search_core.errors import require
from search_core.estimate import EstimateOptions
from search_core.genotype import CellType, Genotype
from search_core.genotype_space import Code, GenotypeSpace


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


@dataclass(frozen=True, kw_only=True)
class OverTrialsOptions(ABC):
    """Options of a strategy over trials; a subclass is a dataclass with its own `kind`.

    Attributes:
        summary: what the strategy does, in a line.
        paper: where it was published.
        uses: sections of the search that the strategy heeds; the others have no effect on it.
        on_gpu: what of `cuda_graph` and `precision` it supports.
        children: how many are trained in each epoch of the search, at least 1; after so many it gives a report.
        at_once: how many are open at most, at least 1. Child n is proposed when those up to n - at_once were told, in
            the order of their numbers; so proposals depend neither on the clock nor on how many workers there are.
            Few learn more from each score, many use more workers.
        estimate: how a child is trained for its score.

    Raises:
        OptionsError: if a value is out of range. Subclasses with rules of their own call `super().__post_init__`.
    """

    summary: ClassVar[str]
    paper: ClassVar[str]
    uses: ClassVar[tuple[str, ...]] = ("constraints",)
    on_gpu: ClassVar[tuple[str, ...]] = ()

    children: int = 10
    at_once: int = 8
    estimate: EstimateOptions = field(default_factory=EstimateOptions)

    def __post_init__(self) -> None:
        require(
            ("children", self.children >= 1, f"must be at least 1, got {self.children}"),
            ("at_once", self.at_once >= 1, f"must be at least 1, got {self.at_once}"),
        )

    @abstractmethod
    def build(self, space: GenotypeSpace, limits: ChildLimits, *, children: int, seed: int) -> Proposer:
        """The strategy at the beginning of a search.

        Args:
            space: the genotypes.
            limits: hard limits on the children.
            children: how many will be trained in the whole search.
            seed: seed of all its randomness.

        Raises:
            ConstraintsError: if no genotype keeps the limits.
        """


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
        """Hear how good a proposed child is.

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
        """Everything that `load_state_dict` needs to go on exactly; loads with `weights_only=True`."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of an equal strategy; proposals that are open stay open."""
