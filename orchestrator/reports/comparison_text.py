"""The comparison of strategies as tables and sentences, for a terminal, a file and MLflow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev

from dashboards.formatting import with_spread
from orchestrator.reports.comparison import CONTROLS, Comparison, StrategyRow
from orchestrator.reports.regret import TruthFacts

#: Heading of each column, and its text in a row.
Columns = Mapping[str, Callable[[StrategyRow], str]]
ACCURACY_COLUMNS: Columns = {
    "strategy": lambda row: row.name,
    "child, inherited": lambda row: _percent(row.child_val_accuracy),
    "recalibrated": lambda row: _percent(row.child_val_accuracy_recalibrated),
    "retrained (test)": lambda row: _percent(row.test_accuracy),
    "gap, points": lambda row: _percent(row.discretization_gap, ""),
    "gap, recalibrated": lambda row: _percent(row.discretization_gap_recalibrated, ""),
    "entropy, nats": lambda row: _spread(row.entropy, "{:.1f}"),
}
COST_COLUMNS: Columns = {
    "strategy": lambda row: row.name,
    "searches": lambda row: f"{row.num_searches}" + (f" ({row.failed} no results)" if row.failed else ""),
    "epochs": lambda row: str(row.epochs),
    "cost of a search": lambda row: _cost(row),
    "params": lambda row: _spread(row.child_params, "{:,.0f}"),
    "multiply-adds": lambda row: _spread(row.child_madds, "{:,.0f}"),
}
TRUTH_COLUMNS: Columns = {
    "strategy": lambda row: row.name,
    "regret, points": lambda row: _percent(row.regret, _outside(row)),
    "Kendall tau": lambda row: _spread(row.kendall_tau, "{:+.2f}"),
    "scored genotypes": lambda row: _spread(row.num_scored, "{:.0f}"),
}
_HOUR_S = 3600


def _cost(row: StrategyRow) -> str:
    """In the largest unit that leaves a number above 2."""
    device = "GPU" if row.hours_kind == "gpu_hours" else "core"
    most = max(row.hours, default=0.0) * _HOUR_S
    unit, seconds = next((pair for pair in (("h", _HOUR_S), ("min", 60)) if most > 2 * pair[1]), ("s", 1))
    return _spread([value * _HOUR_S / seconds for value in row.hours], "{:.1f}", f" {device} {unit}")


def _outside(row: StrategyRow) -> str:
    """How many of the chosen genotypes are in the space, if not all: others have no regret."""
    return "" if len(row.regret) == row.num_searches else f" ({len(row.regret)} of {row.num_searches} in the space)"


def _percent(values: Sequence[float], unit: str = "%") -> str:
    return _spread([100 * value for value in values], "{:.1f}", unit)


def _spread(values: Sequence[float], form: str, unit: str = "") -> str:
    """Mean and sample standard deviation; equal values have none to speak of."""
    spread = stdev(values) if len(set(values)) > 1 else None
    return with_spread(mean(values) if values else None, spread, form, unit)


def comparison_markdown(comparison: Comparison) -> str:
    """The report as Markdown: tables, the claims with their verdicts, and how to read them."""
    lines = [f"# Strategies of study {comparison.study}", "", *_table(ACCURACY_COLUMNS, comparison.rows), ""]
    lines += [HOW_TO_READ, "", *_table(COST_COLUMNS, comparison.rows), ""]
    if missing := control_text(comparison):
        lines += [missing, ""]
    if comparison.truth is not None:
        lines += ["## Against the ground truth", "", *_table(TRUTH_COLUMNS, comparison.rows), ""]
        lines += [truth_text(comparison.truth), ""]
    if pruned := pruned_text(comparison):
        lines += [pruned, ""]
    lines += ["## Claims of the SNAS paper", ""]
    lines += [f"- ({claim.letter}) {claim.text}: **{claim.verdict}**. {claim.evidence}." for claim in comparison.claims]
    return "\n".join(lines) + "\n"


def control_text(comparison: Comparison) -> str:
    """What is missing as long as no strategy chooses at random; empty otherwise."""
    return "" if comparison.has_control else f"No random control is among these: sweep {' or '.join(CONTROLS)} too."


def pruned_text(comparison: Comparison) -> str:
    """How far pruned networks were from the whole one over the epochs, for strategies that report it; else empty."""
    parts = []
    for row in (row for row in comparison.rows if row.pruned_kl):
        last = len(row.pruned_kl) - 1
        epochs = sorted({round(last * part / 5) for part in range(6)})
        parts.append(f"{row.name} " + ", ".join(f"{row.pruned_kl[epoch]:.3g} ({epoch + 1})" for epoch in epochs))
    told = "Divergence of children drawn at random from the whole network, symmetrised KL in nats (epoch): "
    return told + "; ".join(parts) + "." if parts else ""


def truth_text(truth: TruthFacts) -> str:
    """The ground truth, and what chance does on it, in words."""
    noise = "" if math.isnan(truth.noise) else f" (standard deviation between seeds {100 * truth.noise:.1f} points)"
    diverged = f" {truth.diverged:,} trainings diverged and count with accuracy 0." if truth.diverged else ""
    return (
        f"All {truth.genotypes:,} genotypes, trained from scratch with {truth.seeds} seeds each{noise}: the best "
        f"reaches {100 * truth.best:.1f}% validation accuracy, the mean {100 * truth.mean:.1f}%. A genotype drawn at "
        f"random has a regret of {100 * (truth.best - truth.mean):.1f} points on average.{diverged}"
    )


HOW_TO_READ = (
    "Mean ± sample standard deviation over seeds. Inherited: validation accuracy of the child with the weights of its "
    "search, untrained. Gap: supernet minus child, as they are and with batch norm statistics recalibrated in both. "
    "Retrained: test accuracy after training from scratch; nothing was chosen by it. Strategies that train each child "
    "independently have no supernet, so no gap. Settings drawn from a range are put together, penalty strengths by "
    "decade."
)


def _table(columns: Columns, rows: Sequence[StrategyRow]) -> list[str]:
    cells = [[text(row) for text in columns.values()] for row in rows]
    return [f"| {' | '.join(line)} |" for line in (list(columns), ["---"] * len(columns), *cells)]
