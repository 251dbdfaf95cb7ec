"""What users ask of a study while it may be running, and what was decided: small files, and one file of JSON lines.

runs/<study>/requests/<id>.json   what a command asks for; removed when it was done or refused
runs/<study>/decisions.jsonl      what was decided, by whoever held the study's lock, in order

A decision is written before it is carried out and says all that this takes, so that it can be carried out again:
whoever is killed in between leaves the request, and the next holder of the lock does it once more, to the same end.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.errors import OrchestratorError
from orchestrator.files.json_lines import JsonLines
from orchestrator.files.whole_file import write_whole

#: What may be asked for.
RequestKind = Literal["extend", "enqueue", "cancel", "retry", "fork", "pause"]


@dataclass(frozen=True)
class Request:
    """What a command asks of a study.

    Attributes:
        id: unique, in the order of time.
        kind: what is asked for.
        facts: what it needs, plain data.
        file: where it lies until it is done.
    """

    id: str
    kind: str
    facts: Mapping[str, Any]
    file: Path


@dataclass(frozen=True)
class Ending:
    """Why the searches of a study are over though not all trials were run, or rest.

    Attributes:
        kind: `budget`: it is spent; `pause`: a user asked for it.
        reason: for people.
        on_end: what becomes of trials that run: they `finish`, or wait at their `checkpoint`.
    """

    kind: Literal["budget", "pause"]
    reason: str
    on_end: Literal["finish", "checkpoint"]


class Decisions:
    """The decisions on one study, appended to by the holder of its lock only.

    Args:
        path: the file; it is made with the first entry. A half-written last line does not count.

    Raises:
        OrchestratorError: if it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.read()

    def read(self) -> None:
        """Read what others have written meanwhile."""
        self._file = JsonLines(self._path)
        self.entries: list[dict[str, Any]] = []
        for number, line in enumerate(self._file.read(), start=1):
            try:
                entry = json.loads(line)
                is_decision = isinstance(entry["kind"], str) and isinstance(entry["time"], int | float)
            except (ValueError, TypeError, KeyError):
                is_decision = False
            if not is_decision:
                raise OrchestratorError(
                    f"{self._path}:{number}: a line must be a decision with `kind` and `time`, got {line[:60]!r}; the "
                    "file is damaged: restore it, or delete this line"
                )
            self.entries.append(entry)

    def append(self, kind: str, **facts: Any) -> dict[str, Any]:
        """Record a decision and wait until it is on disk.

        Args:
            kind: that of the request; `refused` instead of it; `begin` and `end` of a driver's work on the searches;
                `budget`, if one is spent.
            facts: what it takes to carry it out.
        """
        entry = {"kind": kind, "time": time.time(), **facts}
        self._file.append(entry)
        self.entries.append(entry)
        return entry

    def on(self, request: str) -> dict[str, Any] | None:
        """The decision on a request, if there is one."""
        return next((entry for entry in self.entries if entry.get("request") == request), None)

    @property
    def ending(self) -> Ending | None:
        """Why the searches are over or rest; None while they may go on."""
        last = next((entry for entry in reversed(self.entries) if entry["kind"] in ("begin", "budget", "pause")), None)
        if last is None or last["kind"] == "begin":
            return None
        return Ending(last["kind"], last["reason"], last["on_end"])


def post(folder: Path, kind: RequestKind, **facts: Any) -> Request:
    """Ask for something; whoever has the study's lock takes it.

    Raises:
        OSError: if it cannot be written; nothing is asked then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{time.time_ns():020d}-{os.getpid()}"
    file = folder / f"{name}.json"
    write_whole(file, json.dumps({"kind": kind, **facts}).encode(), folder / f"{name}.tmp")
    return Request(name, kind, facts, file)


def pending(folder: Path) -> list[Request]:
    """What is asked for and not done yet, oldest first; a file that is no request asks for nothing that is known."""
    found = []
    for file in sorted(folder.glob("*.json")):
        try:
            facts = json.loads(file.read_text(encoding="utf-8"))
            kind = str(facts.pop("kind"))
        except (ValueError, KeyError, AttributeError, TypeError):
            kind, facts = "unreadable", {}
        except FileNotFoundError:  # another has done it
            continue
        found.append(Request(file.stem, kind, facts, file))
    return found
