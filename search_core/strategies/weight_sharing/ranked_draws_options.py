"""Options of the strategies with shared weights that draw children at random and rank them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from search_core.errors import Rule, literal_rules, require
from search_core.strategies.weight_sharing.options import WeightSharingOptions


@dataclass(frozen=True, kw_only=True)
class RankedDrawsOptions(WeightSharingOptions):
    """How children are drawn and ranked.

    Attributes:
        held_out: share of the training images on which children are ranked, in (0, 1).
        samples: children that are drawn and ranked after each epoch, at least 1; the best so far stays in the race.
        batches: held-out batches by which a child is judged; default: all.
    """

    uses: ClassVar = ("constraints",)

    held_out: float = 0.2
    samples: int = 16
    batches: int | None = None

    def __post_init__(self) -> None:
        require(*self.rules())

    def rules(self) -> tuple[Rule, ...]:
        """For `require`; a subclass adds its own."""
        return (
            *literal_rules(self),
            ("held_out", 0 < self.held_out < 1, f"must be in (0, 1), got {self.held_out}"),
            ("samples", self.samples >= 1, f"must be at least 1, got {self.samples}"),
            ("batches", self.batches is None or self.batches >= 1, f"must be at least 1, got {self.batches}"),
        )


@dataclass(frozen=True, kw_only=True)
class OneShotOptions(RankedDrawsOptions):
    """One-shot architecture search (Bender et al., ICML 2018).

    Attributes:
        kind: names this strategy.
        rate: r in (0, 1): in the last epoch an operation is dropped with probability r^(1/k), where k paths lead
            to its node. It grows linearly from 0 in the first, from epoch to epoch.
        paths: what k counts: the `operations` of all edges into the node, so that it loses all inputs with probability
            r as in the paper, or the `edges` alone, which drops next to nothing where edges have many operations.
        ghost_batches: parts of a batch that drop operations independently and have batch statistics of their own, at
            least 1; each must have two images or more.
        rank_by: `accuracy` on held-out images, or `kl`: the symmetrised Kullback-Leibler divergence of the child's
            predictions from the whole network's on the same images, which needs no labels.
        batches: held-out batches by which a child is judged; default: all whole ones.
    """

    summary: ClassVar = "supernet trained with path dropout, then the best of children drawn at random"
    paper: ClassVar = "Bender et al., ICML 2018"
    spaces: ClassVar = ("darts", "choice_blocks")
    recalibrates: ClassVar = True  # section 3.4: batch statistics at evaluation
    no_graph: ClassVar = "draws what it leaves out between kernels"

    kind: Literal["one_shot"] = "one_shot"
    rate: float = 0.05
    paths: Literal["operations", "edges"] = "operations"
    ghost_batches: int = 4
    rank_by: Literal["accuracy", "kl"] = "accuracy"

    def rules(self) -> tuple[Rule, ...]:
        """As in `RankedDrawsOptions`."""
        return (
            *super().rules(),
            ("rate", 0 < self.rate < 1, f"must be in (0, 1), got {self.rate}"),
            ("ghost_batches", self.ghost_batches >= 1, f"must be at least 1, got {self.ghost_batches}"),
        )


@dataclass(frozen=True, kw_only=True)
class SmashOptions(RankedDrawsOptions):
    """One-shot model architecture search through hypernetworks (Brock et al., ICLR 2018).

    Attributes:
        kind: names this strategy.
        encoding: how the hypernetwork reads a child: `choices`, one-hot, of all edges at once, or `memory_banks` as in
            the paper: which banks of channels each operation reads and writes, over which a network convolves.
        features: width of the hypernetwork, at least 1; with `memory_banks` the growth of each layer (10 in the
            authors' code).
        layers: 3x3 convolutions of the hypernetwork with `memory_banks`, at least 1 (22 in three blocks in the
            authors' code).
        weight_norm: whether each generated weight is divided by its norm, as in the paper.
    """

    summary: ClassVar = "a hypernetwork makes the pointwise weights of random children, which are then ranked by them"
    paper: ClassVar = "Brock et al., ICLR 2018"

    kind: Literal["smash"] = "smash"
    encoding: Literal["choices", "memory_banks"] = "choices"
    features: int = 32
    layers: int = 8
    weight_norm: bool = False

    def rules(self) -> tuple[Rule, ...]:
        """As in `RankedDrawsOptions`."""
        return (
            *super().rules(),
            ("features", self.features >= 1, f"must be at least 1, got {self.features}"),
            ("layers", self.layers >= 1, f"must be at least 1, got {self.layers}"),
        )


@dataclass(frozen=True, kw_only=True)
class RandomSamplingOptions(RankedDrawsOptions):
    """Random search with weight sharing (Li and Talwalkar, UAI 2019, section 3.2).

    Attributes:
        kind: names this strategy.
    """

    summary: ClassVar = "children drawn uniformly, trained and ranked with shared weights: the random control"
    paper: ClassVar = "Li and Talwalkar, UAI 2019"
    spaces: ClassVar = ("darts", "enas", "choice_blocks")

    kind: Literal["random_sampling"] = "random_sampling"
