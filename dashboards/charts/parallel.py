"""Parallel coordinates: every complete trial as a line over what was swept and what came out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from dashboards.charts.chart import Chart
from dashboards.charts.points import escaped
from dashboards.charts.theme import Theme, layout
from dashboards.formatting import MISSING, counted, exact, metric_factor, metric_name, metric_title
from dashboards.records import StudyRecord, Trial

_MAX_SHADES = 6
_MOST_LINES, _MOST_BEST = 240, 80
_BELOW = -0.12  # where searches without a setting cross it


def parallel_chart(study: StudyRecord, theme: Theme) -> Chart:
    """Every complete trial as a line over what was swept and what came out."""
    trials = [trial for trial in study.trials if trial.is_result]
    swept = varied(study, trials)
    results = [objective.metric for objective in study.objectives]
    key, title = "parallel", "How the swept settings lead to the results"
    if not trials or not swept:
        reason = "No search is complete yet." if not trials else "This study sweeps nothing."
        return Chart(key=key, title=title, empty=reason)
    dimensions = [_Dimension(name, [trial.values.get(name) for trial in trials]).with_missing() for name in swept]
    dimensions += [_Dimension(name, [trial.run.metrics.get(name) for trial in trials]) for name in results]
    better = "lower" if study.objectives[0].mode == "min" else "higher"
    sign = 1 if study.objectives[0].mode == "min" else -1
    loss = [sign * trial.run.metrics.get(results[0], math.nan) for trial in trials]
    drawn = {trial.run.run_id for trial in thinned(trials, study)}
    width = 1.6 if len(drawn) <= 60 else 0.8
    data = [
        _lines(
            trials, [i for i in members if trials[i].run.run_id in drawn], dimensions, {"color": shade, "width": width}
        )
        for shade, members in _shaded(loss, theme)
    ]
    figure_layout = layout(theme, height=380, hovermode="closest")
    figure_layout["meta"] = {  # of all trials, for those that are chosen on the axes (`choice.js`)
        "trials": [trial.number for trial in trials],
        "places": [[place and round(place, 4) for place in dimension.places] for dimension in dimensions],
    }
    figure_layout["xaxis"] |= {
        "tickvals": list(range(len(dimensions))), "ticktext": [dimension.heading for dimension in dimensions],
        "tickangle": 0,
        "range": [-0.35, len(dimensions) - 0.45], "showline": False, "gridcolor": theme.muted, "ticks": "",
    }  # fmt: skip
    lowest = min(height for dimension in dimensions for height, _ in dimension.ticks)
    figure_layout["yaxis"] |= {"visible": False, "range": [lowest - 0.06, 1.08]}
    figure_layout["margin"] = {"l": 8, "r": 8, "t": 12, "b": 64}
    figure_layout["annotations"] = [
        {"x": place, "y": height, "text": text, "showarrow": False, "xanchor": "left", "xshift": 4,
         "font": {"size": 11, "color": theme.ink}, "bgcolor": theme.surface, "opacity": 0.85}
        for place, dimension in enumerate(dimensions) for height, text in dimension.ticks
    ]  # fmt: skip
    return Chart(
        key=key,
        title=f"{title}: {counted(len(trials), 'complete search', 'complete searches')}",
        summary=f"Each line is one search over {', '.join(swept)} and the results {', '.join(results)}.",
        figure={"data": data, "layout": figure_layout},
        columns=("trial", *(f"param {name}" for name in swept), *(f"metric {name}" for name in results)),
        rows=[
            (trial.number, *(trial.values.get(k) for k in swept), *(trial.run.metrics.get(k) for k in results))
            for trial in trials
        ],
        note=f"Stronger lines have a {better} {metric_name(results[0])}."
        + (f" {MISSING}: searches without this setting." if lowest == _BELOW else "")
        + (f" Drawn: the best {_MOST_BEST}, and an even selection of the rest." if len(drawn) < len(trials) else ""),
    )


def _lines(
    trials: Sequence[Trial], members: Sequence[int], dimensions: Sequence[_Dimension], line: dict[str, Any]
) -> dict[str, Any]:
    """Lines of trials as one trace: a thousand traces of one line each would take seconds."""
    ends = len(dimensions) + 1
    texts = [[f"{escaped(trials[i].title)}: {escaped(d.texts[i])}" for d in dimensions] + [""] for i in members]
    return {
        "type": "scatter", "mode": "lines", "line": line, "hoverinfo": "text",
        "x": [*range(len(dimensions)), None] * len(members),
        "y": [place for i in members for place in (*(dimension.places[i] for dimension in dimensions), None)],
        "text": list(itertools.chain(*texts)),
        "customdata": [trials[i].number for i in members for _ in range(ends)],
    }  # fmt: skip


def varied(study: StudyRecord, trials: Sequence[Trial]) -> list[str]:
    """Swept settings that differ between trials, or of a single trial all: what never changes leads nowhere."""
    values = {key: {trial.values.get(key) for trial in trials} - {None} for key in study.swept}
    return [key for key, of in values.items() if len(of) > 1] or [key for key, of in values.items() if of]


def thinned(trials: list[Trial], study: StudyRecord) -> list[Trial]:
    """The best, and evenly chosen others: more lines than this hide each other, and take a browser long."""
    if len(trials) <= _MOST_LINES:
        return trials
    goal = study.objectives[0]
    sign = 1 if goal.mode == "min" else -1
    losses = {trial.run.run_id: sign * trial.run.metrics.get(goal.metric, math.nan) for trial in trials}
    ranked = sorted(trials, key=lambda t: (not math.isfinite(losses[t.run.run_id]), losses[t.run.run_id]))
    rest = ranked[_MOST_BEST:]
    step = -(-len(rest) // (_MOST_LINES - _MOST_BEST))
    return ranked[:_MOST_BEST] + rest[::step]


def _shaded(values: Sequence[float], theme: Theme) -> list[tuple[str, list[int]]]:
    """Trials in up to six groups by loss, the worst first, each with its colour."""
    order = sorted(range(len(values)), key=lambda i: (not math.isfinite(values[i]), values[i]))
    groups = min(_MAX_SHADES, len(order))
    parts = [order[g * len(order) // groups : (g + 1) * len(order) // groups] for g in range(groups)]
    shades = [theme.sequential[-1 - min(g, 4)][1] for g in range(groups)]
    return [(shade, part) for shade, part in zip(shades, parts, strict=True)][::-1]


class _Dimension:
    """One upright line of the parallel coordinates: where each trial crosses it, in [0, 1], and its ticks."""

    def __init__(self, key: str, values: Sequence[float | str | None]) -> None:
        self.title = metric_title(key)
        self.heading = (
            escaped(self.title).replace(".", ".<br>").replace(" (", "<br>(").replace(" validation ", "<br>validation ")
        )
        factor = metric_factor(key)
        values = [None if isinstance(value, float) and not math.isfinite(value) else value for value in values]
        numbers = [value * factor for value in values if isinstance(value, float)]
        self.is_number = len(numbers) == sum(value is not None for value in values) and bool(numbers)
        if self.is_number:
            low, high = min(numbers), max(numbers)
            is_log = low > 0 and high / low > 20
            start, end = (math.log10(low), math.log10(high)) if is_log else (low, high)
            span = end - start or 1.0

            def place(value: float) -> float:
                return ((math.log10(value) if is_log else value) - start) / span if end > start else 0.5

            self.places = [place(value * factor) if isinstance(value, float) else None for value in values]
            self.texts = [exact(value * factor, 4) if isinstance(value, float) else MISSING for value in values]
            middle = 10 ** ((start + end) / 2) if is_log else (start + end) / 2
            ticks = [low, middle, high] if end > start else [low]
            self.ticks = [(place(value), exact(value)) for value in ticks]
        else:
            names = sorted({str(value) for value in values if value is not None})
            heights = {name: (index + 0.5) / len(names) for index, name in enumerate(names)}
            self.places = [None if value is None else heights[str(value)] for value in values]
            self.texts = [MISSING if value is None else str(value) for value in values]
            self.ticks = [(height, escaped(name)) for name, height in heights.items()]

    def with_missing(self) -> _Dimension:
        """Searches without a value cross below all others, as those of one strategy do for a setting of another."""
        if None in self.places:
            self.places = [_BELOW if place is None else place for place in self.places]
            self.ticks = [(_BELOW, MISSING), *self.ticks]
        return self
