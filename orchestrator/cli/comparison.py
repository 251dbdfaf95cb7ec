"""How the report of `snas study report` is printed."""

from __future__ import annotations

from rich.text import Text

from orchestrator.cli.common import make_table, stdout
from orchestrator.reports.comparison import Comparison
from orchestrator.reports.comparison_text import (
    ACCURACY_COLUMNS,
    COST_COLUMNS,
    HOW_TO_READ,
    TRUTH_COLUMNS,
    Columns,
    control_text,
    truth_text,
)

_STYLES = {"holds": "bold green", "does not hold": "bold red", "cannot be said": "yellow"}


def print_comparison(comparison: Comparison) -> None:
    """A row per strategy, its regret where there is a ground truth, and the verdict on each claim."""
    _print_table(f"strategies of study {comparison.study}", ACCURACY_COLUMNS, comparison)
    stdout.print(Text(HOW_TO_READ, style="dim"))
    _print_table("what they cost, and the size of their children", COST_COLUMNS, comparison)
    if missing := control_text(comparison):
        stdout.print(Text(missing, style="yellow"))
    if comparison.truth is not None:
        _print_table("against the ground truth", TRUTH_COLUMNS, comparison)
        stdout.print(truth_text(comparison.truth), highlight=False)
    stdout.print("\nclaims of the SNAS paper", style="bold")
    for claim in comparison.claims:
        verdict = (claim.verdict, _STYLES[claim.verdict])
        stdout.print(Text.assemble(f"({claim.letter}) {claim.text}: ", verdict, f"\n    {claim.evidence}"))


def _print_table(title: str, columns: Columns, comparison: Comparison) -> None:
    table = make_table(title)
    for position, heading in enumerate(columns):
        table.add_column(heading, justify="left" if position == 0 else "right")
    for row in comparison.rows:
        table.add_row(*(text(row) for text in columns.values()))
    stdout.print(table)
