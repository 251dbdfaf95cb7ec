"""Estimators of the gradient of alpha beside each other: their noise, and how far they get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dashboards.pictures.figures import FAINT, INK, MUTED

#: Colour and marker of each estimator; temperatures have dashes.
_STYLES = {"SNAS": ("#0072B2", "o"), "REINFORCE, relaxed": ("#E69F00", "s"), "REINFORCE": ("#D55E00", "D")}
_OTHER = (INK, "")
_DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True, kw_only=True)
class DrawnEstimator:
    """What the figure shows of one estimator.

    Attributes:
        name: `SNAS`, `REINFORCE, relaxed`, `REINFORCE`, or another such as `exact`.
        temperature: of the concrete distribution; None without.
        variances: of one estimate over the exact gradient's squared norm, of each seed; 0 for an exact one.
        cosines: of one estimate with the exact gradient, of each seed.
        losses: expected loss before the first and after each step of a descent, nats.
    """

    name: str
    temperature: float | None
    variances: Sequence[float]
    cosines: Sequence[float]
    losses: Sequence[float]

    @property
    def label(self) -> str:
        """Name and temperature."""
        return (
            self.name if self.temperature is None else f"{self.name}, \N{GREEK SMALL LETTER LAMDA} {self.temperature:g}"
        )


def gradient_figure(estimators: Sequence[DrawnEstimator]) -> Figure:
    """Variance and cosine of single estimates, and the expected loss along the descents."""
    figure = Figure(figsize=(10.5, 3.8), layout="constrained")
    variance, cosine, descent = figure.subplots(1, 3, width_ratios=(1, 1, 1.5))
    noisy = [estimator for estimator in estimators if any(estimator.variances)]
    variance.set_xscale("log")
    _dots(variance, noisy, [estimator.variances for estimator in noisy], "variance / |gradient|\N{SUPERSCRIPT TWO}")
    _dots(cosine, noisy, [estimator.cosines for estimator in noisy], "cosine with the exact gradient")
    cosine.set_yticklabels([])
    temperatures = list(dict.fromkeys(estimator.temperature for estimator in noisy if estimator.temperature))
    for estimator in estimators:
        place = temperatures.index(estimator.temperature) if estimator.temperature else 0
        colour, _ = _STYLES.get(estimator.name, _OTHER)
        descent.plot(estimator.losses, color=colour, ls=_DASHES[place % len(_DASHES)], lw=1.3, label=estimator.label)
    descent.set_xlabel("steps of alpha")
    descent.set_title("expected loss (nats)", loc="left", fontsize=9, color=INK)
    descent.legend(fontsize=7, frameon=False, labelcolor=MUTED, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for axes in (variance, cosine, descent):
        axes.tick_params(labelsize=8, colors=MUTED)
        axes.grid(color=FAINT, lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _dots(axes: Axes, estimators: Sequence[DrawnEstimator], values: Sequence[Sequence[float]], title: str) -> None:
    """A row per estimator with a dot per seed and a line at their mean."""
    for row, (estimator, of_seeds) in enumerate(zip(estimators, values, strict=True)):
        colour, marker = _STYLES.get(estimator.name, _OTHER)
        axes.plot(of_seeds, [row] * len(of_seeds), ls="", marker=marker, ms=5, color=colour, alpha=0.7)
        axes.plot([fmean(of_seeds)], [row], ls="", marker="|", ms=14, mew=1.6, color=colour)
    axes.set_yticks(range(len(estimators)), [estimator.label for estimator in estimators])
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=9, color=INK)
