"""Retrained cells: test error with the spread over seeds, against what the cell costs."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from dashboards.charts.chart import Chart
from dashboards.charts.points import escaped
from dashboards.charts.theme import SYMBOLS, Theme, layout
from dashboards.formatting import counted, metric_factor, metric_title, percent_with_spread, shown_metric
from dashboards.records import Retraining

#: Published results on CIFAR-10: test error in % and parameters (SNAS, table 1; with cutout, 20 cells).
PUBLISHED_CIFAR10: dict[str, tuple[float, float]] = {
    "SNAS mild": (2.98, 2.9e6),
    "SNAS moderate": (2.85, 2.8e6),
    "SNAS aggressive": (3.10, 2.3e6),
    "DARTS first order": (3.00, 3.3e6),
    "DARTS second order": (2.76, 3.3e6),
    "ENAS": (2.89, 4.6e6),
}

_SEED = re.compile(r"-seed\d+$")


@dataclass(frozen=True, kw_only=True)
class RetrainedCell:
    """All retrainings of one cell.

    Attributes:
        name: whose cell it is.
        trial: number of the trial; None for a cell that was named.
        retrainings: by seed.
    """

    name: str
    trial: int | None
    retrainings: Sequence[Retraining]

    @property
    def test_errors(self) -> list[float]:
        """Of the seeds that are complete, fractions."""
        metrics = [retraining.run.metrics for retraining in self.retrainings]
        return [1 - value for values in metrics if math.isfinite(value := values.get("test_accuracy", math.nan))]

    @property
    def mean_error(self) -> float | None:
        """Mean test error over seeds, a fraction."""
        return mean(self.test_errors) if self.test_errors else None

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds, a fraction; None with fewer than two."""
        return stdev(self.test_errors) if len(self.test_errors) > 1 else None

    def metric(self, name: str) -> float | None:
        """A metric of the first retraining that has it, for what all seeds share, such as parameters."""
        return next((r.run.metrics[name] for r in self.retrainings if name in r.run.metrics), None)


def retrained_cells(retrainings: Sequence[Retraining]) -> list[RetrainedCell]:
    """Retrainings grouped by cell and recipe, in their order: only seeds of one recipe make a spread.

    A cell without a trial goes by the label without its seed, and so does any further recipe of a trial's cell.
    """
    groups: dict[tuple[object, ...], list[Retraining]] = {}
    for retraining in retrainings:
        recipe = frozenset((key, value) for key, value in retraining.run.params.items() if key != "seed")
        cell = _SEED.sub("", retraining.run.label) if retraining.trial is None else retraining.trial
        groups.setdefault((cell, recipe), []).append(retraining)
    cells: list[RetrainedCell] = []
    for members in groups.values():
        stem, trial = _SEED.sub("", members[0].run.label.removeprefix("retrain-")), members[0].trial
        name = stem if trial is None else f"trial {trial}"
        if any(known.name == name for known in cells):
            name = f"{name}, {stem}"
        cells.append(RetrainedCell(name=name, trial=trial, retrainings=members))
    return cells


def test_error_chart(cells: Sequence[RetrainedCell], theme: Theme, *, is_cifar10: bool) -> Chart:
    """Test error against parameters, each cell with its spread over seeds."""
    done = [cell for cell in cells if cell.mean_error is not None and cell.metric("params") is not None]
    key = "test-error"
    if not done:
        return Chart(key=key, title="Test error of the retrained cells", empty="No retraining is complete yet.")
    errors = [100 * (cell.mean_error or 0.0) for cell in done]
    params = [(cell.metric("params") or 0.0) * metric_factor("params") for cell in done]
    data = [
        {
            "type": "scatter", "mode": "markers+text", "x": params, "y": errors, "name": "retrained here",
            "text": [escaped(cell.name.removeprefix("trial ")) for cell in done], "textposition": "top right",
            "textfont": {"color": theme.ink},
            "error_y": {"type": "data", "array": [100 * (cell.spread or 0.0) for cell in done],
                        "color": theme.muted, "thickness": 1.4, "width": 5},
            "marker": {"size": 11, "color": theme.categories[0], "line": {"color": theme.ink, "width": 1}},
            "hovertext": [f"<b>{escaped(cell.name)}</b><br>test error {said_error(cell)}<br>"
                          f"{shown_metric('params', cell.metric('params'))} parameters" for cell in done],
            "hoverinfo": "text",
        }
    ]  # fmt: skip
    if is_cifar10:
        data.append(
            {"type": "scatter", "mode": "markers+text", "name": "published (CIFAR-10)",
             "x": [count * metric_factor("params") for _, count in PUBLISHED_CIFAR10.values()],
             "y": [error for error, _ in PUBLISHED_CIFAR10.values()], "text": list(PUBLISHED_CIFAR10),
             "textposition": "bottom center", "textfont": {"color": theme.muted, "size": 10.5},
             "marker": {"size": 9, "symbol": SYMBOLS[2], "color": theme.muted}, "hoverinfo": "text+x+y"}
        )  # fmt: skip
    best = min(done, key=lambda cell: cell.mean_error or 0.0)
    title = f"Test error of {counted(len(done), 'retrained cell')}: best {said_error(best)} ({best.name})"
    return Chart(
        key=key,
        title=title,
        summary=f"{title}. " + "; ".join(f"{cell.name}: {said_error(cell)}" for cell in done) + ".",
        figure={"data": data, "layout": layout(theme, x=metric_title("params"), y="test error (%)", height=380,
                                               showlegend=is_cifar10, xaxis={"rangemode": "tozero"})},
        columns=("cell", "test_error_mean", "test_error_sd", "seeds", "params", "madds"),
        rows=[
            (cell.name, cell.mean_error, cell.spread, len(cell.test_errors), *map(cell.metric, ("params", "madds")))
            for cell in done
        ],
        note="Bars: one standard deviation over seeds, where there is more than one.",
    )  # fmt: skip


def said_error(cell: RetrainedCell) -> str:
    """Test error with its spread in words."""
    return "not known yet" if cell.mean_error is None else percent_with_spread(cell.mean_error, cell.spread)
