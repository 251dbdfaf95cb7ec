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


def volume_shares(losses: np.ndarray) -> list[float]:
    """Share of the box between the best and the worst value of each loss that the points so far dominate, after each.

    The hypervolume (Zitzler and Thiele 1999) of two losses scaled to [0, 1] by all points, the worst as reference, as
    `snas study show --json` has it of the whole study. Empty if all points are equal in one loss.

    Args:
        losses: (N, 2), a row per point in the order in which they came; finite, less is better.
    """
    if not len(losses) or not (losses.min(axis=0) < losses.max(axis=0)).all():
        return []
    front, share, shares = np.empty((0, 2)), 0.0, []
    for point in (losses - losses.min(axis=0)) / np.ptp(losses, axis=0):
        if not (front <= point).all(axis=1).any():
            front = np.vstack([front[~(point <= front).all(axis=1)], point])
            front = front[front[:, 0].argsort()]
            share = float(((1 - front[:, 0]) * -np.diff(front[:, 1], prepend=1)).sum())
        shares.append(share)
    return shares
