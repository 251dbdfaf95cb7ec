"""`snas dashboard`: the pages that show how cells evolve, what the penalty buys, and which cell to keep."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.common import RunsOption, stdout
from orchestrator.credentials import masked
from orchestrator.errors import OrchestratorError
from orchestrator.files.layout import DEFAULT_RUNS, Runs


def dashboard(
    tracking_uri: Annotated[
        str | None,
        typer.Option(metavar="URI", help="MLflow store. [MLFLOW_TRACKING_URI, else the embedded store under --runs]"),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 8050,
    runs: RunsOption = DEFAULT_RUNS,
) -> None:
    """Serve the dashboard of a store's studies on 127.0.0.1, read only.

    Example: `snas dashboard --tracking-uri http://mlflow.example:5000`
    """
    from dashboards.app import serve
    from dashboards.errors import PortTakenError
    from dashboards.mlflow_store.mlflow_store import MlflowStore

    uri = Runs(runs).tracking_uri(tracking_uri)
    store = MlflowStore(uri)
    try:
        ready = f"studies in {masked(uri)}: {{}} (Ctrl-C stops it)"
        serve(store, port, lambda address: stdout.print(ready.format(address), highlight=False, soft_wrap=True))
    except PortTakenError as error:
        raise OrchestratorError(f"--port: {error}; choose another one") from error
