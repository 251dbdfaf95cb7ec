"""The command line `snas`, one file a sub-command."""

from __future__ import annotations

import os
import sys

import typer
from mlflow.exceptions import MlflowException
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.errors import OrchestratorError, StudyFailed, StudyInterrupted, TrackingAwayError, first_line
from orchestrator.secrets import masked
from search_core.errors import (
    ConstraintsError,
    DataError,
    GenotypeError,
    LatencyError,
    NonFiniteLossError,
    OptionsError,
)

#: Exit codes: bad input, a run that failed, a run that the user stopped.
BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130


def main() -> None:
    """Run the command line; users' errors end with one message and no traceback."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # A server that is away should be said within seconds: the journals are brought up later, so nothing hangs on it.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    try:
        _app(sys.argv[1:2])()
    except StudyInterrupted as error:
        _end(f"interrupted: {error}", INTERRUPTED)
    except KeyboardInterrupt:
        _end("interrupted", INTERRUPTED)
    except (NonFiniteLossError, StudyFailed, TrackingAwayError) as error:
        _end(f"failed: {error}", FAILED)
    except (OrchestratorError, ConstraintsError, DataError, GenotypeError, LatencyError, OptionsError) as error:
        _end(f"error: {error}", BAD_INPUT)
    except MlflowException as error:  # a store that answered at the start and then went away
        _end(f"failed: MLflow: {first_line(error)}", FAILED)
    except SQLAlchemyError as error:
        _end(f"error: a store could not be read or written: {first_line(error)}", BAD_INPUT)
    except OSError as error:
        if error.filename is None:
            raise
        _end(f"error: {error.filename} must be usable: {error.strerror}", BAD_INPUT)


def _app(command: list[str]) -> typer.Typer:
    app = typer.Typer(
        name="snas",
        help="Stochastic neural architecture search: searches, studies on a Ray cluster, retraining, costs, pages.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )
    if command == ["dashboard"]:  # needs neither PyTorch nor Ray, which take five seconds and half a gigabyte
        from orchestrator.cli.dashboard import dashboard

        app.callback()(lambda: None)  # else typer would take the only command for the whole program
        app.command()(dashboard)
    else:
        from orchestrator.cli.commands import add_commands

        add_commands(app)
    return app


def _end(message: str, code: int) -> None:
    Console(stderr=True, soft_wrap=True).print(masked(message), markup=False, highlight=False)
    sys.exit(code)
