"""Options of the strategies that share weights, one class a strategy.

They stand apart from the strategies because a study file is checked, and a study shown, without PyTorch, which takes
seconds to import.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from search_core.errors import Rule, literal_rules, require
from search_core.plugins import installed, split_reference
from search_core.space.choices import MOST_FEW_BITS, Bits, is_width
from search_core.space.plan import FULL_PRECISION, Space
from search_core.strategies.controller_options import ControllerOptions


@dataclass(frozen=True, kw_only=True)
class WeightSharingOptions:
    """Options of a strategy that searches with shared weights; a subclass is a dataclass with its own `kind`.

    Attributes:
        summary: what the strategy does, in a line.
        paper: where it was published.
        uses: sections of the search that the strategy uses; the others have no effect on it.
        on_gpu: what of `precision` it supports beside float32.
        no_graph: what it does that a CUDA graph of its training step cannot; empty if nothing.
        spaces: which of `network.space` it can search; a relaxed choice is one of operations on an edge.
        recalibrates: whether its paper judges children with recomputed batch norm statistics, not the inherited ones.

    Raises:
        OptionsError: if a value is out of range, in all subclasses.
    """

    summary: ClassVar[str]
    paper: ClassVar[str]
    uses: ClassVar[tuple[str, ...]]
    on_gpu: ClassVar[tuple[str, ...]] = ()
    no_graph: ClassVar[str] = "launches another child in every step"
    spaces: ClassVar[tuple[Space, ...]] = ("darts",)
    recalibrates: ClassVar[bool] = False

    @property
    def held_out_fraction(self) -> float:
        """Share of the training images that is kept for the architecture, in [0, 1): the option `held_out`, if any."""
        share: float = getattr(self, "held_out", 0.0)
        return share

    @property
    def has_auxiliary(self) -> bool:
        """Whether the searchable network has an auxiliary head."""
        return False


@dataclass(frozen=True, kw_only=True)
class SnasOptions(WeightSharingOptions):
    """Stochastic neural architecture search (Xie et al., ICLR 2019).

    Attributes:
        kind: names this strategy.
        sample_per: draw one architecture sample Z per `batch`, shared by all cells of a type, or one per `cell`.
        drop_path: probability that an operation is left out for an image, never an identity; grown linearly from 0
            in the first epoch to this in the last, in [0, 1) (0.3 in the authors' command).
        auxiliary_weight: of the loss of an auxiliary head, 0 or above; 0 builds none.

    Raises:
        OptionsError: if a value is out of range.
    """

    summary: ClassVar = "operation weights and a concrete distribution over cells in one back-propagation"
    paper: ClassVar = "Xie et al., ICLR 2019"
    uses: ClassVar = ("temperature", "penalty", "alpha")
    on_gpu: ClassVar = ("bfloat16",)
    no_graph: ClassVar = ""

    kind: Literal["snas"] = "snas"
    sample_per: Literal["batch", "cell"] = "batch"
    drop_path: float = 0.0
    auxiliary_weight: float = 0.0

    def __post_init__(self) -> None:
        require(
            *literal_rules(self),
            ("drop_path", 0 <= self.drop_path < 1, f"must be in [0, 1), got {self.drop_path}"),
            ("auxiliary_weight", self.auxiliary_weight >= 0, f"must be at least 0, got {self.auxiliary_weight}"),
        )

    @property
    def has_auxiliary(self) -> bool:
        """Whether the searchable network has an auxiliary head."""
        return self.auxiliary_weight > 0


@dataclass(frozen=True, kw_only=True)
class DsnasOptions(WeightSharingOptions):
    """Direct neural architecture search without parameter retraining (Hu et al., CVPR 2020).

    A one-hot sample has no derivative, so the penalty is its exact expectation unless `penalty.estimator` is
    `score_function`.

    Attributes:
        kind: names this strategy.
        stop_margin: lead in (0, 1] of an edge's most probable operation over the next at which the edge is decided at
            the end of an epoch: only that one is sampled then, and the edge's row of alpha rests (progressive early
            stop; 0.3 in the authors' code); None for never.
        stop_at: probability in (0.5, 1) of an operation at which its edge is decided too; None for never.
    """

    summary: ClassVar = "one sampled child a step, single path forward and backward; weights and distribution together"
    paper: ClassVar = "Hu et al., CVPR 2020"
    uses: ClassVar = ("penalty", "alpha")

    kind: Literal["dsnas"] = "dsnas"
    stop_margin: float | None = 0.3
    stop_at: float | None = None

    def __post_init__(self) -> None:
        margin, stop_at = self.stop_margin, self.stop_at
        require(
            ("stop_margin", margin is None or 0 < margin <= 1, f"must be in (0, 1], got {margin}"),
            ("stop_at", stop_at is None or 0.5 < stop_at < 1, f"must be in (0.5, 1), got {stop_at}"),
        )


@dataclass(frozen=True, kw_only=True)
class DartsOptions(WeightSharingOptions):
    """Differentiable architecture search (Liu et al., ICLR 2019).

    The penalty enters as its exact expectation, whatever `penalty.estimator` says: nothing is sampled.

    Attributes:
        kind: names this strategy.
        order: `second` looks one step of theta ahead in the gradient of alpha, by a finite difference that is coarse in
            networks of few channels; `first` does not.
        held_out: share of the training images on which alpha is trained, in (0, 1).
    """

    summary: ClassVar = "mixture of all operations, alpha trained on held-out images by a gradient of either order"
    paper: ClassVar = "Liu et al., ICLR 2019"
    uses: ClassVar = ("penalty", "alpha")
    no_graph: ClassVar = ""

    kind: Literal["darts"] = "darts"
    order: Literal["first", "second"] = "second"
    held_out: float = 0.5

    def __post_init__(self) -> None:
        require(
            *literal_rules(self),
            ("held_out", 0 < self.held_out < 1, f"must be in (0, 1), got {self.held_out}"),
        )


@dataclass(frozen=True, kw_only=True)
class EnasController(ControllerOptions):
    """The controller of ENAS (sections 3.1 and 3.2; learning rate of the published script for cells).

    Attributes:
        entropy: weight of the entropy beside the accuracy: section 3.1 and the script for cells; section 3.2 has 0.1.
    """

    lr: float = 3.5e-3
    temperature: float | None = 5.0
    tanh_constant: float | None = 2.5
    entropy: float = 1.0e-4
    baseline_decay: float = 0.99


@dataclass(frozen=True, kw_only=True)
class EnasOptions(WeightSharingOptions):
    """Efficient neural architecture search by parameter sharing (Pham et al., ICML 2018), micro search space.

    Attributes:
        kind: names this strategy.
        held_out: share of the training images from which rewards come, in (0, 1) (0.1 in the paper).
        controller: the LSTM and how it learns.
        controller_steps: updates of the controller after each epoch, at least 1. The paper has 2,000 on CIFAR-10; the
            default suits epochs of a hundred steps.
        children_per_step: children by which each update is made, at least 1.
        derive_samples: children sampled after each epoch of which the best stands for the search, at least 1.
    """

    summary: ClassVar = "an LSTM controller of sampled children, trained by REINFORCE on held-out images"
    paper: ClassVar = "Pham et al., ICML 2018"
    uses: ClassVar = ("penalty", "constraints")
    spaces: ClassVar = ("darts", "enas")

    kind: Literal["enas"] = "enas"
    held_out: float = 0.1
    controller: EnasController = field(default_factory=EnasController)
    controller_steps: int = 50
    children_per_step: int = 1
    derive_samples: int = 10

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("controller_steps", "children_per_step", "derive_samples")}
        require(
            ("held_out", 0 < self.held_out < 1, f"must be in (0, 1), got {self.held_out}"),
            *((name, count >= 1, f"must be at least 1, got {count}") for name, count in counts.items()),
        )


@dataclass(frozen=True, kw_only=True)
class SposOptions(WeightSharingOptions):
    """Single path one-shot search with uniform sampling (Guo et al., ECCV 2020, sections 3.2 to 3.4).

    Channels and bits belong to the child of the search: its report counts and evaluates them and lists them under
    `choices`, and retraining takes them over: the shares of channels at its own size, see `CellChoices.stretched`.

    Attributes:
        kind: names this strategy.
        held_out: share of the training images on which children are judged, in (0, 1).
        batches: held-out batches by which a child is judged; default: all.
        preview: random children with which the best so far competes after each epoch but the last, at least 0.
        population: children of each generation of the evolution, at least 2.
        generations: generations of the evolution, at least 1; after the last epoch, each child judged once.
        top_k: fittest children from which all others descend, in [1, `population`].
        mutation: probability of each choice of a mutated child to be drawn again, in (0, 1].
        channels: shares of a cell's channels to choose from, per cell of the stack; distinct, in (0, 1].
        bits: widths to choose from, per cell of the stack: pairs of those of the weights of its convolutions and of the
            features that they read, as in section 4 of the paper, or one number for both; distinct, each in [1, 16], or
            32 for full precision. Others are simulated in floating point.
        max_bit_operations: hard limit on multiply-adds times bits of both factors, above 0; default: none.
    """

    summary: ClassVar = "uniform single paths, then evolution under hard limits; channels and bits as choices too"
    paper: ClassVar = "Guo et al., ECCV 2020"
    uses: ClassVar = ("constraints",)
    recalibrates: ClassVar = True  # section 3.4

    kind: Literal["spos"] = "spos"
    held_out: float = 0.2
    batches: int | None = None
    preview: int = 4
    population: int = 50
    generations: int = 20
    top_k: int = 10
    mutation: float = 0.1
    channels: tuple[float, ...] = (1.0,)
    bits: tuple[int | tuple[int, int], ...] = (FULL_PRECISION,)
    max_bit_operations: float | None = None

    def __post_init__(self) -> None:
        most = self.max_bit_operations
        each_width = [width for pair in self.widths for width in pair]
        bits_hold = all(map(is_width, each_width))
        require(
            ("held_out", 0 < self.held_out < 1, f"must be in (0, 1), got {self.held_out}"),
            ("batches", self.batches is None or self.batches >= 1, f"must be at least 1, got {self.batches}"),
            ("preview", self.preview >= 0, f"must be at least 0, got {self.preview}"),
            ("population", self.population >= 2, f"must be at least 2, got {self.population}"),
            ("generations", self.generations >= 1, f"must be at least 1, got {self.generations}"),
            (
                "top_k",
                1 <= self.top_k <= self.population,
                f"must be in [1, `population`] with `population` {self.population}, got {self.top_k}",
                "population",
            ),
            ("mutation", 0 < self.mutation <= 1, f"must be in (0, 1], got {self.mutation}"),
            (
                "channels",
                _are_distinct(self.channels) and all(0 < share <= 1 for share in self.channels),
                f"must be distinct shares in (0, 1], at least one, got {list(self.channels)}",
            ),
            (
                "bits",
                _are_distinct(self.widths) and bits_hold,
                f"must be distinct numbers in [1, {MOST_FEW_BITS}] or {FULL_PRECISION}, or pairs of them, at least "
                f"one, got {[list(option) if isinstance(option, tuple) else option for option in self.bits]}",
            ),
            (
                "max_bit_operations",
                most is None or (most > 0 and math.isfinite(most)),
                f"must be a finite number above 0, got {most}",
            ),
        )

    @property
    def widths(self) -> tuple[Bits, ...]:
        """`bits` as pairs."""
        return tuple(map(Bits.of, self.bits))


def _are_distinct(values: Sequence[object]) -> bool:
    return len(values) > 0 and len(set(values)) == len(values)


#: Entry points of strategies of installed packages.
OWN_GROUP = "snas.strategies"


def own_name_rule(name: str) -> Rule:
    """Rule for `require`: a name of an entry point, or a reference."""
    known = ", ".join(installed(OWN_GROUP)) or "none is installed"
    return (
        "name",
        split_reference(name) is not None or name in installed(OWN_GROUP),
        f"must be file.py:Class, package.module:Class or a name of the group {OWN_GROUP} ({known}), got `{name}`",
    )


@dataclass(frozen=True, kw_only=True)
class OwnOptions(WeightSharingOptions):
    """A strategy of a plug-in that shares weights, a class of `search_core.strategies.base.Strategy`.

    Attributes:
        kind: names this family.
        name: `file.py:Class`, `package.module:Class` or an entry point of the group `snas.strategies`.
        options: what the class is called with after the `SearchContext`.
        held_out: share of the training images that is kept for the architecture, in [0, 1).

    Raises:
        OptionsError: if a value is out of range.
    """

    summary: ClassVar = "a strategy of a plug-in that shares weights"
    paper: ClassVar = "none"
    uses: ClassVar = ("temperature", "penalty", "alpha", "constraints")

    kind: Literal["own"] = "own"
    name: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    held_out: float = 0.0

    def __post_init__(self) -> None:
        require(
            *literal_rules(self),
            own_name_rule(self.name),
            ("held_out", 0 <= self.held_out < 1, f"must be in [0, 1), got {self.held_out}"),
        )
