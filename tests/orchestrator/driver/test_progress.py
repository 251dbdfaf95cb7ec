"""What a running study prints: line by line in a file or pipe, a live table on a terminal."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.driver.progress import ConsoleView
from orchestrator.files.journal import Journal
from orchestrator.tracking.run_spec import swept_values

EPOCHS = 2


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


def record(epoch: int, **metrics: float) -> dict[str, Any]:
    return {"epoch": epoch, "metrics": metrics}


def searched(view: ConsoleView, journal: Journal, label: str, error: float) -> None:
    """Two epochs and the end of a search."""
    for epoch in range(EPOCHS):
        metrics = {"child_val_error": error, "child_val_accuracy": 1 - error, "child_madds": 271_000.0}
        journal.append_epoch(record(epoch, **metrics, discretization_gap=0.1, temperature=0.5))
        view.epoch(label, journal)
    journal.finish("complete")
    view.ended(label, journal)


def test_pipe_has_a_line_per_step_phase_begin_and_end(tmp_path: Path, out: io.StringIO) -> None:
    first, second, failed, tested = (Journal(tmp_path / f"{name}.jsonl") for name in "abcd")
    heard: list[str] = []
    with ConsoleView(Console(file=out, width=40)) as view:
        view.hear = heard.append
        view.step("loading the images of digits")
        view.phase("searches", 1, 4, ["child_val_error", "child_madds"])
        view.started("0001", EPOCHS, first, "penalty.strength 0.01, temperature.kind linear")
        view.started("0002", EPOCHS, second, "penalty.strength 0.1, temperature.kind cosine")
        searched(view, first, "0001", 0.069)
        second.append_epoch(record(0))
        view.started("0002", EPOCHS, second, "penalty.strength 0.1, temperature.kind cosine")
        searched(view, second, "0002", 0.07)
        view.started("0003", EPOCHS, failed)
        failed.finish("failed", "the loss is NaN")
        view.ended("0003", failed)
        view.phase("retrainings", 0, 1, ["val_accuracy", "test_accuracy"])
        view.started("0001-seed0", 1, tested)
        tested.append_epoch(record(0, val_accuracy=0.972, test_accuracy=0.981, params=1.0))
        tested.finish("complete")
        view.ended("0001-seed0", tested)
        view.step("writing results")
    lines = re.sub(r"about \d+ s left", "about N s left", out.getvalue()).splitlines()
    assert lines == [
        "loading the images of digits",
        "searches: 4 to do, 1 done before; workers load images and kernels first",
        "  0001 starts: penalty.strength 0.01, temperature.kind linear",
        "  0002 starts: penalty.strength 0.1, temperature.kind cosine",
        "  0001 complete: child validation error 6.90%, multiply-adds 271 k  [searches 2 of 4, about N s left]",
        "  0002 resumes after epoch 1 of 2: penalty.strength 0.1, temperature.kind cosine",
        "  0002 complete: child validation error 7.00%, multiply-adds 271 k  [searches 3 of 4, about N s left]",
        "  0003 starts",
        "  0003 failed: the loss is NaN  [searches 4 of 4]",
        "retrainings: 1 to do; workers load images and kernels first",
        "  0001-seed0 starts",
        "  0001-seed0 complete: validation accuracy 97.20%, test accuracy 98.10%  [retrainings 1 of 1]",
        "writing results",
    ]
    assert heard == out.getvalue().splitlines()


def test_terminal_has_a_table_that_goes_and_lines_that_stay(tmp_path: Path, out: io.StringIO) -> None:
    journal = Journal(tmp_path / "a.jsonl")
    console = Console(file=out, width=120, force_terminal=True, _environ={"TERM": "xterm"})
    with ConsoleView(console) as view:
        view.step("starting Ray on this machine")
        assert "starting Ray on this machine  0 s" in drawn(view)
        view.phase("searches", 0, 2, ["child_val_error"])
        view.started("0001", EPOCHS, journal, "penalty.strength 0.01")
        assert "searches  0 of 2 done" in drawn(view)
        assert "epoch 0 of 2  loading images and kernels" in drawn(view)
        searched(view, journal, "0001", 0.07)
        assert "searches  1 of 2 done   best accuracy 93.00% (0001)" in drawn(view)
    said = out.getvalue()
    assert "  0001 complete: child validation error 7.00%  [searches 1 of 2" in said
    assert "0001 starts" not in said, "the table shows it"


def drawn(view: ConsoleView) -> str:
    """The live table as text."""
    console = Console(file=io.StringIO(), width=120)
    with console.capture() as captured:
        console.print(view.table())
    return captured.get()


def test_swept_values_are_those_of_the_study_file_in_its_order() -> None:
    options = {"temperature": {"kind": "linear", "end": 0.0988, "rate": None}, "seed": 2, "batch_size": 32}
    keys = ["seed", "temperature.kind", "temperature.end", "temperature.rate", "strategy.top_k"]
    assert swept_values(keys, options) == "seed 2, temperature.kind linear, temperature.end 0.0988"
    assert swept_values([], options) == ""
