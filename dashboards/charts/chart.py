"""A chart: what it shows in words, the figure, and the numbers behind it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Cell = str | float | int | None


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One chart of a page.

    Attributes:
        key: names it in addresses and file names: letters and dashes.
        title: states what it shows, with numbers where there are any.
        summary: the same for readers who cannot see the picture, in a sentence or two.
        figure: `data` and `layout` of a Plotly figure, plain data; empty if there is nothing to draw yet.
        columns: names of the columns of the numbers, with units.
        rows: the numbers.
        empty: says in words why there is nothing to draw.
        note: how to read it, beside the chart.
    """

    key: str
    title: str
    summary: str = ""
    figure: dict[str, Any] = field(default_factory=dict)
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    empty: str = ""
    note: str = ""

    def csv(self) -> str:
        """The numbers as CSV with a header; text that a spreadsheet would run as a formula is quoted for it."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\r\n")  # so that a text with either of them is quoted
        writer.writerow([_inert(column) for column in self.columns])
        writer.writerows([[_inert(cell) for cell in row] for row in self.rows])
        return buffer.getvalue()


def _inert(cell: Cell) -> Cell:
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r", "\n") else cell
