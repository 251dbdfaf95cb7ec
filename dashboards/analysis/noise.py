"""How sure an error is: its 95 % interval by the number of images and by the seeds, and whether two errors differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An error that was measured on images, by one training or several.

    Attributes:
        value: mean over trainings, a fraction in [0, 1].
        interval: where the error lies with 95 % confidence, fractions; None if the number of images is not known.
        images: that each training was measured on; None if that is not known.
        seeds: number of trainings.
    """

    value: float
    interval: tuple[float, float] | None
    images: int | None
    seeds: int = 1


def estimate(errors: Sequence[float], images: int | None) -> Estimate:
    """Mean and interval of the error of one cell.

    The interval is Wilson's by the number of images, since all trainings see the same ones; half of Student's interval
    of the mean over seeds is added to it in squares. Chance over images is in the spread over seeds too, so with
    several seeds it is rather too wide. With one seed nothing is known of the spread, and it is by the images alone.

    Args:
        errors: a fraction per training, at least one.
        images: that each was measured on.
    """
    value, seeds = fmean(errors), len(errors)
    if not images:
        return Estimate(value=value, interval=None, images=None, seeds=seeds)
    low, high = wilson(value, images)
    if seeds > 1:
        from scipy.special import stdtrit  # a tenth of a second that a study with one seed does not take

        half = float(stdtrit(seeds - 1, (1 + CONFIDENCE) / 2)) * stdev(errors) / math.sqrt(seeds)
        low = max(0.0, value - math.hypot(value - low, half))
        high = min(1.0, value + math.hypot(high - value, half))
    return Estimate(value=value, interval=(low, high), images=images, seeds=seeds)


def wilson(share: float, images: int) -> tuple[float, float]:
    """Wilson's score interval of a share with 95 % confidence (Wilson, JASA 1927).

    Args:
        share: that was observed, a fraction in [0, 1].
        images: number of observations, at least 1.
    """
    scale = 1 + _Z**2 / images
    centre = (share + _Z**2 / (2 * images)) / scale
    half = _Z / scale * math.sqrt(share * (1 - share) / images + _Z**2 / (4 * images**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def is_beyond_noise(one: Estimate, other: Estimate) -> bool | None:
    """Whether two errors differ with 95 % confidence; None if an interval is not known.

    By the interval of the difference that follows from both (Newcombe, method 10, Statistics in Medicine 1998). Cells
    that are measured on the same images mostly err on the same ones: what is called a difference here is one.
    """
    if one.interval is None or other.interval is None:
        return None
    better, worse = sorted((one, other), key=lambda known: known.value)
    assert better.interval is not None
    assert worse.interval is not None
    reach = math.hypot(better.interval[1] - better.value, worse.value - worse.interval[0])
    return worse.value - better.value > reach
