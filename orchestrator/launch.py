"""Ray: connect to a cluster, and run one phase of a study (its searches, or its retrainings) as Tune trials."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune import Callback
from ray.tune.error import TuneError
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from orchestrator.config import StudySpec
from orchestrator.distributed import PLACEMENT, DistributedRetrain, max_groups
from orchestrator.errors import OrchestratorError

_QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the journals are the record of a trial
    "TUNE_WARN_THRESHOLD_S": "30",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",  # its size, and so its time, grows with the number of trials
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
#: What a driver takes to the nodes of a cluster.
PACKAGES = ("search_core", "orchestrator", "dashboards")


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Connect to a Ray cluster, or start one on this machine; Ray's own output is kept off the terminal.

    Args:
        address: `auto` or `HOST:PORT` of a running cluster; None starts one on this machine.

    Raises:
        OrchestratorError: if the cluster does not answer.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    for noisy in ("ray.tune", "ray.train", "ray.air"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # a worker's traceback: its reason is in the journal
    settings: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address is None:
        settings |= {"address": "local", "include_dashboard": False, "object_store_memory": 200 * 1024**2}
    else:
        root = Path(__file__).parents[1]
        settings |= {"address": address, "runtime_env": {"py_modules": [str(root / package) for package in PACKAGES]}}
    try:
        if address not in (None, "auto"):
            _knock(str(address))
        ray.init(**settings)
    except (OSError, RuntimeError, ValueError) as error:
        raise OrchestratorError(f"the Ray cluster at {address or 'this machine'} must answer, got: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Fail within seconds where nothing listens; Ray itself would try for many minutes.

    Raises:
        OSError: if nothing listens there.
        ValueError: if it is not HOST:PORT.
    """
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        raise ValueError(f"an address must be `auto` or HOST:PORT, got {address!r}")
    socket.create_connection((host, int(port)), timeout=10).close()


class RayGaveUpError(OrchestratorError):
    """Ray ended an experiment by itself, as it does after its memory monitor killed a trial."""


def run_phase(
    spec: StudySpec,
    trainable: type[tune.Trainable],
    *,
    callback: Callback,
    searcher: Searcher | None = None,
    jobs: Sequence[dict[str, Any]] = (),
) -> None:
    """Run trials until the searcher is done or all jobs are; returns early if the user interrupts.

    Args:
        spec: resources, concurrency, scheduler and faults.
        trainable: what a trial runs.
        callback: hears every report.
        searcher: gives the trials' jobs; or
        jobs: a fixed list of them, which no scheduler stops.

    Raises:
        RayGaveUpError: if Ray gives up.
    """
    is_group = issubclass(trainable, DistributedRetrain)
    max_concurrent = _max_groups(spec) if is_group else spec.max_concurrent
    if not is_group:
        check_resources(spec)
    # Tune wants a folder for the state of its experiment. Ours is in the journals, Optuna and the checkpoints.
    with tempfile.TemporaryDirectory(prefix="snas-tune-") as folder:
        tuner = tune.Tuner(
            tune.with_resources(trainable, PLACEMENT if is_group else _placement),
            param_space={} if searcher else {"job": tune.grid_search(list(jobs))},
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=make_scheduler(spec) if searcher else None,
                num_samples=-1 if searcher else 1,
                max_concurrent_trials=max_concurrent,
                reuse_actors=True,
                trial_name_creator=job_label,
                trial_dirname_creator=job_label,
            ),
            run_config=tune.RunConfig(
                name=spec.name,
                storage_path=folder,
                callbacks=[callback],
                failure_config=tune.FailureConfig(max_failures=spec.failure.max_failures),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except (RayError, TuneError, RuntimeError) as error:
            raise RayGaveUpError(str(error)) from error


def _placement(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """What Ray reserves for a trial: the share in its job."""
    share = config["job"]["share"]
    wanted = {"CPU": share["cpu"], "GPU": share["gpu"], "memory": int((share["memory_gb"] or 0) * 1e9)}
    return tune.PlacementGroupFactory([{kind: amount for kind, amount in wanted.items() if amount}])


def _max_groups(spec: StudySpec) -> int:
    assert spec.retrain is not None
    room = max_groups(spec.retrain.workers, asdict(spec.resources))
    return min(room, spec.max_concurrent or room)


def check_resources(spec: StudySpec) -> None:
    """Refuse a trial that no node of the cluster can hold: Ray would wait for ever.

    Raises:
        OrchestratorError: naming what is asked for and what the nodes have.
    """
    wanted = {"CPU": spec.resources.cpu, "GPU": spec.resources.gpu}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    if not any(all(node.get(kind, 0) >= amount for kind, amount in wanted.items()) for node in nodes):
        have = "; ".join(f"{node.get('CPU', 0):g} cpu and {node.get('GPU', 0):g} gpu" for node in nodes)
        raise OrchestratorError(
            f"`resources` must fit on one node of the cluster, got cpu {wanted['CPU']:g} and gpu {wanted['GPU']:g} "
            f"where the nodes have: {have}"
        )


def make_scheduler(spec: StudySpec) -> TrialScheduler | None:
    """The study's scheduler, counting epochs rather than seconds; None for first in, first out."""
    goal, options = spec.scheduler_goal, spec.scheduler
    if options.kind == "asha":
        return AsyncHyperBandScheduler(
            time_attr="epochs",
            metric=goal.metric,
            mode=goal.mode,
            max_t=spec.search.epochs,
            grace_period=min(options.grace_period, spec.search.epochs),
            reduction_factor=options.reduction_factor,
        )
    if options.kind == "median":
        return MedianStoppingRule(
            time_attr="epochs", metric=goal.metric, mode=goal.mode, grace_period=options.grace_period
        )
    return None


def job_label(trial: Trial) -> str:
    """Label of the job that a Tune trial runs."""
    return str(trial.config["job"]["label"])
