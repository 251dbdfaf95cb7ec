"""How long searches and retrainings take, measured on nodes of the Ray cluster beside as many others as run there."""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean

import ray
import torch
from ray import tune
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.cluster.connection import Node
from orchestrator.errors import OrchestratorError, last_line
from orchestrator.jobs import Reservation
from orchestrator.study_file.sections import RetrainSection
from search_core.data.datasets import load_data
from search_core.search.options import SearchOptions
from search_core.search.pace import Pace, merged, retrain_pace, search_pace
from search_core.space.cell_files import load_genotype
from search_core.space.codes import genotype_space

_TIMEOUT_S = 1800


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured: a search, or a retraining of what it may find.

    Attributes:
        options: the search.
        retrain: the recipe; None for the search itself.
    """

    options: SearchOptions
    retrain: RetrainSection | None = None

    def pace(self, device: torch.device) -> Pace:
        """Measure it in this process; raises as `search_pace` and `retrain_pace`."""
        search, retrain = self.options, self.retrain
        if retrain is None:
            return search_pace(search, partial(load_data, search.dataset, device), device)
        if retrain.genotype is not None:
            genotype = load_genotype(retrain.genotype)
        else:
            space = genotype_space(search.network)
            genotype = space.decode(space.sample(torch.Generator().manual_seed(search.seed)))
        return retrain_pace(genotype, retrain, partial(load_data, retrain.dataset_for(search.dataset), device), device)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What one kind of node answered.

    Attributes:
        pace: of a unit.
        start_s: until a fresh process ran.
        power_w: power of one GPU at the end, with all that ran on it; None if the device does not tell it.
    """

    pace: Pace
    start_s: float
    power_w: float | None


def measure_paces(
    subjects: Sequence[Subject], nodes: Sequence[Node], reservation: Reservation, at_once: int
) -> list[list[Measure]]:
    """Measure subjects, each in processes of their own, on each of these nodes at the same time.

    Args:
        subjects: what.
        nodes: where.
        reservation: what each process takes, as a trial does.
        at_once: how many run on a node at a time; subjects are repeated until they fill it.

    Returns:
        For each node, the figures of each subject.

    Raises:
        OrchestratorError: if one cannot be run there, with its reason.
    """
    copies = max(1, math.ceil(at_once / len(subjects)))
    tasks = [[[_submit(subject, node, reservation) for _ in range(copies)] for subject in subjects] for node in nodes]
    answers = []
    for node, of_node in zip(nodes, tasks, strict=True):
        try:
            answers.append([ray.get(same, timeout=_TIMEOUT_S) for same in of_node])
        except RayError as error:
            for task in (task for others in tasks for same in others for task in same):
                ray.cancel(task, force=True)
            where = node.gpu_type or "the CPU"
            raise OrchestratorError(
                f"the steps by which a plan is made must run on {where}, got: {last_line(error)}"
            ) from error
    start_s = min(measure.start_s for of_node in answers for same in of_node for measure in same)  # others waited
    return [[_joined(same, start_s) for same in of_node] for of_node in answers]


def _submit(subject: Subject, node: Node, reserved: Reservation) -> ray.ObjectRef[Measure]:
    memory = int((reserved.memory_gb or 0) * 1e9)
    place = NodeAffinitySchedulingStrategy(node.id, soft=False)
    task = ray.remote(max_calls=1, max_retries=0)(_measure).options(
        num_cpus=reserved.cpu, num_gpus=reserved.gpu, memory=memory or None, scheduling_strategy=place
    )
    return task.remote(subject, time.time())


def _measure(subject: Subject, submitted: float) -> Measure:
    assert tune is not None  # a trial's process has imported it
    start_s = max(0.0, time.time() - submitted)  # clocks of two machines may differ
    device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
    pace = subject.pace(device)
    return Measure(pace=pace, start_s=start_s, power_w=gpu_power_w() if device.type == "cuda" else None)


def _joined(same: Sequence[Measure], start_s: float) -> Measure:
    told = [measure.power_w for measure in same if measure.power_w is not None]
    power_w = mean(told) if told else None
    return Measure(pace=merged([measure.pace for measure in same]), start_s=start_s, power_w=power_w)


def gpu_power_w() -> float | None:
    """Power of this process's GPU by `nvidia-smi`, mean of about a second; None if it is not told."""
    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    words = ["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits", "-i", uuid]
    try:
        return float(subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout)
    except (OSError, subprocess.SubprocessError, ValueError):  # no such program, no such GPU there, `[N/A]`
        return None
