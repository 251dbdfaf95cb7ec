"""Memory of one search, measured on nodes of the Ray cluster.

Run as a program, `python -m orchestrator.cluster.memory_trial`, it measures in its own process, as `measure_on` does on
each node.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ray
import torch
from ray import tune
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.cluster.connection import Node
from orchestrator.errors import OrchestratorError, first_line, last_line
from orchestrator.study_file.sweep_check import SearchFile
from orchestrator.study_file.validation import parse
from search_core.errors import DataError
from search_core.search.dry_run import measure_search
from search_core.search.options import SearchOptions

#: A node whose GPUs are all taken by others does not answer.
_TIMEOUT_S = 900


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Peak memory of one search on one kind of node, in bytes; on a CPU without those of a GPU.

    Attributes:
        gpu_type: that of its node.
        host_bytes: resident memory of its process.
        gpu_bytes: what it takes from its GPU.
        gpu_total_bytes: what such a GPU has.
    """

    gpu_type: str
    host_bytes: int
    gpu_bytes: int | None = None
    gpu_total_bytes: int | None = None


def measure_on(nodes: Sequence[Node], settings: Sequence[SearchOptions], cpu: float) -> list[Measured]:
    """Measure searches, one after another, on each of these nodes at the same time.

    Args:
        nodes: where; a node with GPUs lends one of them whole.
        settings: what; the largest figures of all count.
        cpu: CPU cores of one search.

    Returns:
        The figures of each node.

    Raises:
        OrchestratorError: if a search cannot be run there, with its reason, or if a node has no place in 15 minutes.
    """
    plain = [asdict(options) for options in settings]
    tasks = [
        ray.remote(measure_here)
        .options(
            num_cpus=cpu,
            num_gpus=1 if node.gpu else 0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        )
        .remote(plain, bool(node.gpu))
        for node in nodes
    ]
    figures = []
    for node, task in zip(nodes, tasks, strict=True):
        where = node.gpu_type or "the CPU"
        try:
            answer = ray.get(task, timeout=_TIMEOUT_S)
        except RayError as error:
            for other in tasks:
                ray.cancel(other)
            raise OrchestratorError(
                f"the dry run of `auto` resources must run on {where}, got: {last_line(error)}"
            ) from error
        if "error" in answer:
            raise OrchestratorError(f"one search must fit on {where} alone, got: {answer['error']}")
        figures.append(Measured(gpu_type=node.gpu_type, **answer))
    return figures


def measure_here(settings: Sequence[dict[str, Any]], on_gpu: bool) -> dict[str, Any]:
    """Measure searches on this machine, each in a fresh process, on the GPU that is visible here or on the CPU.

    Args:
        settings: `SearchOptions` as plain data.
        on_gpu: where.

    Returns:
        The numbers of `Measured`, the largest of all settings; or `error`.
    """
    peaks: dict[str, int] = {}
    total = torch.cuda.mem_get_info()[1] if on_gpu else None
    for search in settings:
        free = torch.cuda.mem_get_info()[0] if on_gpu else None
        ended = subprocess.run(
            [sys.executable, "-m", "orchestrator.cluster.memory_trial"],
            input=json.dumps({"search": search, "free_bytes": free, "device": "cuda" if on_gpu else "cpu"}),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # code that Ray shipped
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode != 0:
            lines = [line for line in ended.stderr.splitlines() if line.strip()]
            reason = f"signal {-ended.returncode}" if ended.returncode < 0 else (lines or ["no message"])[-1]
            return {"error": f"the process ended with {reason}"}
        answer: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
        if "error" in answer:
            return answer
        peaks = {name: max(value, peaks.get(name, 0)) for name, value in answer.items()}
    return {**peaks, "gpu_total_bytes": total}


def main() -> None:
    """Measure the search that comes on standard input and print its figures, or `error`, as JSON."""
    assert tune is not None  # a trial's process has imported it, which takes memory
    request = json.load(sys.stdin)
    options = parse(SearchFile, {"search": request["search"]}).search
    try:
        memory = measure_search(options, torch.device(request["device"]), request["free_bytes"])
    except (DataError, MemoryError, RuntimeError) as error:  # torch's own; the first line says what is wrong
        print(json.dumps({"error": first_line(error)}))
        return
    figures = {"host_bytes": memory.host_bytes, "gpu_bytes": memory.gpu_bytes}
    print(json.dumps({name: value for name, value in figures.items() if value is not None}))


if __name__ == "__main__":
    main()
