"""Random search with weight sharing: the control of every comparison (Li and Talwalkar, UAI 2019)."""

from __future__ import annotations

from search_core.strategies.weight_sharing.ranked_draws import RankedDraws


class RandomSampling(RankedDraws):
    """Trains a child drawn uniformly in every step and keeps the best of those drawn after each epoch."""
