"""Errors that another attempt would meet again: of data, options, state and what a node lacks.

A worker sends their words and kind instead of dying of them, so that Ray does not try again.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable

from orchestrator.errors import OrchestratorError, first_line, last_line
from orchestrator.jobs import JobReport
from search_core.errors import DataError, GenotypeError, LatencyError, OptionsError, StateError

#: A disk that is slow or away raises other kinds of OSError, which do pass.
_OF_NODE = (ImportError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
PERMANENT = (DataError, GenotypeError, LatencyError, OptionsError, OrchestratorError, StateError, *_OF_NODE)

#: By kind of error, the settings that it may come from; one of another kind comes from none.
_SETTINGS: dict[str, tuple[str, ...]] = {
    "DataError": ("dataset.",),
    "FileNotFoundError": ("dataset.",),
    "GenotypeError": ("",),
    "LatencyError": ("dataset.", "latency.", "network."),
    "OptionsError": ("",),
}


def refusal(error: Exception) -> JobReport:
    """What a worker reports of a permanent error."""
    words = first_line(error)
    if words.startswith("Caught "):  # by a loader process of PyTorch, which sends its traceback as the message
        whole = str(error).replace("\\n", "\n")  # `DataError` has it escaped
        words = last_line(RuntimeError(whole)).partition(": ")[2]
    elif isinstance(error, OSError) and error.filename is not None:
        words = f"{error.filename} must be usable: {error.strerror}"
    if isinstance(error, _OF_NODE):
        words = f"{words} (on the node {platform.node()})"
    return JobReport(fault="refused", reason=words, kind=type(error).__name__)


def is_for_all(kind: str, swept: Iterable[str]) -> bool:
    """Whether all trials of a study meet an error of this kind, as it comes from nothing in which they differ.

    Args:
        kind: that of a refusal.
        swept: dotted keys of the settings that the study sweeps.
    """
    return not any(key.startswith(_SETTINGS.get(kind, ())) for key in swept)
