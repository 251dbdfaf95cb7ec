"""The journal: one line an epoch, whatever was killed in between."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import OrchestratorError
from orchestrator.files.journal import Journal
from tests.orchestrator.tiny import made_up_record, written_journal


def two_epochs(folder: Path) -> Path:
    return written_journal(folder / "deep" / "0000.jsonl", [made_up_record(0, loss=2.0), made_up_record(1, loss=1.0)])


def test_journal_without_a_file_is_empty_and_makes_none(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "0000.jsonl")
    assert (journal.epochs, journal.end, journal.reason) == ([], None, "")
    assert math.isnan(journal.last_metric("loss"))
    assert list(tmp_path.iterdir()) == []


def test_journal_reads_back_what_it_recorded(tmp_path: Path) -> None:
    file = two_epochs(tmp_path)
    Journal(file).finish("stopped", "by the scheduler")
    journal = Journal(file)
    assert [record["epoch"] for record in journal.epochs] == [0, 1]
    assert journal.last_metric("loss") == 1.0
    assert math.isnan(journal.last_metric("another"))
    assert (journal.end, journal.reason) == ("stopped", "by the scheduler")
    assert [sorted(json.loads(line)) for line in file.read_text().splitlines()] == [
        ["epoch", "genotype", "metrics", "time"],
        ["epoch", "genotype", "metrics", "time"],
        ["end", "reason"],
    ]


def test_journal_knows_where_each_epoch_was_computed(tmp_path: Path) -> None:
    file = tmp_path / "0000.jsonl"
    one, other = {"cpu": "one", "threads": 1}, {"cpu": "other", "threads": 1}
    journal = Journal(file)
    for epoch, where in enumerate([{}, {"machine": one}, {"machine": one}, {}, {"machine": other}]):
        assert journal.append_epoch({**made_up_record(epoch), **where})
    assert not journal.append_epoch({**made_up_record(2), "machine": other}), "a repeat says nothing"
    assert file.read_text().count('"machine"') == 2
    for known in (journal, Journal(file)):
        assert [known.machine_of(epoch) for epoch in range(5)] == [None, one, one, one, other]
        assert all(set(record) == {"time", *made_up_record(0)} for record in known.epochs)


def test_journal_keeps_the_faults_that_a_trial_survived(tmp_path: Path) -> None:
    file = two_epochs(tmp_path)
    Journal(file).note("restart", "the worker died")
    Journal(file).append_epoch(made_up_record(2, loss=0.5))
    Journal(file).note("out_of_memory", "CUDA out of memory", memory_gb=1.5)
    journal = Journal(file)
    assert [(event["event"], event["reason"]) for event in journal.events] == [
        ("restart", "the worker died"),
        ("out_of_memory", "CUDA out of memory"),
    ]
    assert (journal.count("out_of_memory"), journal.count("hang")) == (1, 0)
    assert journal.events[1]["memory_gb"] == 1.5
    assert len(journal.epochs) == 3


def test_faults_of_a_trial_that_failed_were_survived_only_before_another_epoch(tmp_path: Path) -> None:
    file = two_epochs(tmp_path)
    Journal(file).note("restart", "survived")
    Journal(file).append_epoch(made_up_record(2, loss=0.5))
    journal = Journal(file)
    for _ in range(3):
        journal.note("restart", "of what it failed")
    assert len(journal.survived) == 4, "it may survive them yet"
    journal.finish("failed", "of what it failed")
    for known in (journal, Journal(file)):
        assert [event["reason"] for event in known.survived] == ["survived"]


@pytest.mark.slow
def test_journal_resumes_after_a_full_disk(tmp_path: Path) -> None:
    """In one process: the half line must not stay before the next one."""
    file = two_epochs(tmp_path)
    size = file.stat().st_size
    code = f"""
import resource
from pathlib import Path
from orchestrator.files.journal import Journal
from tests.orchestrator.tiny import made_up_record
journal = Journal(Path({str(file)!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, ({size} + 20, resource.RLIM_INFINITY))
try:
    journal.append_epoch(made_up_record(2, loss=0.5))
except OSError as error:
    assert error.filename == {str(file)!r}
else:
    raise AssertionError("the disk is full")
assert len(journal.epochs) == 2
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert journal.append_epoch(made_up_record(2, loss=0.5))
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert [record["epoch"] for record in Journal(file).epochs] == [0, 1, 2]


def test_journal_skips_epochs_that_a_resumed_trial_repeats(tmp_path: Path) -> None:
    file = two_epochs(tmp_path)
    before, journal = file.read_bytes(), Journal(file)
    assert not journal.append_epoch(made_up_record(0, loss=9.0))
    assert not journal.append_epoch(made_up_record(1, loss=9.0))
    assert file.read_bytes() == before
    assert journal.last_metric("loss") == 1.0
    assert journal.append_epoch(made_up_record(2, loss=0.5))
    assert [record["metrics"]["loss"] for record in Journal(file).epochs] == [2.0, 1.0, 0.5]


def test_journal_refuses_a_hole(tmp_path: Path) -> None:
    file = two_epochs(tmp_path)
    before = file.read_bytes()
    with pytest.raises(AssertionError, match=r"hole before epoch 3 in .*0000\.jsonl"):
        Journal(file).append_epoch(made_up_record(3, loss=9.0))
    assert file.read_bytes() == before


@pytest.mark.parametrize("kept", [0, 1, 0.5, -1], ids=["nothing", "one byte", "half", "all but the line break"])
def test_journal_drops_a_torn_last_line(tmp_path: Path, kept: float) -> None:
    file = two_epochs(tmp_path)
    whole = file.read_bytes()
    line = (json.dumps(made_up_record(2, loss=0.5)) + "\n").encode()
    size = int(len(line) * kept) if 0 < kept < 1 else int(kept)
    file.write_bytes(whole + line[:size])
    torn = file.read_bytes()
    journal = Journal(file)
    assert len(journal.epochs) == 2
    assert file.read_bytes() == torn, "reading is not writing: the driver may be about to finish the line"
    assert journal.append_epoch(made_up_record(2, loss=0.25))
    journal.finish("complete")
    again = Journal(file)
    assert [record["metrics"]["loss"] for record in again.epochs] == [2.0, 1.0, 0.25]
    assert again.end == "complete"
    assert file.read_bytes().startswith(whole + b"{")


def test_journal_that_is_damaged_names_the_line(tmp_path: Path) -> None:
    file = two_epochs(tmp_path)
    first, second = file.read_bytes().splitlines(keepends=True)
    for damaged in (first + b"{]\n", first + first, second, first + b"[]\n", first + second[:20] + b"\n" + second):
        file.write_bytes(damaged)
        with pytest.raises(OrchestratorError, match=r"0000\.jsonl:[12]: a journal line must be"):
            Journal(file)


def test_journal_whose_only_line_is_torn_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / "0000.jsonl"
    file.write_text('{"epoch": 0, "met')
    journal = Journal(file)
    assert journal.epochs == []
    assert journal.append_epoch(made_up_record(0, loss=1.0))
    assert len(Journal(file).epochs) == 1


def test_journal_keeps_its_first_end(tmp_path: Path) -> None:
    file = two_epochs(tmp_path)
    journal = Journal(file)
    journal.finish("failed", "the loss was not finite")
    journal.finish("complete")
    assert not journal.append_epoch(made_up_record(2, loss=0.5)), "nothing follows the end"
    Journal(file).finish("stopped", "later")
    again = Journal(file)
    assert (again.end, again.reason, len(again.epochs)) == ("failed", "the loss was not finite", 2)


def test_journal_keeps_numbers_that_are_not_finite(tmp_path: Path) -> None:
    file = written_journal(tmp_path / "0000.jsonl", [made_up_record(0, loss=math.inf, error=math.nan)])
    assert Journal(file).last_metric("loss") == math.inf
    assert math.isnan(Journal(file).last_metric("error"))


@pytest.mark.parametrize("line", ["not json", "[1]", '{"metrics": {}}', '{"epoch": 5, "metrics": {}}'])
def test_damaged_journal_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    file = two_epochs(tmp_path)
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(
        OrchestratorError, match=r"0000\.jsonl:3: a journal line must be the JSON report of epoch 2, got"
    ):
        Journal(file)
