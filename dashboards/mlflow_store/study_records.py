"""From the runs of an experiment to the record of a study: pure functions over frozen records."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dashboards.analysis.front import front_mask
from dashboards.formatting import HOURS
from dashboards.records import Objective, Retraining, RunRecord, State, StudyOverview, StudyRecord, Trial

#: What studies optimise that were made before they noted their objectives.
_OLD_OBJECTIVES = (Objective(metric="child_val_error", mode="min"), Objective(metric="child_madds", mode="min"))
_OLD_NOTICE = (
    "This study does not say what it optimises (it is older than this dashboard, or its parent run is gone): "
    "the validation error and the multiply-adds of the child are shown, both minimised."
)
_ENDS: tuple[State, ...] = ("complete", "stopped", "collapsed", "cancelled", "failed")
_TRIAL_LABEL = re.compile(r"trial-(\d+)")
_SWEEP = "sweep."


def study_record(name: str, runs: Iterable[RunRecord], *, as_of_s: float, notice: str = "") -> StudyRecord:
    """The record of a study, or of an experiment of single searches, from all its runs.

    Args:
        name: of the experiment.
        runs: those that the orchestrator made.
        as_of_s: unix seconds at which the store was asked.
        notice: what else the reader must know.
    """
    by_label: dict[str, RunRecord] = {}
    for run in sorted(runs, key=_rank):  # a slow server may have made a run twice: the one that is further counts
        by_label.setdefault(run.label, run)
    known = list(by_label.values())
    parent = next((run for run in known if run.kind == "study"), None)
    objectives, old = _objectives(parent)
    swept = {key.removeprefix(_SWEEP): text for key, text in _params(parent).items() if key.startswith(_SWEEP)}
    trials = _placed(_trial(run, swept, len(objectives) > 1) for run in known if run.kind == "search")
    if parent is not None:  # single searches need not be comparable: they may be of different data
        trials = _with_front(trials, objectives)
    numbers = {trial.run.run_id: trial.number for trial in trials}
    retrainings = [_retraining(run, numbers) for run in known if run.kind == "retrain"]
    return StudyRecord(
        overview=_overview_of_all(name, parent, trials, retrainings, objectives),
        objectives=objectives,
        swept=swept,
        trials=trials,
        retrainings=sorted(retrainings, key=_place_of_retraining),
        version=_version(known, notice),
        as_of_s=as_of_s,
        notice=" ".join(part for part in (notice, old) if part),
    )


def overview(name: str, parent: RunRecord) -> StudyOverview:
    """The line about a study from its parent run alone."""
    metrics = parent.metrics
    over = int(metrics.get("retrainings_complete", 0) + metrics.get("retrainings_failed", 0))
    on_gpu = "gpu_hours" in metrics
    return StudyOverview(
        name=name,
        run=parent,
        state=parent.state,
        num_trials=_whole(parent.tags.get("snas.trials") or parent.params.get("trials")) or 0,
        ended={end: int(metrics[f"trials_{end}"]) for end in _ENDS if metrics.get(f"trials_{end}")},
        retrained=(over, max(over, int(metrics.get("retrainings_total", 0)))),
        best={
            objective.metric: metrics[f"best_{objective.metric}"]
            for objective in _objectives(parent)[0]
            if f"best_{objective.metric}" in metrics
        },
        hours=metrics.get("gpu_hours", metrics.get("cpu_core_hours")),
        hours_unit="GPU hours" if on_gpu or "cpu_core_hours" not in metrics else "CPU core hours",
        time_left_s=metrics.get("time_left_s") if parent.state == "running" else None,
        last_report_s=parent.last_report_s,
    )


def newest_report(known: Iterable[RunRecord | StudyOverview]) -> float | None:
    """Unix seconds of the newest report of these; None if there is none."""
    return max((entry.last_report_s for entry in known if entry.last_report_s is not None), default=None)


def says_objectives(parent: RunRecord) -> bool:
    """Whether a study is new enough that its parent run has all that `overview` wants."""
    return "objectives" in parent.params


def _overview_of_all(
    name: str,
    parent: RunRecord | None,
    trials: Sequence[Trial],
    retrainings: Sequence[Retraining],
    objectives: Sequence[Objective],
) -> StudyOverview:
    """As `overview`, but with counts of the runs themselves: they are newer, and old parents have none."""
    ended = {end: sum(trial.run.state == end for trial in trials) for end in _ENDS}
    over = sum(retraining.run.state in _ENDS for retraining in retrainings)
    complete = [trial.run.metrics for trial in trials if trial.is_result]
    best = {}
    for objective in objectives if parent else ():
        values = [metrics[objective.metric] for metrics in complete if objective.metric in metrics]
        finite = [value for value in values if math.isfinite(value)]
        if finite:
            best[objective.metric] = min(finite) if objective.mode == "min" else max(finite)
    found = overview(name, parent) if parent else _overview_of_singles(name, trials, retrainings)
    runs = _runs(trials, retrainings)
    return replace(
        found,
        ended={end: number for end, number in ended.items() if number},
        retrained=(over, max(found.retrained[1], len(retrainings))),
        best=best,
        last_report_s=newest_report([found, *runs]),
    )


def _overview_of_singles(name: str, trials: Sequence[Trial], retrainings: Sequence[Retraining]) -> StudyOverview:
    """The line about single searches and retrainings, without what `_overview_of_all` counts."""
    is_running = any(run.state == "running" for run in _runs(trials, retrainings))
    hours = {key: [trial.run.metrics[key] for trial in trials if key in trial.run.metrics] for key in HOURS}
    used = hours["gpu_hours"] or hours["cpu_core_hours"]
    return StudyOverview(
        name=name,
        run=None,
        state="running" if is_running else "complete",
        num_trials=len(trials),
        ended={},
        retrained=(0, 0),
        best={},
        hours=sum(used) if used else None,
        hours_unit="CPU core hours" if used and not hours["gpu_hours"] else "GPU hours",
        time_left_s=None,
    )


def _runs(trials: Iterable[Trial], retrainings: Iterable[Retraining]) -> list[RunRecord]:
    return [trial.run for trial in trials] + [retraining.run for retraining in retrainings]


def _objectives(parent: RunRecord | None) -> tuple[tuple[Objective, ...], str]:
    """What a study optimises, and a notice if that is only assumed."""
    try:
        entries: list[dict[str, Any]] = json.loads(_params(parent)["objectives"])
        found = tuple(Objective(metric=str(entry["metric"]), mode=entry["mode"]) for entry in entries)
    except (KeyError, TypeError, ValueError, RecursionError):
        found = ()
    if found and all(objective.mode in ("min", "max") for objective in found):
        return found, ""
    return _OLD_OBJECTIVES, "" if parent is None else _OLD_NOTICE


def _trial(run: RunRecord, swept: Mapping[str, str], counts_stopped: bool) -> Trial:
    match = _TRIAL_LABEL.fullmatch(run.label)
    values = {key: _value(run.params[key]) for key in swept if key in run.params}
    number = int(match[1]) if match else None
    return Trial(run=run, number=number, values=values, counts_stopped=counts_stopped)


def _placed(trials: Iterable[Trial]) -> list[Trial]:
    """Trials by number; single searches by start."""
    return sorted(trials, key=lambda trial: (trial.number is None, trial.number or 0, trial.run.start_s))


def _with_front(trials: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """The trials, those on the front marked."""
    complete = [trial for trial in trials if trial.is_result]
    values = [[trial.run.metrics.get(entry.metric, math.nan) for entry in objectives] for trial in complete]
    mask = front_mask(np.array(values).reshape(-1, len(objectives)), [entry.mode for entry in objectives])
    marked = {trial.run.run_id for trial, is_on_front in zip(complete, mask, strict=True) if is_on_front}
    return [replace(trial, on_front=trial.run.run_id in marked) for trial in trials]


def _retraining(run: RunRecord, numbers: Mapping[str, int | None]) -> Retraining:
    """Its trial is that of its parent run, or the one that it names."""
    trial = numbers.get(run.parent_id or "", _whole(run.params.get("trial")))
    return Retraining(run=run, trial=trial, seed=_whole(run.params.get("seed")))


def _place_of_retraining(retraining: Retraining) -> tuple[bool, int, bool, int, str]:
    trial, seed = retraining.trial, retraining.seed
    return trial is None, trial or 0, seed is None, seed or 0, retraining.run.label


def _rank(run: RunRecord) -> tuple[bool, bool, float, str]:
    """Which of several runs of a label counts, as tracking ranks them."""
    return run.status not in ("FINISHED", "FAILED"), not (run.params or run.metrics), run.start_s, run.run_id


def _version(runs: Sequence[RunRecord], notice: str) -> str:
    """A digest of all that may change: params never do, and metrics come with a time."""
    facts = [
        (run.run_id, run.name, run.status, run.end_s, run.last_report_s, run.num_epochs, tuple(run.tags.items()))
        for run in runs
    ]
    return hashlib.blake2b(repr((facts, notice)).encode(), digest_size=8).hexdigest()


def _params(run: RunRecord | None) -> Mapping[str, str]:
    return {} if run is None else run.params


def _value(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _whole(text: str | None) -> int | None:
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
