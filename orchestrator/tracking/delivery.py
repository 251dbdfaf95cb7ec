"""Brings MLflow up to the journals in the background: a tracking server that is slow or away never holds up a study.

The journals are the spool: they are on disk, in order, before anything is sent, and a run itself shows how far it is.
So nothing is lost and nothing is sent twice, whatever is killed or restarted in between.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import requests
from mlflow.exceptions import MlflowException
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.credentials import masked
from orchestrator.errors import OrchestratorError, TrackingAwayError, first_line
from orchestrator.files.journal import Journal
from orchestrator.tracking.run_spec import Unit
from orchestrator.tracking.tracker import Tracker

#: What a store that is away raises, Optuna's too, which some units read; requests' errors are OSErrors.
STORE_ERRORS = (MlflowException, SQLAlchemyError, StorageInternalError, OSError)

#: HTTP statuses of requests that may do well later: time-out, conflict, too early, too many, cancelled.
_PASSING = {408, 409, 425, 429, 499}

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
#: How long a unit waits for more of its reports, which then go in one request.
_GATHER_S = 0.5

Action = Callable[[], object]


def sync_now(tracker: Tracker, unit: Unit, journal: Journal) -> None:
    """Bring a run up to its journal at once, for a process that has nothing else to do; tried three times.

    Raises:
        MlflowException: if the store does not answer.
    """
    for pause_s in (_FIRST_PAUSE_S, 4 * _FIRST_PAUSE_S):
        try:
            return tracker.sync(unit, journal)
        except STORE_ERRORS:
            time.sleep(pause_s)
    return tracker.sync(unit, journal)


class Delivery:
    """Delivers the units that have something new, one at a time, oldest first, about half a second after they have it.

    A unit that fails lets the others go first. It is tried until it arrives if the store is away, and once more at the
    end if the store refuses it or it is broken in itself, such as a model that cannot be exported.

    Args:
        store: where MLflow's store is, for messages.
        warn: is called in another thread when the store is away, or that a unit is given up and why.
    """

    def __init__(self, store: str, warn: Callable[[str], None]) -> None:
        self._store, self._warn = store, warn
        self._waiting: dict[str, tuple[float, Action]] = {}  # since when (monotonic seconds), and what to do
        self._given_up: dict[str, Action] = {}
        self._warned: set[str] = set()  # units whose giving up was reported
        self._changed = threading.Condition()
        self._is_busy = self._is_draining = self._is_stopping = False
        self._away_since: float | None = None
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._deliver, name="mlflow-delivery", daemon=True)
        self._thread.start()

    def push(self, label: str, action: Action) -> None:
        """Have a unit delivered when its turn comes, in another thread; it may be waiting already.

        A unit that was given up waits for `drain`.

        Args:
            label: names the unit.
            action: brings MLflow up to what the unit has by then; may be done twice.

        Raises:
            OrchestratorError: what stopped the delivery, such as a damaged journal.
        """
        with self._changed:
            self._raise_fault()
            if label not in self._given_up:
                self._waiting.setdefault(label, (time.monotonic(), action))
                self._changed.notify_all()

    def drain(self, patience_s: float) -> list[str]:
        """Wait until everything is delivered that can be, units that were given up before included.

        Returns:
            Labels of the units that are given up now: MLflow does not have all of them.

        Raises:
            TrackingAwayError: if the store has been away for `patience_s` seconds.
            OrchestratorError: what stopped the delivery, such as a damaged journal.
        """
        with self._changed:
            self._is_draining = True
            now = time.monotonic()
            again = {label: (now, action) for label, action in self._given_up.items()}
            self._given_up.clear()
            self._waiting = {**again, **self._waiting}  # first, for what was pushed last closes the study
            self._changed.notify_all()
            while (self._waiting or self._is_busy) and self._fault is None:
                self._changed.wait(1.0)
                if self._away_since is not None and time.monotonic() - self._away_since > patience_s:
                    raise TrackingAwayError(
                        f"{len(self._waiting)} runs are behind: the MLflow store {self._store} has "
                        f"been away for {patience_s:.0f} s; nothing is lost"
                    )
            self._is_draining = False
            self._raise_fault()
            return list(self._given_up)

    def stop(self) -> None:
        """Stop after the present unit; what waits stays in the journals."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._thread.join()

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _deliver(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while (taken := self._take()) is not None:
            try:
                taken[1]()
            except OrchestratorError as error:
                with self._changed:
                    self._fault, self._is_busy = error, False
                    self._changed.notify_all()
                return
            except Exception as error:
                if not isinstance(error, STORE_ERRORS) or _is_refusal(error):
                    self._give_up(*taken, error)
                    continue
                self._put_back(*taken, error)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                with self._changed:
                    self._changed.wait_for(lambda: self._is_stopping, pause_s)
            else:
                pause_s = _FIRST_PAUSE_S
                with self._changed:
                    self._is_busy, self._away_since = False, None
                    self._changed.notify_all()

    def _take(self) -> tuple[str, Action] | None:
        """The unit that has waited longest; it may be pushed again while it is being delivered."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_stopping)
            while not (self._is_stopping or self._is_draining):
                since, _ = next(iter(self._waiting.values()))
                left_s = since + _GATHER_S - time.monotonic()
                if left_s <= 0:
                    break
                self._changed.wait(left_s)
            if self._is_stopping:
                return None
            label = next(iter(self._waiting))
            self._is_busy = True
            return label, self._waiting.pop(label)[1]

    def _put_back(self, label: str, action: Action, error: BaseException) -> None:
        with self._changed:
            # At the end: what fails again and again must not keep the others from being delivered.
            self._waiting.setdefault(label, (time.monotonic(), action))
            self._is_busy = False
            self._away_since = self._away_since or time.monotonic()
        self._warn(masked(f"MLflow is behind and will be brought up later: {first_line(error)}"))

    def _give_up(self, label: str, action: Action, error: BaseException) -> None:
        is_new = label not in self._warned
        self._warned.add(label)
        if is_new:
            reason = first_line(error)
            self._warn(masked(f"MLflow lacks what is new of {label}, which is tried once more at the end: {reason}"))
        with self._changed:
            self._waiting.pop(label, None)  # pushed again meanwhile
            self._given_up[label] = action
            self._is_busy = False
            self._changed.notify_all()


def _is_refusal(error: BaseException) -> bool:
    """Whether the store is there and refuses this request: its sender has no right to it, or it makes no sense."""
    status = 0
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()  # type: ignore[no-untyped-call]
    elif isinstance(error, requests.HTTPError) and error.response is not None:  # of artifacts
        status = error.response.status_code
    return 400 <= status < 500 and status not in _PASSING
