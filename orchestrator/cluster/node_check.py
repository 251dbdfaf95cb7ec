"""What a pre-flight task does on a node: versions, the shared folder, the data, the latency table."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from search_core.cost.latency_table import load_table
from search_core.data.dataset_options import DatasetOptions
from search_core.data.datasets import load_data
from search_core.errors import DataError, LatencyError, OptionsError

#: What must be the same on every node: a checkpoint or a pickled job crosses from one to the other.
PACKAGES = ("ray", "torch", "numpy")
#: How long a file that another machine wrote may take to show: network file systems cache folders.
PATIENCE_S = 5.0
_ROOM_BYTES = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one thing looked like on a node.

    Attributes:
        name: what was looked at: `versions`, `storage`, `data` or `latency table`.
        ok: whether it can be used.
        detail: what was found, or the reason why not.
        seconds: how long it took.
    """

    name: str
    ok: bool
    detail: str
    seconds: float


class UnusableError(Exception):
    """A thing that a node cannot use, and why."""


@dataclass(frozen=True, kw_only=True)
class NodeTask:
    """What a node is asked.

    Attributes:
        node: Ray's id of the node.
        marker: folder in the study's storage with the driver's file; None to leave the storage out.
        content: what the driver wrote.
        dataset: images to read; None to leave the data out.
        latency_table: file to read; None if the study has none.
    """

    node: str
    marker: str | None = None
    content: str = ""
    dataset: DatasetOptions | None = None
    latency_table: str | None = None

    def run(self) -> list[Finding]:
        """Look at everything; what fails does not keep the rest from being looked at."""
        found = [timed("versions", lambda: " ".join(f"{name}={text}" for name, text in versions().items()))]
        if self.marker is not None:
            found.append(timed("storage", self._answer_marker))
        if self.dataset is not None:
            found.append(timed("data", self._digest))
        if (table := self.latency_table) is not None:
            found.append(timed("latency table", lambda: load_table(table).digest))
        return found

    def _answer_marker(self) -> str:
        assert self.marker is not None
        folder = Path(self.marker)
        try:
            content = read_when_there(folder / "driver")
        except FileNotFoundError as error:
            raise UnusableError(f"it does not see what the driver wrote to {folder.parent}") from error
        if content != self.content:
            raise UnusableError(f"it reads something else in {folder.parent} than the driver wrote there")
        write_marker(folder / self.node, content)
        return str(folder.parent)

    def _digest(self) -> str:
        assert self.dataset is not None
        return load_data(self.dataset, torch.device("cpu")).digest


def timed(name: str, look: Callable[[], str]) -> Finding:
    """What a look at something found, or why it failed."""
    start = time.perf_counter()
    try:
        ok, detail = True, look()
    except (OSError, DataError, LatencyError, OptionsError, UnusableError) as error:
        ok, detail = False, str(error)
    return Finding(name=name, ok=ok, detail=detail, seconds=time.perf_counter() - start)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that must agree, in this process."""
    return {"python": platform.python_version(), **{package: _version(package) for package in PACKAGES}}


def write_marker(file: Path, content: str) -> None:
    """Write a file that is large enough to show that the disk takes something.

    Raises:
        OSError: if the folder cannot be written or is full.
    """
    with file.open("w", encoding="utf-8") as stream:
        stream.write(content.ljust(_ROOM_BYTES))
        stream.flush()
        os.fsync(stream.fileno())


def read_when_there(file: Path) -> str:
    """What `write_marker` wrote, perhaps on another machine.

    Raises:
        FileNotFoundError: if it does not show in time.
        OSError: if it cannot be read.
    """
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return file.read_text(encoding="utf-8").rstrip()
        except FileNotFoundError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
