"""`snas strategies`: what a study file's `strategy: {kind: ...}` may name."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.cli.common import JsonOption, make_table, stdout
from search_core.strategies.base import WeightSharingOptions
from search_core.strategies.over_trials import OverTrialsOptions
from search_core.strategies.registry import STRATEGIES


def strategies(as_json: JsonOption = False) -> None:
    """List the search strategies: what each does and where it was published.

    Example: `snas strategies`
    """
    rows = [_row(kind, options) for kind, options in STRATEGIES.items()]
    if as_json:
        print(json.dumps(rows))
        return
    table = make_table("search strategies: `strategy: {kind: ...}` in a study file")
    table.add_column("kind", no_wrap=True)
    for column in ("what it does", "paper", "children", "heeds"):
        table.add_column(column)
    for row in rows:
        table.add_row(row["kind"], row["summary"], row["paper"], row["children"], ", ".join(row["uses"]))
    stdout.print(table)


def _row(kind: str, options: type[WeightSharingOptions | OverTrialsOptions]) -> dict[str, Any]:
    return {
        "kind": kind,
        "summary": options.summary,
        "paper": options.paper,
        "children": "trained one by one" if issubclass(options, OverTrialsOptions) else "share their weights",
        "uses": list(options.uses),
    }
