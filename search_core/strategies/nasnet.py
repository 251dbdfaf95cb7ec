"""NASNet: a controller emits the cells of a network and learns by PPO (Zoph et al., CVPR 2018)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from search_core.constraints import ChildLimits
from search_core.controller import ControllerOptions, SequenceController
from search_core.errors import require
from search_core.estimate import EstimateOptions
from search_core.genotype_space import GenotypeSpace
from search_core.policy_gradient import Ppo
from search_core.retrain import RetrainOptions
from search_core.strategies.over_trials import OverTrialsOptions
from search_core.strategies.policy_proposer import PolicyProposer


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
class NasnetOptions(OverTrialsOptions):
    """Children emitted by an LSTM controller that learns by proximal policy optimisation.

    Attributes:
        kind: names this strategy.
        estimate: how a child is trained for its score: by default with ScheduledDropPath.
        controller: the LSTM and how it learns.
        batch: children an update, at least 1 (20 in the paper, appendix A.1).
        clip: epsilon of the clipped objective, in (0, 1) (Schulman et al., 2017: 0.2).
        passes: steps on each batch, at least 1.

    Raises:
        OptionsError: if a value is out of range.
    """

    summary: ClassVar = "an LSTM controller of cells, trained by PPO on trained children"
    paper: ClassVar = "Zoph et al., CVPR 2018"

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

    def build(self, space: GenotypeSpace, limits: ChildLimits, *, children: int, seed: int) -> PolicyProposer:
        """The strategy at the beginning of a search; arguments as in `OverTrialsOptions.build`."""
        controller = SequenceController(self.controller, space.num_choices, len(space.primitives), seed=seed)
        learner = Ppo(controller, clip=self.clip, passes=self.passes)
        return PolicyProposer(space, limits, learner, batch=self.batch, seed=seed)
