"""Units are delivered in order, gathered, and tried again while the store is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import requests
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import REQUEST_LIMIT_EXCEEDED, RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import OperationalError

from orchestrator.errors import OrchestratorError, TrackingAwayError, first_line
from orchestrator.tracking.delivery import Delivery


class Store:
    """Notes what is delivered; fails as often as it is asked to."""

    def __init__(self) -> None:
        self.delivered: list[str] = []
        self.failures = 0

    def take(self, label: str) -> None:
        if self.failures:
            self.failures -= 1
            raise MlflowException("it is away")
        self.delivered.append(label)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def delivery(warnings: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Delivery]:
    monkeypatch.setattr("orchestrator.tracking.delivery._FIRST_PAUSE_S", 0.01)  # read when the thread starts
    delivery = Delivery("sqlite:///somewhere.db", warnings.append)
    yield delivery
    delivery.stop()


def test_reports_of_a_unit_that_follow_each_other_go_together(delivery: Delivery, store: Store) -> None:
    for _ in range(5):
        delivery.push("trial-0000", lambda: store.take("trial-0000"))
        time.sleep(0.02)
    deadline = time.monotonic() + 20
    while not store.delivered:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(1.0)
    assert store.delivered == ["trial-0000"]


def test_drain_delivers_at_once_and_in_order(delivery: Delivery, store: Store) -> None:
    labels = [f"trial-{number:04d}" for number in range(200)]
    for label in labels:
        delivery.push(label, lambda label=label: store.take(label))
    begin = time.monotonic()
    delivery.drain(10)
    assert store.delivered == labels
    assert time.monotonic() - begin < 10, "200 times half a second would be 100 s"


def test_store_that_comes_back_gets_everything(delivery: Delivery, store: Store, warnings: list[str]) -> None:
    store.failures = 1
    for label in ("one", "two", "three"):
        delivery.push(label, lambda label=label: store.take(label))
    delivery.drain(30)
    assert store.delivered == ["two", "three", "one"], "what failed lets the others go first"
    assert warnings == ["MLflow is behind and will be brought up later: it is away"]


def test_store_that_stays_away_ends_the_wait(delivery: Delivery, store: Store) -> None:
    store.failures = 1000
    delivery.push("one", lambda: store.take("one"))
    with pytest.raises(TrackingAwayError, match=r"the MLflow store sqlite:///somewhere\.db has been away for 0 s"):
        delivery.drain(0.0)


def test_unit_that_always_fails_keeps_no_other_from_being_delivered(delivery: Delivery, store: Store) -> None:
    delivery.push("poison", _raiser(MlflowException("internal error")))
    for label in ("one", "two"):
        delivery.push(label, lambda label=label: store.take(label))
    deadline = time.monotonic() + 20
    while store.delivered != ["one", "two"]:
        assert time.monotonic() < deadline, store.delivered
        time.sleep(0.02)


def _raiser(error: BaseException, calls: list[str] | None = None) -> Callable[[], None]:
    def fail() -> None:
        if calls is not None:
            calls.append("called")
        raise error

    return fail


def _http_error(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError("403 Client Error: Forbidden", response=response)


@pytest.mark.parametrize(
    "error",
    [
        RestException({"error_code": "PERMISSION_DENIED", "message": "no right to it"}),
        MlflowException("no such run", RESOURCE_DOES_NOT_EXIST),
        MlflowException.invalid_parameter_value("too long"),
        RestException({"error_code": "403", "message": "of a proxy"}),
        _http_error(403),
        RuntimeError("this child cannot be exported"),
        AssertionError(),
    ],
    ids=["right", "no-run", "value", "proxy", "artifact", "export", "empty"],
)
def test_unit_that_can_never_arrive_is_given_up_and_named(
    error: Exception, delivery: Delivery, store: Store, warnings: list[str]
) -> None:
    calls: list[str] = []
    delivery.push("trial-0003", _raiser(error, calls))
    delivery.push("trial-0004", lambda: store.take("trial-0004"))
    deadline = time.monotonic() + 20
    while "trial-0004" not in store.delivered:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for _ in range(3):  # further reports of the unit
        delivery.push("trial-0003", _raiser(error, calls))
    delivery.push("study", lambda: store.take("study"))
    assert delivery.drain(10) == ["trial-0003"]
    assert store.delivered == ["trial-0004", "study"]
    assert len(calls) == 2, "when its turn came, and at the end"
    assert warnings == [
        f"MLflow lacks what is new of trial-0003, which is tried once more at the end: {first_line(error)}"
    ]


def test_unit_that_was_refused_arrives_at_the_end_if_it_may_by_then(delivery: Delivery, store: Store) -> None:
    """As after a right that was given late, or a run that was deleted meanwhile and is created again."""
    refused = threading.Event()

    def at_first_refused() -> None:
        if not refused.is_set():
            refused.set()
            raise RestException({"error_code": "PERMISSION_DENIED", "message": "no right to it"})
        store.take("trial-0003")

    delivery.push("trial-0003", at_first_refused)
    assert refused.wait(20)
    delivery.push("study", lambda: store.take("study"))
    assert delivery.drain(10) == []
    assert store.delivered == ["trial-0003", "study"]


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("database is locked", TEMPORARILY_UNAVAILABLE),
        MlflowException("slow down", REQUEST_LIMIT_EXCEEDED),
        _http_error(429),
        _http_error(503),
        StorageInternalError("the database was restarted"),
        OperationalError("SELECT 1", {}, Exception("server closed the connection")),
        ConnectionError("refused"),
    ],
    ids=["locked", "limit", "artifact-limit", "artifact-away", "optuna", "database", "refused"],
)
def test_unit_is_tried_until_a_store_that_is_away_comes_back(
    error: Exception, delivery: Delivery, store: Store
) -> None:
    calls: list[str] = []

    def away_at_first() -> None:
        if len(calls) < 3:
            _raiser(error, calls)()
        store.take("one")

    delivery.push("one", away_at_first)
    assert delivery.drain(30) == []
    assert store.delivered == ["one"]


def test_damaged_journal_is_raised_in_the_driver(delivery: Delivery) -> None:
    done = threading.Event()

    def broken() -> None:
        done.set()
        raise OrchestratorError("0000.jsonl, line 3, must be a report")

    delivery.push("one", broken)
    assert done.wait(20)
    with pytest.raises(OrchestratorError, match="line 3"):
        delivery.drain(10)
    with pytest.raises(OrchestratorError, match="line 3"):
        delivery.push("two", broken)
