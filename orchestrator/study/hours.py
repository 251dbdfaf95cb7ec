"""What a search or retraining has reserved so far: GPU hours, or CPU core hours where it takes no GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dashboards.formatting import HOURS
from orchestrator.files.journal import Journal
from orchestrator.jobs import Job


def with_hours(record: Mapping[str, Any], journal: Journal, *, gpus: float, cores: float) -> dict[str, Any]:
    """The report of the next epoch with the hours that were reserved for all epochs so far.

    Hours are the sum of `seconds` x reserved GPUs (or cores, without a GPU) / 3600 over all epochs; starts of processes
    and repeated epochs are not counted.

    Args:
        record: plain data of the report.
        journal: the epochs before it.
        gpus: reserved GPUs, 0 for none; all workers of a group together.
        cores: reserved CPU cores, likewise.
    """
    name = HOURS[0] if gpus > 0 else HOURS[1]
    before = journal.epochs[-1]["metrics"].get(name) if journal.epochs else 0.0
    if before is None:  # the epochs before were recorded without, or on the other kind of device: no sum is known
        return dict(record)
    hours = before + record["metrics"]["seconds"] * (gpus or cores) / 3600
    return {**record, "metrics": {**record["metrics"], name: hours}}


def reserved(job: Job) -> dict[str, float]:
    """GPUs and cores that a job reserves, as `with_hours` takes them; several workers take whole GPUs."""
    gpus = job.reservation.gpu if job.workers == 1 else job.workers * math.ceil(job.reservation.gpu)
    return {"gpus": gpus, "cores": job.workers * job.reservation.cpu}


def shared_of(trunk: Journal) -> tuple[float, float]:
    """Seconds and hours of the epochs that forked trials share and each has at the beginning of its journal.

    Args:
        trunk: journal of these epochs; may have none yet.
    """
    seconds = sum(record["metrics"].get("seconds", 0.0) for record in trunk.epochs)
    known = hours_of(trunk.epochs[-1]["metrics"]) if trunk.epochs else None
    return seconds, known[1] if known is not None else 0.0


def hours_of(metrics: Mapping[str, float]) -> tuple[str, float] | None:
    """Name and value of the hours among the metrics of an epoch; None if they are not known."""
    return next(((name, metrics[name]) for name in HOURS if name in metrics), None)
