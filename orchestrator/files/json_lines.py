"""A file of JSON lines that is only ever appended to, and survives a kill or a full disk between any two bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class JsonLines:
    """Appends entries to a file; a half-written last line does not count.

    Args:
        path: the file; it is made with the first entry.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._torn_after: int | None = None

    def read(self) -> list[bytes]:
        """All whole lines; none if there is no file."""
        if not self.path.exists():
            return []
        text = self.path.read_bytes()
        whole = text.rfind(b"\n") + 1
        self._torn_after = whole if whole < len(text) else None
        return text[:whole].splitlines()

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write an entry, and wait until it is on disk.

        Raises:
            OSError: if it cannot be written; what was there before is kept.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._torn_after is not None:
            os.truncate(self.path, self._torn_after)  # drops what a killed driver or a full disk left half-written
            self._torn_after = None
        left = json.dumps(entry).encode() + b"\n"
        with self.path.open("ab", buffering=0) as file:
            size = file.tell()
            try:
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())  # checkpoints are on disk as well, and must never be further than the journal
            except OSError as error:
                self._torn_after = size
                error.filename = str(self.path)
                raise
