"""Which MLflow stores are supported, and the message for one that cannot be opened."""

from __future__ import annotations

import re

from orchestrator.errors import OrchestratorError, first_line

#: What comes before `://`; a database may name its driver, as in `postgresql+psycopg2`.
_SERVERS = ("http", "https")
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_SCHEME = re.compile(r"(?P<kind>[a-z][a-z0-9.-]*)(\+[a-z0-9_]+)?://(?P<rest>.*)", re.DOTALL)
#: What databases say of a file that may not be written.
_READ_ONLY = ("readonly database", "read-only")


def check_tracking_uri(uri: str) -> str:
    """The address of an MLflow store, if it is of a kind that holds studies.

    Raises:
        OrchestratorError: if it is not: MLflow would say so late, or make a folder.
    """
    match = _SCHEME.fullmatch(uri)
    kind, rest = (match["kind"], match["rest"]) if match is not None else ("", "")
    if kind in _SERVERS and rest.strip("/"):
        return uri
    if kind in _DATABASES and (kind != "sqlite" or len(rest) > 1):  # `sqlite://` is a database in memory
        return uri
    raise OrchestratorError(
        f"the MLflow store {uri!r} is not supported: use a server, http:// or https://, or a database, "
        "sqlite:///FILE, postgresql:// or mysql://; or unset MLFLOW_TRACKING_URI for the store in the folder of runs"
    )


def store_error(store: str, error: BaseException) -> OrchestratorError:
    """The message for a store that cannot be opened or written, in one line and without its SQL.

    Args:
        store: such as `the MLflow store sqlite:///runs/mlflow.db`.
        error: what it raised.
    """
    said = first_line(error)
    if any(words in said.lower() for words in _READ_ONLY):
        return OrchestratorError(f"{store} must be writable, got one that may only be read: see the rights of its file")
    return OrchestratorError(f"{store} must be reachable, got: {said}")
