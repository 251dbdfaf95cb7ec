"""A folder of runs that was moved, renamed or copied: what names its old place is made to name the new one.

MLflow's store keeps the absolute addresses of files, and a study file the absolute paths of tables and cells. In a
folder of runs all of these lie in the folder itself, so the new addresses follow from where the folder is now.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from dashboards.mlflow_store.databases import ARTIFACTS, sqlite_file
from dashboards.mlflow_store.store_lock import store_lock
from orchestrator.adapters.mlflow_internals import forget_addresses
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.files.layout import Runs
from orchestrator.study_file.yaml_file import dump_yaml, read_yaml

#: Where MLflow keeps addresses of files; tables or columns that an older store lacks are passed over.
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def former_roots(runs: Runs, tracking_uri: str) -> list[str]:
    """Addresses of other folders in which the embedded store believes the files of its experiments to be.

    Experiments whose files were never meant to lie in a folder of runs do not count.

    Args:
        runs: the folder of all runs.
        tracking_uri: MLflow store.

    Returns:
        Addresses of folders of runs, such as `file:///old/runs`; empty if the store is not embedded in this folder.
    """
    file = sqlite_file(tracking_uri)
    if file is None or not file.is_file() or not _is_same(file.absolute().parent, runs.root):
        return []
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT name, artifact_location FROM experiments").fetchall()
    except sqlite3.Error:  # opening the store reports what is wrong
        return []
    ends = [(str(location or ""), f"/{ARTIFACTS}/{name}") for name, location in rows]
    roots = {location.removesuffix(end) for location, end in ends if location.endswith(end)}
    return sorted(root for root in roots if root.startswith("file:") and not _is_same(_path(root), runs.root))


def relocate(runs: Runs, configured: str | None, report: Callable[[str], object]) -> bool:
    """Make the embedded store and the study files name this folder, if they name another one.

    Args:
        runs: the folder of all runs.
        configured: MLflow store of the study file, if it names one.
        report: called with one line for each other folder that was named.

    Returns:
        Whether anything was changed.

    Raises:
        OrchestratorError: if the store or a study file cannot be written.
    """
    uri = runs.tracking_uri(configured)
    if not former_roots(runs, uri):
        return False
    with store_lock(uri):
        for root in former_roots(runs, uri):  # again: another process may have been faster
            former = _path(root)
            try:
                _rewrite_studies(runs, former)
                _rewrite_store(runs, uri, root)  # last: as long as it is not done, all is done again
            except (sqlite3.Error, OSError) as error:
                raise OrchestratorError(
                    f"the folder of runs {runs.root} was moved or copied from {former}, so its MLflow store and study "
                    f"files must be writable once, got: {error}"
                ) from error
            report(f"runs were moved or copied from {former}: MLflow's and study files are now found in {runs.root}")
    forget_addresses()
    return True


def _rewrite_store(runs: Runs, uri: str, root: str) -> None:
    file = sqlite_file(uri)
    assert file is not None
    old, new = f"{root}/{ARTIFACTS}/", f"{runs.root.as_uri()}/{ARTIFACTS}/"
    with closing(sqlite3.connect(file, timeout=60, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        for table, column in _ADDRESSES:
            if column in [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]:
                change = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
                connection.execute(change, (new, len(old) + 1, len(old), old))
        connection.execute("COMMIT")


def _rewrite_studies(runs: Runs, former: Path) -> None:
    """Have study files name tables, cells and checkpoints that came along with the folder at their new place."""
    for name in runs.study_names():
        file = runs.study(name).spec_file
        try:
            data = read_yaml(file).data
        except ConfigError:  # loading the study reports what is wrong
            continue
        current = moved(data, former, runs.root)
        if current != data:
            draft = file.with_name(f"{file.stem}-{os.getpid()}.tmp")
            draft.write_text(dump_yaml(current), encoding="utf-8")
            os.replace(draft, file)


def moved(value: Any, former: Path | str, root: Path) -> Any:
    """Settings whose paths inside a folder of runs lead to where that folder is now."""
    if isinstance(value, dict):
        return {key: moved(entry, former, root) for key, entry in value.items()}
    if isinstance(value, list):
        return [moved(entry, former, root) for entry in value]
    is_inside = isinstance(value, str) and value.startswith(f"{former}/")
    return f"{root}/{value.removeprefix(f'{former}/')}" if is_inside else value


def _path(address: str) -> Path:
    return Path(url2pathname(urlsplit(address).path))


def _is_same(folder: Path, root: Path) -> bool:
    """Whether two paths lead to one folder, perhaps through links."""
    try:
        return folder == root or folder.samefile(root)
    except OSError:  # there is no such folder any more, or it may not be looked at
        return False
