"""The command line `snas`, one file a sub-command.

Their modules say what may be typed, which help and completion need at once; what a command works with is imported when
it runs: PyTorch alone takes four seconds.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from orchestrator.cli.commands import COMMANDS
from orchestrator.cli.lazy import command_line
from orchestrator.credentials import masked
from orchestrator.errors import OrchestratorError, RunInterrupted, StudyFailed, TrackingAwayError, first_line
from orchestrator.stop_signals import exit_code, stopping
from orchestrator.stores import store_error
from search_core.errors import (
    ConstraintsError,
    DataError,
    GenotypeError,
    LatencyError,
    NonFiniteLossError,
    OptionsError,
)

_HELP = "Stochastic neural architecture search: searches, studies on a Ray cluster, retraining, costs, pages."
#: Exit codes: bad input, a run that failed, a run that was stopped by no signal of `stop_signals`.
BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130


def main() -> None:
    """Run the command line; users' errors end with one message and no traceback."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # A server that is away should be said within seconds: the journals are brought up later, so nothing hangs on it.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    with stopping():
        _run()


def _run() -> None:
    try:
        command_line("snas", _HELP, COMMANDS)()
    except RunInterrupted as error:
        _end(f"interrupted: {error}", exit_code() or INTERRUPTED)
    except KeyboardInterrupt:
        _end("interrupted", exit_code() or INTERRUPTED)
    except SystemExit as end:
        if exit_code() is None or not end.code:  # a server ends well when it is stopped
            raise
        _end("interrupted", exit_code() or INTERRUPTED)  # Typer makes an exit of it
    except (NonFiniteLossError, StudyFailed, TrackingAwayError) as error:
        _end(f"failed: {error}", FAILED)
    except (OrchestratorError, ConstraintsError, DataError, GenotypeError, LatencyError, OptionsError) as error:
        _end(f"error: {error}", BAD_INPUT)
    except OSError as error:
        if error.filename is None:
            raise
        _end(f"error: {error.filename} must be usable: {error.strerror}", BAD_INPUT)
    except Exception as error:
        if _is(error, "mlflow.exceptions", "MlflowException"):  # a store that answered at the start and then went away
            _end(f"failed: MLflow: {first_line(error)}", FAILED)
        if _is(error, "sqlalchemy.exc", "SQLAlchemyError"):
            _end(f"error: {store_error('a store', error)}", BAD_INPUT)
        raise


def _is(error: Exception, module: str, name: str) -> bool:
    """Whether an error is of a class whose module takes seconds to import, and was imported if it is."""
    return module in sys.modules and isinstance(error, getattr(sys.modules[module], name))


def _end(message: str, code: int) -> NoReturn:
    from rich.console import Console

    Console(stderr=True, soft_wrap=True).print(masked(message), markup=False, highlight=False)
    sys.exit(code)
