"""Generated studies: as data, as records, and behind the store's interface; nothing here needs PyTorch or a server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from dashboards.mlflow_store.study_records import study_record
from dashboards.records import Objective, RunRecord, StudyRecord
from search_core.space.genotype import PUBLISHED
from tests.dashboards.generated_params import ENVIRONMENT_TAGS, REASONS, SEARCH_PARAMS, SWEPT
from tests.dashboards.generated_search import GeneratedRetraining, GeneratedSearch

#: Metrics of the runs of trials in MLflow beside `gpu_hours`; the rest of the report is in the history only.
RUN_METRICS: tuple[str, ...] = (
    "child_val_error",
    "child_val_accuracy",
    "child_val_accuracy_recalibrated",
    "supernet_val_accuracy",
    "discretization_gap",
    "train_loss",
    "entropy_normal",
    "entropy_reduce",
    "temperature",
    "eta",
    "expected_cost_madds",
    "child_madds",
    "child_params",
    "child_memory_access",
    "edges_normal",
    "edges_reduce",
)
OBJECTIVES = (Objective(metric="child_val_error", mode="min"), Objective(metric="child_madds", mode="min"))
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
#: Number of images by split, as CIFAR-10 is split in half.
IMAGES = {"images.train": "25000", "images.validation": "25000", "images.test": "10000"}
NOW_S = 1_790_100_000.0


@dataclass(frozen=True, kw_only=True)
class GeneratedStudy:
    """One study as tracking would have logged it.

    Attributes:
        name: of the study.
        searches: by number.
        retrainings: those that began.
        num_trials: asked for; more than `searches` while it runs.
        parent: the parent run.
        runs: all runs, the parent among them.
        model: name under which its retrained cells are registered.
    """

    name: str
    searches: Sequence[GeneratedSearch]
    retrainings: Sequence[GeneratedRetraining]
    num_trials: int
    parent: RunRecord
    runs: Sequence[RunRecord]
    model: str

    @cached_property
    def by_run(self) -> Mapping[str, GeneratedSearch | GeneratedRetraining]:
        """What each run id stands for."""
        units: dict[str, GeneratedSearch | GeneratedRetraining] = {
            f"{self.parent.run_id}-t{search.number}": search for search in self.searches
        }
        return units | {f"{self.parent.run_id}-{unit.label}": unit for unit in self.retrainings}

    def record(self, *, as_of_s: float = NOW_S, notice: str = "") -> StudyRecord:
        """What a store makes of it."""
        return study_record(self.name, self.runs, as_of_s=as_of_s, notice=notice)


def generated_study(
    name: str = "penalty-sweep",
    *,
    trials: int = 24,
    epochs: int = 150,
    seed: int = 0,
    strategies: Sequence[str] = ("snas",),
    running: int = 0,
    retrained: int = 3,
    seeds: int = 3,
    hostile: bool = False,
) -> GeneratedStudy:
    """A study whose trials end in several ways.

    Of ten trials one is stopped, of twenty one collapses and one fails; all others are complete.

    Args:
        name: of the study.
        trials: asked for.
        epochs: of a search.
        seed: the same seed gives the same numbers.
        strategies: kinds, in turns.
        running: the last this many trials still run, half done, and so does the study.
        retrained: trials of the front whose cells are trained from scratch, if nothing runs.
        seeds: retrainings of each cell; one of the last cell's failed, if there are several.
        hostile: names, tags, params and reasons hold markup and scripts.
    """
    random = np.random.default_rng([seed, 99])
    searches = [
        _search(number, seed, epochs, strategies, random, is_running=number >= trials - running)
        for number in range(trials)
    ]
    parent = _parent(name, searches, trials, running, hostile)
    study = GeneratedStudy(
        name=name,
        searches=searches,
        retrainings=(),
        num_trials=trials,
        parent=parent,
        runs=[parent, *(_search_run(parent, search, hostile) for search in searches)],
        model=f"{name}-child",
    )
    if running or not retrained:
        return study
    front = [trial.number for trial in study.record().trials if trial.on_front][:retrained]
    units = [
        GeneratedRetraining(
            search=searches[number],
            seed=index,
            epochs=12 if (fails := seeds > 1 and number == front[-1] and index == seeds - 1) else 60,
            planned=60,
            end="failed" if fails else "complete",
            reason=REASONS[2] if fails else "",
            start_s=60.0 + max(search.end_s or NOW_S for search in searches),
            tags={} if fails else {"snas.model": study.model},
        )
        for number in front
        if number is not None
        for index in range(seeds)
    ]
    over = {"retrainings_complete": float(sum(unit.end == "complete" for unit in units))}
    over |= {"retrainings_failed": float(len(units) - over["retrainings_complete"]), "retrainings_total": len(units)}
    parent = replace(parent, metrics={**parent.metrics, **over})
    runs = [parent, *study.runs[1:], *(_retrain_run(parent, unit) for unit in units)]
    return replace(study, retrainings=units, parent=parent, runs=runs)


def _search(
    number: int, seed: int, epochs: int, strategies: Sequence[str], random: np.random.Generator, *, is_running: bool
) -> GeneratedSearch:
    ends = {3: "stopped", 13: "stopped", 7: "collapsed", 11: "failed"}
    end = None if is_running else ends.get(number % 20, "complete")
    share = {"stopped": 0.3, "collapsed": 0.5, "failed": 0.0 if number % 40 == 11 else 0.2}.get(end or "", 1.0)
    kinds: tuple[Literal["linear", "exponential", "cosine"], ...] = ("linear", "exponential", "cosine")
    reasons = {
        "failed": REASONS[number // 20 % len(REASONS)],
        "collapsed": "no edge is left in the reduction cell for 5 epochs",
        "stopped": "stopped by the scheduler: worse than the median of the others",
    }
    done = epochs // 2 if is_running else epochs if share == 1 else int(epochs * share)
    return GeneratedSearch(
        number=number,
        seed=seed,
        epochs=done,
        planned=epochs,
        eta=0.1 if end == "collapsed" else float(10 ** random.uniform(-5, -1)),
        strategy=strategies[number % len(strategies)],
        temperature=(kinds[int(random.integers(len(kinds)))], float(10 ** random.uniform(-1.5, -0.3))),
        end=end,
        reason=reasons.get(end or "", ""),
        start_s=NOW_S - 500_000 + 400.0 * number,
    )


def _parent(name: str, searches: Sequence[GeneratedSearch], trials: int, running: int, hostile: bool) -> RunRecord:
    over = [search for search in searches if search.end]
    complete = [search for search in over if search.end == "complete"]
    metrics: dict[str, float] = {
        f"trials_{end}": sum(search.end == end for search in over) for end in sorted({str(s.end) for s in over})
    }
    for objective in OBJECTIVES if complete else ():
        metrics[f"best_{objective.metric}"] = float(min(s.metrics[objective.metric][-1] for s in complete))
    metrics["gpu_hours"] = sum(gpu_hours(search) for search in over)
    if running:
        metrics["time_left_s"] = 4200.0 * running
    note = HOSTILE if hostile else "SNAS searches on cifar10: min `child_val_error` and min `child_madds`."
    params = {"name": name, "seed": "0", "sampler": "tpe", "trials": str(trials), **IMAGES}
    params["objectives"] = json.dumps([vars(objective) for objective in OBJECTIVES])
    params |= {f"sweep.{key}": text for key, text in SWEPT.items()}
    params |= {f"search.{key}": text for key, text in SEARCH_PARAMS.items()}
    start = min(search.start_s for search in searches) - 10 if searches else NOW_S - 600
    return RunRecord(
        run_id=f"study-{name}",
        experiment_id="1",
        study=name,
        label="study",
        name=HOSTILE if hostile else name,
        kind="study",
        status="RUNNING" if running else "FINISHED",
        parent_id=None,
        start_s=start,
        end_s=None if running else NOW_S - 60,
        last_report_s=max((search.end_s or start for search in over), default=None),
        num_epochs=len(over),
        params=params,
        metrics=metrics,
        tags={"snas.unit": "study", "snas.kind": "study", "mlflow.note.content": note, **ENVIRONMENT_TAGS},
    )


def gpu_hours(search: GeneratedSearch) -> float:
    """What a search reserved."""
    return float(search.metrics["seconds"].sum() / 3600)


def _search_run(parent: RunRecord, search: GeneratedSearch, hostile: bool) -> RunRecord:
    label = f"trial-{search.number:04d}"
    last = {name: float(search.metrics[name][-1]) for name in RUN_METRICS} if search.epochs else {}
    if search.epochs:
        last["gpu_hours"] = gpu_hours(search)
    kind, end = search.temperature
    params = {
        **SEARCH_PARAMS,
        "epochs": str(search.planned),
        "penalty.strength": repr(search.eta),
        "strategy.kind": search.strategy,
        "temperature.kind": HOSTILE if hostile and search.number == 1 else kind,
        "temperature.end": repr(end),
    }
    reason = f"{search.reason} {HOSTILE}" if hostile and search.reason else search.reason
    times = search.start_s + search.seconds_since_start
    return RunRecord(
        run_id=f"{parent.run_id}-t{search.number}",
        experiment_id=parent.experiment_id,
        study=parent.study,
        label=label,
        name=f"{label} {HOSTILE}" if hostile else label,
        kind="search",
        status=_status(search.end),
        parent_id=parent.run_id,
        start_s=search.start_s,
        end_s=search.end_s,
        last_report_s=float(times[-1]) if search.epochs else None,
        num_epochs=search.epochs,
        params=params,
        metrics=last,
        tags=_tags(label, "search", parent, search.end, reason) | ({"note": HOSTILE} if hostile else {}),
    )


def _retrain_run(parent: RunRecord, unit: GeneratedRetraining) -> RunRecord:
    trial = f"{parent.run_id}-t{unit.search.number}"
    records = unit.records()
    params = {"seed": str(unit.seed), "trial": str(unit.search.number), "epochs": str(unit.planned), "cells": "20"}
    return RunRecord(
        run_id=f"{parent.run_id}-{unit.label}",
        experiment_id=parent.experiment_id,
        study=parent.study,
        label=unit.label,
        name=unit.label,
        kind="retrain",
        status=_status(unit.end),
        parent_id=trial,
        start_s=unit.start_s,
        end_s=unit.end_s,
        last_report_s=records[-1]["time"] if records else None,
        num_epochs=unit.epochs,
        params=params,
        metrics=records[-1]["metrics"] if records else {},
        tags=_tags(unit.label, "retrain", parent, unit.end, unit.reason) | unit.tags,
    )


def _status(end: str | None) -> str:
    return {None: "RUNNING", "failed": "FAILED"}.get(end, "FINISHED")


def _tags(label: str, kind: str, parent: RunRecord, end: str | None, reason: str) -> dict[str, str]:
    tags = {"snas.unit": label, "snas.kind": kind, "snas.study": parent.study, **ENVIRONMENT_TAGS}
    if end:
        tags["snas.end"] = end
    return tags | ({"snas.reason": reason} if reason else {})


def published_costs() -> dict[str, dict[str, float]]:
    """Costs of published cells that are of the size of the generated ones."""
    sizes = {name: len(cell.normal) + len(cell.reduce) for name, cell in PUBLISHED.items()}
    return {
        name: {"child_params": 1.4e4 * size, "child_madds": 2.2e6 * size, "child_memory_access": 2.5e5 * size}
        for name, size in sizes.items()
    }
