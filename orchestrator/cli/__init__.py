"""The command line `snas`, one file a sub-command.

Their modules say what may be typed, which help and completion need at once; what a command works with is imported when
it runs: PyTorch alone takes four seconds.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from orchestrator.cli.lazy import SubCommand, command_line
from orchestrator.credentials import masked
from orchestrator.errors import OrchestratorError, RunInterrupted, StudyFailed, TrackingAwayError, first_line
from orchestrator.stop_signals import exit_code, stopping
from orchestrator.stores import store_error
from search_core.errors import (
    ConstraintsError,
    DataError,
    ExportError,
    GenotypeError,
    LatencyError,
    NonFiniteLossError,
    OptionsError,
    PluginError,
)

_HELP = "Stochastic neural architecture search: searches, studies on a Ray cluster, retraining, costs, pages."
#: Exit codes: bad input, a run that failed, a run that was stopped by no signal of `stop_signals`.
BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130

COMMANDS = {
    "init": SubCommand(
        "orchestrator.cli.init",
        "init",
        "Write a commented study file to begin with; without arguments, list the templates.",
    ),
    "search": SubCommand("orchestrator.cli.search", "search", "Run one search without Ray."),
    "study": SubCommand("orchestrator.cli.study", "app", "Studies: many searches on a Ray cluster."),
    "trial": SubCommand("orchestrator.cli.trial", "app", "Single trials of a study."),
    "cluster": SubCommand("orchestrator.cli.cluster", "app", "Ray clusters: is everything there that a study needs?"),
    "latency": SubCommand("orchestrator.cli.latency", "app", "Latency of children: measure a table for a device."),
    "retrain": SubCommand(
        "orchestrator.cli.retrain",
        "retrain",
        "Train the child network of a cell from scratch, test it once, and register it in MLflow.",
    ),
    "export": SubCommand(
        "orchestrator.cli.export",
        "export",
        "Write a trained child as ONNX, PyTorch program, weights and readable Python, and compare each with the child.",
    ),
    "recurrent": SubCommand(
        "orchestrator.cli.recurrent",
        "recurrent",
        "Search a recurrent cell on a text and train it from scratch, or resume that.",
    ),
    "profile": SubCommand(
        "orchestrator.cli.profile",
        "profile",
        "Count parameters, multiply-adds and memory accesses of a cell's network, for one image.",
    ),
    "gradients": SubCommand(
        "orchestrator.cli.gradients",
        "gradients",
        "Compare SNAS' gradient of alpha with REINFORCE's and the exact one, on the supernet of a small space.",
    ),
    "strategies": SubCommand(
        "orchestrator.cli.strategies",
        "strategies",
        "List the search strategies: what each does and where it was published.",
    ),
    "dashboard": SubCommand(
        "orchestrator.cli.dashboard",
        "dashboard",
        "Serve the dashboard of a store's studies on 127.0.0.1, read only.",
    ),
    "ui": SubCommand("orchestrator.cli.dashboard", "ui", "Serve the MLflow UI of the embedded store on 127.0.0.1."),
}


def main() -> None:
    """Run the command line; users' errors end with one message and no traceback."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # A server that is away should be reported within seconds; MLflow is brought up to the journals later.
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
    except (
        OrchestratorError,
        ConstraintsError,
        DataError,
        ExportError,
        GenotypeError,
        LatencyError,
        OptionsError,
        PluginError,
    ) as error:
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
