"""One process at a time opens or makes an SQLite store: MLflow and Optuna bring its tables up without a lock."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dashboards.mlflow_store.databases import StoreFault, schema_fault, sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

_NAME = ".stores.lock"


@contextmanager
def store_lock(url: str, *, makes: bool = True) -> Iterator[None]:
    """Hold the lock of the folder in which an SQLite store lies; nothing to hold for servers.

    Where the lock cannot be made the store cannot either, and opening it will report so.

    Args:
        url: of the store.
        makes: whether the lock is made if it is not there; those who only read make nothing.
    """
    file = sqlite_file(url)
    lock = None if file is None else _opened(file.parent / _NAME, makes)
    if lock is None:
        yield
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextmanager
def checked_store(tool: Literal["MLflow", "Optuna"], url: str, *, makes: bool = True) -> Iterator[StoreFault | None]:
    """Hold the lock of a store and check its tables, which another process may be making before.

    Args:
        tool: whose store it is.
        url: of the store.
        makes: as in `store_lock`.

    Yields:
        What is wrong with the tables; such a store must not be opened, as MLflow would migrate it.
    """
    with store_lock(url, makes=makes):
        yield schema_fault(tool, url)


def opened_client(tracking_uri: str) -> MlflowClient:
    """A client that reads an MLflow store, whose tables no other process is making meanwhile."""
    from mlflow import MlflowClient

    with store_lock(tracking_uri, makes=False):
        return MlflowClient(tracking_uri)


def _opened(file: Path, makes: bool) -> int | None:
    try:
        return os.open(file, os.O_RDONLY | (os.O_CREAT if makes else 0), 0o644)
    except OSError:
        return None
