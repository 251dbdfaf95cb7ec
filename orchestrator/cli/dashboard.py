"""`snas dashboard`: how cells evolve, what the penalty buys, which to keep; `snas ui`: MLflow's own pages."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from dashboards.mlflow_store.databases import sqlite_file
from orchestrator.cli.common import RunsOption, stdout
from orchestrator.credentials import masked
from orchestrator.errors import OrchestratorError
from orchestrator.files.layout import DEFAULT_RUNS, Runs
from orchestrator.files.relocation import relocate

_HOST = "127.0.0.1"


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


def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 5000,
    runs: RunsOption = DEFAULT_RUNS,
) -> None:
    """Serve the MLflow UI of the embedded store on 127.0.0.1.

    Example: `snas ui --runs runs --port 5000`
    """
    from dashboards.errors import PortTakenError, StoreAwayError
    from dashboards.mlflow_store.mlflow_access import check_sqlite
    from dashboards.ports import check_port

    folder = Runs(runs)
    uri = folder.tracking_uri()
    if uri.startswith(("http:", "https:")):
        stdout.print(f"the tracking server {masked(uri)} has its own UI", highlight=False)
        return
    if (file := sqlite_file(uri)) is not None and not file.exists():
        raise OrchestratorError(f"there is no store at {uri} yet: run a study first, or name its folder with --runs")
    try:  # MLflow's server would end with a stack, and with exit code 0
        check_sqlite(uri)
        check_port(_HOST, port)
    except StoreAwayError as error:
        raise OrchestratorError(str(error)) from error
    except PortTakenError as error:
        raise OrchestratorError(f"--port: {error}; choose another one") from error
    relocate(folder, None, lambda line: stdout.print(line, markup=False, highlight=False, soft_wrap=True))
    stdout.print(f"MLflow on http://{_HOST}:{port} (Ctrl-C stops it)", highlight=False)
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # saves about 1 GB
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # not on the command line, which every user of the machine can read
    command = ["mlflow", "ui", "--host", _HOST, "--port", str(port)]
    os.execv(sys.executable, [sys.executable, "-m", *command])
