"""What surrounds a group of workers; the group itself runs in tests/integration/test_distributed_retrain.py."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import ray.train.torch
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.failure_handling import FailureDecision, create_failure_policy

from orchestrator.jobs import Job, JobReport, Reservation
from orchestrator.worker import distributed
from orchestrator.worker.distributed import DistributedRetrain, retrain_trainable
from orchestrator.worker.trainable import RetrainTrainable
from search_core.search.reports import METRICS
from tests.orchestrator.tiny import retrain_job


def test_one_worker_needs_no_group() -> None:
    assert retrain_trainable(1) is RetrainTrainable
    assert retrain_trainable(2) is DistributedRetrain


@pytest.mark.parametrize(("gpu", "taken"), [(0.0, 0.0), (0.25, 1.0), (1.0, 1.0), (2.0, 1.0)])
def test_worker_takes_a_whole_gpu_or_none(gpu: float, taken: float) -> None:
    assert distributed._worker_resources(Reservation(2.0, gpu, 1.5)) == {"CPU": 2.0, "GPU": taken, "memory": 88 * 2**24}


@pytest.mark.parametrize("memory_gb", [None, 0.01, 1.5, 63.9])
def test_group_never_reserves_more_than_it_may(memory_gb: float | None) -> None:
    memory = distributed._worker_resources(Reservation(1.0, 0.0, memory_gb))["memory"]
    reserved = memory + 2**24 - 1  # with the largest mark
    assert reserved <= max((memory_gb or 0) * 1e9, 2**24)
    assert reserved > (memory_gb or 0) * 1e9 - 2**25


def test_reason_names_the_workers() -> None:
    error = WorkerGroupError("many lines", {1: RuntimeError("a\nconnection closed\n"), 0: ValueError("no such file")})
    wrapped = WorkerHealthCheckFailedError("poll failed", RayActorError(error_msg="it was killed"))
    died = WorkerGroupError("many lines", {0: RuntimeError("connection reset"), 1: wrapped})
    reasons = {
        error: "worker 0: no such file; worker 1: connection closed",
        OSError("disk full"): "OSError: disk full",
        ControllerError(OSError("disk full")): "OSError: disk full",
        died: "worker 1: it was killed",
    }
    for cause, reason in reasons.items():
        assert distributed._end(cause) == JobReport(fault="died", reason=reason)


def test_group_that_the_memory_monitor_kills_ends_as_a_trial_out_of_memory() -> None:
    full = OutOfMemoryError("Task was killed due to the node running low on memory.\nSee the documentation.")
    wrapped = WorkerHealthCheckFailedError("poll failed", full)
    died = RayActorError(error_msg="it was killed")
    groups = [
        (WorkerGroupError("many lines", {0: RuntimeError("connection reset"), 1: wrapped, 2: died}), "worker 1"),
        (ControllerError(full), "OutOfMemoryError"),
        (full, "OutOfMemoryError"),
    ]
    for error, who in groups:
        reason = f"{who}: killed by Ray's memory monitor, as its node was full"
        report = distributed._end(error)
        assert report == JobReport(fault="out_of_memory", reason=reason, kind="host")
        assert set(METRICS) < set(report.to_result()), "Ray wants every metric in every result"


def test_only_the_reservation_of_the_job_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    job, other = (retrain_job(number, workers=2) for number in (1, 2))
    groups = {
        f"{number:036x}": {"state": state, "bundles": {0: {"memory": memory}, 1: {"memory": memory}}}
        for number, (state, memory) in enumerate(
            [
                ("CREATED", 5 * 2**24 + distributed._mark(job)),
                ("PENDING", float(distributed._mark(job))),
                ("REMOVED", distributed._mark(job)),
                ("CREATED", distributed._mark(other)),
                ("CREATED", 0),
            ]
        )
    }
    removed: list[int] = []
    monkeypatch.setattr(distributed, "placement_group_table", lambda: groups)
    monkeypatch.setattr(distributed, "remove_placement_group", lambda group: removed.append(int(group.id.hex(), 16)))
    distributed.release(job)
    assert removed == [0, 1]
    distributed.release(retrain_job(1))
    assert removed == [0, 1], "trials on one device have no group"


def test_group_that_does_not_end_is_no_reason_to_refuse_the_next_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[object] = []
    released: list[int] = []
    folders: list[str] = []
    stuck = Event()

    def run(job: Job, relay: object, folder: Path) -> None:
        folders.append(str(folder))
        stuck.wait()

    monkeypatch.setattr(distributed, "_run_group", run)
    monkeypatch.setattr(distributed, "_Relay", SimpleNamespace(remote=object))
    monkeypatch.setattr(distributed.ray, "kill", killed.append)
    monkeypatch.setattr(distributed, "_release", released.append)
    monkeypatch.setattr(distributed, "_END_TIMEOUT_S", 0.01)
    monkeypatch.setattr(distributed, "_KILL_TIMEOUT_S", 0.01)
    first, second = (retrain_job(checkpoints=Path("/nowhere", name), workers=2) for name in ("a", "b"))
    trial = object.__new__(DistributedRetrain)
    try:
        trial.setup(first.to_config())
        old, trial._is_done = trial._relay, True
        assert trial.reset_config(second.to_config()) is True
    finally:
        stuck.set()
    assert killed == [old]
    assert released.count(distributed._mark(first)) == 2, "before its group was started and after"
    assert folders == ["/nowhere/a/ray-train", "/nowhere/b/ray-train"]


def test_ray_train_restarts_nothing_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}

    def trainer(*_: object, **options: Any) -> SimpleNamespace:
        made.update(options)
        return SimpleNamespace(fit=lambda: None)

    monkeypatch.setattr(ray.train.torch, "TorchTrainer", trainer)
    monkeypatch.setattr(os, "environ", {})
    distributed._run_group(retrain_job(workers=2), None, Path("/nowhere"))
    config = made["run_config"].failure_config
    policy = create_failure_policy(config)
    preempted = RayActorError(error_msg="its node was taken away", preempted=True)
    failures = [
        WorkerGroupError("killed", {0: RayActorError(error_msg="it was killed")}),
        WorkerGroupError("preempted", {0: WorkerHealthCheckFailedError("poll failed", preempted)}),
        ControllerError(WorkerGroupStartupFailedError("a worker failed to initialize")),
    ]
    assert [policy.make_decision(failure) for failure in failures] == [FailureDecision.RAISE] * 3
    assert float(os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"]) == 3600


class _Called:
    """A remote method that notes what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def remote(self, *values: Any) -> None:
        self.calls.append(values)


@pytest.mark.parametrize(
    ("rank", "fault", "given"), [(0, None, 2), (1, None, 0), (1, "out_of_memory", 1), (1, "refused", 1)]
)
def test_rank_0_hands_on_its_results_and_others_only_that_they_are_out_of_memory(
    monkeypatch: pytest.MonkeyPatch, rank: int, fault: Literal["out_of_memory", "refused"] | None, given: int
) -> None:
    reports = [JobReport(done=False), JobReport(fault=fault)]
    steps = iter(reports)
    relay = SimpleNamespace(wait_until_asked=_Called(), give=_Called())
    monkeypatch.setattr(distributed.ray, "get", lambda reference: reference)
    monkeypatch.setattr(distributed.train, "get_context", lambda: SimpleNamespace(get_world_rank=lambda: rank))
    monkeypatch.setattr(distributed, "_RankOfRetrain", lambda config: SimpleNamespace(report=lambda: next(steps)))
    distributed._train_rank({**retrain_job().to_config(), "relay": relay})
    assert relay.give.calls == [(report,) for report in reports[2 - given :]]
    assert len(relay.wait_until_asked.calls) == (2 if rank == 0 else 0)
