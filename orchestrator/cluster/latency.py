"""Latency tables of the devices of this machine or of a Ray cluster."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.cluster.connection import Node, nodes
from orchestrator.errors import OrchestratorError, last_line
from orchestrator.machine import with_threads
from orchestrator.study_file.validation import from_plain
from search_core.cost.latency_measure import TimingOptions, compare, measure_table
from search_core.cost.latency_table import LatencyTable, Place
from search_core.space.plan import NetworkSize

#: A node whose devices are taken by others does not answer.
_TIMEOUT_S = 1800


@dataclass(frozen=True, kw_only=True)
class LatencyRequest:
    """What is measured.

    Attributes:
        size: of the searchable network, which the children have too.
        timing: batch, type, repeats.
        children: whole children that are measured too, by which the prediction is judged.
        threads: of torch on a CPU; None for its own choice, on a cluster for all cores of a node.
    """

    size: NetworkSize
    timing: TimingOptions
    children: int
    threads: int | None = None


def measure_on_device(request: LatencyRequest, device: torch.device) -> LatencyTable:
    """Measure the table of a device of this machine, and how well it predicts whole children."""
    asked = (request.size, request.timing, device)
    with with_threads(request.threads):
        return compare(measure_table(*asked), *asked, children=request.children)


def measure_on_cluster(request: LatencyRequest) -> list[LatencyTable]:
    """Measure one table for each type of GPU and of CPU of the connected cluster, each on one node, at the same time.

    A node with GPUs stands for their type, another one for its CPU; nodes that give no CPU to tasks are left out.

    Raises:
        OrchestratorError: if a node cannot measure, with its reason, or has no free device within 30 minutes.
    """
    found = [node for node in nodes() if node.cpu]
    names = _gather(found, [_task(_name_of, node, 0.0, 0.0).remote(bool(node.gpu)) for node in found])
    chosen = dict(zip(reversed(names), reversed(found), strict=True))  # of equal ones the first
    tasks = []
    for node in chosen.values():
        cpu = node.cpu if request.threads is None or node.gpu else float(request.threads)
        if cpu > node.cpu:
            raise OrchestratorError(f"--threads must be at most {node.cpu:g}, the cores of {node.label}, got {cpu:g}")
        threads = None if node.gpu else int(cpu) or 1
        plain = {**asdict(request), "threads": threads}
        tasks.append(_task(_measured, node, 1.0 if node.gpu else cpu, float(bool(node.gpu))).remote(plain))
    tables = _gather(list(chosen.values()), tasks)
    return sorted((LatencyTable.from_dict(table) for table in tables), key=lambda table: str(table.place))


def file_stem(place: Place) -> str:
    """A file name for the table of a device."""
    return f"latency-{re.sub(r'[^a-z0-9]+', '-', place.name.lower()).strip('-')}"


def _task(function: Any, node: Node, cpu: float, gpu: float) -> Any:
    here = NodeAffinitySchedulingStrategy(node.id, soft=False)
    return ray.remote(function).options(num_cpus=cpu, num_gpus=gpu, max_retries=0, scheduling_strategy=here)


def _gather(where: Sequence[Node], tasks: Sequence[Any]) -> list[Any]:
    answers = []
    for node, task in zip(where, tasks, strict=True):
        try:
            answers.append(ray.get(task, timeout=_TIMEOUT_S))
        except (RayError, ImportError, AttributeError) as error:
            for other in tasks:
                ray.cancel(other)
            raise OrchestratorError(f"latency must be measured on {node.label}, got: {last_line(error)}") from error
    return answers


def _name_of(has_gpu: bool) -> str:
    """Type of the node that this task runs on. It reserves no GPU, and so it may still see all."""
    has_gpu = has_gpu and torch.cuda.is_available()
    return Place.of(torch.device("cuda" if has_gpu else "cpu")).name


def _measured(request: dict[str, Any]) -> dict[str, Any]:
    """The table of the device that Ray gave this task, as plain data."""
    device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
    return measure_on_device(from_plain(LatencyRequest, request), device).to_dict()
