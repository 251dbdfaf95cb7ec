"""Options of the multi-trial strategies, one class a strategy.

They stand apart from the strategies because a study file is checked, and a study shown, without PyTorch, which takes
seconds to import.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from search_core.errors import literal_rules, require
from search_core.space.plan import Space
from search_core.strategies.controller_options import ControllerOptions
from search_core.strategies.multi_trial.estimate_options import EstimateOptions
from search_core.strategies.weight_sharing.options import own_name_rule
from search_core.training.retrain_options import RetrainOptions


@dataclass(frozen=True, kw_only=True)
class MultiTrialOptions:
    """Options of a multi-trial strategy; a subclass is a dataclass with its own `kind`.

    Attributes:
        summary: what the strategy does, in a line.
        paper: where it was published.
        uses: sections of the search that the strategy uses; the others have no effect on it.
        on_gpu, no_graph: as those of `WeightSharingOptions`.
        spaces: which of `network.space` it can search.
        children: how many are trained in each epoch of the search, at least 1; after that many it reports.
        at_once: how many are open at most, at least 1. Child n is proposed when those up to n - at_once were scored, in
            the order of their numbers; so proposals depend neither on the clock nor on how many workers there are.
            Few learn more from each score, many use more workers.
        estimate: how a child is trained for its score.

    Raises:
        OptionsError: if a value is out of range, in all subclasses. Those with rules of their own call
            `super().__post_init__`.
    """

    summary: ClassVar[str]
    paper: ClassVar[str]
    uses: ClassVar[tuple[str, ...]] = ("constraints",)
    on_gpu: ClassVar[tuple[str, ...]] = ()
    no_graph: ClassVar[str] = "trains each child by itself"
    spaces: ClassVar[tuple[Space, ...]] = get_args(Space)

    children: int = 10
    at_once: int = 8
    estimate: EstimateOptions = field(default_factory=EstimateOptions)

    def __post_init__(self) -> None:
        require(
            ("children", self.children >= 1, f"must be at least 1, got {self.children}"),
            ("at_once", self.at_once >= 1, f"must be at least 1, got {self.at_once}"),
        )


@dataclass(frozen=True, kw_only=True)
class RandomSearchOptions(MultiTrialOptions):
    """Random search (Bergstra and Bengio, JMLR 2012): children drawn uniformly and independently.

    Attributes:
        kind: names this strategy.
    """

    summary: ClassVar = "children drawn uniformly, each trained independently: the random control"
    paper: ClassVar = "Bergstra and Bengio, JMLR 2012"

    kind: Literal["random"] = "random"


@dataclass(frozen=True, kw_only=True)
class RegularisedEvolutionOptions(MultiTrialOptions):
    """Regularised (aging) evolution (Real et al., AAAI 2019, algorithm 1).

    Attributes:
        kind: names this strategy.
        population: P, members that are alive, at least 2; the first P children are drawn at random. 100 in the paper,
            of 20,000 children.
        sample: S, members of a tournament, in [1, `population`]; 25 in the paper.
        mutation: what may change: `any` choice of one edge, or by `morphism` only those after which the child can begin
            as its parent's function (`space.morphisms`), as long as the winner has one within the limits.
    """

    summary: ClassVar = "tournament selection, one mutation, the oldest dies; each child trained independently"
    paper: ClassVar = "Real et al., AAAI 2019"

    kind: Literal["regularised_evolution"] = "regularised_evolution"
    population: int = 20
    sample: int = 5
    mutation: Literal["any", "morphism"] = "any"

    def __post_init__(self) -> None:
        super().__post_init__()
        size, sample = self.population, self.sample
        require(
            *literal_rules(self),
            ("population", size >= 2, f"must be at least 2, got {size}"),
            (
                "sample",
                1 <= sample <= size,
                f"must be in [1, `population`] with `population` {size}, got {sample}",
                "population",
            ),
        )


@dataclass(frozen=True, kw_only=True)
class BayesianOptions(MultiTrialOptions):
    """Tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011) over one categorical choice per edge.

    Attributes:
        kind: names this strategy.
        startup: scores before there is a model, at least 1; children proposed until then are drawn uniformly.
        candidates: draws from the model of good children, of which the likeliest to improve is proposed, at least 1.
    """

    summary: ClassVar = "a Parzen estimator (TPE) of the operations of good children; each child trained independently"
    paper: ClassVar = "Bergstra et al., NeurIPS 2011"

    kind: Literal["bayesian"] = "bayesian"
    startup: int = 10
    candidates: int = 24

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            ("startup", self.startup >= 1, f"must be at least 1, got {self.startup}"),
            ("candidates", self.candidates >= 1, f"must be at least 1, got {self.candidates}"),
        )


@dataclass(frozen=True, kw_only=True)
class RlNasController(ControllerOptions):
    """The controller of Zoph and Le (section 4.1): in the space `nas_chain` with two layers of units, elsewhere one.

    Attributes:
        hidden: units of each layer.
        lr: learning rate of Adam; the paper's 0.0006 is for its 12,800 children, the default for hundreds.
    """

    hidden: int = 35
    init: float = 0.08
    lr: float = 0.02


@dataclass(frozen=True, kw_only=True)
class DepthGrowth:
    """How chains grow while they are searched (Zoph and Le, section 4.1), in the space `nas_chain`.

    Attributes:
        every: children after which later ones have more layers, at least 1 (1,600 in the paper); default: all have
            `network.nodes` layers.
        start: layers of the first children, at least 1, as in the paper.
        by: layers that are added each time, at least 1, as in the paper, up to `network.nodes`.

    Raises:
        OptionsError: if a value is out of range.
    """

    every: int | None = None
    start: int = 6
    by: int = 2

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        require(*((name, value >= 1, f"must be at least 1, got {value}") for name, value in given.items()))

    def depth(self, number: int, most: int) -> int:
        """Layers of a child.

        Args:
            number: of its proposal.
            most: layers of the last children.
        """
        return most if self.every is None else min(most, self.start + self.by * (number // self.every))


@dataclass(frozen=True, kw_only=True)
class RlNasOptions(MultiTrialOptions):
    """Children emitted by an LSTM controller that learns by REINFORCE.

    Attributes:
        kind: names this strategy.
        controller: the LSTM and how it learns.
        growth: depth of chains.
        batch: children an update, at least 1 (8 in the paper, section 4.1).
    """

    summary: ClassVar = "an LSTM controller with skip-connection anchors, trained by REINFORCE on trained children"
    paper: ClassVar = "Zoph and Le, ICLR 2017"

    kind: Literal["rl_nas"] = "rl_nas"
    controller: RlNasController = field(default_factory=RlNasController)
    growth: DepthGrowth = field(default_factory=DepthGrowth)
    batch: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        require(("batch", self.batch >= 1, f"must be at least 1, got {self.batch}"))


@dataclass(frozen=True, kw_only=True)
class NasnetController(ControllerOptions):
    """The controller of NASNet (appendix A.1).

    Attributes:
        lr: learning rate of Adam; the paper's 0.00035 is for its 20,000 children, the default for hundreds.
    """

    lr: float = 0.003
    entropy: float = 1.0e-5


@dataclass(frozen=True, kw_only=True)
class NasnetEstimate(EstimateOptions):
    """How a child of NASNet is trained.

    Attributes:
        drop_path: final probability of ScheduledDropPath (appendix A.7); by default that of a retraining here.
    """

    drop_path: float = RetrainOptions.drop_path


@dataclass(frozen=True, kw_only=True)
class NasnetOptions(MultiTrialOptions):
    """Children emitted by an LSTM controller that learns by proximal policy optimisation.

    Attributes:
        kind: names this strategy.
        estimate: how a child is trained for its score: by default with ScheduledDropPath.
        controller: the LSTM and how it learns.
        batch: children an update, at least 1 (20 in the paper, appendix A.1).
        clip: epsilon of the clipped objective, in (0, 1) (Schulman et al., 2017: 0.2).
        passes: steps on each batch, at least 1.
    """

    summary: ClassVar = "an LSTM controller of cells, trained by PPO on trained children"
    paper: ClassVar = "Zoph et al., CVPR 2018"
    spaces: ClassVar = ("darts", "nasnet", "enas", "choice_blocks")

    kind: Literal["nasnet"] = "nasnet"
    estimate: NasnetEstimate = field(default_factory=NasnetEstimate)
    controller: NasnetController = field(default_factory=NasnetController)
    batch: int = 20
    clip: float = 0.2
    passes: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            ("batch", self.batch >= 1, f"must be at least 1, got {self.batch}"),
            ("clip", 0 < self.clip < 1, f"must be in (0, 1), got {self.clip}"),
            ("passes", self.passes >= 1, f"must be at least 1, got {self.passes}"),
        )


@dataclass(frozen=True, kw_only=True)
class OwnMultiTrialOptions(MultiTrialOptions):
    """A multi-trial strategy of a plug-in, a class of `search_core.strategies.multi_trial.proposer.Proposer`.

    Attributes:
        kind: names this family.
        name: `file.py:Class`, `package.module:Class` or an entry point of the group `snas.strategies`.
        options: what the class is called with after the genotypes, the limits and the seed.
    """

    summary: ClassVar = "a strategy of a plug-in whose children are each trained independently"
    paper: ClassVar = "none"

    kind: Literal["own_multi_trial"] = "own_multi_trial"
    name: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(*literal_rules(self), own_name_rule(self.name))
