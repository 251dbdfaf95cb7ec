"""NASNet: a controller emits the cells of a network and learns by PPO (Zoph et al., CVPR 2018)."""

from __future__ import annotations

from search_core.cost.constraints import ChildLimits
from search_core.space.code_space import GenotypeSpace
from search_core.strategies.controller import SequenceController
from search_core.strategies.multi_trial.options import NasnetOptions
from search_core.strategies.multi_trial.policy_proposer import PolicyProposer
from search_core.strategies.policy_gradient import Ppo


class Nasnet(PolicyProposer):
    """Proposes children of an LSTM controller that learns by proximal policy optimisation."""

    def __init__(self, options: NasnetOptions, space: GenotypeSpace, limits: ChildLimits, seed: int) -> None:
        controller = SequenceController(options.controller, space.options, seed=seed)
        learner = Ppo(controller, clip=options.clip, passes=options.passes)
        super().__init__(space, limits, learner, batch=options.batch, seed=seed)
