"""Real servers for tests, as processes of this machine: Debian's PostgreSQL and `mlflow server`.

Each is started on a free port which it keeps over `stop`, `kill` and `start`, with its data, so that a client sees
one server that goes away and comes back.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.preloaded.processes import ReadyProcess
from tests.tools import TOOLS, postgres_folder

Process = subprocess.Popen[bytes] | ReadyProcess
_START_S, _STOP_S = 180.0, 30.0


class Server:
    """A process that can be stopped, killed and started again; a context manager that starts and closes it.

    Args:
        host: the address of this machine that it listens on.
    """

    def __init__(self, host: str) -> None:
        self.host, self.port = host, free_port(host)
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        """Process id of the server that runs."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def start(self) -> None:
        """Start the server on its port and wait until it answers.

        Raises:
            RuntimeError: if it ends or does not answer, with the end of its log.
        """
        assert self._process is None, "the server runs already"
        self._process = self._spawn()
        deadline = time.monotonic() + _START_S
        while not self._answers():
            ended = self._process.poll()
            if ended is not None or time.monotonic() > deadline:
                self.kill()
                state = f"ended with {ended}" if ended is not None else f"does not answer after {_START_S:g} s"
                raise RuntimeError(f"{type(self).__name__} {state}: {self.log[-2000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Ask the server to end, as its administrator would, and wait for it."""
        self._end(self._ask_to_end)

    def kill(self) -> None:
        """SIGKILL, children included."""
        self._end(lambda process: process.kill())

    def restart(self) -> None:
        """Stop and start, on the same port and data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End for good; what lies in temporary folders is removed."""
        if self._process is not None:
            self.kill()

    @property
    def log(self) -> str:
        """All that the server wrote, over all its starts."""
        raise NotImplementedError

    def _spawn(self) -> Process:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError

    def _ask_to_end(self, process: Process) -> None:
        process.terminate()

    def _end(self, signal_it: Callable[[Process], None]) -> None:
        assert self._process is not None, "the server does not run"
        process, self._process = self._process, None
        children = _children(process.pid)
        signal_it(process)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_STOP_S)
        # Orphans hold the port, and PostgreSQL's its shared memory: none may outlive the server.
        for child in children:
            if child.is_running():  # compares the start time too: a pid in use again is not touched
                child.kill()
        psutil.wait_procs(children, _STOP_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class PostgresServer(Server):
    """PostgreSQL with a data folder of its own, removed by `close`.

    PostgreSQL refuses to run as root: then it runs as the user `postgres`, who must be able to read its folder, which
    therefore lies directly in the system's folder for temporary files.

    Args:
        password: of the user `snas`, asked for with SCRAM; None lets everybody in. It is never part of `url`:
            clients take it from `PGPASSWORD`.
        host: the address of this machine that it listens on.

    Raises:
        RuntimeError: if PostgreSQL is not installed.
    """

    def __init__(self, password: str | None = None, *, host: str = "127.0.0.1") -> None:
        super().__init__(host)
        programs = postgres_folder()
        if programs is None:
            raise RuntimeError(f"PostgreSQL must be installed: {TOOLS['postgres_programs'].remedy}")
        self._bin, self._password = programs, password
        self._user = "postgres" if os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="snas-postgres-"))
        self._log_file = self.folder / "postgres.log"
        self._log_file.touch()
        self._own(self.folder, self._log_file)
        self._initialise()

    def url(self, database: str) -> str:
        """Address of a database for SQLAlchemy, without a password."""
        return f"postgresql+psycopg://snas@{self.host}:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        """Make an empty database and return its address."""
        self.sql(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run one statement with `psql`; its rows as unaligned text.

        Raises:
            RuntimeError: if PostgreSQL refuses it, with its message.
        """
        return self._run(["psql", "-X", "-A", "-t", *self._client(database), "-c", statement])

    def dump(self, database: str) -> str:
        """All that a database holds, as the statements that would make it again."""
        return self._run(["pg_dump", *self._client(database)])

    @property
    def log(self) -> str:
        """All that PostgreSQL wrote."""
        return self._log_file.read_text(encoding="utf-8")

    def close(self) -> None:
        """Kill it if it runs and remove its data."""
        super().close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _initialise(self) -> None:
        secret = self.folder / "password"
        options = ["--auth=trust"]
        if self._password is not None:
            secret.write_text(self._password, encoding="utf-8")
            self._own(secret)
            options = ["--auth=scram-sha-256", f"--pwfile={secret}"]
        place = ["-D", str(self.folder / "data"), "-U", "snas", "-E", "UTF8", "--locale=C", "--no-sync"]
        self._run(["initdb", *place, *options])
        secret.unlink(missing_ok=True)
        # initdb lets in clients of 127.0.0.1 alone.
        with (self.folder / "data" / "pg_hba.conf").open("a", encoding="utf-8") as rules:
            rules.write(f"host all all samenet {options[0].removeprefix('--auth=')}\n")

    def _client(self, database: str) -> list[str]:
        return ["-w", "-h", self.host, "-p", str(self.port), "-U", "snas", "-d", database]

    def _spawn(self) -> Process:
        settings = {
            "listen_addresses": self.host,
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",  # for speed; what a killed process wrote survives in the system's cache
            "max_connections": 50,
        }
        command = [str(self._bin / "postgres"), "-D", str(self.folder / "data")]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with self._log_file.open("ab") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=log, user=self._user, cwd=self.folder, start_new_session=True
            )

    def _answers(self) -> bool:
        command = [self._bin / "pg_isready", "-q", "-h", self.host, "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0

    def _ask_to_end(self, process: Process) -> None:
        process.send_signal(signal.SIGINT)  # "fast": does not wait for clients to leave

    def _own(self, *paths: Path) -> None:
        if self._user is not None:
            owner = pwd.getpwnam(self._user)
            for path in paths:
                os.chown(path, owner.pw_uid, owner.pw_gid)

    def _run(self, words: list[str]) -> str:
        environment = {**os.environ, "LC_ALL": "C"}
        if self._password is not None:
            environment["PGPASSWORD"] = self._password
        done = subprocess.run(
            [str(self._bin / words[0]), *words[1:]],
            capture_output=True,
            text=True,
            user=self._user,
            cwd=self.folder,
            env=environment,
            timeout=_START_S,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{words[0]} must succeed, got: {done.stderr.strip()}")
        return done.stdout.strip()


class MlflowServer(Server):
    """A tracking server that also keeps the artifacts.

    Args:
        folder: its database (without `store`), artifacts and log; made if missing.
        store: address of its database, e.g. `PostgresServer.create_database(...)`; default: SQLite in `folder`.
        login: user name and password (at least 12 characters) that every client must give (MLflow's `basic-auth`,
            needs Flask-WTF), as `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`; None lets everybody in.
        environment: variables of the server beside this process's, such as `PGPASSWORD`.
        host: the address of this machine that it listens on.
        workers: processes that answer; MLflow's default is 4.
    """

    def __init__(
        self,
        folder: Path,
        store: str | None = None,
        *,
        login: tuple[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
        workers: int = 1,
    ) -> None:
        super().__init__(host)
        self._workers = workers
        self.artifacts, self._log_file = folder / "artifacts", folder / "mlflow.log"
        self.artifacts.mkdir(parents=True, exist_ok=True)
        self._folder, self._store = folder, store or f"sqlite:///{folder / 'mlflow.db'}"
        # The job runner of MLflow's language-model pages takes a gigabyte.
        self._environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **(environment or {})}
        self._environment.pop("MLFLOW_TRACKING_URI", None)
        self._app: list[str] = []
        if login is not None:
            self._ask_for(*login)

    @property
    def uri(self) -> str:
        """Address for clients."""
        return f"http://{self.host}:{self.port}"

    @property
    def log(self) -> str:
        """All that the server wrote, over all its starts."""
        return self._log_file.read_text(encoding="utf-8") if self._log_file.exists() else ""

    def _ask_for(self, user: str, password: str) -> None:
        settings = self._folder / "basic_auth.ini"
        lines = {
            "default_permission": "NO_PERMISSIONS",
            "database_uri": f"sqlite:///{self._folder / 'logins.db'}",
            "admin_username": user,
            "auth_cache_ttl_seconds": "3600",  # else each request pays for the hash of the password: 0.1 to 0.3 s
            "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        }
        text = "\n".join(f"{name} = {value}" for name, value in lines.items())
        settings.write_text(f"[mlflow]\n{text}\n", encoding="utf-8")
        self._environment |= {
            "MLFLOW_AUTH_CONFIG_PATH": str(settings),
            "MLFLOW_AUTH_ADMIN_PASSWORD": password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "of a test",
        }
        self._app = ["--app-name", "basic-auth"]

    def _spawn(self) -> Process:
        command = ["mlflow", "server", "--host", self.host, "--port", str(self.port)]
        command += ["--workers", str(self._workers), "--backend-store-uri", self._store, *self._app]
        command += ["--artifacts-destination", str(self.artifacts)]
        with self._log_file.open("ab") as log:
            if self._workers == 1:
                return ReadyProcess(command, out=log, err=log, environment=self._environment, folder=self._folder)
            return subprocess.Popen(
                [sys.executable, "-m", *command],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=self._environment,
                start_new_session=True,
            )

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False


def free_port(host: str = "127.0.0.1") -> int:
    """A port of one of this machine's addresses that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
