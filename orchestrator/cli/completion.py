"""What a shell may complete arguments with; each function is the `autocompletion` of an argument or option."""

from __future__ import annotations

import typer

from orchestrator.files.layout import DEFAULT_RUNS, Runs
from orchestrator.study_file.templates import templates as study_file_templates


def study_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Studies in the folder of runs that the command line or the environment names."""
    names = Runs(ctx.params.get("runs") or DEFAULT_RUNS).study_names()
    return [name for name in names if name.startswith(incomplete)]


def published_cells(incomplete: str) -> list[str]:
    """Published cells; where one of them or a file may stand, shells complete files if none of them fits."""
    from search_core.space.genotype import PUBLISHED

    return [name for name in PUBLISHED if name.startswith(incomplete)]


def strategy_settings(incomplete: str) -> list[str]:
    """For `--set`: the strategies, with the key that names one in a study file or in the settings of a search."""
    from search_core.strategies.registry import STRATEGIES

    keys = ("search.strategy.kind", "strategy.kind")
    return [text for key in keys for kind in STRATEGIES if (text := f"{key}={kind}").startswith(incomplete)]


def templates(incomplete: str) -> list[str]:
    """Study files that come with the package."""
    return [name for name in study_file_templates() if name.startswith(incomplete)]
