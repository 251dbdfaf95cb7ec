"""One page about a study: what its trials cost and err, and how their searches converged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, LogNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from dashboards.pictures.figures import FAINT, INK, MUTED

_FONT = "DejaVu Sans"
_UNPENALISED = "#7C858C"  # outside the colour scale: zero has no place on a logarithmic one
_LOG_SPAN = 10.0
_MAX_CURVE_LABELS = 10
_LETTER = 0.017  # room of a letter, as a share of the panel's width
_COVERED = (0.012, 0.025)  # markers nearer than that cover each other, in shares of the panel
_STEPS = [0.045 * step for step in range(6)]  # how far a label of the front may be moved, in shares of the height
_LABEL_GAP = 0.045  # least distance of two curve labels, as a share of the panel's height


@dataclass(frozen=True, kw_only=True)
class TrialPoint:
    """What the summary shows of one trial.

    Attributes:
        number: its number in the study, at least 0.
        eta: penalty strength, at least 0.
        error: validation error of the child, a fraction in [0, 1]; NaN where the child was not evaluated.
        madds: multiply-adds of the child, at least 0.
        on_front: whether no other trial is better in both error and multiply-adds.
        epochs: epochs with a report, counted from 1, ascending.
        entropy: entropy of the whole architecture distribution per entry of `epochs`, nats.
        gap: supernet validation accuracy minus child validation accuracy per entry of `epochs`, a fraction.
        temperature: temperature of the concrete distribution per entry of `epochs`.

    Raises:
        ValueError: if the curves differ in length or if eta is negative or not finite.
    """

    number: int
    eta: float
    error: float
    madds: float
    on_front: bool
    epochs: Sequence[int] = field(default=())
    entropy: Sequence[float] = field(default=())
    gap: Sequence[float] = field(default=())
    temperature: Sequence[float] = field(default=())

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eta) and self.eta >= 0):
            raise ValueError(f"`eta` must be finite and at least 0, got {self.eta} in trial {self.number}")
        lengths = {name: len(getattr(self, name)) for name in ("epochs", "entropy", "gap", "temperature")}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the curves of trial {self.number} must have one length, got {lengths}")


def render_study(trials: Sequence[TrialPoint], *, title: str, columns: Literal[1, 2] = 2) -> Figure:
    """Draw the summary of a study: the front, and entropy, discretization gap and temperature per epoch.

    Trials are coloured by penalty strength on a logarithmic scale; those with `eta` = 0 have a colour and a marker of
    their own. Trials on the front carry their number, so that the page reads without colours too.

    Args:
        trials: at least one.
        title: one line over the page.
        columns: panels beside each other: 2 fill a page, 1 is for narrow places such as MLflow's descriptions.

    Raises:
        ValueError: if there are no trials.
    """
    if not trials:
        raise ValueError("`trials` must hold at least one trial, got none")
    scale = _EtaScale(trials)
    figure = Figure(figsize=(11.0, 7.8) if columns == 2 else (8.0, 13.0), dpi=110, facecolor="white")
    figure.suptitle(title, x=0.012, ha="left", fontsize=13, color=INK, family=_FONT, parse_math=False)
    front, entropy, gap, temperature = _panels(figure, 4 // columns, columns, scale, title_inches=0.4)
    _draw_front(front, trials, scale)
    _draw_curves(entropy, trials, scale, [trial.entropy for trial in trials])
    _label(entropy, "Entropy of the architecture distribution, all edges", "epoch", "entropy (nats)")
    _draw_curves(gap, trials, scale, [[100 * value for value in trial.gap] for trial in trials])
    gap.axhline(0.0, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    _label(gap, "Discretization gap: supernet minus child accuracy", "epoch", "gap (percentage points)")
    _draw_curves(temperature, trials, scale, [trial.temperature for trial in trials])
    _label(temperature, "Temperature of the concrete distribution", "epoch", "temperature")
    scale.draw_key(figure, front, temperature)
    return figure


def render_front(trials: Sequence[TrialPoint]) -> Figure:
    """Draw the first panel of the summary alone, with its colours; at least one trial."""
    scale = _EtaScale(trials)
    figure = Figure(figsize=(8.0, 4.6), dpi=110, facecolor="white")
    (axes,) = _panels(figure, 1, 1, scale)
    _draw_front(axes, trials, scale)
    scale.draw_key(figure, axes, axes)
    return figure


def _panels(figure: Figure, rows: int, columns: int, scale: _EtaScale, *, title_inches: float = 0.0) -> list[Axes]:
    """Panels with fixed room for their texts: an engine that arranges them takes as long as all drawing."""
    width, height = figure.get_size_inches()
    left, right, low, top = 0.87, 1.05 if scale.has_key else 0.25, 0.5, 0.4 + title_inches
    panel_width = (width - right - left * columns) / columns
    panel_height = (height - top - low - 0.85 * (rows - 1)) / rows
    room = {"left": left / width, "right": 1 - right / width, "bottom": low / height, "top": 1 - top / height}
    gaps = {"wspace": left / panel_width, "hspace": 0.85 / panel_height}
    return list(figure.subplots(rows, columns, squeeze=False, gridspec_kw={**room, **gaps}).flat)


class _EtaScale:
    """Colours by penalty strength on a logarithmic scale that copes with zeros and with a single value."""

    def __init__(self, trials: Sequence[TrialPoint]) -> None:
        positive = [trial.eta for trial in trials if trial.eta > 0]
        self._has_zero = len(positive) < len(trials)
        self._norm: LogNorm | None = None
        if positive:
            low, high = min(positive), max(positive)
            widen = 3.0 if high / low < 1.5 else 1.0
            self._norm = LogNorm(low / widen, high * widen)
        # Plasma rises evenly in lightness for every kind of colour vision; its yellow end is too faint for lines.
        self._colours: Colormap = ListedColormap(colormaps["plasma"](np.linspace(0.84, 0.0, 256)), "eta")

    def colour(self, eta: float) -> str:
        """Colour of a trial."""
        if eta == 0 or self._norm is None:
            return _UNPENALISED
        return to_hex(self._colours(float(self._norm(eta))))

    @staticmethod
    def marker(eta: float) -> str:
        """Marker of a trial."""
        return "s" if eta == 0 else "o"

    @property
    def has_key(self) -> bool:
        """Whether there is a colour bar."""
        return self._norm is not None

    def draw_key(self, figure: Figure, first: Axes, last: Axes) -> None:
        """Colour bar for positive strengths beside the panels, legend entry for zero in the first."""
        if self._norm is not None:
            (_, low), (right, _) = last.get_position().get_points()
            width, top = figure.get_size_inches()[0], first.get_position().y1
            place = figure.add_axes((right + 0.15 / width, low, 0.16 / width, top - low))
            bar = figure.colorbar(ScalarMappable(self._norm, self._colours), cax=place)
            bar.set_label("penalty strength η (log scale)", fontsize=9, color=INK)
            bar.ax.tick_params(labelsize=8, colors=INK)
            bar.ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            bar.ax.yaxis.set_minor_formatter(NullFormatter())
            bar.outline.set_visible(False)
        if self._has_zero:
            zero = Line2D([], [], color=_UNPENALISED, marker="s", markersize=5, linestyle=(0, (5, 2)), label="η = 0")
            first.legend(handles=[zero], loc="upper right", fontsize=8, frameon=False)


def _draw_front(axes: Axes, trials: Sequence[TrialPoint], scale: _EtaScale) -> None:
    """Error against multiply-adds of every evaluated child; the front as a staircase of what is attained."""
    shown = [trial for trial in trials if math.isfinite(trial.error) and math.isfinite(trial.madds)]
    front = sorted((trial for trial in shown if trial.on_front), key=lambda trial: (trial.madds, trial.error))
    for trial in shown:
        axes.plot(
            [trial.madds / 1e6], [100 * trial.error], scale.marker(trial.eta), color=scale.colour(trial.eta),
            markersize=8.5 if trial.on_front else 5, markeredgecolor=INK if trial.on_front else "white",
            markeredgewidth=1.2 if trial.on_front else 0.4, zorder=4 if trial.on_front else 3,
        )  # fmt: skip
    x, y = [trial.madds / 1e6 for trial in front], [100 * trial.error for trial in front]
    axes.plot(x, y, color=INK, linewidth=1.1, drawstyle="steps-post", zorder=2)
    axes.margins(0.1, 0.12)
    _scale_madds(axes, [trial.madds / 1e6 for trial in shown])
    _label_front(axes, front)
    _label(
        axes,
        "Error against cost of the children; front by trial number",
        "multiply-adds (millions)",
        "validation error (%)",
    )
    if not shown:
        axes.text(0.5, 0.5, "no child evaluated yet", transform=axes.transAxes, ha="center", color=MUTED, fontsize=9)


def _label_front(axes: Axes, front: Sequence[TrialPoint]) -> None:
    """Numbers beside the front's points: points that cover each other share a label, labels keep off all others."""
    axes.get_xlim(), axes.get_ylim()  # they are computed when they are asked for
    to_shares = axes.transData + axes.transAxes.inverted()
    at = {trial.number: tuple(to_shares.transform((trial.madds / 1e6, 100 * trial.error))) for trial in front}
    numbers: dict[tuple[float, float], list[int]] = {}
    for number, (x, y) in at.items():
        place = next((p for p in numbers if abs(p[0] - x) < _COVERED[0] and abs(p[1] - y) < _COVERED[1]), (x, y))
        numbers.setdefault(place, []).append(number)
    taken = [_Box(x - 0.01, y - 0.02, x + 0.01, y + 0.02) for x, y in at.values()]
    for (x, y), members in numbers.items():
        text = ", ".join(map(str, sorted(members)))
        width = _LETTER * len(text)
        places = [
            _Box(x - 0.012 - width, y - 0.022 - down - _LABEL_GAP, x - 0.012, y - 0.022 - down) for down in _STEPS
        ]
        places += [_Box(x + 0.012, y + 0.022 + up, x + 0.012 + width, y + 0.022 + up + _LABEL_GAP) for up in _STEPS]
        free = (box for box in places if box.is_inside and not any(box.meets(other) for other in taken))
        box = next(free, places[0])
        taken.append(box)
        is_near = box.top in (places[0].top, places[len(_STEPS)].top)
        axes.annotate(
            text, (x, y), ((box.left + box.right) / 2, (box.low + box.top) / 2),
            xycoords="axes fraction", textcoords="axes fraction", ha="center", va="center_baseline",
            fontsize=8.5, color=INK, zorder=5,
            arrowprops=None if is_near else {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkA": 0},
        )  # fmt: skip


class _Box(NamedTuple):
    """A rectangle in a panel, in shares of its width and height."""

    left: float
    low: float
    right: float
    top: float

    @property
    def is_inside(self) -> bool:
        return self.left >= 0 and self.low >= 0 and self.right <= 1 and self.top <= 1

    def meets(self, other: _Box) -> bool:
        return self.left < other.right and other.left < self.right and self.low < other.top and other.low < self.top


def _scale_madds(axes: Axes, madds: Sequence[float]) -> None:
    """Logarithmic axis where the children differ more than tenfold; an empty child (0) keeps it linear."""
    if madds and min(madds) > 0 and max(madds) / min(madds) > _LOG_SPAN:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _draw_curves(axes: Axes, trials: Sequence[TrialPoint], scale: _EtaScale, curves: Sequence[Sequence[float]]) -> None:
    """One line a trial; those on the front stand out and end in their number."""
    thin = 0.9 if len(trials) <= 40 else 0.5
    for trial, curve in zip(trials, curves, strict=True):
        axes.plot(
            trial.epochs, curve, color=scale.colour(trial.eta), linewidth=1.8 if trial.on_front else thin,
            linestyle=(0, (5, 2)) if trial.eta == 0 else "solid", alpha=1.0 if trial.on_front else 0.6,
            marker=scale.marker(trial.eta) if len(curve) == 1 else None, markersize=4,
            zorder=3 if trial.on_front else 2,
        )  # fmt: skip
    axes.margins(x=0.01, y=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))
    _label_curves(axes, trials, curves)


def _label_curves(axes: Axes, trials: Sequence[TrialPoint], curves: Sequence[Sequence[float]]) -> None:
    """Trial numbers beside the ends of the front's curves, pushed apart where they would overlap."""
    ends = [
        (curve[-1], trial.epochs[-1], trial.number)
        for trial, curve in zip(trials, curves, strict=True)
        if trial.on_front and len(curve) and math.isfinite(curve[-1])
    ]
    if not ends or len(ends) > _MAX_CURVE_LABELS:
        return  # more numbers than a panel's side can hold would only hide the curves
    ends.sort()
    low, high = axes.get_ylim()
    first, last = axes.get_xlim()
    final_epoch = max(epoch for _, epoch, _ in ends)
    at_side = [end for end in ends if end[1] == final_epoch]
    heights = _spread([(value - low) / (high - low) for value, _, _ in at_side], _LABEL_GAP)
    beside = final_epoch + 0.03 * (last - first)
    for (value, epoch, number), height in zip(at_side, heights, strict=True):
        y = low + height * (high - low)
        axes.plot([epoch, beside], [value, y], color=FAINT, linewidth=0.7, zorder=1)
        axes.text(beside, y, f" {number}", fontsize=8, color=INK, va="center_baseline", ha="left", zorder=5)
    for value, epoch, number in ends:
        if epoch < final_epoch:  # stopped early: its number stands where its curve ends
            axes.plot([epoch], [value], "|", color=INK, markersize=7, zorder=5)
            axes.annotate(
                str(number), (epoch, value), (0, 8), textcoords="offset points", ha="center", fontsize=8, color=INK,
                zorder=5, path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )  # fmt: skip
    axes.set_xlim(first, max(last, final_epoch + 0.07 * (last - first)))
    axes.set_ylim(low, high)


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move ascending heights in [0, 1] as little as a sweep up and a sweep down need to keep them `gap` apart."""
    spread = list(heights)
    for index in range(1, len(spread)):
        spread[index] = max(spread[index], spread[index - 1] + gap)
    ceiling = 1.0
    for index in reversed(range(len(spread))):
        spread[index] = min(spread[index], ceiling)
        ceiling = spread[index] - gap
    return spread


def _label(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, fontsize=10, color=INK, loc="left", family=_FONT)
    axes.set_xlabel(x_label, fontsize=9, color=INK, family=_FONT)
    axes.set_ylabel(y_label, fontsize=9, color=INK, family=_FONT)
    axes.tick_params(labelsize=8, colors=INK, length=3)
    axes.grid(color="#E6E9EC", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
