"""What surrounds a group of workers; the group itself runs in tests/integration/test_distributed_retrain.py."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.failure_handling import FailureDecision, create_failure_policy

from orchestrator.worker import distributed
from orchestrator.worker.distributed import DistributedRetrain, retrain_trainable
from orchestrator.worker.trainable import RetrainTrainable
from search_core.search.reports import METRICS


def test_one_worker_needs_no_group() -> None:
    assert retrain_trainable(1) is RetrainTrainable
    assert retrain_trainable(2) is DistributedRetrain


@pytest.mark.parametrize(("gpu", "taken"), [(0.0, 0.0), (0.25, 1.0), (1.0, 1.0), (2.0, 1.0)])
def test_worker_takes_a_whole_gpu_or_none(gpu: float, taken: float) -> None:
    share = {"cpu": 2.0, "gpu": gpu, "memory_gb": 1.5}
    assert distributed._worker_resources(share) == {"CPU": 2.0, "GPU": taken, "memory": 88 * 2**24}


@pytest.mark.parametrize("memory_gb", [None, 0.01, 1.5, 63.9])
def test_group_never_reserves_more_than_its_share(memory_gb: float | None) -> None:
    memory = distributed._worker_resources({"cpu": 1.0, "gpu": 0.0, "memory_gb": memory_gb})["memory"]
    reserved = memory + 2**24 - 1  # with the largest mark
    assert reserved <= max((memory_gb or 0) * 1e9, 2**24)
    assert reserved > (memory_gb or 0) * 1e9 - 2**25


def test_reason_names_the_workers() -> None:
    error = WorkerGroupError("many lines", {1: RuntimeError("a\nconnection closed\n"), 0: ValueError("no such file")})
    assert distributed._end(error) == {"died": "worker 0: no such file; worker 1: connection closed"}
    assert distributed._end(OSError("disk full")) == {"died": "OSError: disk full"}
    assert distributed._end(ControllerError(OSError("disk full"))) == {"died": "OSError: disk full"}
    wrapped = WorkerHealthCheckFailedError("poll failed", RayActorError(error_msg="it was killed"))
    died = WorkerGroupError("many lines", {0: RuntimeError("connection reset"), 1: wrapped})
    assert distributed._end(died) == {"died": "worker 1: it was killed"}


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
        result = distributed._end(error)
        assert result["out_of_memory"] == f"{who}: killed by Ray's memory monitor, as its node was full"
        assert result["out_of_memory_kind"] == "host"
        assert result["done"]
        assert set(METRICS) < set(result), "Ray wants every metric in every result"


def test_only_the_reservation_of_the_job_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"checkpoints": "/somewhere/retrain-0001-seed0", "options": {"workers": 2}}
    other = {**job, "checkpoints": "/somewhere/retrain-0002-seed0"}
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
    distributed.release({**job, "options": {"workers": 1}})
    distributed.release({**job, "options": {"epochs": 2}})
    assert removed == [0, 1], "trials on one device have no group"


def test_group_that_does_not_end_is_no_reason_to_refuse_the_next_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[object] = []
    released: list[int] = []
    folders: list[str] = []
    stuck = Event()

    def run(job: dict[str, Any], relay: object, folder: Path) -> None:
        folders.append(str(folder))
        stuck.wait()

    monkeypatch.setattr(distributed, "_run_group", run)
    monkeypatch.setattr(distributed, "_Relay", SimpleNamespace(remote=object))
    monkeypatch.setattr(distributed.ray, "kill", killed.append)
    monkeypatch.setattr(distributed, "_release", released.append)
    monkeypatch.setattr(distributed, "_END_TIMEOUT_S", 0.01)
    monkeypatch.setattr(distributed, "_KILL_TIMEOUT_S", 0.01)
    first, second = ({"checkpoints": f"/nowhere/{name}", "options": {"workers": 2}} for name in ("a", "b"))
    trial = object.__new__(DistributedRetrain)
    try:
        trial.setup({"job": first})
        old, trial._is_done = trial._relay, True
        assert trial.reset_config({"job": second}) is True
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

    monkeypatch.setattr(distributed, "TorchTrainer", trainer)
    monkeypatch.setattr(os, "environ", {})
    share = {"cpu": 1.0, "gpu": 0.0, "memory_gb": None}
    job = {"label": "a", "checkpoints": "/nowhere/a", "options": {"workers": 2}, "share": share}
    distributed._run_group(job, None, Path("/nowhere"))
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
    ("rank", "results", "given"),
    [
        (0, [{"done": False}, {"done": True}], 2),
        (1, [{"done": False}, {"done": True}], 0),
        (1, [{"done": False}, {"done": True, "out_of_memory": "GPU 1 is full"}], 1),
    ],
)
def test_rank_0_hands_on_its_results_and_others_only_that_they_are_out_of_memory(
    monkeypatch: pytest.MonkeyPatch, rank: int, results: list[dict[str, Any]], given: int
) -> None:
    steps = iter(results)
    relay = SimpleNamespace(wait_until_asked=_Called(), give=_Called())
    monkeypatch.setattr(distributed.ray, "get", lambda reference: reference)
    monkeypatch.setattr(distributed.train, "get_context", lambda: SimpleNamespace(get_world_rank=lambda: rank))
    monkeypatch.setattr(distributed, "_RankOfRetrain", lambda config: SimpleNamespace(step=lambda: next(steps)))
    distributed._train_rank({"relay": relay, "job": {}})
    assert relay.give.calls == [(result,) for result in results[len(results) - given :]]
    assert len(relay.wait_until_asked.calls) == (len(results) if rank == 0 else 0)
