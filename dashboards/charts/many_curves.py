"""One metric of many searches: a line for each, or the median and quartiles of those of one penalty or strategy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from dashboards.charts.chart import Chart
from dashboards.charts.curve_charts import colour_and_dash, floats
from dashboards.charts.points import escaped, spread_axis
from dashboards.charts.theme import Theme, faint, layout
from dashboards.formatting import counted, metric_factor, metric_name, metric_title, shown_number
from dashboards.history import History
from dashboards.records import Trial

Axis = Literal["epoch", "time"]
Scale = Literal["linear", "log"]
Show = Literal["searches", "quartiles"]


@dataclass(frozen=True, kw_only=True)
class CurveLook:
    """How curves are drawn.

    Attributes:
        along: `epoch`, or `time` of the search's epochs so far, in minutes.
        scale: of the metric.
        smoothing: epochs, odd, of a centred mean; 1 draws the numbers as they are.
        show: a line a search, or median and quartiles over the searches of one penalty or strategy, per epoch.
    """

    along: Axis = "epoch"
    scale: Scale = "linear"
    smoothing: int = 1
    show: Show = "searches"


class _Curve(NamedTuple):
    """A search that is drawn: x and y per epoch, in the units of the axes."""

    trial: Trial
    epochs: np.ndarray
    x: np.ndarray
    y: np.ndarray


def many_curves(
    trials: Sequence[Trial], curves: Mapping[int, History], metric: str, theme: Theme, look: CurveLook | None = None
) -> Chart:
    """One metric of many trials; those on the front stand out.

    Colour says which strategy a trial has, or where all have the same one, how strong its penalty is. The numbers
    behind the chart are those that were logged, whatever the look.
    """
    look = look or CurveLook()
    known = [(trial, curves[trial.number]) for trial in trials if trial.number is not None and trial.number in curves]
    known = [(trial, history) for trial, history in known if metric in history.metrics]
    key, title = "many-curves", f"{metric_name(metric).capitalize()} per epoch"
    if not known:
        return Chart(key=key, title=title, empty="None of these trials has recorded this metric yet.")
    shown = [_curve(trial, history, metric, look) for trial, history in known]
    strokes = _strokes([trial for trial, _ in known], theme)
    is_named = {stroke.name for stroke in strokes} != {""}
    is_grouped = look.show == "quartiles"
    data = _quartiles(shown, strokes) if is_grouped else _lines(shown, strokes, look)
    above = [value for curve in shown for value in curve.y.tolist() if value > 0] if look.scale == "log" else []
    along = "epoch" if look.along == "epoch" or is_grouped else "time of the epochs so far (minutes)"
    heavy = sum(trial.on_front for trial, _ in known)
    searches = counted(len(known), "search", "searches")
    return Chart(
        key=key,
        title=f"{title} of {searches}",
        summary=f"{title} of {searches}, {heavy} of them on the front.",
        figure={"data": data, "layout": layout(theme, x=along, y=metric_title(metric), height=460,
                                               showlegend=is_named or is_grouped, hovermode="closest",
                                               yaxis=spread_axis(above, beyond=1.0) if above else {})},
        columns=("trial", "epoch", metric),
        rows=[
            (trial.number, int(epoch), float(value))
            for trial, history in known
            for epoch, value in zip(history.epochs, history.metrics[metric], strict=True)
        ],
        note=_note(look, is_named=is_named),
    )  # fmt: skip


def _note(look: CurveLook, *, is_named: bool) -> str:
    smooth = f" Means of {look.smoothing} epochs." if look.smoothing > 1 else ""
    log = " A logarithmic scale has no place for numbers that are not above 0." if look.scale == "log" else ""
    if look.show == "quartiles":
        return f"Lines are medians, bands the middle half of the searches of each group.{smooth}{log}"
    meaning = (
        "colour and dash say the strategy"
        if is_named
        else "darker (on dark paper: brighter) lines have a stronger penalty; dashed lines have none"
    )
    return f"Heavy lines are on the front; {meaning}. A click on a line opens its trial.{smooth}{log}"


def _curve(trial: Trial, history: History, metric: str, look: CurveLook) -> _Curve:
    values = smoothed(history.metrics[metric] * metric_factor(metric), look.smoothing)
    x = history.epochs
    if look.along == "time":
        seconds = history.metrics.get("seconds", np.full(len(x), math.nan))
        x = np.cumsum(seconds) / 60
    return _Curve(trial, history.epochs, x, values)


def smoothed(values: np.ndarray, width: int) -> np.ndarray:
    """Centred mean of `width` neighbours, an odd number, as far as there are any; gaps stay and count for nothing."""
    known, half = np.isfinite(values), width // 2
    kernel, end = np.ones(width), half + len(values)
    sums = np.convolve(np.where(known, values, 0.0), kernel)[half:end]
    counts = np.convolve(known.astype(float), kernel)[half:end]
    return np.where(known, sums / np.maximum(counts, 1.0), math.nan)


def _lines(curves: Sequence[_Curve], strokes: Sequence[_Stroke], look: CurveLook) -> list[dict[str, Any]]:
    # Lines of one look are one trace with gaps: a hundred traces would take a second to draw.
    at = "epoch %{x}" if look.along == "epoch" else "%{x:.3g} min"
    groups: dict[tuple[_Stroke, bool], list[_Curve]] = {}
    for stroke, curve in zip(strokes, curves, strict=True):
        groups.setdefault((stroke, curve.trial.on_front), []).append(curve)
    data: list[dict[str, Any]] = []
    named: set[str] = set()
    for (stroke, on_front), members in sorted(groups.items(), key=lambda item: (item[0][1], item[0][0].name)):
        x: list[float | None] = []
        y: list[float | None] = []
        numbers: list[int | None] = []
        for trial, epochs, along, values in members:
            x += [*(epochs.tolist() if look.along == "epoch" else floats(along)), None]
            y += [*floats(values), None]
            numbers += [trial.number] * len(values) + [None]
        data.append(
            {"type": "scatter", "mode": "lines", "x": x, "y": y, "customdata": numbers,
             "name": escaped(stroke.name), "legendgroup": escaped(stroke.name),
             "showlegend": stroke.name not in named, "opacity": 1.0 if on_front else 0.65,
             "line": {"color": stroke.colour, "width": 2.4 if on_front else 1.0, "dash": stroke.dash},
             "hovertemplate": f"trial %{{customdata}}, {at}: %{{y:.4g}}<extra></extra>"}
        )  # fmt: skip
        named.add(stroke.name)
    return data


def _quartiles(curves: Sequence[_Curve], strokes: Sequence[_Stroke]) -> list[dict[str, Any]]:
    """Median and middle half of each group over the epochs, groups of strategies or from weak to strong penalties."""
    groups: dict[_Stroke, list[_Curve]] = {}
    for stroke, curve in sorted(zip(strokes, curves, strict=True), key=lambda pair: pair[1].trial.eta or 0.0):
        groups.setdefault(stroke, []).append(curve)
    data: list[dict[str, Any]] = []
    for stroke, members in groups.items():
        by_epoch: dict[int, list[float]] = {}
        for curve in members:
            for epoch, value in zip(curve.epochs.tolist(), curve.y.tolist(), strict=True):
                if math.isfinite(value):
                    by_epoch.setdefault(epoch, []).append(value)
        epochs = sorted(by_epoch)
        at_epochs = [np.quantile(by_epoch[epoch], (0.25, 0.5, 0.75)).tolist() for epoch in epochs]
        low, middle, high = ([float(f"{row[place]:.6g}") for row in at_epochs] for place in range(3))
        name = escaped(f"{stroke.name or _etas(members)} (n = {len(members)})")
        trace = {"type": "scatter", "mode": "lines", "x": epochs, "name": name, "legendgroup": name}
        edge = {**trace, "line": {"width": 0, "color": stroke.colour}, "showlegend": False, "hoverinfo": "skip"}
        data += [
            {**edge, "y": low},
            {**edge, "y": high, "fill": "tonexty", "fillcolor": faint(stroke.colour, 0.18)},
            {**trace, "y": middle, "line": {"color": stroke.colour, "width": 2.2, "dash": stroke.dash},
             "hovertemplate": "epoch %{x}: median %{y:.4g}<extra>%{fullData.name}</extra>"},
        ]  # fmt: skip
    return data


def _etas(curves: Sequence[_Curve]) -> str:
    etas = [curve.trial.eta for curve in curves if curve.trial.eta]
    if not etas:
        return "without penalty"
    low, high = shown_number(min(etas)), shown_number(max(etas))
    return f"η {low}" if low == high else f"η {low} to {high}"


class _Stroke(NamedTuple):
    """Look of a line, and what it stands for in the legend, if there is one."""

    name: str
    colour: str
    dash: str


def _strokes(trials: Sequence[Trial], theme: Theme) -> list[_Stroke]:
    """The stroke of each trial: by strategy where there are several, else by penalty."""
    strategies = sorted({trial.strategy for trial in trials})
    if len(strategies) > 1:
        looks = {name: _Stroke(name, *colour_and_dash(place, theme)) for place, name in enumerate(strategies)}
        return [looks[trial.strategy] for trial in trials]
    etas = [math.log10(trial.eta) for trial in trials if trial.eta]
    low, high = (min(etas), max(etas)) if etas else (0.0, 0.0)

    def by_penalty(eta: float | None) -> _Stroke:
        if not eta:
            return _Stroke("", theme.muted, "dash")
        share = 0.5 if high == low else (math.log10(eta) - low) / (high - low)
        return _Stroke("", theme.sequential[min(4, int(5 * share))][1], "solid")

    return [by_penalty(trial.eta) for trial in trials]
