"""Bayesian optimisation over genotypes with Optuna's TPE; and the multi-trial strategies as the orchestrator has them.

Shape suffixes: E edges, O operations.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import optuna
import torch
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial
from torch import Tensor

from search_core.cost.constraints import ChildLimits
from search_core.space.code_space import Code, GenotypeSpace
from search_core.space.frequencies import frequencies
from search_core.space.genotype import CELL_TYPES, CellType
from search_core.strategies.multi_trial import build
from search_core.strategies.multi_trial.options import BayesianOptions, MultiTrialOptions
from search_core.strategies.multi_trial.proposer import Proposer
from search_core.strategies.multi_trial.scored import ScoredProposer

#: Suggestions of the model that may break the hard limits before a child is drawn uniformly among those that keep them.
_MOST_SUGGESTIONS = 50


def build_proposer(options: MultiTrialOptions, space: GenotypeSpace, limits: ChildLimits, seed: int) -> Proposer:
    """As `search_core.strategies.multi_trial.build.build_proposer`, with the strategies that need Optuna."""
    if isinstance(options, BayesianOptions):
        return Bayesian(options, space, limits, seed)
    return build.build_proposer(options, space, limits, seed)


class Bayesian(ScoredProposer):
    """Proposes by TPE, multivariate, with children that still train counted as bad ("constant liar").

    There is a model once `startup` children have scores: Optuna does not count those that still train. Until then every
    child is drawn uniformly, so with several at a time more than `startup` are.

    Optuna's study is in memory and follows from proposals and scores. Each proposal has a sampler of its own, seeded by
    its number, so that a suggestion depends on what was reported and not on who asked before.
    """

    def __init__(self, options: BayesianOptions, space: GenotypeSpace, limits: ChildLimits, seed: int) -> None:
        super().__init__(space, limits, seed)
        self._options, self._seed = options, seed
        choices = [CategoricalDistribution(list(range(number))) for number in space.options]
        self._distributions = {f"{position:03d}": choice for position, choice in enumerate(choices)}
        self._study = _new_study()
        self._trials: list[int] = []  # of the study, by proposal

    def propose(self) -> tuple[Code, int | None]:
        """As `ScoredProposer.propose`; it never waits for a score."""
        number = len(self.codes)
        self._study.sampler = self._sampler(number)
        for _ in range(_MOST_SUGGESTIONS):
            trial = self._study.ask(dict(self._distributions))
            code = tuple(int(trial.params[name]) for name in self._distributions)
            if self.limits.admits(self.space.decode(code)):
                self._trials.append(trial.number)
                return code, None
            self._study.tell(trial, state=TrialState.FAIL)  # TPE does not look at it
        code = self.limits.sample(self.space, torch.Generator().manual_seed(self._seed + 7919 * number))
        self._add(code, TrialState.RUNNING)
        return code, None

    def learn(self, number: int, score: float) -> None:
        """It is reported to Optuna too."""
        is_score = math.isfinite(score)
        self._study.tell(self._trials[number], score if is_score else None, None if is_score else TrialState.FAIL)

    def probabilities(self) -> dict[CellType, Tensor]:
        """Shares (E, O) of the operations among the best tenth of children, and as much weight as one for all alike.

        That is TPE's density of good children (Optuna's default gamma), its edges taken for independent; uniform before
        there is a model.
        """
        scored = sorted((-score, number) for number, score in self.scores.items() if math.isfinite(score))
        uniform = super().probabilities()
        if len(scored) < self._options.startup:
            return uniform
        good = [self.codes[number] for _, number in scored[: min(math.ceil(0.1 * len(scored)), 25)]]
        shares = frequencies(good, self.space, torch.device("cpu"))
        weight = len(good) / (len(good) + 1)
        return {name: weight * shares[name] + (1 - weight) * uniform[name] for name in CELL_TYPES}

    def state_dict(self) -> dict[str, Any]:
        """As `Proposer.state_dict`: seeds of later samplers follow from the first."""
        return {**super().state_dict(), "seed": self._seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `Proposer.load_state_dict`; Optuna's study is built again."""
        super().load_state_dict(state)
        self._seed = state["seed"]
        self._study, self._trials = _new_study(), []
        for number, code in enumerate(self.codes):
            score = self.scores.get(number)
            if score is None:
                self._add(code, TrialState.RUNNING)
            elif math.isfinite(score):
                self._add(code, TrialState.COMPLETE, score)
            else:
                self._add(code, TrialState.FAIL)

    def _sampler(self, number: int) -> optuna.samplers.TPESampler:
        with warnings.catch_warnings():  # called experimental since 2020
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                multivariate=True,
                constant_liar=True,
                n_startup_trials=self._options.startup,
                n_ei_candidates=self._options.candidates,
                seed=self._seed + 7919 * number,
            )

    def _add(self, code: Code, state: TrialState, score: float | None = None) -> None:
        params = dict(zip(self._distributions, code, strict=True))
        trial = create_trial(state=state, params=params, distributions=dict(self._distributions), value=score)
        self._trials.append(len(self._study.get_trials(deepcopy=False)))
        self._study.add_trial(trial)


def _new_study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(direction="maximize")
