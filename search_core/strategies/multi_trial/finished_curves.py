"""Curves of the children that had all their epochs, and the laws that follow from them for the next one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from search_core.cost.counts import NetworkCost
from search_core.space.code_space import Code, GenotypeSpace
from search_core.space.genotype import CELL_TYPES
from search_core.strategies.multi_trial.curve_regression import CurveLaw, fit_law
from search_core.strategies.multi_trial.estimate_options import EstimateOptions


def known_beforehand(
    code: Code, space: GenotypeSpace, cost: NetworkCost, init_channels: int, parent_score: float | None
) -> list[float]:
    """What says something about a child's accuracy before its first epoch (A,).

    Architecture: logarithms of parameters and multiply-adds, and how many edges of either cell have each primitive.
    Settings, as far as children of one search differ in them: logarithm of the channels that it is trained with,
    whether it begins with a parent's weights, and the parent's score.

    Args:
        code: the child.
        space: that of its search.
        cost: of the child.
        init_channels: with which it is trained.
        parent_score: of the parent whose weights it begins with; None for fresh ones.
    """
    counts, genotype = [], space.decode(code)
    for cell_type in CELL_TYPES:
        kept = Counter(edge.primitive for edge in genotype.edges(cell_type))
        kept["none"] = len(space.edges) - kept.total()
        counts += [float(kept[primitive]) for primitive in space.primitives]
    parent = [0.0, 0.0] if parent_score is None else [1.0, parent_score]
    return [math.log1p(cost.params), math.log1p(cost.madds), *counts, math.log(init_channels), *parent]


class FinishedCurves:
    """Remembers curves in the order in which scores came in.

    A child that was stopped has no final accuracy, so it is not among them.

    Args:
        estimate: how children are trained, and stopped.
    """

    def __init__(self, estimate: EstimateOptions) -> None:
        self._epochs, self._stop = estimate.epochs, estimate.stop
        self._known: dict[int, list[float]] = {}  # of children that are open or had all their epochs
        self._curves: dict[int, list[float]] = {}

    def laws(self, number: int, known: Sequence[float]) -> tuple[CurveLaw, ...]:
        """Laws of a new child after `grace` epochs, one more, ..., one less than all; none to extrapolate.

        Args:
            number: of its proposal.
            known: `known_beforehand` of it.
        """
        self._known[number] = list(known)
        if len(self._curves) < self._stop.startup:
            return ()
        known_NA = np.array([self._known[other] for other in self._curves])
        curves_NT = np.array(list(self._curves.values()))
        seen = range(self._stop.grace, self._epochs)
        return tuple(fit_law(known_NA, curves_NT, np.array(self._known[number]), epochs) for epochs in seen)

    def ended(self, number: int, accuracies: Sequence[float]) -> None:
        """Take the curve of a child that ended, however it did."""
        if len(accuracies) == self._epochs:
            self._curves[number] = list(accuracies)
        else:
            self._known.pop(number, None)

    def state_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"known": dict(self._known), "curves": dict(self._curves)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._known, self._curves = dict(state["known"]), dict(state["curves"])
