"""Questions to one MLflow store that may be away: no call hangs, no password is shown, nothing is created."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.entities import PagedList

from dashboards.errors import StoreAwayError
from dashboards.mlflow_store.databases import sqlite_file
from dashboards.mlflow_store.store_lock import checked_store, opened_client

Answer = TypeVar("Answer")
Entry = TypeVar("Entry")

_WITH_TIMEOUT = ("postgresql", "mysql")  # databases whose drivers know `connect_timeout`
_CONNECT_S = 3  # whole seconds
_USERINFO = re.compile(r"(?<=://)[^\s/'\"]*@")  # greedy: a password may hold an `@` that nobody escaped
#: A page waits this long for one answer. Retries would multiply it; the page asks again by itself.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def masked(text: str) -> str:
    """An address, or a message with addresses in it, without user names and passwords."""
    return _USERINFO.sub("", text)


class MlflowAccess:
    """A client of one store, made when it is first asked.

    Args:
        tracking_uri: address of an MLflow server, or of a database.
        pause_s: after a question that failed, others fail at once for so long, instead of waiting one after another.
    """

    def __init__(self, tracking_uri: str, *, pause_s: float) -> None:
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self.tracking_uri = tracking_uri
        self.location = masked(tracking_uri)
        self.is_server = tracking_uri.startswith(("http://", "https://"))
        self._pause_s = pause_s
        self._lock = threading.Lock()
        self._client: MlflowClient | None = None
        self._failed: tuple[float, str] | None = None  # until when, and why

    def ask(self, question: Callable[[MlflowClient], Answer], *, pauses: bool = True) -> Answer:
        """Put a question to the store.

        Args:
            question: takes the client.
            pauses: whether its failure means that the store is away, so that other questions need not try.

        Raises:
            StoreAwayError: if it does not answer in time, or with an error.
        """
        if self._failed is not None and time.monotonic() < self._failed[0]:
            raise StoreAwayError(self._failed[1])
        try:
            answer = question(self._opened())
        except StoreAwayError:  # of the files of one run, or of `_opened`, which has noted it
            raise
        except self._errors() as error:
            message = self._explained(error)
            if pauses:
                self._failed = time.monotonic() + self._pause_s, message
            raise StoreAwayError(message) from error
        self._failed = None
        return answer

    def _opened(self) -> MlflowClient:
        with self._lock:
            # Each time: a connection to a file that is gone would create an empty one.
            check_sqlite(self.tracking_uri, is_known=self._client is not None)
            if self._client is None and not self.is_server:
                self._check_database()
            if self._client is None:
                self._client = opened_client(self.tracking_uri)
            return self._client

    def _check_database(self) -> None:
        """Connect once, briefly: MLflow would try ten times over two minutes, and all others would wait for it."""
        if self._failed is not None and time.monotonic() < self._failed[0]:
            raise StoreAwayError(self._failed[1])  # found by who had the lock before
        try:
            _connect(self.tracking_uri)
        except self._errors() as error:
            message = self._explained(error)
            self._failed = time.monotonic() + self._pause_s, message
            raise StoreAwayError(message) from error

    def _errors(self) -> tuple[type[Exception], ...]:
        if self.is_server:
            return MlflowException, OSError
        from sqlalchemy.exc import SQLAlchemyError  # not for servers: it takes memory

        return MlflowException, OSError, SQLAlchemyError, ImportError  # the last: a database without its driver

    def _explained(self, error: Exception) -> str:
        said = masked(next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__))
        if self.is_server and "error code 401" in said:
            return (
                f"the MLflow server {self.location} asks for a login: set MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, and start the dashboard again"
            )
        hint = "start it, or name another with --tracking-uri" if self.is_server else "see that it can be read"
        return f"the MLflow store {self.location} must answer, got: {said[:300]}; {hint}"


def check_sqlite(tracking_uri: str, *, is_known: bool = False) -> None:
    """Refuse a store in a file that is not there, may not be read, or is no database of MLflow.

    Args:
        tracking_uri: of a store of any kind.
        is_known: whether its tables were found before.

    Raises:
        StoreAwayError: saying which.
    """
    path, store = sqlite_file(tracking_uri), f"the MLflow store {masked(tracking_uri)}"
    if path is None:
        return
    if not path.is_file():
        raise StoreAwayError(
            f"{store} must be an existing file, got none there; run a study first, or name the store with "
            "--tracking-uri"
        )
    if not os.access(path, os.R_OK):
        raise StoreAwayError(f"{store} must be readable, got a file that this user may not read")
    if is_known:
        return
    if not _is_mlflow_database(path):
        raise StoreAwayError(f"{store} must be a database of MLflow, got another file")
    with checked_store("MLflow", tracking_uri, makes=False) as fault:
        if fault is not None:
            raise StoreAwayError(f"{fault.what}: {fault.remedy}")


def search_all(
    client: MlflowClient, experiment_ids: list[str], query: str, page: int, view: int = ViewType.ACTIVE_ONLY
) -> list[Run]:
    """All runs that match, page by page, oldest first: new ones do not shift the pages."""
    order = ["attributes.start_time ASC"]
    return all_pages(lambda token: client.search_runs(experiment_ids, query, view, page, order, token))


def all_pages(ask: Callable[[str | None], PagedList[Entry]]) -> list[Entry]:
    """What a question gives that MLflow answers page by page, given the token of a page."""
    found, token = list[Entry](), None
    while token is None or token:
        page = ask(token)
        found += page
        token = page.token or ""
    return found


def unit_run(tracking_uri: str, experiment: str, label: str) -> Run | None:
    """The run of a unit, such as `study`; None if there is none or the store cannot be read. Nothing is made."""
    from sqlalchemy.exc import SQLAlchemyError  # not for servers: it takes memory

    if (file := sqlite_file(tracking_uri)) is not None and not file.is_file():
        return None
    try:
        with checked_store("MLflow", tracking_uri, makes=False) as fault:
            if fault is not None:
                return None
            client = MlflowClient(tracking_uri)
        found = client.get_experiment_by_name(experiment)
        return run_of(client, found.experiment_id, label) if found is not None else None
    except (MlflowException, SQLAlchemyError, OSError, ImportError, ValueError):
        return None


def run_of(client: MlflowClient, experiment_id: str, label: str) -> Run | None:
    """The newest run of a unit of an experiment."""
    found = client.search_runs([experiment_id], f"tags.`snas.unit` = '{label}'", max_results=1)
    return found[0] if found else None


def _connect(tracking_uri: str) -> None:
    """Connect to the server of a database; nothing for other kinds of stores."""
    if not tracking_uri.startswith(_WITH_TIMEOUT):
        return
    from sqlalchemy import create_engine, pool  # not for servers of MLflow: it takes memory

    engine = create_engine(tracking_uri, poolclass=pool.NullPool, connect_args={"connect_timeout": _CONNECT_S})
    engine.connect().close()


def _is_mlflow_database(path: Path) -> bool:
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    except sqlite3.Error:
        return False
    try:
        connection.execute("SELECT 1 FROM experiments LIMIT 1")
    except sqlite3.Error:
        return False
    finally:
        connection.close()
    return True
