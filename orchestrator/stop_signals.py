"""Signals that ask a process to end: Ctrl-C, SIGTERM of a time limit or an eviction, SIGHUP of a closed terminal.

All of them end a command alike: the first raises an exception, so that what runs is put in order; a second one does not
wait for that.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Signals so close together are one wish to stop: a terminal, a batch system and a wrapper may each send theirs.
_SAME_WISH_S = 0.25

#: The first one and when it came, in monotonic seconds; None while nobody asked.
_received: tuple[int, float] | None = None


class Stopped(KeyboardInterrupt):
    """A signal asks this process to end; whatever lets Ctrl-C through lets this through."""


@contextmanager
def stopping() -> Iterator[None]:
    """Raise `Stopped` inside for the first of `STOPPING`, and end the process at a second one.

    A signal that is ignored stays so: `nohup` ignores SIGHUP, and a shell SIGINT for what it runs in the background.
    Does nothing outside the main thread, which alone may have handlers.
    """
    global _received
    _received = None
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
    handled = [number for number in STOPPING if before[number] is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        if _received is None:  # else the process is ending, and an impatient user must see no traceback of that
            for number in handled:
                signal.signal(number, before[number])


def exit_code() -> int | None:
    """128 and the number of the signal that asked to end; None if none did."""
    return None if _received is None else 128 + _received[0]


@contextmanager
def kept_while_ray_starts() -> Iterator[None]:
    """Keep the handlers of `stopping` while Ray starts, and SIGHUP from the processes that it starts.

    Ray puts handlers of SIGTERM in their place, one of which ends the process with a stack. A closed terminal sends
    SIGHUP to all processes of the command, and Ray's must live until the driver has left them.
    """
    if _stop not in map(signal.getsignal, STOPPING):
        yield
        return
    from orchestrator.adapters.ray_internals import without_sigterm_handler

    handled = [number for number in STOPPING if signal.getsignal(number) is _stop]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # children inherit it
    try:
        with without_sigterm_handler():
            yield
    finally:
        for number in handled:  # Ray's C++ part does not ask Python which handler there is
            signal.signal(number, _stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


def _stop(number: int, frame: FrameType | None) -> None:
    global _received
    now = time.monotonic()
    if _received is None:
        _received = number, now
        raise Stopped
    if now - _received[1] > _SAME_WISH_S:
        _end_at_once(128 + number)


@atexit.register
def _keep_exit_code() -> None:
    """Ignore what an impatient user still sends: Python, ending, puts back handlers that end by the signal itself.

    What is registered first runs last: the libraries that a command imports put themselves in order before this.
    """
    if _received is not None:
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)


def _end_at_once(code: int) -> None:
    """End without a traceback and without what was started: Ray's agents would live on for seconds."""
    import psutil

    with suppress(Exception):
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.kill()
    os._exit(code)
