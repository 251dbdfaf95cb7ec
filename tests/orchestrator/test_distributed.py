"""What surrounds a group of workers; the group itself runs in tests/integration/test_distributed_retrain.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from orchestrator import distributed
from orchestrator.distributed import DistributedRetrain, retrain_trainable
from orchestrator.trainable import RetrainTrainable


def test_one_worker_needs_no_group() -> None:
    assert retrain_trainable(1) is RetrainTrainable
    assert retrain_trainable(2) is DistributedRetrain


@pytest.mark.parametrize(("gpu", "taken"), [(0.0, 0.0), (0.25, 1.0), (1.0, 1.0), (2.0, 1.0)])
def test_worker_takes_a_whole_gpu_or_none(gpu: float, taken: float) -> None:
    share = {"cpu": 2.0, "gpu": gpu, "memory_gb": 1.5}
    assert distributed._worker_resources(share) == {"CPU": 2.0, "GPU": taken, "memory": 89 * 2**24}


def test_reason_names_the_workers() -> None:
    error = WorkerGroupError("many lines", {1: RuntimeError("a\nconnection closed\n"), 0: ValueError("no such file")})
    assert distributed._reason(error) == "worker 0: no such file; worker 1: connection closed"
    assert distributed._reason(OSError("disk full")) == "OSError: disk full"
    wrapped = WorkerHealthCheckFailedError("poll failed", RayActorError(error_msg="it was killed"))
    died = WorkerGroupError("many lines", {0: RuntimeError("connection reset"), 1: wrapped})
    assert distributed._reason(died) == "worker 1: it was killed"


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
