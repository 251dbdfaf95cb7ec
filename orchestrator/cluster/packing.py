"""Packing: what part of a node one search reserves, by measurement, and what it takes after it ran out of memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Literal

from orchestrator.cluster.connection import Node, nodes
from orchestrator.cluster.memory_trial import Measured, measure_on
from orchestrator.errors import OrchestratorError
from orchestrator.jobs import Reservation
from orchestrator.study_file.spec import StudySpec
from orchestrator.study_file.sweep import SweepEntry, corner_points, with_conditions
from orchestrator.study_file.sweep_check import apply_values
from search_core.cost.counts import supernet_cost
from search_core.errors import OptionsError
from search_core.search.child_recipe import child_recipe
from search_core.search.options import SearchOptions
from search_core.space.plan import NetworkSize
from search_core.strategies.multi_trial.options import MultiTrialOptions

#: Share of a GPU that searches may fill; fragmentation takes some of the rest.
_USABLE = 0.9
#: Resident memory grows somewhat over a long search.
_HOST_MARGIN = 1.3
#: Ray counts resources in steps of so much.
_RAY_STEPS = 10_000
#: Settings besides `network` that decide how much memory a search takes.
_MEMORY_KEYS = (
    "batch_size",
    "precision",
    "cuda_graph",
    "dataset.name",
    "dataset.image_size",
    "dataset.images",
    "strategy.kind",
)


def find_reservation(spec: StudySpec) -> Reservation:
    """The reservation of one search; where the study file says `auto`, from a dry run on the connected Ray cluster.

    Raises:
        OrchestratorError: if GPU memory is to be measured and no node has a GPU, or if the search cannot be run on one
            of the GPU types.
    """
    is_measured = "auto" in (spec.resources.gpu, spec.resources.memory_gb)
    return reservation_by(spec, measure_memory(spec) if is_measured else ())


def measure_memory(spec: StudySpec) -> list[Measured]:
    """Memory of the study's hardest search on each GPU type, or on one node for the CPU; raises as the reservation."""
    chosen = nodes_to_measure(spec, nodes())
    return measure_on(chosen, hardest_settings(spec.search, spec.sweep), spec.resources.cpu)


def reservation_by(spec: StudySpec, measured: Sequence[Measured]) -> Reservation:
    """The reservation of one search by what `measure_memory` found, which matters where the file says `auto`."""
    wanted = spec.resources
    reasons: list[str] = []
    gpu, memory_gb = wanted.gpu, wanted.memory_gb
    if gpu == "auto":
        per_gpu, text = pack(measured, nodes(), wanted.cpu)
        gpu = gpu_fraction(per_gpu)
        reasons.append(text)
    if memory_gb == "auto":
        peak_bytes = max(figure.host_bytes for figure in measured)
        memory_gb = memory_to_reserve_gb(peak_bytes)
        reasons.append(f"its process takes {peak_bytes / 1e9:.1f} GB of memory: {memory_gb:g} GB are reserved")
    if not reasons:
        return Reservation(wanted.cpu, gpu, memory_gb)
    return Reservation(wanted.cpu, gpu, memory_gb, "; ".join(reasons))


def retrain_reservation(spec: StudySpec) -> Reservation:
    """The reservation of one retraining, or of each worker of a group.

    The dry run measures searches, not children, so `auto` is a whole GPU. A worker of a group takes one in any case.
    """
    wanted, is_group = spec.resources, spec.retrain is not None and spec.retrain.workers > 1
    gpu = 1.0 if wanted.gpu == "auto" or (is_group and wanted.gpu) else wanted.gpu
    memory_gb = None if wanted.memory_gb == "auto" else wanted.memory_gb
    is_auto = "auto" in (wanted.gpu, wanted.memory_gb)
    explanation = "`auto` measures searches: a retraining takes a whole GPU, and no memory is reserved for it"
    return Reservation(wanted.cpu, gpu, memory_gb, explanation) if is_auto else Reservation(wanted.cpu, gpu, memory_gb)


def pack(measured: Sequence[Measured], nodes: Sequence[Node], cpu: float) -> tuple[int, str]:
    """How many searches share a GPU, on the type where fewest do, and why.

    Args:
        measured: one figure for each GPU type of the cluster.
        nodes: all nodes.
        cpu: CPU cores of one search.
    """
    counts, reasons = [], []
    for figure in measured:
        assert figure.gpu_bytes is not None
        assert figure.gpu_total_bytes is not None
        by_memory = max(1, int(_USABLE * figure.gpu_total_bytes / figure.gpu_bytes))
        count = max(1, min(by_memory, cap_by_cpus(nodes, figure.gpu_type, cpu)))
        room = f"{by_memory} share a GPU" if by_memory > 1 else "it takes a whole GPU"
        limit = f", limited to {count} by its CPUs" if count < by_memory else ""
        reasons.append(
            f"one search peaks at {figure.gpu_bytes / 1e9:.1f} GB on {figure.gpu_type} "
            f"({figure.gpu_total_bytes / 1e9:.0f} GB): {room}{limit}"
        )
        counts.append(count)
    if len(set(counts)) > 1:
        reasons.append(f"so {min(counts)} share a GPU of any type")
    return min(counts), "; ".join(reasons)


def cap_by_cpus(nodes: Iterable[Node], gpu_type: str, cpu: float) -> int:
    """How many searches of `cpu` cores a GPU of this type has CPUs for, on the node that has fewest."""
    return min(int(node.cpu / node.gpu / cpu) for node in nodes if node.gpu_type == gpu_type and node.gpu)


def gpu_fraction(per_gpu: int) -> float:
    """1 / `per_gpu`, rounded down to Ray's steps: it would round 1/6 up, and six would not fit."""
    return (_RAY_STEPS // per_gpu) / _RAY_STEPS


def memory_to_reserve_gb(peak_bytes: int) -> float:
    """What to reserve for a process with this peak, in whole tenths of a GB (10^9 bytes)."""
    return math.ceil(_HOST_MARGIN * peak_bytes / 1e8) / 10


def grown(
    reserved: Reservation, kind: Literal["gpu", "host"], nodes: Sequence[Node], workers: int = 1
) -> Reservation | None:
    """The reservation with which a trial is tried again after it ran out of memory.

    Args:
        reserved: what it had.
        kind: whose memory ran out: `gpu` leaves it half as many neighbours on its GPU; `host` doubles the reserved
            memory up to all that a node has. Where nothing was reserved, half of such a node is.
        nodes: the nodes of the cluster.
        workers: how many such reservations a trial needs at a time.

    Returns:
        None if it had all there is already: a further try would end the same.
    """
    if kind == "gpu":
        if reserved.gpu <= 0 or reserved.gpu >= 1:
            return None
        per_gpu = max(1, int(1 / reserved.gpu) // 2)
        alone = "alone on its GPU" if per_gpu == 1 else f"as one of {per_gpu} on its GPU"
        return replace(reserved, gpu=gpu_fraction(per_gpu), explanation=f"{alone}, as it ran out of GPU memory")
    most = math.floor(10 * _most_memory_gb(reserved, nodes, workers)) / 10
    before = reserved.memory_gb or 0.0
    memory_gb = min(most, 2 * before if before else math.ceil(5 * most) / 10)
    if memory_gb <= before:
        return None
    explanation = f"with {memory_gb:g} GB of memory in place of {f'{before:g}' if before else 'none reserved'}"
    return replace(reserved, memory_gb=memory_gb, explanation=f"{explanation}, as it ran out of memory")


def _most_memory_gb(reserved: Reservation, nodes: Sequence[Node], workers: int) -> float:
    """What each of this many workers could reserve, with the cluster to themselves."""
    each = []
    for node in nodes:
        count = min(int(node.cpu / reserved.cpu), int(node.gpu / reserved.gpu) if reserved.gpu else workers, workers)
        each += [node.memory_gb / number for number in range(1, count + 1)]  # of the first, the second, ...
    return sorted(each, reverse=True)[workers - 1] if len(each) >= workers else 0.0


def hardest_settings(search: SearchOptions, sweep: Mapping[str, SweepEntry]) -> list[SearchOptions]:
    """The settings among which is the one that takes most memory: the corners of the sweep, as far as they matter.

    Among corners that differ in size alone, the one that moves most elements in a step stands for all; corners that
    differ in what is kept of a step (`recompute`, `precision`, `cuda_graph`), in the strategy or in the images are
    measured each.
    """

    def kind(options: SearchOptions) -> object:
        return options.network.recompute, options.precision, options.has_graph, options.dataset, *_family(options)

    found = _extremes(search, _memory_sweep(sweep), kind, _demand)
    return [most for _, most in found.values()] or [search]


def work_kind(options: SearchOptions) -> object:
    """What searches have in common that take the same time but for their size."""
    return options.network.recompute, options.precision, options.has_graph, options.dataset, options.strategy


def work_extremes(
    search: SearchOptions, sweep: Mapping[str, SweepEntry]
) -> dict[object, tuple[SearchOptions, SearchOptions]]:
    """The quickest and the longest search of each kind (`work_kind`) in a sweep, by epochs times size of a step."""
    keys = [
        key
        for key, entry in sweep.items()
        if key in (*_MEMORY_KEYS, "epochs")
        or key.startswith(("network.", "dataset."))
        or (key.startswith("strategy.") and entry.is_finite)
    ]
    found = _extremes(
        search, with_conditions(sweep, keys), work_kind, lambda options: options.epochs * _demand(options)
    )
    return found or {work_kind(search): (search, search)}


def _extremes(
    search: SearchOptions,
    sweep: Mapping[str, SweepEntry],
    kind: Callable[[SearchOptions], object],
    demand: Callable[[SearchOptions], float],
) -> dict[object, tuple[SearchOptions, SearchOptions]]:
    """Of each kind, the corners of a sweep with the least and the most demand."""
    found: dict[object, list[tuple[float, SearchOptions]]] = {}
    for values in corner_points(sweep):
        try:
            options = apply_values(search, values)
        except OptionsError:  # ends of ranges that do not go together; such a trial fails before it takes memory
            continue
        same = [*found.get(kind(options), ()), (demand(options), options)]
        found[kind(options)] = [min(same, key=itemgetter(0)), max(same, key=itemgetter(0))]
    return {name: (least, most) for name, ((_, least), (_, most)) in found.items()}


def _memory_sweep(sweep: Mapping[str, SweepEntry]) -> dict[str, SweepEntry]:
    """The swept keys that decide the memory, and those that their conditions name; ends stand for ranges."""
    keys = [key for key in sweep if key.startswith(("network.", "strategy.estimate.")) or key in _MEMORY_KEYS]
    return {key: replace(entry, kind="choice") for key, entry in with_conditions(sweep, keys).items()}


def _demand(options: SearchOptions) -> int:
    """Elements that a training step moves, to compare settings of one data set; so any one image shape is enough."""
    network, batch_size = options.network, options.batch_size
    if isinstance(options.strategy, MultiTrialOptions):
        recipe = child_recipe(options)
        network = replace(network, cells=recipe.cells, init_channels=recipe.init_channels)
        batch_size = recipe.batch_size
    return batch_size * supernet_cost(NetworkSize(network, (3, 32, 32), num_classes=10)).memory_access


def _family(options: SearchOptions) -> tuple[str, int | None]:
    """Strategy inside one search; multi-trial ones take the same memory, but for the size of the images."""
    strategy = options.strategy
    return ("child", strategy.estimate.resolution) if isinstance(strategy, MultiTrialOptions) else (strategy.kind, None)


def nodes_to_measure(spec: StudySpec, nodes: Sequence[Node]) -> list[Node]:
    """One node of each GPU type, or for searches on the CPU the first that is large enough."""
    large = [node for node in nodes if node.cpu >= spec.resources.cpu]
    with_gpu = list({node.gpu_type: node for node in reversed(large) if node.gpu}.values())
    chosen = with_gpu if spec.resources.uses_gpu else large[:1]
    if not chosen:
        gpus = " and a GPU" if spec.resources.uses_gpu else ""
        have = "; ".join(f"{node.cpu:g} cpu and {node.gpu:g} gpu" for node in nodes)
        raise OrchestratorError(
            f"`resources` with `auto` must fit on one node of the cluster, which needs {spec.resources.cpu:g} cpu{gpus}"
            f"; the nodes have: {have}"
        )
    return chosen
