"""The process that others are forked from: it imports what they need, and waits to be asked for them.

It does not import Ray, which reads its settings when it is imported, among them who a worker is. A driver forks a
server of its own for the workers of its Ray, so that they are its children as they would be otherwise.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from search_core.network import ahead

#: What drivers and workers import for the most part.
_MODULES = (
    "dashboards.pictures.study_summary",
    "filelock",
    "fsspec",
    "jsonschema",
    "mlflow.cli",
    "mlflow.pyfunc",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "optuna.storages._rdb.storage",
    "orchestrator.cli.study",
    "orchestrator.study_file.validation",
    "orchestrator.tracking.models",
    "orchestrator.tracking.study_runs",
    "pandas",
    "requests",
    "search_core.search.child_training",
    "search_core.search.search",
    "search_core.training.ground_truth",
    "sklearn.datasets",
    "uvicorn",
)
#: Variable with the address at which `ray_worker.py` asks.
WORKERS = "SNAS_TESTS_WORKERS"
#: Commands that start a Ray of their own, whose workers are to be ready too.
_START_RAY = ("snas study", "python -m tests.benchmarks.orchestration")


@dataclass(frozen=True)
class Request:
    """A process that is wanted.

    Attributes:
        words: the command line: of `snas`, `mlflow`, `python -m` or the file of a script.
        environment: all its variables.
        folder: that it works in.
        is_waited_for: whether somebody will ask how it ended.
    """

    words: list[str]
    environment: dict[str, str]
    folder: str
    is_waited_for: bool


def serve(listening: socket.socket, lifeline: int) -> Request | None:
    """Answer until the other end of `lifeline` is closed.

    Returns:
        In a forked process what it is to do; None at the end.
    """
    others: set[int] = set()
    while True:
        ready, _, _ = select.select([listening, lifeline], [], [], 0.1 if others else None)
        others = {pid for pid in others if os.waitpid(pid, os.WNOHANG) == (0, 0)}
        if lifeline in ready:
            return None
        if not ready:
            continue
        connection, _ = listening.accept()
        with connection, suppress(ConnectionError):  # who asked may be gone
            message, handles, _, _ = socket.recv_fds(connection, 2**20, 4)
            asked = json.loads(message or "null")
            if asked is None:
                continue
            if "ended" in asked:
                connection.sendall(json.dumps(os.waitpid(asked["ended"], 0)[1]).encode())
                continue
            request = Request(**asked)
            if (pid := os.fork()) == 0:
                listening.close()
                os.close(lifeline)
                _become(request, handles)
                return request
            for handle in handles:
                os.close(handle)
            if not request.is_waited_for:
                others.add(pid)
            connection.sendall(json.dumps(pid).encode())


def _become(request: Request, handles: list[int]) -> None:
    """Take what a new process would have: its two outputs, and its namespaces if it is on another machine."""
    outputs, namespaces = handles[:2], handles[2:]
    if not request.is_waited_for:
        os.setpgid(0, 0)  # Ray kills a worker that does not answer by its group, as long as that is not Ray's own
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for number, output in enumerate(outputs, start=1):
        os.dup2(output, number)
        os.close(output)
    for number in namespaces:
        own = (os.stat(f"/proc/self/ns/{kind}") for kind in ("net", "mnt"))
        is_other = not any(os.path.samestat(os.fstat(number), known) for known in own)  # only root may go there
        if is_other and ctypes.CDLL(None, use_errno=True).setns(number, 0):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(number)
    os.environ.clear()
    os.environ.update(request.environment)
    tempfile.tempdir = None
    os.chdir(request.folder)


def _run(request: Request) -> None:
    sys.argv = request.words
    sys.modules["__main__"].__package__ = None  # else messages call the program `python -m tests.preloaded.server`
    if request.words[0] == "snas":
        from orchestrator.cli import main

        main()
    elif request.words[0] == "mlflow":
        _run_mlflow()
    elif request.words[:2] == ["python", "-m"]:
        sys.argv = request.words[2:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(request.words[0], run_name="__main__")


def _run_mlflow() -> None:
    """MLflow's command line, but the server that it would start in yet another process is this one."""
    import mlflow.cli
    import mlflow.server

    def become_server(command: list[str], *, extra_env: dict[str, str], **_: object) -> None:
        os.environ.update(extra_env)
        sys.argv = command[command.index("uvicorn") :]
        runpy.run_module("uvicorn", run_name="__main__")

    mlflow.server._exec_cmd = become_server
    mlflow.cli.cli()


def _ready_ray_workers() -> Request | None:
    """Have the workers of this process's Ray forked, too, from a process that ends with this one.

    Returns:
        In such a worker what it is to do; None in this process.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind("")  # a name of the kernel's choice, which vanishes with the socket
    listening.listen()
    lifeline, mine = os.pipe()  # the other end is closed with this process
    if os.fork() == 0:
        os.close(mine)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        request = serve(listening, lifeline)
        if request is None:
            os._exit(0)
        return request
    os.environ[WORKERS] = listening.getsockname()[1:].decode()
    listening.close()
    os.close(lifeline)
    from ray._private import ray_constants

    ray_constants.SETUP_WORKER_FILENAME = setup_worker()
    return None


def setup_worker() -> str:
    """What Ray is to start in place of its own `setup_worker.py`, from the folder of that."""
    from ray._private import workers

    return os.path.relpath(Path(__file__).with_name("ray_worker.py"), workers.__path__[0])


def main() -> None:
    """Serve at a socket that was inherited, whose number is the only argument, until standard input ends."""
    for module in _MODULES:
        importlib.import_module(module)
    sys.modules["sqlalchemy.orm"].configure_mappers()
    for channels in (8, 4, 2):
        ahead.compile_for("float32", channels)  # loads the kernels
    assert "ray" not in sys.modules, "its settings are those of a process"
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    lifeline = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    request = serve(socket.socket(fileno=int(sys.argv[1])), lifeline)
    if request is not None and " ".join(request.words).startswith(_START_RAY):
        request = _ready_ray_workers() or request
    if request is not None:
        _run(request)


if __name__ == "__main__":
    main()
