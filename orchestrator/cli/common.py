"""Options and tables that several sub-commands share."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from orchestrator.cli.completion import strategy_settings
from search_core.plugins import beside, split_reference, trust

RunsOption = Annotated[
    Path,
    typer.Option("--runs", envvar="SNAS_RUNS", help="Folder of everything that runs write.", file_okay=False),
]
SetOption = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Replace a setting of the file; dotted key, YAML value; repeatable.",
        autocompletion=strategy_settings,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def _trusted(references: list[str]) -> list[str]:
    """Let the code of plug-ins run; paths begin in the working directory."""
    for reference in beside(references, Path()):
        found = split_reference(reference)
        if found is None:
            raise typer.BadParameter(f"must be FILE.py:NAME or MODULE:NAME, got {reference}", param_hint="--plugin")
        trust(found[0])
    return references


PluginOption = Annotated[
    list[str],
    typer.Option(
        "--plugin",
        metavar="FILE.py:NAME",
        help="Let the code of a plug-in run that a cell, a run or a model names, or MODULE:NAME; repeatable.",
        callback=_trusted,
    ),
]

#: Where results go; messages go to stderr.
stdout = Console(width=None if sys.stdout.isatty() else 120)


def note(message: str) -> None:
    """Print to stderr what the user may like to know."""
    Console(stderr=True).print(message, markup=False, highlight=False, soft_wrap=True)


def warn(message: str) -> None:
    """Print to stderr what the user should know."""
    Console(stderr=True).print(f"warning: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def make_table(title: str) -> Table:
    """An empty table in the house style."""
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)


def filled_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[str] = ()
) -> Table:
    """A table whose cells are never cut: in a narrow terminal the headings are folded instead.

    Args:
        title: over the table.
        columns: headings.
        rows: cells.
        left: headings of columns that are words; the others are numbers and stand to the right.
    """
    table = make_table(title)
    table.padding = (0, 1, 0, 0)
    widths = [max((len(row[index]) for row in rows), default=0) for index in range(len(columns))]
    parts = [column.split("\n") for column in columns]
    natural = sum(max(width, *map(len, lines)) + 2 for width, lines in zip(widths, parts, strict=True))
    for column, lines, width in zip(columns, parts, widths, strict=True):
        if natural > stdout.width:
            lines = [piece for line in lines for piece in wrap(line, max(width, 6))]
        justify: Literal["left", "right"] = "left" if column in left else "right"
        table.add_column("\n".join(lines), justify=justify)
    for row in rows:
        table.add_row(*row)
    return table


def stamped(stem: str) -> str:
    """A name that is not taken: the stem, as far as a name may hold it, and the time."""
    allowed = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-")[:50] or "run"
    return f"{allowed}-{datetime.now():%Y%m%d-%H%M%S}"
