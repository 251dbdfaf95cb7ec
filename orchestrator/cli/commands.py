"""All sub-commands of `snas`."""

from __future__ import annotations

import typer

from orchestrator.cli import cluster, dashboard, latency, profile, retrain, search, strategies, study, trial, ui


def add_commands(app: typer.Typer) -> None:
    """Give `snas` its sub-commands."""
    app.command()(search.search)
    app.add_typer(study.app, name="study")
    app.add_typer(trial.app, name="trial")
    app.add_typer(cluster.app, name="cluster")
    app.add_typer(latency.app, name="latency")
    app.command()(retrain.retrain)
    app.command()(profile.profile)
    app.command()(strategies.strategies)
    app.command()(dashboard.dashboard)
    app.command()(ui.ui)
