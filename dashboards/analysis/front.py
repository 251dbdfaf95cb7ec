"""Which points no other point beats: the Pareto front, as Optuna counts it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np


def front_mask(values: np.ndarray, modes: Sequence[Literal["min", "max"]]) -> np.ndarray:
    """Mark the points of the front. Equal points are all on it; a point with a value that is not finite never is.

    Points are taken in lexical order: the first that is left is on the front, and all that it dominates go. So the time
    grows with the number of points times that of the front.

    Args:
        values: (N, M), a row per point.
        modes: per column, whether small or large is good.

    Returns:
        Booleans (N,).
    """
    losses = np.where([mode == "max" for mode in modes], -values, values)
    mask = np.asarray(np.isfinite(losses).all(axis=1))
    points, places = np.unique(losses[mask], axis=0, return_inverse=True)
    is_on_front = np.zeros(len(points), dtype=bool)
    left = np.arange(len(points))
    while len(left):
        is_on_front[left[0]] = True
        left = left[(points[left] < points[left[0]]).any(axis=1)]
    mask[mask] = is_on_front[places.reshape(-1)]
    return mask
