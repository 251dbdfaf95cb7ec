"""Whether a training is worth continuing: its accuracy after the last epoch, predicted from its curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from search_core.errors import literal_rules, require
from search_core.strategies.multi_trial.curve_regression import CurveLaw

#: Exponents of the power law among which the best fit is taken: from curves that are still steep to flat ones.
_EXPONENTS = [float(exponent) for exponent in np.geomspace(0.1, 4.0, 100)]


@dataclass(frozen=True, kw_only=True)
class CurveStop:
    """When a child that will not become the best is stopped.

    Attributes:
        kind: `none`, `curve` to extrapolate its accuracy (`predicted_accuracy`), or `regression` to predict it also
            from architecture and settings, by children that had all their epochs (`curve_regression.CurveLaw`); while
            these are fewer than `startup`, as `curve`.
        grace: epochs that every child may run, at least 3: the law has three parameters.
        margin: a child continues while its predicted accuracy + `margin` reaches the best score, in [0, 1].
        startup: children with all their epochs from which a regression is made, at least 5.
        confidence: with which a regression must say that the best score - `margin` is not reached, in [0.5, 1).

    Raises:
        OptionsError: if a value is out of range.
    """

    kind: Literal["none", "curve", "regression"] = "none"
    grace: int = 3
    margin: float = 0.02
    startup: int = 10
    confidence: float = 0.95

    def __post_init__(self) -> None:
        require(
            *literal_rules(self),
            ("grace", self.grace >= 3, f"must be at least 3 epochs, got {self.grace}"),
            ("margin", 0 <= self.margin <= 1, f"must be in [0, 1], got {self.margin}"),
            ("startup", self.startup >= 5, f"must be at least 5, got {self.startup}"),
            ("confidence", 0.5 <= self.confidence < 1, f"must be in [0.5, 1), got {self.confidence}"),
        )

    def is_hopeless(
        self, accuracies: Sequence[float], epochs: int, best: float | None, laws: Sequence[CurveLaw] = ()
    ) -> bool:
        """Whether a training is to be stopped.

        Args:
            accuracies: after each of its epochs so far, fractions.
            epochs: how many it would have in all.
            best: score of the best child so far; None if there is none.
            laws: of the child after `grace`, `grace` + 1, ... epochs; none to extrapolate.
        """
        if self.kind == "none" or best is None or not self.grace <= len(accuracies) < epochs:
            return False
        if laws:
            law = laws[len(accuracies) - self.grace]
            return law.chance(accuracies, best - self.margin) < 1 - self.confidence
        return predicted_accuracy(accuracies, epochs) + self.margin < best


def predicted_accuracy(accuracies: Sequence[float], epochs: int) -> float:
    """Accuracy after the last epoch by the power law `y = c - a x^-b` (`pow3`; Domhan et al., IJCAI 2015, table 1).

    For each of some exponents b, c and a >= 0 follow by linear least squares; the b of the smallest error is taken.
    The prediction is at least the highest accuracy seen, which a curve that falls at its end had reached already, and
    at most 1. Domhan et al. average eleven laws over a Markov chain; one law with a margin is what a child can afford.

    Args:
        accuracies: after epochs 1, 2, ..., fractions, at least 3.
        epochs: the epoch to predict, at least as many.
    """
    y = np.asarray(accuracies, dtype=np.float64)
    x = np.arange(1, len(y) + 1, dtype=np.float64)
    best_error, predicted = math.inf, float(y[-1])
    for exponent in _EXPONENTS:
        u = x**-exponent
        spread = float(((u - u.mean()) ** 2).sum())
        slope = min(0.0, float(((u - u.mean()) * (y - y.mean())).sum()) / spread)  # = -a
        limit = float(y.mean()) - slope * float(u.mean())
        error = float(((limit + slope * u - y) ** 2).sum())
        if error < best_error:
            best_error, predicted = error, limit + slope * float(epochs) ** -exponent
    return min(1.0, max(predicted, float(y.max())))
