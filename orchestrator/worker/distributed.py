"""A retraining on several GPUs as one Tune trial: a group of Ray Train workers, each a rank of the training.

The trial itself computes nothing. It starts the group, asks rank 0 for one result after another and hands them on, so
that journal, MLflow and faults are those of a trial on one device: a worker that dies ends the trial, and Tune starts
it again from its checkpoint. Ray Train restarts nothing by itself, as the study would never know of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import ray
from ray import train, tune
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group
from torch import distributed

from orchestrator.cluster.connection import nodes
from orchestrator.errors import OrchestratorError, last_line
from orchestrator.files.checkpoint import Checkpoint, CheckpointFolder
from orchestrator.jobs import Job, JobReport, Reservation
from orchestrator.worker.trainable import RetrainTrainable
from search_core.ranks import ALONE, Ranks

#: Longer than Ray Train needs to notice that its workers have returned, and that they were killed.
_END_TIMEOUT_S = 30.0
_KILL_TIMEOUT_S = 10.0
#: How long a group waits for its resources, which another study may have; Ray Train's own minute is not enough.
_WAIT_S = 3600
#: Steps in which memory is reserved, bytes.
_STEP = 2**24


class WorkerGroupDiedError(OrchestratorError):
    """A worker of the group died or raised; the message names the ranks and the reasons."""


def retrain_trainable(workers: int) -> type[tune.Trainable]:
    """What trains a child on this many workers."""
    return RetrainTrainable if workers == 1 else DistributedRetrain


def max_groups(workers: int, reservation: Reservation) -> int:
    """How many groups the cluster can hold at a time; more trials would only wait for each other.

    Args:
        workers: processes of one group.
        reservation: of one worker.

    Raises:
        OrchestratorError: if there is no room for a single group: Ray would wait forever.
    """
    wanted = {kind: amount for kind, amount in _worker_resources(reservation).items() if amount > 0}
    memory = f" and memory_gb {reservation.memory_gb:g}" if "memory" in wanted else ""
    given = [node.resources for node in nodes()]
    # A small tolerance: fractions such as 0.1 are not exact.
    room = sum(int(min(node.get(kind, 0) / amount for kind, amount in wanted.items()) + 1e-6) for node in given)
    if room < workers:
        raise OrchestratorError(
            f"`retrain.workers` must be at most {room}, as many as the cluster has room for with cpu {wanted['CPU']:g} "
            f"and gpu {wanted.get('GPU', 0):g}{memory} for each, got {workers}"
        )
    return room // workers


def release(job: Job) -> None:
    """Give back what the group of a trial holds that will not be run again; nothing to do for other trials."""
    if job.workers > 1:
        _release(_mark(job))


class DistributedRetrain(tune.Trainable):
    """The trial. Its job is that of `RetrainTrainable`."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Next to nothing, beside the driver: part of a CPU could be the one that its own workers wait for."""
        return tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}])

    def setup(self, config: dict[str, Any]) -> None:
        """Start the group; it builds the training and continues its newest whole checkpoint."""
        job = Job.from_config(config)
        self._mark = _mark(job)
        _release(self._mark)
        self._relay = _Relay.remote()  # type: ignore[attr-defined]
        self._train_folder = group_folder(job)
        self._thread = Thread(target=_run_group, args=(job, self._relay, self._train_folder), daemon=True)
        self._thread.start()
        self._is_done = False

    def step(self) -> dict[str, Any]:
        """The next report of rank 0, as `EpochTrainable.step`.

        Raises:
            WorkerGroupDiedError: if there will be none.
        """
        report: JobReport = ray.get(self._relay.ask.remote())
        if report.fault == "died":
            raise WorkerGroupDiedError(report.reason)
        # When one rank alone cannot continue, the others may wait for it forever.
        self._is_done = report.done and not _is_of_one_rank(report)
        return report.to_result()

    def cleanup(self) -> None:
        """Let the workers return after the last result; in mid-course they are ended."""
        if self._is_done:
            self._thread.join(_END_TIMEOUT_S)
        ray.kill(self._relay)
        _release(self._mark)
        self._thread.join(_KILL_TIMEOUT_S)  # else it would write to the folder again
        shutil.rmtree(self._train_folder, ignore_errors=True)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Serve another trial in this process.

        Never refused: Ray would fail the other trial without a word to the study. A group that does not end has lost
        its workers by then, and what is left of it waits in a thread of its own.
        """
        self.cleanup()
        self.setup(new_config)
        return True


@ray.remote(num_cpus=0)
class _Relay:
    """Hands reports of rank 0 to the trial, one whenever it asks.

    Rank 0 waits to be asked before each epoch. The trial asks again when the driver has dealt with a report, so the
    checkpoints are never more than one epoch ahead of the journal.
    """

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._reports: asyncio.Queue[JobReport] = asyncio.Queue()

    async def ask(self) -> JobReport:
        self._asked.set()
        return await self._reports.get()

    async def wait_until_asked(self) -> None:
        await self._asked.wait()

    async def give(self, report: JobReport) -> None:
        self._asked.clear()
        await self._reports.put(report)


def group_folder(job: Job) -> Path:
    """Where Ray Train keeps what it needs while a group runs: all nodes must see it, as they do the checkpoints."""
    return job.checkpoints / "ray-train"


def _run_group(job: Job, relay: Any, folder: Path) -> None:
    """Run the workers to their end, and report to the trial if that is not the end of the training."""
    from ray.train.torch import TorchTrainer  # 0.4 CPU seconds, and every driver imports this file

    resources = _worker_resources(job.reservation)
    resources["memory"] += _mark(job)
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(_WAIT_S))
    trainer = TorchTrainer(
        _train_rank,
        train_loop_config={**job.to_config(), "relay": relay},
        scaling_config=train.ScalingConfig(
            num_workers=job.workers, use_gpu=resources["GPU"] > 0, resources_per_worker=resources
        ),
        run_config=train.RunConfig(
            name=job.label,
            storage_path=str(folder),
            failure_config=train.FailureConfig(  # type: ignore[call-arg]  # its types are those of Ray Train 1
                max_failures=0, controller_failure_limit=0, max_preemption_failures=0
            ),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # whatever it is, the trial waits for a report and must get one
        with suppress(RayActorError):  # the trial was ended from outside
            ray.get(relay.give.remote(_end(error)))


def _worker_resources(reserved: Reservation) -> dict[str, float]:
    """What one worker takes: NCCL wants a whole GPU for each rank, whatever a search reserves."""
    memory = (reserved.memory_gb or 0) * 1e9
    # In steps of 16 MiB, and one less, to which `_mark` adds: never more than reserved, which may be a whole node.
    return {"CPU": reserved.cpu, "GPU": float(reserved.gpu > 0), "memory": max(int(memory) // _STEP - 1, 0) * _STEP}


def _mark(job: Job) -> int:
    """Bytes of memory, below 16 MiB, that each worker of this job reserves on top, to know its reservation by."""
    return int.from_bytes(hashlib.sha256(str(job.checkpoints).encode()).digest()[:3]) or 1


def _release(mark: int) -> None:
    """Give back what a group holds that was left by a trial that died.

    Ray keeps a reservation for as long as the driver lives, and Ray Train's own remedy needs Ray's dashboard. The
    reservation has no name, and only its size can be chosen.
    """
    for identity, group in placement_group_table().items():
        marks = {int(bundle.get("memory", 0)) % _STEP for bundle in group["bundles"].values()}
        if group["state"] != "REMOVED" and marks == {mark}:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(identity))))


def _end(error: Exception) -> JobReport:
    """What is reported of a group that failed: that it died, or as a trial that ran out of memory."""
    causes = _causes(error)
    full = [place for place, cause in causes.items() if isinstance(cause, OutOfMemoryError)]
    if full:
        reason = f"{full[0]}: killed by Ray's memory monitor, as its node was full"
        return JobReport(fault="out_of_memory", reason=reason, kind="host")
    # When one dies, the others fail at the next sum over the ranks: that is not the reason.
    dead = [place for place, cause in causes.items() if isinstance(cause, RayActorError)]
    return JobReport(fault="died", reason="; ".join(f"{place}: {last_line(causes[place])}" for place in dead or causes))


def _causes(error: Exception) -> dict[str, Exception]:
    """What the workers failed of, by rank, or else what Ray Train did."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    if not failures:
        cause = getattr(error, "controller_failure", error)
        return {type(cause).__name__: cause}
    # Ray Train wraps the death of an actor, and keeps it in this attribute.
    causes = {rank: getattr(failure, "health_check_failure", failure) for rank, failure in failures.items()}
    return {f"worker {rank}": causes[rank] for rank in sorted(causes)}


def _train_rank(config: dict[str, Any]) -> None:
    """What each worker runs: the steps of a trial on one device, of which rank 0 hands on the reports."""
    relay, rank = config["relay"], train.get_context().get_world_rank()
    retrain = _RankOfRetrain(config=Job.from_config(config).to_config())
    is_done = False
    while not is_done:
        if rank == 0:
            ray.get(relay.wait_until_asked.remote())
        report = retrain.report()
        is_done = report.done
        # The first rank waits forever for another one whose GPU is too small, or whose node lacks a file.
        if rank == 0 or _is_of_one_rank(report):
            ray.get(relay.give.remote(report))


def _is_of_one_rank(report: JobReport) -> bool:
    """Whether a report says that its rank cannot continue, of which the others need not know."""
    return report.fault in ("out_of_memory", "refused")


class _RankOfRetrain(RetrainTrainable):
    """One rank, driven by `_train_rank` rather than by Tune."""

    def setup(self, config: dict[str, Any]) -> None:
        context = train.get_context()
        self.ranks = Ranks(context.get_world_rank(), context.get_world_size())
        super().setup(config)

    def checkpoints(self, job: Job) -> CheckpointFolder:
        return _SharedCheckpoints(job.checkpoints, ranks=self.ranks)


@dataclass(frozen=True)
class _SharedCheckpoints(CheckpointFolder):
    """Checkpoints that rank 0 reads and writes for all."""

    ranks: Ranks = ALONE

    def save(self, epoch: int, state: Any, record: Any) -> Path:
        return super().save(epoch, state, record) if self.ranks.rank == 0 else self.path

    def newest_whole(self) -> Checkpoint | None:
        # Every rank must continue the same one, whatever its node sees of the folder.
        found = [super().newest_whole() if self.ranks.rank == 0 else None]
        distributed.broadcast_object_list(found)
        return found[0]
