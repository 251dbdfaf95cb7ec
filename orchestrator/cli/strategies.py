"""`snas strategies`: what a study file's `strategy: {kind: ...}` may name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from orchestrator.cli.common import JsonOption, make_table, stdout

if TYPE_CHECKING:
    from search_core.strategies.registry import MultiTrial, WeightSharing


def strategies(as_json: JsonOption = False) -> None:
    """List the search strategies: what each does and where it was published.

    Example: `snas strategies`
    """
    from search_core.strategies.registry import STRATEGIES

    rows = [_row(kind, options) for kind, options in STRATEGIES.items()]
    if as_json:
        print(json.dumps(rows))
        return
    table = make_table("search strategies: `strategy: {kind: ...}` in a study file")
    table.add_column("kind", no_wrap=True)
    for column in ("what it does", "paper", "children", "uses"):
        table.add_column(column)
    for row in rows:
        table.add_row(row["kind"], row["summary"], row["paper"], row["children"], ", ".join(row["uses"]))
    stdout.print(table)


def _row(kind: str, options: type[WeightSharing | MultiTrial]) -> dict[str, Any]:
    from search_core.strategies.registry import MULTI_TRIAL

    return {
        "kind": kind,
        "summary": options.summary,
        "paper": options.paper,
        "children": "trained one by one" if kind in MULTI_TRIAL else "share their weights",
        "uses": list(options.uses),
    }
