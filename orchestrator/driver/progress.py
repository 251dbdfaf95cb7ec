"""What a running study does: a live table of trials, epochs and time left on a terminal; elsewhere, line by line."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from dashboards.formatting import duration, epoch_text, metric_name, shown_metric
from orchestrator.files.journal import Journal

#: The phase whose units are the trials of a study.
SEARCHES = "searches"
_SHOWN_UNITS = 12
_COLUMNS = 6  # of the live table: label, bar, epoch, accuracy, gap, temperature


class StudyView:
    """Is called with how a study goes; shows nothing of it.

    Attributes:
        hear: is called with each line that is said, from whatever thread says it.
    """

    hear: Callable[[str], None] = staticmethod(lambda line: None)

    def step(self, name: str) -> None:
        """Something without units begins, such as loading the images."""

    def phase(self, name: str, done: int, total: int, metrics: Sequence[str] = ()) -> None:
        """A phase begins, with `done` of `total` units finished already; `metrics` are the results of a unit."""

    def grown(self, num_trials: int) -> None:
        """The study has this many searches now."""

    def started(self, label: str, epochs: int, journal: Journal, values: str = "") -> None:
        """A unit with this many epochs runs; `values` says what makes it differ from others."""

    def epoch(self, label: str, journal: Journal) -> None:
        """A unit has recorded an epoch."""

    def ended(self, label: str, journal: Journal) -> None:
        """A unit is complete, stopped or failed."""

    def note(self, message: str) -> None:
        """Something that was decided for the user."""
        self.hear(message)

    def warn(self, message: str) -> None:
        """Something the user should know."""
        self.hear(f"warning: {message}")


class ConsoleView(StudyView):
    """Draws a live table on a terminal; in a file or pipe, prints a line per step, phase, and begin and end of a unit.

    Args:
        console: where to write.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._is_live = console.is_terminal and not console.is_dumb_terminal
        self._phase, self._total, self._done_before = "", 0, 0
        self._metrics: Sequence[str] = ()
        self._begin = time.monotonic()
        self._running: dict[str, tuple[int, Journal]] = {}
        self._epochs: dict[str, int] = {}
        self._ends: Counter[str] = Counter()
        self._best: tuple[float, str] | None = None
        self._warned: set[str] = set()
        self._live = Live(console=console, get_renderable=self.table, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def step(self, name: str) -> None:
        """Show what is done, on a terminal until the next step or phase."""
        self._begin_phase(name, 0, 0)
        if not self._is_live:
            self.note(name)

    def phase(self, name: str, done: int, total: int, metrics: Sequence[str] = ()) -> None:
        """A phase begins."""
        self._begin_phase(name, done, total, metrics)
        before = f", {done} done before" if done else ""
        self.note(f"{name}: {total} to do{before}; workers load images and kernels first")

    def grown(self, num_trials: int) -> None:
        """Searches are counted up to the new number; other phases are not concerned."""
        if self._phase == SEARCHES:
            self._total = num_trials

    def started(self, label: str, epochs: int, journal: Journal, values: str = "") -> None:
        """A unit runs, from its beginning or from its checkpoint."""
        self._running[label] = (epochs, journal)
        if not self._is_live:
            how = f"resumes after epoch {len(journal.epochs)} of {epochs}" if journal.epochs else "starts"
            self.note(f"  {label} {how}" + (f": {values}" if values else ""))

    def epoch(self, label: str, journal: Journal) -> None:
        """Show the newest numbers of a unit."""
        epochs, _ = self._running.get(label, (len(journal.epochs), journal))
        self._running[label] = (epochs, journal)
        self._epochs[label] = self._epochs.get(label, 0) + 1

    def ended(self, label: str, journal: Journal) -> None:
        """Count a unit as done and say how it went."""
        epochs, _ = self._running.pop(label, (len(journal.epochs), journal))
        self._epochs[label] = epochs
        self._ends[str(journal.end)] += 1
        accuracy = _accuracy(journal)
        if accuracy is not None and journal.end == "complete" and (self._best is None or accuracy > self._best[0]):
            self._best = (accuracy, label)
        said = "; ".join(filter(None, (self._results(journal), journal.reason)))
        done = self._done_before + self._ends.total()
        left = f", {self._left()}" if done < self._total else ""
        end = f"{journal.end}: {said}" if said else journal.end
        self.note(f"  {label} {end}  [{self._phase} {done} of {self._total}{left}]")

    def note(self, message: str) -> None:
        """Print a line."""
        super().note(message)
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Print a warning, each once."""
        if message not in self._warned:
            self._warned.add(message)
            super().warn(message)
            self._console.print(f"warning: {message}", style="yellow", markup=False, soft_wrap=True)

    def _begin_phase(self, name: str, done: int, total: int, metrics: Sequence[str] = ()) -> None:
        self._phase, self._done_before, self._total, self._metrics = name, done, total, metrics
        self._begin = time.monotonic()
        self._running.clear()
        self._epochs.clear()
        self._ends.clear()
        self._best = None

    def _results(self, journal: Journal) -> str:
        """The last values of the metrics of this phase."""
        metrics = journal.epochs[-1]["metrics"] if journal.epochs else {}
        known = [name for name in self._metrics if name in metrics]
        return ", ".join(f"{metric_name(name)} {shown_metric(name, metrics[name])}" for name in known)

    def _left(self) -> str:
        """Time left, from the epochs done so far in this phase."""
        done = sum(self._epochs.values())
        per_unit = max([epochs for epochs, _ in self._running.values()] + list(self._epochs.values()), default=0)
        remaining = (self._total - self._done_before) * per_unit - done
        if done == 0:
            return "time left unknown"
        seconds = (time.monotonic() - self._begin) / done * max(remaining, 0)
        return f"about {duration(max(seconds, 1))} left"

    def table(self) -> Group:
        """What a terminal shows live: the step, or the phase and its units that run."""
        if not self._total:  # a step, or nothing yet
            return Group(Text(f"{self._phase}  {time.monotonic() - self._begin:.0f} s") if self._phase else Text())
        done = self._done_before + self._ends.total()
        head = Text(f"{self._phase}  {done} of {self._total} done")
        for end, style in (("stopped", "dim"), ("collapsed", "yellow"), ("cancelled", "dim"), ("failed", "red")):
            if self._ends[end]:
                head.append(f", {self._ends[end]} {end}", style=style)
        if self._best is not None:
            head.append(f"   best accuracy {shown_metric('val_accuracy', self._best[0])} ({self._best[1]})")
        if done < self._total:
            head.append(f"   {self._left()}", style="dim")
        table = Table.grid(*(Column(no_wrap=True) for _ in range(_COLUMNS)), padding=(0, 2))
        for label, (epochs, journal) in list(self._running.items())[:_SHOWN_UNITS]:
            bar = ProgressBar(total=epochs, completed=len(journal.epochs), width=24)
            table.add_row(label, bar, *_numbers(journal, epochs))
        if len(self._running) > _SHOWN_UNITS:
            table.add_row(f"and {len(self._running) - _SHOWN_UNITS} more")
        return Group(head, table)


def _accuracy(journal: Journal) -> float | None:
    metrics = journal.epochs[-1]["metrics"] if journal.epochs else {}
    return next((metrics[name] for name in ("child_val_accuracy", "val_accuracy") if name in metrics), None)


def _numbers(journal: Journal, epochs: int) -> list[str]:
    if not journal.epochs:
        return [epoch_text(0, epochs), "loading images and kernels"]
    metrics = journal.epochs[-1]["metrics"]
    shown = [epoch_text(len(journal.epochs), epochs), f"accuracy {shown_metric('val_accuracy', _accuracy(journal))}"]
    if "child_madds" in metrics:
        shown += [
            f"gap {shown_metric('discretization_gap', metrics['discretization_gap'])}".replace("percentage ", ""),
            f"temperature {shown_metric('temperature', metrics['temperature'])}",
        ]
    return shown
