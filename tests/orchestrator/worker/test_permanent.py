"""Errors that would come again: in which words a worker sends them, and whom they concern."""

from __future__ import annotations

import errno
import platform

import pytest

from orchestrator.jobs import JobReport
from orchestrator.worker.permanent import is_for_all, refusal
from search_core.errors import DataError


def test_refusal_has_the_words_of_the_error() -> None:
    expected = JobReport(fault="refused", reason="a.png holds no image", kind="DataError")
    assert refusal(DataError("a.png holds no image")) == expected


def test_refusal_of_what_a_node_lacks_names_the_node() -> None:
    missing = FileNotFoundError(errno.ENOENT, "No such file or directory", "/data")
    said = refusal(missing).reason
    assert said == f"/data must be usable: No such file or directory (on the node {platform.node()})"


def test_refusal_of_a_loader_process_has_the_words_of_its_error() -> None:
    """PyTorch raises the same class with the traceback as its message."""
    error = DataError(
        "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "readers.py", line 1, in read\nsearch_core.errors.DataError: a.png: holds no image\n'
    )
    assert refusal(error).reason == "a.png: holds no image"


@pytest.mark.parametrize(
    ("kind", "swept", "is_for_everybody"),
    [
        ("DataError", [], True),
        ("DataError", ["penalty.strength", "temperature.kind"], True),
        ("DataError", ["dataset.root"], False),
        ("FileNotFoundError", ["dataset.root"], False),
        ("LatencyError", ["penalty.strength"], True),
        ("LatencyError", ["network.nodes"], False),
        ("OptionsError", ["batch_size"], False),
        ("OptionsError", [], True),
        ("ModuleNotFoundError", ["dataset.root", "strategy.kind"], True),
        ("StateError", ["seed"], True),
    ],
)
def test_error_concerns_all_trials_that_do_not_differ_in_its_settings(
    kind: str, swept: list[str], is_for_everybody: bool
) -> None:
    assert is_for_all(kind, swept) is is_for_everybody
