"""Options and tables that several sub-commands share."""

from __future__ import annotations

import re
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from orchestrator.runs import DEFAULT_RUNS
from orchestrator.wording import compact, percent

RunsOption = Annotated[
    Path,
    typer.Option("--runs", envvar="SNAS_RUNS", help="Folder of everything that runs write.", file_okay=False),
]
SetOption = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Replace a setting of the file; dotted key, YAML value; repeatable."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]

__all__ = [
    "DEFAULT_RUNS",
    "JsonOption",
    "RunsOption",
    "SetOption",
    "compact",
    "make_table",
    "percent",
    "stamped",
    "stdout",
]

#: Where results go; messages go to stderr.
stdout = Console(width=None if sys.stdout.isatty() else 120)


def make_table(title: str) -> Table:
    """An empty table in the house style."""
    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)


def stamped(stem: str) -> str:
    """A name that is not taken: the stem, as far as a name may hold it, and the time."""
    allowed = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-")[:60] or "run"
    return f"{allowed}-{datetime.now():%Y%m%d-%H%M%S}"
