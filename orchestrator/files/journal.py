"""The journal of one trial or retraining: one JSON line per epoch and per fault, and one that says how it ended.

The driver writes it as reports come in; it is the one source of a trial's metrics. MLflow is brought up to it, so
an epoch is never logged twice and never missing, whatever was killed in between.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from orchestrator.errors import OrchestratorError
from orchestrator.files.json_lines import JsonLines

#: `stopped` by a scheduler; `collapsed`: stopped since the search has nothing left to decide; `cancelled` by a user.
End = Literal["complete", "stopped", "collapsed", "cancelled", "failed"]
#: Faults that a trial may survive: its worker died, ran out of memory, did not report in time, could not write.
Event = Literal["restart", "out_of_memory", "hang", "checkpoint"]


class Journal:
    """Append-only record, one epoch after another.

    Args:
        path: the file; it is made with the first entry. A half-written last line does not count.

    Raises:
        OrchestratorError: if the file is damaged; the message names the line.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, JsonLines(path)
        self.epochs: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self._num_survived = 0  # events with an epoch after them
        self._machines: list[tuple[int, dict[str, Any]]] = []  # from which epoch on
        self.end: End | None = None
        self.reason = ""
        self._read()

    def append_epoch(self, record: Mapping[str, Any]) -> bool:
        """Record the report of the next epoch, with the time (unix seconds) at which it came in.

        Args:
            record: plain data with the key `epoch`; with a `time`, if it comes from another journal; with `machine`,
                if it is known where it was computed (`machine.machine_facts`), which is written where it changes.

        Returns:
            False if this epoch is recorded already: a resumed trial repeats what came after its checkpoint.
        """
        if self.end is not None or record["epoch"] < len(self.epochs):
            return False
        assert record["epoch"] == len(self.epochs), f"hole before epoch {record['epoch']} in {self._path}"
        entry = {"time": time.time(), **record}
        if entry.get("machine") == self.machine_of(record["epoch"]):
            entry.pop("machine", None)
        self._file.append(entry)
        self._add_epoch(entry)
        return True

    def machine_of(self, epoch: int) -> dict[str, Any] | None:
        """Where an epoch was computed (`machine.machine_facts`), 0-based; None if it is not known."""
        return next((machine for first, machine in reversed(self._machines) if first <= epoch), None)

    def finish(self, end: End, reason: str = "") -> None:
        """Record how it ended; the first end stays."""
        if self.end is None:
            self._file.append({"end": end, "reason": reason})
            self.end, self.reason = end, reason

    def note(self, event: Event, reason: str, **facts: str | float) -> None:
        """Record a fault that did not end it.

        Args:
            event: its kind.
            reason: one line for the user.
            facts: what the next attempt needs.
        """
        entry = {"event": event, "reason": reason, "time": time.time(), **facts}
        self._file.append(entry)
        self.events.append(entry)

    @property
    def survived(self) -> list[dict[str, Any]]:
        """Events that did not end it: of one that failed, only those after which it had another epoch."""
        return self.events[: self._num_survived] if self.end == "failed" else self.events

    def count(self, event: Event) -> int:
        """How many faults of one kind it had."""
        return sum(entry["event"] == event for entry in self.events)

    def last_metric(self, name: str) -> float:
        """Metric of the last epoch; NaN if there is none."""
        return float(self.epochs[-1]["metrics"].get(name, math.nan)) if self.epochs else math.nan

    def _add_epoch(self, entry: dict[str, Any]) -> None:
        if "machine" in entry:
            self._machines.append((len(self.epochs), entry.pop("machine")))
        self.epochs.append(entry)
        self._num_survived = len(self.events)

    def _read(self) -> None:
        for number, line in enumerate(self._file.read(), start=1):
            try:
                entry = json.loads(line)
                if "event" in entry:
                    self.events.append(entry)
                    continue
                if "end" in entry:
                    self.end, self.reason = entry["end"], entry["reason"]
                    continue
                is_next = entry["epoch"] == len(self.epochs)
            except (ValueError, TypeError, KeyError):
                is_next = False
            if not is_next:
                raise OrchestratorError(
                    f"{self._path}:{number}: a journal line must be the JSON report of epoch {len(self.epochs)}, "
                    f"got {line[:60]!r}; the file is damaged: restore it, or run the study under another name"
                )
            self._add_epoch(entry)
