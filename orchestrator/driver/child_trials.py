"""A multi-trial search inside a study: each of its children is a Tune trial.

What was proposed and scored, and in which order, is one file of JSON lines beside the children's journals; what became
of a child is in its journal. Children are reported to the strategy in the order of their numbers, whichever ends first,
so that proposals do not depend on the clock. The state of the strategy is neither written nor read: a new driver asks
and reports once more in the same order, and strategies are deterministic.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import OrchestratorError
from orchestrator.files.journal import Journal
from orchestrator.files.json_lines import JsonLines
from orchestrator.study.hours import hours_of
from search_core.errors import ConstraintsError, NonFiniteLossError
from search_core.search.child_training import ChildOrder
from search_core.search.children import ChildOutcome, ProposedChildren
from search_core.search.reports import EpochReport


class OrderLog:
    """The order in which the children of a search were proposed and scored, one JSON line each.

    Args:
        path: the file; it is made with the first line. A half-written last line does not count.

    Raises:
        OrchestratorError: if it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, JsonLines(path)
        self.entries: list[dict[str, Any]] = []
        self._read()

    def asked(self, order: ChildOrder) -> None:
        """Record a proposal."""
        self._append({"asked": order.number, **_plain_order(order)})

    def scored(self, number: int) -> None:
        """Record that a child's score was reported to the strategy."""
        self._append({"told": number})

    def _append(self, entry: dict[str, Any]) -> None:
        self._file.append(entry)
        self.entries.append(entry)

    def _read(self) -> None:
        for number, line in enumerate(self._file.read(), start=1):
            try:
                entry = json.loads(line)
                is_entry = isinstance(entry, dict) and ("asked" in entry) != ("told" in entry)
            except ValueError:
                is_entry = False
            if not is_entry:
                raise OrchestratorError(
                    f"{self.path}:{number}: a line must say which child was proposed or scored, got {line[:60]!r}; the "
                    "file is damaged: restore it, or run the study under another name"
                )
            self.entries.append(entry)


class OpenSearch:
    """One multi-trial search that has children to be trained.

    Args:
        number: of the search in the study.
        children: fresh; it is brought up to the log.
        log: what was proposed and scored.
        journal: of the search itself: gets the report of each epoch.
        open_journal: journal of a child by number.

    Raises:
        OrchestratorError: if the strategy does not propose what the log says, as with another version of it.
    """

    def __init__(
        self,
        number: int,
        children: ProposedChildren,
        log: OrderLog,
        journal: Journal,
        open_journal: Callable[[int], Journal],
    ) -> None:
        self.number, self.children = number, children
        self._log, self.journal, self._open_journal = log, journal, open_journal
        self._given: set[int] = set()  # in this launch
        self._running: set[int] = set()
        self._hours: dict[str, float] = {}  # what its children reserved, by metric
        self._replay()
        self._advance()

    @property
    def is_over(self) -> bool:
        """Whether its journal is closed: all children were scored, or it cannot continue."""
        return self.journal.end is not None

    @property
    def is_waiting(self) -> bool:
        """Whether a child runs whose end may bring new ones."""
        return not self.is_over and self.children.has_more and bool(self._running)

    def journal_of(self, child: int) -> Journal:
        """Journal of a child."""
        return self._open_journal(child)

    def next_order(self) -> ChildOrder | None:
        """The next child to run; one that ran out of memory before runs when no other of this search does."""
        if self.is_over:
            return None
        journals = {child: self._open_journal(child) for child in self.children.open if child not in self._given}
        left = [child for child, journal in journals.items() if journal.end is None]
        sound = [child for child in left if journals[child].count("out_of_memory") == 0]
        child = next(iter(sound if sound or self._running else left), None)
        if child is None:
            return None
        self._given.add(child)
        self._running.add(child)
        return self.children.open[child]

    def set_aside(self, child: int) -> None:
        """A child does not run any more: it ended, or is tried again by the next launch."""
        self._running.discard(child)

    def tell(self, child: int) -> None:
        """A child's journal is closed: report it to the strategy, if those before it are closed, and those after it.

        Appends the reports of epochs that are over. A strategy that finds no child within the hard limits ends the
        search.
        """
        self._running.discard(child)
        self._advance()

    def needs_checkpoints(self, child: int) -> bool:
        """Whether a child or one that grows from it may still resume from its checkpoints; the best keeps them too."""
        if self.is_over:  # of a search that failed, children may still run
            return child in self._running or child == self.children.best_number
        is_needed = child in self.children.open or self.children.needs_weights(child)
        return is_needed or child == self.children.best_number

    def _advance(self) -> None:
        """Ask for all that there is, report the first open child, and repeat until that one still runs."""
        try:
            while not self.is_over:
                while (order := self.children.ask()) is not None:
                    self._log.asked(order)
                first = min(self.children.open)
                if self._open_journal(first).end is None:
                    return
                self._log.scored(first)
                self._report(first)
        except ConstraintsError as error:
            self.journal.finish("failed", str(error))

    def _report(self, child: int) -> None:
        journal = self._open_journal(child)
        hours = hours_of(journal.epochs[-1]["metrics"]) if journal.epochs else None
        if hours is not None:
            self._hours[hours[0]] = self._hours.get(hours[0], 0.0) + hours[1]
        try:
            report = self.children.tell(outcome_of(child, journal))
        except NonFiniteLossError as error:
            self.journal.finish("failed", str(error))
            return
        if report is not None:
            self._append(report)
        if self.children.is_over:
            self.journal.finish("complete")

    def _append(self, report: EpochReport) -> None:
        record = report.to_dict()
        if len(self._hours) == 1:  # with both metrics no sum is known
            record["metrics"] |= self._hours
        self.journal.append_epoch({**record, "child": self.children.best_number})

    def _replay(self) -> None:
        for entry in list(self._log.entries):
            if "told" in entry:
                self._report(entry["told"])
                continue
            order = self.children.ask()
            if order is None or _plain_order(order) != {key: entry[key] for key in _plain_order(order)}:
                raise OrchestratorError(
                    f"{self._log.path}: child {entry['asked']} must be proposed again as it was, {entry}, got {order}: "
                    "the study was begun with another version of its strategy; run it under another name"
                )


def outcome_of(child: int, journal: Journal) -> ChildOutcome:
    """What became of a child, by its closed journal."""
    epochs: list[Mapping[str, float]] = [record["metrics"] for record in journal.epochs]
    return ChildOutcome.of(child, epochs, journal.reason if journal.end == "failed" else "")


def _plain_order(order: ChildOrder) -> dict[str, Any]:
    plain = order.definition()
    del plain["number"]
    return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}
