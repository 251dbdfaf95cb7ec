"""Files of runs: fetched once, kept in a folder, decoded when a page asks for them."""

from __future__ import annotations

import hashlib
import os
import posixpath
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

import mlflow.artifacts

from dashboards.errors import BrokenArtifactError, StoreAwayError
from dashboards.mlflow_store.mlflow_access import MlflowAccess, masked
from dashboards.records import RunRecord

Content = TypeVar("Content")

MAX_BYTES = 50_000_000
_OPEN_S = 20.0  # files of a run that is not over may change without a report: fetched again after so long
_RETRY_S = 0.3  # a file that is being written is whole by then


class ArtifactCache:
    """Reads files of runs; may be used by several threads.

    A file of a run that is over is fetched once; that of a run that continues again whenever the run has reported.

    Args:
        access: the store.
        folder: where files are kept; None: a temporary one, which goes with the process.
        decoded: how many decoded files stay in memory.
    """

    def __init__(self, access: MlflowAccess, folder: Path | None, *, decoded: int) -> None:
        self._access, self._most = access, decoded
        self._temporary = tempfile.TemporaryDirectory(prefix="snas-dashboard-") if folder is None else None
        self._folder = Path(self._temporary.name) if self._temporary else folder or Path()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._decoded: OrderedDict[tuple[str, str], tuple[str, Any]] = OrderedDict()
        self._files: dict[tuple[str, str], Path] = {}  # newest file of each artifact of an open run

    def read(self, run: RunRecord, root: str, path: str, decode: Callable[[bytes, str], Content]) -> Content | None:
        """Decode one file of a run.

        Args:
            run: the run.
            root: its artifact address.
            path: of the file below it.
            decode: takes the file and how messages name it; raises `BrokenArtifactError` or `ValueError`.

        Returns:
            None if there is no such file yet.

        Raises:
            BrokenArtifactError: if the file is too large or cannot be decoded.
            StoreAwayError: if it cannot be fetched.
        """
        key, stamp = (run.run_id, path), _stamp(run)
        with self._lock:
            known = self._decoded.get(key)
            if known is not None and known[0] == stamp:
                self._decoded.move_to_end(key)
                value: Content | None = known[1]
                return value
        value = self._decode(run, root, path, decode)
        with self._lock:
            self._decoded[key] = stamp, value
            self._decoded.move_to_end(key)
            while len(self._decoded) > self._most:
                self._decoded.popitem(last=False)
        return value

    def names(self, run: RunRecord, root: str, folder: str) -> list[str]:
        """Paths of the files in a folder of a run, below its artifact address."""
        listed = self.read(run, root, f"{folder}/", lambda content, _: content.decode().splitlines())
        return listed or []

    def _decode(self, run: RunRecord, root: str, path: str, decode: Callable[[bytes, str], Content]) -> Content | None:
        place = f"{path} of run {run.label} ({run.run_id})"
        content = self._content(run, root, path, place)
        if content is None:
            lost = _lost_folder(root) if run.state != "running" else None
            if lost is None:
                return None
            raise StoreAwayError(
                f"{place} cannot be fetched: the files of its experiment must be in {lost}, got no such folder; was "
                "the store moved without them?"
            )
        try:
            return _decoded(decode, content, place)
        except BrokenArtifactError:
            if run.state != "running":
                raise
            time.sleep(_RETRY_S)
            again = self._fetched(root, path, place)
            if again is None:
                return None
            return _decoded(decode, again, place)

    def _content(self, run: RunRecord, root: str, path: str, place: str) -> bytes | None:
        digest = hashlib.blake2b(f"{self._access.location} {root} {path} {_stamp(run)}".encode(), digest_size=16)
        file = self._folder / digest.hexdigest()
        if file.exists():
            return file.read_bytes()
        content = self._fetched(root, path, place)
        if content is not None:
            part = file.with_suffix(f".{threading.get_ident()}")
            part.write_bytes(content)
            os.replace(part, file)
            with self._lock:
                before = self._files.pop((run.run_id, path), None)
                if run.state == "running":
                    self._files[run.run_id, path] = file
            if before is not None and before != file:
                before.unlink(missing_ok=True)
        return content

    def _fetched(self, root: str, path: str, place: str) -> bytes | None:
        """A file from the store, or the names in a folder, one a line."""
        folder, name = posixpath.split(path)
        uri = self._access.tracking_uri

        def fetch(_: object) -> bytes | None:
            listed = mlflow.artifacts.list_artifacts(artifact_uri=_joined(root, folder), tracking_uri=uri)
            if not name:
                names = [posixpath.basename(entry.path) for entry in listed if not entry.is_dir]
                return "\n".join(sorted(names)).encode()
            entry = next((e for e in listed if posixpath.basename(e.path) == name and not e.is_dir), None)
            if entry is None:
                return None
            if (entry.file_size or 0) > MAX_BYTES:
                raise BrokenArtifactError(f"{place} must be at most {MAX_BYTES} bytes, got {entry.file_size}")
            with tempfile.TemporaryDirectory(dir=self._folder) as target:
                file = mlflow.artifacts.download_artifacts(
                    artifact_uri=_joined(root, path), dst_path=target, tracking_uri=uri
                )
                return Path(file).read_bytes()

        try:
            return self._access.ask(fetch, pauses=False)  # the files of one run may be lost, or elsewhere
        except BrokenArtifactError:
            raise
        except Exception as error:  # every kind of storage has errors of its own, such as those of boto3, or its lack
            raise StoreAwayError(f"{place} cannot be fetched: {masked(str(error))}") from error


def _lost_folder(root: str) -> Path | None:
    """The folder of an experiment on this machine, `root` being that of a run in it, if there is no such folder."""
    if not root.startswith(("file:", "/")):
        return None
    folder = Path(url2pathname(urlsplit(root).path) if root.startswith("file:") else root).parents[1]
    return None if folder.exists() else folder


def _decoded(decode: Callable[[bytes, str], Content], content: bytes, place: str) -> Content:
    try:
        return decode(content, place)
    except (ValueError, RecursionError) as error:
        raise BrokenArtifactError(f"{place} is not valid: {error}") from error


def _joined(root: str, path: str) -> str:
    return f"{root.rstrip('/')}/{path}" if path else root


def _stamp(run: RunRecord) -> str:
    """What shows whether a file may have changed."""
    if run.state == "running":
        return f"{run.status} {run.last_report_s} {run.num_epochs} {int(time.time() / _OPEN_S)}"
    return f"{run.status} {run.end_s} {run.last_report_s}"
