"""The final accuracy of a training by regression over finished ones (Baker et al., arXiv:1705.10823).

Shape suffixes: N finished trainings, T their epochs, S epochs seen, A features that are known before the first epoch,
F features of the regression.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Strengths of the ridge, per training, among which leave-one-out errors choose.
_RIDGES = np.geomspace(1e-4, 1e2, 25)


@dataclass(frozen=True, kw_only=True)
class CurveLaw:
    """What the final accuracy of one child depends on, once some of its epochs are seen.

    Attributes:
        constant: the part that follows from architecture and settings.
        weights: of the accuracies after its epochs 1, 2, ..., as many as are seen.
        deviation: standard deviation of the prediction's error, above 0.
    """

    constant: float
    weights: tuple[float, ...]
    deviation: float

    def predicted(self, accuracies: Sequence[float]) -> float:
        """Final accuracy, in [0, 1], from those after the epochs that are seen."""
        value = self.constant + math.fsum(w * y for w, y in zip(self.weights, accuracies, strict=True))
        return min(1.0, max(0.0, value))

    def chance(self, accuracies: Sequence[float], best: float) -> float:
        """Probability that the final accuracy is above `best`, its error being normal (Baker et al.)."""
        return 0.5 * math.erfc((best - self.predicted(accuracies)) / (self.deviation * math.sqrt(2)))


def fit_law(known_NA: Array, curves_NT: Array, own_A: Array, seen: int) -> CurveLaw:
    """Ridge regression of the gain from epoch S to the last on architecture, settings and the first accuracies.

    Features are those of Baker et al.: what is known beforehand, the accuracies y(1..S), their first and
    their second differences; one regression for each S. They report ordinary least squares, forests and support vector
    machines; a ridge has a closed form, and leave-one-out errors without refitting (Allen's PRESS), of which the mean
    square chooses the strength of the ridge and is the variance of the prediction. It shrinks towards the mean gain,
    not the mean accuracy, so that few trainings do not spoil the order of what has been seen. All curve features are
    linear in the accuracies, so for one child the law is a constant and a weight per epoch.

    Args:
        known_NA: what was known of each finished training before its first epoch.
        curves_NT: accuracies after each of its epochs, fractions; at least two trainings.
        own_A: the same of the child.
        seen: epochs S of the child, in [1, T).
    """
    # (S, S + S-1 + S-2): the accuracies, and what `np.diff` makes of them once and twice.
    curve_SF = np.concatenate([np.diff(np.eye(seen), order) for order in range(min(3, seen))], axis=1)
    features_NF = np.concatenate([known_NA, curves_NT[:, :seen] @ curve_SF], axis=1)
    mean_F, scale_F = features_NF.mean(0), features_NF.std(0)
    scale_F[scale_F < 1e-9] = np.inf  # equal in all trainings: says nothing
    gains_N = curves_NT[:, -1] - curves_NT[:, seen - 1]
    weight_F, deviation = _ridge((features_NF - mean_F) / scale_F, gains_N)
    weight_F /= scale_F
    num_known = known_NA.shape[1]
    constant = gains_N.mean() - mean_F @ weight_F + own_A @ weight_F[:num_known]
    weights = curve_SF @ weight_F[num_known:] + np.eye(seen)[-1]
    return CurveLaw(constant=float(constant), weights=tuple(weights.tolist()), deviation=deviation)


def _ridge(x_NF: Array, y_N: Array) -> tuple[Array, float]:
    """Weights of centred features, and the root mean square of the errors on trainings that were left out."""
    num = len(y_N)
    u_NK, s_K, vt_KF = np.linalg.svd(x_NF, full_matrices=False)
    target_K = u_NK.T @ (y_N - y_N.mean())
    best_error, best_K = math.inf, np.zeros_like(s_K)
    for ridge in _RIDGES * num:
        kept_K = s_K**2 / (s_K**2 + ridge)
        residual_N = y_N - y_N.mean() - u_NK @ (kept_K * target_K)
        # The mean takes 1 / N of each training's own weight, the ridge the diagonal of its hat matrix.
        left_out_N = residual_N / (1 - 1 / num - (u_NK**2) @ kept_K)
        error = float((left_out_N**2).mean())
        if error < best_error:
            best_error, best_K = error, s_K / (s_K**2 + ridge) * target_K
    return vt_KF.T @ best_K, max(math.sqrt(best_error), 1e-6)
