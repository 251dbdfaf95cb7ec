"""The databases of MLflow and Optuna: their addresses, whether their tables fit, and commands that act on them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

#: `scheme://user:password@`: what a command must not show.
_USERINFO = re.compile(r"://[^\s/'\"]*@")
#: What addresses of databases take for something else: the beginning of options, an escaped character.
_MISREAD = re.compile(r"\?|%[0-9A-Fa-f]{2}")

#: What a file of Alembic says of a version of tables: its own name, and those of the versions that it follows.
_REVISION = re.compile(r"^(revision|down_revision)\b[^=]*=(.*)", re.MULTILINE)
_WORD = re.compile(r"[\"']([^\"']+)[\"']")

#: MLflow's embedded database in a folder of runs, and the folder beside it that has the files of runs.
DATABASE, ARTIFACTS = "mlflow.db", "mlartifacts"

#: Package, folder of its migrations, and the command that does them.
_TABLES = {
    "MLflow": ("mlflow", "store/db_migrations", "mlflow", "db", "upgrade"),
    "Optuna": ("optuna", "storages/_rdb/alembic", "optuna", "storage", "upgrade", "--storage"),
}

#: What is wrong with a store, and what to do. A database with older tables must not be opened: MLflow migrates it.
_STATES = {
    "older": ("the database {store} was made by an older {tool} than {installed}", "copy it, then run `{command}`"),
    "newer": ("the database {store} was made by a newer {tool} than {installed}", "install that version of {tool}"),
    "deleted": ("the experiment `{name}` in {store} was deleted", "bring it back with `{command}`"),
    "taken": ("a deleted experiment in {store} has the name `{name}`", "choose another --name"),
}


@dataclass(frozen=True)
class StoreFault:
    """Why a store cannot be used as it is.

    Attributes:
        what: what is wrong.
        remedy: what to do, with a command that can be pasted.
    """

    what: str
    remedy: str


def sqlite_url(file: Path) -> str:
    """Address of an SQLite file, as MLflow and Optuna read it.

    Raises:
        ValueError: if no address leads both of them to this file.
    """
    text = str(file)
    if _MISREAD.search(text) or not _is_utf8(text):
        raise ValueError(
            "the path of a folder with databases must be UTF-8, without `?` and without `%` before two hexadecimal "
            f"digits, since MLflow and Optuna read it as an address, got {text!a}: name or rename another folder"
        )
    return f"sqlite:///{text}"


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite address; None for other databases, servers and databases in memory."""
    if not url.startswith(("sqlite:///", "sqlite+pysqlite:///")):
        return None
    path = unquote(url.partition(":///")[2].partition("?")[0])
    return Path(path) if path and not path.startswith((":memory:", "file:")) else None


def mlflow_command(tracking_uri: str, *words: str) -> str:
    """A command of MLflow's for a shell, with the store in it; one whose address has a password takes it from there."""
    if _USERINFO.search(tracking_uri):
        return shlex.join(["mlflow", *words])
    return f"MLFLOW_TRACKING_URI={shlex.quote(_absolute(tracking_uri))} {shlex.join(['mlflow', *words])}"


def snas_command(tracking_uri: str, *words: str) -> str:
    """A command of ours for a shell, with the folder of runs in it if that is where the store is embedded."""
    file = sqlite_file(tracking_uri)
    place = ["--runs", str(file.absolute().parent)] if file is not None and file.name == DATABASE else []
    return shlex.join(["snas", *words, *place])


def schema_fault(tool: Literal["MLflow", "Optuna"], url: str) -> StoreFault | None:
    """What is wrong with the version of a database's tables; None if nothing is, or if that cannot be known.

    Nothing is written or migrated.
    """
    revision = _revision(url)
    package, folder, *upgrade = _TABLES[tool]
    newest, known = _revisions(package, folder)
    if revision in (None, newest):
        return None
    state = "older" if revision in known else "newer"
    command = shlex.join([*upgrade, "ADDRESS" if _USERINFO.search(url) else _absolute(url)])
    return _fault(state, store=_USERINFO.sub("://", url), tool=tool, installed=version(package), command=command)


def experiment_fault(tracking_uri: str, name: str, experiment_id: str, *, is_new: bool) -> StoreFault:
    """What is wrong with a deleted experiment.

    Args:
        tracking_uri: MLflow store.
        name: its name, which it keeps.
        experiment_id: its id.
        is_new: whether something new wants its name, rather than what it belongs to.
    """
    restore = mlflow_command(tracking_uri, "experiments", "restore", "--experiment-id", experiment_id)
    store = _USERINFO.sub("://", tracking_uri)
    return _fault("taken" if is_new else "deleted", store=store, name=name, command=restore)


def current_address(address: str, tracking_uri: str) -> str:
    """Where the files of a run are now, if its embedded store was moved or copied along with them; else the same."""
    file = sqlite_file(tracking_uri)
    head, _, rest = address.rpartition(f"/{ARTIFACTS}/")
    if file is None or not head.startswith("file:"):
        return address
    folder = file.absolute().parent / ARTIFACTS
    return f"{folder.as_uri()}/{rest}" if (folder / rest.partition("/")[0]).is_dir() else address


def _fault(state: str, **words: str) -> StoreFault:
    what, remedy = _STATES[state]
    return StoreFault(what.format(**words), remedy.format(**words))


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _absolute(url: str) -> str:
    file = sqlite_file(url)
    return url if file is None or file.is_absolute() else f"sqlite:///{file.absolute()}"


def _revision(url: str) -> str | None:
    """The version of a database's tables; None if it has none yet, or does not answer."""
    file = sqlite_file(url)
    if urlsplit(url).scheme in ("", "http", "https", "file") or (file is not None and not file.is_file()):
        return None
    from sqlalchemy import create_engine, pool, text  # not for servers of MLflow: it takes memory
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with create_engine(url, poolclass=pool.NullPool).connect() as connection:
            found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except (SQLAlchemyError, ImportError):  # opening it reports what is wrong
        return None
    return None if found is None else str(found)


@cache
def _revisions(package: str, folder: str) -> tuple[str, frozenset[str]]:
    """The newest version of tables that an installed package knows, and all; Alembic takes half a second to say so."""
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    known, followed = set[str](), set[str]()
    for file in (Path(spec.origin).parent / folder / "versions").glob("*.py"):
        for name, value in _REVISION.findall(file.read_text(encoding="utf-8")):
            (known if name == "revision" else followed).update(_WORD.findall(value))
    (newest,) = known - followed
    return newest, frozenset(known)
