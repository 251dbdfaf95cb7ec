"""One calm view of a running study: trials, epoch, best so far, time left. Without a terminal, one line per trial."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.journal import Journal

_SHOWN_UNITS = 12


class StudyView(Protocol):
    """Hears how a study goes."""

    def phase(self, name: str, done: int, total: int) -> None:
        """A phase begins, of which `done` of `total` units are finished already."""

    def started(self, label: str, epochs: int) -> None:
        """A unit with so many epochs runs."""

    def epoch(self, label: str, journal: Journal) -> None:
        """A unit has recorded an epoch."""

    def ended(self, label: str, journal: Journal) -> None:
        """A unit is complete, stopped or failed."""

    def note(self, message: str) -> None:
        """Something that was decided for the user."""

    def warn(self, message: str) -> None:
        """Something the user should know."""


class SilentView:
    """Shows nothing."""

    def phase(self, name: str, done: int, total: int) -> None:
        """Nothing to show."""

    def started(self, label: str, epochs: int) -> None:
        """Nothing to show."""

    def epoch(self, label: str, journal: Journal) -> None:
        """Nothing to show."""

    def ended(self, label: str, journal: Journal) -> None:
        """Nothing to show."""

    def note(self, message: str) -> None:
        """Nothing to show."""

    def warn(self, message: str) -> None:
        """Nothing to show."""


class ConsoleView:
    """Draws a live table on a terminal, and prints one line per finished unit elsewhere.

    Args:
        console: where to write.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._phase, self._total, self._done_before = "", 0, 0
        self._begin = time.monotonic()
        self._running: dict[str, tuple[int, Journal | None]] = {}
        self._epochs: dict[str, int] = {}
        self._ends: Counter[str] = Counter()
        self._best: tuple[float, str] | None = None
        self._warned: set[str] = set()
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def phase(self, name: str, done: int, total: int) -> None:
        """A phase begins."""
        self._phase, self._done_before, self._total = name, done, total
        self._begin = time.monotonic()
        self._running.clear()
        self._epochs.clear()
        self._ends.clear()
        self._best = None
        self._console.print(f"{name}: {total} to do" + (f", {done} done before" if done else ""), highlight=False)

    def started(self, label: str, epochs: int) -> None:
        """A unit runs."""
        self._running[label] = (epochs, None)

    def epoch(self, label: str, journal: Journal) -> None:
        """Show the newest numbers of a unit."""
        epochs, _ = self._running.get(label, (len(journal.epochs), None))
        self._running[label] = (epochs, journal)
        self._epochs[label] = self._epochs.get(label, 0) + 1

    def ended(self, label: str, journal: Journal) -> None:
        """Count a unit as done and say how it went."""
        epochs, _ = self._running.pop(label, (len(journal.epochs), None))
        self._epochs[label] = epochs
        self._ends[str(journal.end)] += 1
        accuracy = _accuracy(journal)
        if accuracy is not None and journal.end == "complete" and (self._best is None or accuracy > self._best[0]):
            self._best = (accuracy, label)
        said = [f"accuracy {accuracy:.1%}"] if accuracy is not None else []
        said += [journal.reason] if journal.reason else []
        done = self._done_before + self._ends.total()
        left = f", {self._left()}" if done < self._total else ""
        self._console.print(
            f"  {label} {journal.end}: {'; '.join(said)}  [{done}/{self._total}{left}]",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    def note(self, message: str) -> None:
        """Print a line."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Print a warning, each once."""
        if message not in self._warned:
            self._warned.add(message)
            self._console.print(f"warning: {message}", style="yellow", markup=False, soft_wrap=True)

    def _left(self) -> str:
        """Time left, from the epochs done so far in this phase."""
        done = sum(self._epochs.values())
        per_unit = max([epochs for epochs, _ in self._running.values()] + list(self._epochs.values()), default=0)
        remaining = (self._total - self._done_before) * per_unit - done
        if done == 0:
            return "time left unknown"
        seconds = (time.monotonic() - self._begin) / done * max(remaining, 0)
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"

    def _render(self) -> Group:
        done = self._done_before + self._ends.total()
        head = Text(f"{self._phase}  {done}/{self._total} done")
        for end, style in (("stopped", "dim"), ("collapsed", "yellow"), ("failed", "red")):
            if self._ends[end]:
                head.append(f", {self._ends[end]} {end}", style=style)
        if self._best is not None:
            head.append(f"   best accuracy {self._best[0]:.1%} ({self._best[1]})")
        head.append(f"   {self._left()}", style="dim")
        table = Table.grid(padding=(0, 2))
        for label, (epochs, journal) in list(self._running.items())[:_SHOWN_UNITS]:
            recorded = len(journal.epochs) if journal else 0
            table.add_row(label, ProgressBar(total=epochs, completed=recorded, width=24), *_numbers(journal, epochs))
        if len(self._running) > _SHOWN_UNITS:
            table.add_row(f"and {len(self._running) - _SHOWN_UNITS} more")
        return Group(head, table)


def _accuracy(journal: Journal | None) -> float | None:
    metrics = journal.epochs[-1]["metrics"] if journal and journal.epochs else {}
    return next((metrics[name] for name in ("child_val_accuracy", "val_accuracy") if name in metrics), None)


def _numbers(journal: Journal | None, epochs: int) -> list[str]:
    if journal is None or not journal.epochs:
        return [f"epoch 0/{epochs}", "starting"]
    metrics = journal.epochs[-1]["metrics"]
    shown = [f"epoch {len(journal.epochs)}/{epochs}", f"accuracy {_accuracy(journal):.1%}"]
    if "child_madds" in metrics:
        shown += [f"gap {metrics['discretization_gap']:+.1%}", f"temperature {metrics['temperature']:.2f}"]
    return shown
