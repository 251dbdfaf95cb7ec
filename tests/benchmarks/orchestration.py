"""What a study costs beside its searches: time, memory of the driver, reports.

Run: `python -m tests.benchmarks.orchestration [--parts scale,start,overhead] [--trials 1000 --reports 20]
[--starts 20] [--seconds 60 --searches 3 --repeats 2 --work search|stub] [--concurrent 1] [--sampler tpe]
[--picture-every N] [--json]`.

The driver, its journals, Optuna's storage and MLflow's are real; only the class of the trials is replaced, by
`tests.benchmarks.timed_trials`. Each part runs in a process of its own. A picture of the cells takes a tenth of a
second: `scale`, whose searches take no time, draws them at the end only; the other parts draw as a study does.

- scale: a study of stubs that report at once, records of a real cell with 4 nodes and 8 operations. `events_per_s`:
  reports over the time from the first to the end of the study, when MLflow is complete; `delivery_tail_s`: from the
  last report to that end; `ms_per_event`: from report to report, in the first and in the last tenth and in all;
  `cpu_ms_per_event`: processor time of the driver, which depends less on what else the machine does;
  `driver_growth_mb`: resident memory of the driver at the end of the searches less that after 5 % of the trials (50 of
  1,000); `driver_slope_mb`: its growth per 100 trials over the last half, by least squares; `reports_lost` and
  `reports_repeated`: steps of MLflow's runs that are missing, or there twice.
- start: `next_trial_start_s`: from the end of a trial's last step to the begin of the next trial's first in the same
  process, median; it includes the way of the last report to the driver. Stubs of a quarter second an epoch.
- overhead: time of a study over that of the same searches as plain loops in as many processes, from the first step to
  the end of the last, taken in turns; the median of the ratios less 1. `idle_percent`: share of the study's time in
  which its processes were between steps, which is the same without the machine's noise. `start_s` and `finish_s`: what
  a study takes before its first step and after its last, once, however long it is.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.driver.progress import StudyView
from orchestrator.driver.start import run_study
from orchestrator.files.journal import Journal
from orchestrator.files.layout import Runs
from orchestrator.study.study import Study
from orchestrator.study_file.loading import parse_study
from orchestrator.study_file.spec import StudySpec, search_options
from orchestrator.worker.trainable import SearchTrainable
from tests.benchmarks.timed_trials import (
    NOTES,
    STUB_SECONDS,
    Step,
    StubTrainable,
    TimedTrainable,
    noted_steps,
    run_bare,
)

PARTS = ("scale", "start", "overhead")
SHOWN = (
    "trials",
    "reports",
    "starts",
    "sampler",
    "picture_every",
    "seconds",
    "searches",
    "repeats",
    "work",
    "concurrent",
)
MARKER = "child_val_error"  # logged by every epoch
#: A search whose epochs are short, so that a minute is many of them.
SEARCH: dict[str, Any] = {
    "dataset": {"name": "fake", "shape": [1, 8, 8], "images": 400},
    "network": {"nodes": 4, "cells": 3, "init_channels": 4},
    "batch_size": 32,
    "recalibration_batches": 2,
}
ETA: dict[str, Any] = {"penalty.strength": {"log_uniform": [1.0e-5, 1.0e-1]}}


@dataclass
class Ledger(StudyView):
    """When the driver received reports, and how large it was after how many trials."""

    every: int = 10
    times: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: list[tuple[int, float, float]] = field(default_factory=list)
    _ended: int = 0

    def epoch(self, label: str, journal: Journal) -> None:
        """Note the time, and the processor time of all threads of the driver."""
        self.times.append(time.time())
        self.cpu.append(time.process_time())

    def ended(self, label: str, journal: Journal) -> None:
        """Note the time and now and then the memory, in MB: resident, and what no other process shares."""
        self.epoch(label, journal)
        self._ended += 1
        if self._ended % self.every == 0:
            used = psutil.Process().memory_full_info()
            self.memory.append((self._ended, used.rss / 1e6, used.uss / 1e6))
            print(f"{self._ended} trials, {used.rss / 1e6:.0f} MB", file=sys.stderr, flush=True)


@contextmanager
def noted(folder: Path, stub_seconds: float) -> Iterator[None]:
    """The environment of processes that note their steps in a folder."""
    folder.mkdir(parents=True)
    settings = {NOTES: str(folder), STUB_SECONDS: str(stub_seconds), "OMP_NUM_THREADS": "1"}
    with mock.patch.dict(os.environ, settings):
        yield


def stubbed_study(
    spec: StudySpec, folder: Path, trainable: type[SearchTrainable], view: StudyView, stub_seconds: float = 0.0
) -> tuple[Study, list[Step]]:
    """Run a study to its end with trials of this class; also every step that its workers made."""
    study = Study(spec, Runs(folder / "runs"))
    with noted(folder / "notes", stub_seconds), mock.patch("orchestrator.driver.driver.SearchTrainable", trainable):
        run_study(study, view)
    return study, noted_steps(folder / "notes")


# Scale


def measure_scale(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Rates, memory and losses of a study of many trials that report at once."""
    tracking = {"picture_every": given.picture_every or 0}
    spec = study_spec(given, "scale", trials=given.trials, epochs=given.reports, tracking=tracking)
    ledger = Ledger(every=max(1, given.trials // 100))
    study, _ = stubbed_study(spec, folder, StubTrainable, ledger)
    end, cpu = time.time(), time.process_time()
    return {
        "events_per_s": len(ledger.times) / (end - ledger.times[0]),
        "delivery_tail_s": end - ledger.times[-1],
        "ms_per_event": tenths(ledger.times),
        "cpu_ms_per_event": tenths(ledger.cpu),
        "cpu_ms_per_event_delivered": (cpu - ledger.cpu[0]) / len(ledger.cpu) * 1000,
        **memory_figures(ledger, given.trials),
        **completeness(study, given.trials, given.reports),
    }


def tenths(clock: list[float]) -> dict[str, float]:
    """Milliseconds from one event to the next in the first and in the last tenth of them, and in all."""
    gaps = np.diff(clock) * 1000
    tenth = max(1, len(gaps) // 10)
    means = {"first": gaps[:tenth].mean(), "last": gaps[-tenth:].mean(), "all": gaps.mean()}
    return {name: float(mean) for name, mean in means.items()}


def memory_figures(ledger: Ledger, trials: int) -> dict[str, Any]:
    """Growth of the driver, in MB."""
    begin = next((entry for entry in ledger.memory if entry[0] >= trials * 0.05), ledger.memory[0])
    end = ledger.memory[-1]
    late = [entry for entry in ledger.memory if entry[0] >= trials / 2]
    counts, rss, uss = (np.array(column) for column in zip(*late, strict=True))
    return {
        "driver_growth_mb": end[1] - begin[1],
        "driver_growth_uss_mb": end[2] - begin[2],
        "driver_mb": end[1],
        "driver_slope_mb": {
            name: float(np.polyfit(counts, values, 1)[0] * 100) if len(late) > 1 else None
            for name, values in (("rss", rss), ("uss", uss))
        },
        "driver_memory_mb": [
            [count, round(rss), round(uss)] for count, rss, uss in ledger.memory[:: max(1, trials // 100)]
        ],
    }


def completeness(study: Study, trials: int, reports: int) -> dict[str, Any]:
    """What MLflow lacks or has twice."""
    client = MlflowClient(study.runs.tracking_uri())
    runs = [run for run in all_runs(client, study.spec.name) if run.data.tags["snas.kind"] == "search"]
    lost = repeated = 0
    for run in runs:
        steps = [point.step for point in client.get_metric_history(run.info.run_id, MARKER)]
        lost += reports - len(set(steps) & set(range(reports)))
        repeated += len(steps) - len(set(steps))
    return {
        "reports_lost": lost + (trials - len(runs)) * reports,
        "reports_repeated": repeated,
        "mlflow_runs": len(runs),
        "mlflow_complete": len(runs) == trials and all(run.info.status == "FINISHED" for run in runs),
    }


def all_runs(client: MlflowClient, name: str) -> list[Run]:
    """Every run of an experiment, page by page."""
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    page = client.search_runs([experiment.experiment_id], max_results=1000)
    runs = list(page)
    while page.token:
        page = client.search_runs([experiment.experiment_id], max_results=1000, page_token=page.token)
        runs += page
    return runs


# Start of the next trial


def measure_start(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """How long a worker waits for its next trial."""
    spec = study_spec(given, "start", trials=given.starts * given.concurrent, epochs=4)
    _, steps = stubbed_study(spec, folder, StubTrainable, StudyView(), stub_seconds=0.25)
    waits = starts_of(steps)
    return {
        "next_trial_start_s": statistics.median(waits),
        "next_trial_start_s_range": [min(waits), max(waits)],
        "next_epoch_start_s": statistics.median(gaps_within(steps)),
    }


def starts_of(steps: list[Step]) -> list[float]:
    """Times between trials that ran in the same process one after the other."""
    return [after.begin - before.end for before, after in pairs_of(steps) if before.label != after.label]


def gaps_within(steps: list[Step]) -> list[float]:
    """Times between the steps of a trial."""
    return [after.begin - before.end for before, after in pairs_of(steps) if before.label == after.label]


def pairs_of(steps: list[Step]) -> list[tuple[Step, Step]]:
    """Steps that follow each other in a process."""
    return [(before, after) for before, after in pairwise(steps) if before.process == after.process]


# Overhead


def measure_overhead(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """A study against plain loops over the same searches."""
    is_stub = given.work == "stub"
    epochs = 20 if is_stub else epochs_of_search(given.seconds)
    stub_seconds = given.seconds / epochs
    etas = [round(1e-4 * (number + 1), 6) for number in range(given.searches)]
    spec = study_spec(
        given,
        "overhead",
        trials=given.searches,
        epochs=epochs,
        sampler="grid",
        sweep={"penalty.strength": {"choice": etas}},
    )
    trainable = StubTrainable if is_stub else TimedTrainable
    seconds: dict[str, list[float]] = {"study": [], "bare": []}
    idle, ends = [], []
    for repeat in range(given.repeats):
        bare = run_all_bare(spec, etas, folder / f"bare-{repeat}", is_stub, stub_seconds, given.concurrent)
        begin = time.time()
        _, steps = stubbed_study(spec, folder / f"study-{repeat}", trainable, StudyView(), stub_seconds)
        ends.append((min(step.begin for step in steps) - begin, time.time() - max(step.end for step in steps)))
        seconds["bare"].append(span_of(bare))
        seconds["study"].append(span_of(steps))
        busy = sum(step.end - step.begin for step in steps)
        idle.append(1 - busy / (span_of(steps) * given.concurrent))
    ratios = [study / bare for study, bare in zip(seconds["study"], seconds["bare"], strict=True)]
    return {
        "overhead_percent": 100 * (statistics.median(ratios) - 1),
        "overhead_percent_each": [100 * (ratio - 1) for ratio in ratios],
        "idle_percent": 100 * statistics.median(idle),
        "seconds": seconds,
        "seconds_per_search": statistics.median(seconds["bare"]) * given.concurrent / given.searches,
        "epochs_per_search": epochs,
        "start_s": statistics.median(start for start, _ in ends),
        "finish_s": statistics.median(finish for _, finish in ends),
    }


def epochs_of_search(seconds: float) -> int:
    """How many epochs of `SEARCH` take so long, from the second and third of a trial in a process of its own."""
    with tempfile.TemporaryDirectory() as folder, noted(Path(folder) / "notes", 0), one_by_one(1) as pool:
        options = parse_study({"name": "trial", "search": {**SEARCH, "epochs": 3}, "sweep": ETA, "trials": 1}).search
        pool.submit(run_bare, options, "trial", False).result()
        epochs = noted_steps(Path(folder) / "notes")[1:]
    return max(2, round(seconds / statistics.mean(step.end - step.begin for step in epochs)))


def run_all_bare(
    spec: StudySpec, etas: list[float], folder: Path, is_stub: bool, stub_seconds: float, concurrent: int
) -> list[Step]:
    """The searches of a study as plain loops, this many processes at a time."""
    with noted(folder, stub_seconds), one_by_one(concurrent) as pool:
        values = [{"penalty.strength": eta} for eta in etas]
        jobs = [
            pool.submit(run_bare, search_options(spec, value), str(number), is_stub)
            for number, value in enumerate(values)
        ]
        for job in jobs:
            job.result()
    return noted_steps(folder)


def one_by_one(concurrent: int) -> ProcessPoolExecutor:
    """Fresh processes, which know nothing of this one's threads."""
    return ProcessPoolExecutor(concurrent, mp_context=get_context("spawn"))


def span_of(steps: list[Step]) -> float:
    """From the first begin to the last end, in seconds."""
    return max(step.end for step in steps) - min(step.begin for step in steps)


def study_spec(given: argparse.Namespace, name: str, *, trials: int, epochs: int, **changes: Any) -> StudySpec:
    """A study with `SEARCH`, this many trials of this many epochs, one core each."""
    data = {
        "name": name,
        "search": {**SEARCH, "epochs": epochs},
        "sweep": ETA,
        "trials": trials,
        "max_concurrent": given.concurrent,
        "sampler": given.sampler,
        "objectives": [{"metric": MARKER, "mode": "min"}],
        "tracking": {"picture_every": given.picture_every},
        **changes,
    }
    return parse_study(data)


# Command line


def parsed() -> argparse.Namespace:
    """What is to be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="some of scale, start and overhead")
    parser.add_argument("--trials", type=int, default=1000, help="scale: trials of the study")
    parser.add_argument("--reports", type=int, default=20, help="scale: reports of a trial")
    parser.add_argument("--starts", type=int, default=20, help="start: trials of each worker")
    parser.add_argument("--sampler", default="tpe", help="scale and start: as in a study file")
    parser.add_argument("--picture-every", type=int, help="as `tracking.picture_every` of a study file; scale: 0")
    parser.add_argument("--seconds", type=float, default=60, help="overhead: what a search takes")
    parser.add_argument("--searches", type=int, default=3, help="overhead: searches of the study")
    parser.add_argument("--repeats", type=int, default=2, help="overhead: how often both are measured")
    parser.add_argument("--work", choices=("search", "stub"), default="search", help="overhead: stubs only sleep")
    concurrent = max(1, (os.cpu_count() or 1) - 1)
    parser.add_argument(
        "--concurrent", type=int, default=concurrent, help="trials at a time; default: all cores but one"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    given = parser.parse_args()
    given.parts = given.parts.split(",")
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"--parts must be some of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    return given


def measure(part: str, given: argparse.Namespace) -> dict[str, Any]:
    """One part, in this process."""
    parts = {"scale": measure_scale, "start": measure_start, "overhead": measure_overhead}
    with tempfile.TemporaryDirectory(prefix="snas-benchmark-") as folder:
        return parts[part](given, Path(folder))


def measure_apart(part: str, given: argparse.Namespace) -> dict[str, Any]:
    """One part in a process of its own: what was measured before leaves no memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as process:
        return process.submit(measure, part, given).result()


def text(result: Mapping[str, Any]) -> str:
    """A line per figure."""
    return "\n".join(
        f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}" for name, value in result.items()
    )


def main() -> None:
    """Print the measurement."""
    given = parsed()
    result: dict[str, Any] = {}
    for part in given.parts:
        result |= measure_apart(part, given)
    result |= {"cores": os.cpu_count(), "options": {name: vars(given)[name] for name in SHOWN}}
    print(json.dumps(result) if given.json else text(result))


if __name__ == "__main__":
    main()
