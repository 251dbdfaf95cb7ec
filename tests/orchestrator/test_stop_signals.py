"""Signals that ask a command to end, each raised in this process or in a small one of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from orchestrator import stop_signals
from orchestrator.errors import StudyInterrupted
from orchestrator.files.layout import Runs
from orchestrator.stop_signals import STOPPING, Stopped, exit_code, stopping
from tests.orchestrator.tiny import snas

#: Works until it is stopped; what is printed last says how it ended.
_WORK = """
import time
from orchestrator.stop_signals import stopping
with stopping():
    try:
        print("works", flush=True)
        time.sleep(60)
    finally:
        print("puts things in order", flush=True)
        time.sleep(60)
"""
#: Is stopped, and takes a second to end: so long is the one object alive that Python deletes last.
_SLOW_END = """
import os, time
from orchestrator.stop_signals import exit_code, stopping

class Last:
    def __del__(self, write=os.write, sleep=time.sleep):
        write(1, b"ends\\n")
        sleep(1)

last = Last()
last.itself = last
try:
    with stopping():
        print("works", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    raise SystemExit(exit_code())
"""


@pytest.fixture(autouse=True)
def handlers_as_before() -> Iterator[None]:
    """After a signal they stay, for a process is ending then; this one is not."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background of a shell
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under `nohup`
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    stop_signals._received = None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_stops_what_runs_and_gives_its_exit_code(number: signal.Signals, code: int) -> None:
    with pytest.raises(Stopped), stopping():
        signal.raise_signal(number)
    assert exit_code() == code


def test_signals_close_together_are_one_wish_to_stop() -> None:
    """As of a batch system and of the script that passes its signal on."""
    with stopping():
        with pytest.raises(Stopped):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert exit_code() == 143


def test_second_signal_ends_at_once_without_a_traceback() -> None:
    worker = subprocess.Popen([sys.executable, "-c", _WORK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "works\n"
    worker.send_signal(signal.SIGTERM)
    assert worker.stdout.readline() == "puts things in order\n"
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(0.3)
    worker.send_signal(signal.SIGTERM)
    said = worker.communicate(timeout=30)
    assert (worker.returncode, said) == (143, ("", ""))


@pytest.mark.parametrize("number", STOPPING)
def test_signal_while_python_ends_changes_no_exit_code(number: signal.Signals) -> None:
    worker = subprocess.Popen([sys.executable, "-c", _SLOW_END], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "works\n"
    worker.send_signal(signal.SIGTERM)
    assert worker.stdout.readline() == "ends\n"
    worker.send_signal(number)
    assert worker.wait(30) == 143


def test_ignored_signals_stay_ignored() -> None:
    """`nohup` ignores SIGHUP, and a shell SIGINT for what it runs in the background."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stopping():
        signal.raise_signal(signal.SIGHUP)
    assert exit_code() is None
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_handlers_are_those_of_before_when_nobody_asked() -> None:
    before = [signal.getsignal(number) for number in STOPPING]
    with stopping():
        assert [signal.getsignal(number) for number in STOPPING] != before
    assert [signal.getsignal(number) for number in STOPPING] == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_command_that_is_stopped_says_so_in_one_sentence(
    number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.files.layout.Runs.study_names", lambda runs: signal.raise_signal(number))
    outcome = snas("study", "list")
    assert (outcome.code, outcome.said) == (code, "interrupted")


def test_study_that_is_stopped_gives_the_command_that_resumes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(runs: Runs) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt as error:
            raise StudyInterrupted("`snas study resume digits` resumes where it stopped") from error

    monkeypatch.setattr("orchestrator.files.layout.Runs.study_names", run)
    outcome = snas("study", "list")
    assert (outcome.code, outcome.said) == (143, "interrupted: `snas study resume digits` resumes where it stopped")
