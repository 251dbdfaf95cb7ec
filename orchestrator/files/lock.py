"""The lock that the one driver of a study holds, and who holds it."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from orchestrator.errors import OrchestratorError

#: How long another process may hold the lock before it counts as a driver: a doctor has it for a moment.
_LOCK_PATIENCE_S = 2.0


@contextmanager
def driver_lock(lock_file: Path, name: str) -> Iterator[None]:
    """Be the only driver of a study inside.

    Args:
        lock_file: of the study.
        name: of the study.

    Raises:
        OrchestratorError: if another process runs it.
    """
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    with lock_file.open("w") as lock:
        while not _take(lock):
            if time.monotonic() > deadline:
                raise OrchestratorError(f"study `{name}` is being run by another process")
            time.sleep(_LOCK_PATIENCE_S / 20)
        yield


def lock_holder(lock_file: Path) -> str | None:
    """Who runs the study: `process 1234`, or `a process` if only that is known; None if nobody does.

    The lock is asked for and given back at once: on shared storage there is no other way to know. A driver that starts
    at this moment tries again.
    """
    if not lock_file.is_file():
        return None
    with lock_file.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _process_of(lock_file)
        fcntl.flock(lock, fcntl.LOCK_UN)
    return None


def _process_of(lock_file: Path) -> str:
    """The process that Linux names in /proc/locks: `1: FLOCK ADVISORY WRITE 1234 08:01:5678 0 EOF`."""
    status = lock_file.stat()
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    try:
        lines = [line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines()]
    except OSError:
        return "a process"
    holders = [words[4] for words in lines if len(words) > 5 and words[1] == "FLOCK" and words[5] == place]
    return f"process {holders[0]}" if holders else "a process, perhaps on another machine"


def _take(lock: TextIO) -> bool:
    """Take the lock of an open file, unless somebody has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
