"""Trials as points: coloured by penalty strength, schedule or strategy, never by colour alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from typing import Any, Literal, NamedTuple

from dashboards.analysis.answer import COSTS
from dashboards.charts.theme import SYMBOLS, Theme, log_ticks
from dashboards.formatting import metric_name, shown_metric, shown_number
from dashboards.records import Trial

#: From which largest to least error on an axis of errors is logarithmic.
ERRORS_SPREAD = 5.0
ColourBy = Literal["eta", "schedule", "strategy"]

_LABEL_ROOM = (0.05, 0.045)  # of a label, as shares of the axes
_LOWER_ROOM = 0.13  # of an axis, likewise
_MOST_ETAS, _ETA_ROOM = 10, 0.07  # labels that say eta, too, and the room that it takes
_UNPENALISED = "η = 0"


class _Look(NamedTuple):
    """Size in pixels, width of the rim in pixels, and what the name of the symbol ends in."""

    size: float
    line: float
    suffix: str = ""


#: Markers by standing, from what lies below to what lies on top.
_LOOKS = {"early": _Look(7, 1.2, "-open"), "complete": _Look(7.5, 0.4), "front": _Look(12, 1.4)}


#: What is not there at first: invisible, and with few words, since there may be thousands.
_LATE = {"visible": False, "meta": "late", "hovertemplate": "trial %{customdata}: %{y:.4g}<extra></extra>"}


def points(
    trials: Sequence[Trial],
    x: Sequence[float],
    y: Sequence[float],
    front: Sequence[int],
    theme: Theme,
    colour_by: ColourBy,
    *,
    brief: bool = False,
    late: Collection[int] = (),
) -> list[dict[str, Any]]:
    """Traces of markers: one per schedule or strategy, or one with a colour scale over eta and another for eta = 0.

    Trials on the front are large and carry their number, those that are not complete are hollow. Each standing is a
    trace of its own, since a browser draws markers that all look the same much faster. Those at the places `late` are
    traces of their own that the browser shows once the page is there (`app.js`), with few words.
    """
    on_front = set(front)
    labels = _labels(trials, x, y, front)
    scale = eta_scale([math.log10(trial.eta) for trial in trials if trial.eta], theme)
    traces: list[dict[str, Any]] = []
    for place, (name, members) in enumerate(_groups(trials, colour_by)):
        marker: dict[str, Any] = {"color": theme.categories[place % len(theme.categories)]}
        # Moved on by one when the colours begin again, so that no two series look alike.
        symbol = SYMBOLS[(place + place // len(theme.categories)) % len(SYMBOLS)]
        if colour_by == "eta" and name == _UNPENALISED:
            marker = {"color": theme.muted}
        for (standing, look), is_late in itertools.product(_LOOKS.items(), (False, True)):
            alike = [i for i in members if _standing(trials[i], i in on_front) == standing]
            chosen = [i for i in alike if (i in late) is is_late]
            if not chosen:
                continue
            own = {**marker, "symbol": symbol + look.suffix, "size": look.size}
            own["line"] = {"color": theme.ink, "width": look.line} if not look.suffix else {"width": look.line}
            if colour_by == "eta" and name != _UNPENALISED:
                own |= {**scale, "color": [math.log10(trials[i].eta or 1.0) for i in chosen]}
                own["showscale"] = not is_late and not any(trace["marker"].get("showscale") for trace in traces)
            traces.append(
                {
                    "type": "scatter", "mode": "markers", "name": escaped(name), "legendgroup": escaped(name),
                    "showlegend": not any(trace["name"] == escaped(name) for trace in traces), "marker": own,
                    "x": [x[i] for i in chosen], "y": [finite(y[i]) for i in chosen],
                    "customdata": [trials[i].number for i in chosen],
                    **(_LATE if is_late else _words([trials[i] for i in chosen], brief=brief)),
                }
            )  # fmt: skip
            if standing == "front":
                traces[-1] |= {
                    "mode": "markers+text", "text": [labels.get(i, "") for i in chosen],
                    "textposition": "bottom left", "textfont": {"color": theme.ink, "size": 12},
                }  # fmt: skip
    return traces


def _labels(trials: Sequence[Trial], x: Sequence[float], y: Sequence[float], front: Sequence[int]) -> dict[int, str]:
    """Numbers at the points of the front, with eta if they are few; trials that found the same point share one label.

    A label that would lie over one before is left out: pointing at its trial says the same.
    """
    at: dict[tuple[float, float], list[int]] = {}
    for i in sorted(front):
        at.setdefault((x[i], y[i]), []).append(i)
    has_eta = len(at) <= _MOST_ETAS
    width = _LABEL_ROOM[0] + has_eta * _ETA_ROOM
    free: list[tuple[float, float]] = []
    labels: dict[int, str] = {}
    places_x, places_y = _shares(x), _shares(y, beyond=ERRORS_SPREAD)
    for places in at.values():
        here = places_x[places[0]], places_y[places[0]]
        if all(abs(here[0] - a) > width or abs(here[1] - b) > _LABEL_ROOM[1] for a, b in free):
            free.append(here)
            labels[places[0]] = ", ".join(escaped(trials[i].title.removeprefix("trial ")) for i in places)
            eta = trials[places[0]].eta
            if len(places) == 1 and has_eta and eta is not None:
                labels[places[0]] += f": η {shown_number(eta)}"
    return labels


def _shares(values: Sequence[float], *, beyond: float = 10.0) -> list[float]:
    """Where values stand on their axis (`spread_axis`), from 0 to 1."""
    finite_ones = [value for value in values if math.isfinite(value)]
    if spread_axis(finite_ones, beyond=beyond).get("type") == "log":
        values, finite_ones = [math.log(v) if v > 0 else v for v in values], [math.log(v) for v in finite_ones]
    low, high = min(finite_ones, default=0.0), max(finite_ones, default=0.0)
    return [(value - low) / ((high - low) or 1.0) for value in values]


def _groups(trials: Sequence[Trial], colour_by: ColourBy) -> list[tuple[str, list[int]]]:
    """Names of the series, and which trials are in each."""
    if colour_by != "eta":
        of = [trial.schedule if colour_by == "schedule" else trial.strategy for trial in trials]
        return [(name, [i for i, other in enumerate(of) if other == name]) for name in sorted(set(of))]
    return [
        ("η > 0", [i for i, trial in enumerate(trials) if trial.eta]),
        (_UNPENALISED, [i for i, trial in enumerate(trials) if not trial.eta]),
    ]


def _standing(trial: Trial, is_on_front: bool) -> str:
    return "front" if is_on_front else "complete" if trial.is_result else "early"


def eta_scale(logarithms: Sequence[float], theme: Theme) -> dict[str, Any]:
    """The palette of the penalty strength with its bar, for a marker whose colours are these logarithms."""
    low, high = min(logarithms, default=0.0), max(logarithms, default=0.0)
    if high - low < 0.2:
        low, high = low - 0.5, high + 0.5
    values, texts = log_ticks(low, high)
    return {
        "colorscale": theme.sequential, "cmin": low, "cmax": high, "showscale": True,
        "colorbar": {
            "title": {"text": "η", "side": "top"}, "tickvals": values, "ticktext": texts, "thickness": 12, "len": 0.9,
            "outlinewidth": 0, "tickfont": {"color": theme.muted, "size": 11},
        },
    }  # fmt: skip


def _words(trials: Sequence[Trial], *, brief: bool) -> dict[str, Any]:
    if brief:
        return {"hovertext": list(map(_brief, trials)), "hovertemplate": "%{hovertext}: %{y:.4g}<extra></extra>"}
    return {"hovertext": list(map(_hover, trials)), "hoverinfo": "text"}


def _brief(trial: Trial) -> str:
    """Name and penalty; not its place on a logarithmic axis, where zero has none."""
    return escaped(trial.title) + ("" if trial.eta is None else f", η {shown_number(trial.eta)}")


def _hover(trial: Trial) -> str:
    metrics = trial.run.metrics
    penalty = "" if trial.eta is None else f"η {shown_number(trial.eta)}, "
    lines = [
        f"<b>{escaped(trial.title)}</b> ({trial.run.state})",
        f"{escaped(trial.strategy)}, {penalty}{escaped(trial.schedule)} schedule",
        *(f"{metric_name(name)}: {shown_metric(name, metrics[name])}" for name in
          ("child_val_error", "supernet_val_accuracy", *COSTS) if name in metrics),
    ]  # fmt: skip
    return "<br>".join(lines)


def escaped(text: str) -> str:
    """Text for Plotly, which reads a small HTML of its own in names and labels."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def zero_tick(etas: Sequence[float], zero_at: float) -> dict[str, Any]:
    """Ticks of a logarithmic axis; a search without penalty stands one decade left of all others."""
    positive = [eta for eta in etas if eta > 0]
    if not positive:
        return {"tickvals": [zero_at], "ticktext": ["0"]}
    values, texts = log_ticks(math.log10(min(positive)), math.log10(max(positive)))
    shown = [(10**value, text) for value, text in zip(values, texts, strict=True) if not text.startswith("3")]
    shown = shown or [(10 ** values[0], texts[0])]
    if len(positive) < len(etas):
        shown.insert(0, (zero_at, "0"))
    return {"tickvals": [value for value, _ in shown], "ticktext": [text for _, text in shown]}


def spread_axis(values: Sequence[float], *, beyond: float = 10.0) -> dict[str, Any]:
    """A logarithmic axis where values differ more than `beyond` fold; a 0, as of an empty child, keeps it linear."""
    if values and min(values) > 0 and max(values) / min(values) > beyond:
        first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        ticks = [step * 10.0**power for power in range(first, last + 1) for step in (1, 2, 5)]
        return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    return {"rangemode": "normal"}


def with_room(axis: dict[str, Any], values: Sequence[float]) -> dict[str, Any]:
    """The axis with room at its lower end for labels beside their points."""
    is_log = axis.get("type") == "log"
    low, high = (math.log10(end) if is_log else end for end in (min(values), max(values)))
    span = (high - low) or abs(high) or 1.0
    return {**axis, "range": [low - _LOWER_ROOM * span, high + 0.04 * span]}


def finite(value: float) -> float | None:
    """A number for JSON; None where there is none."""
    return value if math.isfinite(value) else None
