"""What users of the orchestrator may meet, by meaning."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from dashboards.mlflow_store.databases import StoreFault
from orchestrator.credentials import masked


class OrchestratorError(Exception):
    """Base of all errors whose message is meant for the user, without a traceback; passwords in it are hidden."""

    def __init__(self, message: str) -> None:
        super().__init__(masked(message))


class StoreStateError(OrchestratorError):
    """A store cannot be used as it is, such as one whose experiment was deleted.

    Attributes:
        fault: what is wrong, and what to do.
    """

    def __init__(self, fault: StoreFault) -> None:
        self.fault = fault
        super().__init__(f"{fault.what}: {fault.remedy}")


class RunInterrupted(OrchestratorError):
    """A signal stopped a run; the message says what became of it."""


class StudyInterrupted(RunInterrupted):
    """A signal stopped the study; nothing is lost and `snas study resume` continues."""


class StudyPaused(OrchestratorError):
    """A user paused the study; the message says how it continues."""


class StudyFailed(OrchestratorError):
    """Nothing came of a study: all its searches failed, or all its retrainings."""


class TrackingAwayError(OrchestratorError):
    """MLflow was away for so long that runs are still behind; `snas study resume` delivers them."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a file of options.

    Attributes:
        place: dotted path of the key, such as `search.temperature.end`; empty for the file as a whole.
        message: the rule, then the value that broke it.
        line: 1-based line in the file, if it is known.
        column: 1-based column, for syntax errors.
        is_override: the value came from `--set`, not from the file.
    """

    place: str
    message: str
    line: int | None = None
    column: int | None = None
    is_override: bool = False


class ConfigError(OrchestratorError):
    """A file of options breaks one or more rules; all of them are in `faults`.

    Attributes:
        source: the file, as the user named it.
        faults: what is wrong, in the order of the file.
    """

    def __init__(self, source: str, faults: Iterable[Fault]) -> None:
        self.source = source
        self.faults = tuple(sorted(faults, key=lambda fault: (fault.line is None, fault.line or 0)))
        count = len(self.faults)
        lines = [f"{source}: {count} fault{'' if count == 1 else 's'}"]
        lines += [f"  {self._described(fault)}" for fault in self.faults]
        super().__init__("\n".join(lines))

    def _described(self, fault: Fault) -> str:
        if fault.is_override:
            return f"--set {fault.place}: {fault.message}"
        position = ":".join(str(part) for part in (self.source, fault.line, fault.column) if part is not None)
        return ": ".join(part for part in (position, fault.place, fault.message) if part)

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, tuple[Fault, ...]]]:
        # The default would rebuild from the message alone and fail in processes that unpickle it.
        return type(self), (self.source, self.faults)


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """The hint "; did you mean `x`?" with the candidate nearest to `word`, or nothing if none is near."""
    near = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else ""


def first_line(error: BaseException) -> str:
    """What an error says, without the rest of a long message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def last_line(error: BaseException) -> str:
    """What an error says at its end, where remote tracebacks have their cause."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
