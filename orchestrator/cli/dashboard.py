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
#: Studies whose pages `snas ui` names.
_MOST_VIEWS = 10


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
    for name, address in training_views(uri, port).items():
        stdout.print(f"  {name}: {address}", markup=False, highlight=False, soft_wrap=True)
    os.environ |= server_environment(uri)
    command = ["mlflow", "ui", "--host", _HOST, "--port", str(port)]
    os.execv(sys.executable, [sys.executable, "-m", *command])


def server_environment(uri: str) -> dict[str, str]:
    """Environment of MLflow's server on a store."""
    given = os.environ.get("PYTHONWARNINGS")
    return {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": os.environ.get("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false"),  # 1 GB
        "MLFLOW_BACKEND_STORE_URI": uri,  # not on the command line, which every user of the machine can read
        # Each of MLflow's processes would say that a part of Starlette which it imports is deprecated.
        "PYTHONWARNINGS": ",".join(filter(None, (given, "ignore:starlette.middleware.wsgi is deprecated"))),
    }


def training_views(uri: str, port: int) -> dict[str, str]:
    """Address of MLflow's view for model training of each study, newest first; without asking, it may show another."""
    from mlflow import MlflowClient

    found = MlflowClient(uri).search_experiments(max_results=_MOST_VIEWS, filter_string="name != 'Default'")
    page = f"http://{_HOST}:{port}/#/experiments/{{}}/runs?workflowType=machine_learning"
    return {experiment.name: page.format(experiment.experiment_id) for experiment in found}
