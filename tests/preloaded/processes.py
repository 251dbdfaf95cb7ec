"""`snas` and `mlflow` in processes of their own that need not import anything first."""

from __future__ import annotations

import atexit
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any
from unittest import mock

_ROOT = Path(__file__).parents[2]
_ADDRESS = "SNAS_TESTS_SERVER"


class ReadyProcess:
    """A running command; its methods are those of `subprocess.Popen`.

    Args:
        words: the command line, of `snas`, `mlflow` or `python -m`.
        out: takes what it writes.
        err: takes what it writes to the standard error.
        environment: all its variables.
        folder: that it works in; default: this process's.
        namespaces: files of Linux that name those in which it runs; default: the ones of this process.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        out: IO[Any],
        err: IO[Any],
        environment: Mapping[str, str],
        folder: Path | None = None,
        namespaces: Sequence[Path] = (),
    ) -> None:
        self._words = list(words)
        place = str(folder or Path.cwd())
        asked = {"words": self._words, "environment": dict(environment), "folder": place, "is_waited_for": True}
        self.returncode: int | None = None
        with ExitStack() as opened:
            handles = [opened.enter_context(file.open("rb")).fileno() for file in namespaces]
            self.pid: int = _ask(asked, out.fileno(), err.fileno(), *handles)
        self._handle = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """Its exit code, or the negative number of the signal that ended it; None while it runs."""
        return self._ended(0.0)

    def wait(self, timeout: float) -> int:
        """As `poll`, after at most so many seconds.

        Raises:
            subprocess.TimeoutExpired: if it still runs then.
        """
        if (code := self._ended(timeout)) is None:
            raise subprocess.TimeoutExpired(self._words, timeout)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._handle, number)

    def terminate(self) -> None:
        """SIGTERM, unless it has ended."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout_s: float) -> int | None:
        if self.returncode is None and select.select([self._handle], [], [], timeout_s)[0]:
            self.returncode = os.waitstatus_to_exitcode(_ask({"ended": self.pid}))
            os.close(self._handle)
        return self.returncode


def run_ready(
    words: Sequence[object],
    environment: Mapping[str, str],
    *,
    folder: Path | None = None,
    namespaces: Sequence[Path] = (),
) -> subprocess.CompletedProcess[str]:
    """Run such a command to its end, and keep what it wrote, as `subprocess.run` does."""
    command = [str(word) for word in words]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = ReadyProcess(command, out=out, err=err, environment=environment, folder=folder, namespaces=namespaces)
        code = process.wait(600)
        texts = []
        for output in (out, err):
            output.seek(0)
            texts.append(output.read())
    return subprocess.CompletedProcess(command, code, *texts)


def ready_programs(folder: Path) -> dict[str, str]:
    """Put programs `snas` and `mlflow` that need not import anything into a folder; they pass SIGTERM on.

    Returns:
        The variables by which a shell finds them.
    """
    for name in ("snas", "mlflow"):
        (folder / name).write_text(
            f"#!{sys.executable}\n"
            "import os, signal, sys\n"
            f"sys.path.insert(0, {str(_ROOT)!r})\n"
            "from tests.preloaded.processes import ReadyProcess\n"
            f"command = [{name!r}, *sys.argv[1:]]\n"
            "process = ReadyProcess(command, out=sys.stdout, err=sys.stderr, environment=os.environ)\n"
            "signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))\n"
            "sys.exit(process.wait(600) % 256)\n"
        )
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", **server_variables()}


def server_variables() -> dict[str, str]:
    """Variables by which programs that are started find the server of this process."""
    return {_ADDRESS: _server()}


@contextmanager
def ready_ray_workers() -> Iterator[None]:
    """Nodes of Ray that are started inside have ready workers too, which do not take their code from a driver."""
    from ray._private import ray_constants

    from tests.preloaded.server import WORKERS, setup_worker

    with (
        mock.patch.object(ray_constants, "SETUP_WORKER_FILENAME", setup_worker()),
        mock.patch.dict(os.environ, {WORKERS: _server()}),
    ):
        yield


def _ask(asked: Mapping[str, Any], *handles: int) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(_server())
        socket.send_fds(connection, [json.dumps(asked).encode()], handles)
        answer: int = json.loads(connection.recv(100))
        return answer


@cache
def _server() -> str:
    """Address of the server of this process, which ends with it, or of the one that it was given."""
    if _ADDRESS in os.environ:
        return os.environ[_ADDRESS]
    folder = tempfile.mkdtemp(prefix="snas-")
    atexit.register(shutil.rmtree, folder)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(address := f"{folder}/server")  # a file, which other namespaces of networks see too
        listening.listen()
        number = listening.fileno()
        command = [sys.executable, "-m", "tests.preloaded.server", str(number)]
        server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[number], cwd=_ROOT
        )
        assert server.stdin is not None
        atexit.register(server.stdin.close)
        return address
