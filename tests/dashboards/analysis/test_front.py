"""The front and what it dominates."""

import numpy as np
import pytest

from dashboards.analysis.front import volume_shares
from orchestrator.adapters.optuna_internals import dominated_volume


def test_volume_shares_are_those_of_optuna_after_each_point():
    losses = np.random.default_rng(0).random((40, 2)).round(1) * (3, 1e6)  # with equal points, in units of their own
    scaled = (losses - losses.min(axis=0)) / np.ptp(losses, axis=0)
    wanted = [dominated_volume(scaled[: count + 1], np.ones(2)) for count in range(40)]
    assert volume_shares(losses) == pytest.approx(wanted, abs=1e-12)


def test_volume_shares_of_points_that_are_equal_in_one_loss_are_none():
    assert volume_shares(np.array([[1.0, 2.0], [1.0, 3.0]])) == []
    assert volume_shares(np.empty((0, 2))) == []
