"""Units are delivered in order, gathered, and tried again while the store is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from mlflow.exceptions import MlflowException

from orchestrator.delivery import Delivery
from orchestrator.errors import TrackingAwayError


class Store:
    """Notes what is delivered; fails as often as it is told to."""

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
def delivery(warnings: list[str]) -> Iterator[Delivery]:
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


def test_store_that_comes_back_gets_everything_in_order(
    delivery: Delivery, store: Store, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.delivery._FIRST_PAUSE_S", 0.01)
    store.failures = 1
    for label in ("one", "two", "three"):
        delivery.push(label, lambda label=label: store.take(label))
    delivery.drain(30)
    assert store.delivered == ["one", "two", "three"]
    assert warnings == ["MLflow is behind and will be brought up later: it is away"]


def test_store_that_stays_away_ends_the_wait(delivery: Delivery, store: Store) -> None:
    store.failures = 1000
    delivery.push("one", lambda: store.take("one"))
    with pytest.raises(TrackingAwayError, match=r"the MLflow store sqlite:///somewhere\.db has been away for 0 s"):
        delivery.drain(0.0)


def test_fault_of_our_own_is_raised_in_the_driver(delivery: Delivery) -> None:
    done = threading.Event()

    def broken() -> None:
        done.set()
        raise AssertionError("hole before epoch 3")

    delivery.push("one", broken)
    assert done.wait(20)
    with pytest.raises(AssertionError, match="hole before epoch 3"):
        delivery.drain(10)
    with pytest.raises(AssertionError, match="hole before epoch 3"):
        delivery.push("two", broken)
