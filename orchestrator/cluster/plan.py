"""What a study will take on a cluster or this machine: a few of its steps are run, and the rest is predicted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass
from statistics import mean
from typing import Any

from orchestrator.cluster.connection import check_resources, cluster, nodes
from orchestrator.cluster.forecast import Fitting, Searches, Span, clock_s, places, seconds
from orchestrator.cluster.pace_trial import Measure, Subject, measure_paces
from orchestrator.cluster.packing import (
    measure_memory,
    nodes_to_measure,
    reservation_by,
    retrain_reservation,
    work_extremes,
)
from orchestrator.errors import OrchestratorError
from orchestrator.jobs import Reservation
from orchestrator.study_file.sections import RetrainSection
from orchestrator.study_file.spec import StudySpec
from search_core.strategies.multi_trial.options import MultiTrialOptions

#: Checkpoints that a unit keeps while it runs.
_KEPT = 3


@dataclass(frozen=True, kw_only=True)
class Part:
    """The searches or the retrainings of a study.

    Attributes:
        count: how many.
        at_once: how many units (searches, children, retrainings) run at a time.
        per_gpu: how many of them share a GPU; None where they take none, or several.
        one_s: seconds of one, the children of a multi-trial search added up.
        all_s: seconds of the clock for all, with the start of processes.
        disk_bytes: checkpoints that are kept at the end.
        energy_kwh: of the GPUs; None if they do not tell their power, or there are none.
    """

    count: Span
    at_once: int
    per_gpu: int | None
    one_s: Span
    all_s: Span
    disk_bytes: Span
    energy_kwh: Span | None


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """What a study will take.

    Attributes:
        name: of the study.
        reservation: of one search.
        start_s: measured seconds of starting or joining Ray.
        searches: None for a study that searches nothing.
        retrainings: None without.
        memory_bytes: most resident memory of a search's process.
        gpu_bytes: most memory that a search takes of its GPU; None on the CPU.
        fitting: what fits the hours of the budget; None without.
        notes: what is not in it.
    """

    name: str
    reservation: Reservation
    start_s: float
    searches: Part | None
    retrainings: Part | None
    memory_bytes: int | None
    gpu_bytes: int | None
    fitting: Fitting | None
    notes: tuple[str, ...]

    @property
    def parts(self) -> list[Part]:
        """What there is of the two."""
        return [part for part in (self.searches, self.retrainings) if part is not None]

    @property
    def study_s(self) -> Span:
        """Seconds of the clock for the whole study."""
        whole = Span(self.start_s, self.start_s, self.start_s)
        for part in self.parts:
            whole = whole.plus(part.all_s)
        return whole

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "study_s": asdict(self.study_s)}


def plan_study(spec: StudySpec, address: str | None, step: Callable[[str], None]) -> StudyPlan:
    """Measure a few steps of a study, with nothing written, and predict what all of it takes.

    Args:
        spec: the study file.
        address: Ray cluster; None starts one on this machine.
        step: is called with what is done next.

    Raises:
        OrchestratorError: if the cluster cannot be reached or has no room for a trial, or if a search cannot be run.
    """
    step("starting Ray on this machine" if address is None else "joining the Ray cluster")
    begun = time.perf_counter()
    with cluster(address):
        start_s = time.perf_counter() - begun
        measured = []
        if spec.num_trials:
            step("measuring the memory of a search")
            measured = measure_memory(spec)
        reserved = reservation_by(spec, measured)
        searches = plan_searches(spec, reserved, step) if spec.num_trials else None
        retrainings = None if spec.retrain is None else _retrainings(spec, spec.retrain, step)
    gpu_bytes = [figure.gpu_bytes for figure in measured if figure.gpu_bytes is not None]
    return StudyPlan(
        name=spec.name,
        reservation=reserved,
        start_s=start_s,
        searches=None if searches is None else _part_of_searches(searches),
        retrainings=retrainings,
        memory_bytes=max((figure.host_bytes for figure in measured), default=None),
        gpu_bytes=max(gpu_bytes, default=None),
        fitting=None if searches is None else searches.fitting(),
        notes=tuple(_notes(spec)),
    )


def plan_searches(spec: StudySpec, reserved: Reservation, step: Callable[[str], None]) -> Searches:
    """Measure the searches of a study on the connected cluster; arguments and errors as of `plan_study`."""
    ends = work_extremes(spec.search, spec.sweep)
    subjects: list[Subject] = []
    for quick, long in ends.values():
        subjects += [Subject(options=quick), *([Subject(options=long)] if long != quick else [])]
    answers = _measured(spec, subjects, reserved, step)
    measures = []
    for of_node in answers:
        found = iter(of_node)
        pairs = [[next(found)] if quick == long else [next(found), next(found)] for quick, long in ends.values()]
        measures.append([measure for pair in pairs for measure in (pair[0], pair[-1])])
    return Searches(spec=spec, ends=ends, measures=measures, num_places=places(nodes(), reserved), gpu=reserved.gpu)


def _measured(
    spec: StudySpec, subjects: list[Subject], reserved: Reservation, step: Callable[[str], None]
) -> list[list[Measure]]:
    """Figures of subjects on one node of each kind, filled with them as the study fills it."""
    check_resources(reserved.cpu, reserved.gpu, reserved.memory_gb)
    chosen = nodes_to_measure(spec, nodes())
    most = spec.max_concurrent or max(spec.num_trials, 1)
    at_once = min(most, *(places([node], reserved) for node in chosen))
    what = "searches" if subjects[0].retrain is None else "retrainings"
    step(f"running steps of {what}: {len(subjects)} settings, {at_once} processes at a time")
    return measure_paces(subjects, chosen, reserved, at_once)


def _part_of_searches(searches: Searches) -> Part:
    trials, keep = searches.num_trials, searches.spec.storage.keep
    every = searches.spec.keep_every
    kept = (1 if keep.kind == "last" else _KEPT) + (searches.spec.search.epochs // every if every else 0)
    is_multi = any(isinstance(options.strategy, MultiTrialOptions) for options, _ in searches.ends.values())
    measures = [measure for of_node in searches.measures for measure in of_node]
    return Part(
        count=Span(trials, trials, trials),
        at_once=searches.at_once,
        per_gpu=_per_gpu(searches.gpu),
        one_s=searches.trial_s(),
        all_s=_with_start(searches.clock_s(), measures),
        disk_bytes=_disk(measures, trials * (_KEPT if is_multi else kept)),
        energy_kwh=_energy(measures, searches.place_s(), searches.gpu),
    )


def _retrainings(spec: StudySpec, retrain: RetrainSection, step: Callable[[str], None]) -> Part:
    reserved = retrain_reservation(spec)
    room = places(nodes(), reserved, retrain.workers)
    if not room:
        raise OrchestratorError(f"`retrain.workers` must fit on the cluster with `resources`, got {retrain.workers}")
    of_node = _measured(spec, [Subject(options=spec.search, retrain=retrain)], reserved, step)
    measures = [measure for (measure,) in of_node]
    count = num_retrainings(spec, retrain)
    at_once = min(room, spec.max_concurrent or room)
    one_s = Span(*seconds(measures, retrain.epochs))
    ends = [clock_s([(int(number), one)], at_once) for number, one in zip(astuple(count), astuple(one_s), strict=True)]
    return Part(
        count=count,
        at_once=min(at_once, int(count.high)),
        per_gpu=_per_gpu(reserved.gpu),
        one_s=one_s,
        all_s=_with_start(Span(*ends), measures),
        disk_bytes=_disk(measures, count.expected * _KEPT),
        energy_kwh=_energy(
            measures,
            Span(*(number * one for number, one in zip(astuple(count), astuple(one_s), strict=True))),
            reserved.gpu * retrain.workers,
        ),
    )


def num_retrainings(spec: StudySpec, retrain: RetrainSection) -> Span:
    """How many: of n trials with independent objectives, 1 + 1/2 + ... + 1/n are on a front of two on average.

    That expectation is of Barndorff-Nielsen and Sobel (1966); objectives that are traded off put more there.
    """
    trials = spec.num_trials
    if retrain.genotype is not None or retrain.top != "front":
        cells = 1 if retrain.genotype is not None else trials if retrain.top == "all" else min(int(retrain.top), trials)
        return Span(cells, cells, cells).times(retrain.seeds)
    if len(spec.objectives) == 1:
        return Span(1, 1, 1).times(retrain.seeds)
    return Span(1, round(sum(1 / number for number in range(1, trials + 1))), trials).times(retrain.seeds)


def _with_start(clock: Span, measures: Sequence[Measure]) -> Span:
    """With what fresh processes take, all at the same time: their start, images and kernels."""
    starts = [measure.start_s + measure.pace.load_s for measure in measures]
    return clock.plus(Span(min(starts), mean(starts), max(starts)))


def _disk(measures: Sequence[Measure], kept: float) -> Span:
    sizes = [kept * measure.pace.state_bytes for measure in measures]
    return Span(min(sizes), mean(sizes), max(sizes))


def _energy(measures: Sequence[Measure], place_s: Span, gpu: float) -> Span | None:
    """Energy of GPUs in kWh: their power, measured while they were shared as in the study, times their hours."""
    told = [measure.power_w for measure in measures if measure.power_w is not None]
    if not told or not gpu:
        return None
    return place_s.times(gpu * mean(told) / 3.6e6)


def _per_gpu(gpu: float) -> int | None:
    return int(1 / gpu + 1e-6) if 0 < gpu <= 1 else None


def _notes(spec: StudySpec) -> Iterator[str]:
    """What the prediction leaves out."""
    if spec.scheduler.kind != "none":
        yield f"as if scheduler {spec.scheduler.kind} stopped no search; low: as if it stopped all at its first look"
    if spec.ground_truth is not None:
        yield "without the ground truth, which is trained before the searches"
    if spec.retrain is not None and spec.retrain.workers > 1:
        yield f"a retraining as one process takes it, not {spec.retrain.workers} workers"
    if spec.budget.target is not None:
        yield "as if no trial reached `budget.target`"
    if not spec.resources.uses_gpu:
        yield "no energy: a CPU does not tell its power"
