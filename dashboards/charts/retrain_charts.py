"""Retrained cells: test error with the spread over seeds, against what the cell costs."""

from __future__ import annotations

from collections.abc import Sequence

from dashboards.analysis.retrained import RetrainedCell, said_error
from dashboards.charts.chart import Chart
from dashboards.charts.points import escaped
from dashboards.charts.theme import SYMBOLS, Theme, layout
from dashboards.formatting import counted, metric_factor, metric_title, shown_metric

#: Published results on CIFAR-10: test error in % and parameters (SNAS, table 1; with cutout, 20 cells).
PUBLISHED_CIFAR10: dict[str, tuple[float, float]] = {
    "SNAS mild": (2.98, 2.9e6),
    "SNAS moderate": (2.85, 2.8e6),
    "SNAS aggressive": (3.10, 2.3e6),
    "DARTS first order": (3.00, 3.3e6),
    "DARTS second order": (2.76, 3.3e6),
    "ENAS": (2.89, 4.6e6),
}


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
