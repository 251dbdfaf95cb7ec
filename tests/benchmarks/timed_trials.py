"""What `tests.benchmarks.orchestration` puts in the place of a search: trials that note when each step begins and ends.

Workers are processes of Ray's, so what they are to do and where they note it comes to them by the environment.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from orchestrator.trainable import SearchTrainable, from_plain
from search_core.cell import NetworkOptions
from search_core.data import DatasetOptions, load_data
from search_core.reports import EpochReport
from search_core.search import Search, SearchOptions

#: Folder of the notes, and what an epoch of a stub takes in seconds.
NOTES, STUB_SECONDS = "SNAS_BENCHMARK_NOTES", "SNAS_BENCHMARK_STUB_SECONDS"


@dataclass(frozen=True)
class Step:
    """One epoch in one process, in seconds of the machine's clock."""

    process: str
    label: str
    begin: float
    end: float


class StubSearch:
    """Reports like a search of these options, all from one real epoch, after sleeping."""

    def __init__(self, options: SearchOptions) -> None:
        self.options, self.epoch = options, 0

    def run_epoch(self) -> EpochReport:
        """The report of the next epoch: its error falls, to an end that the penalty decides."""
        time.sleep(float(os.environ[STUB_SECONDS]))
        real = _real_report(self.options.dataset, self.options.network)
        error = 0.5 / (1 + self.epoch) + self.options.penalty.strength**0.25
        report = replace(real, epoch=self.epoch, child_val_error=error, child_val_accuracy=1 - error)
        self.epoch += 1
        return report

    def state_dict(self) -> dict[str, Any]:
        """All that a stub knows."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after this epoch."""
        self.epoch = state["epoch"]


class TimedTrainable(SearchTrainable):
    """A real search that notes its steps."""

    def step(self) -> dict[str, Any]:
        """One epoch."""
        begin = time.time()
        result = super().step()
        note_step(self.config["job"]["label"], begin)
        return result


class StubTrainable(TimedTrainable):
    """A stub that notes its steps."""

    def build(self, job: dict[str, Any]) -> StubSearch:  # type: ignore[override]
        """The stub at its beginning."""
        return StubSearch(from_plain(SearchOptions, job["options"]))


def note_step(label: str, begin: float) -> None:
    """Write down a step that ends now."""
    with (Path(os.environ[NOTES]) / f"{os.getpid()}.jsonl").open("a", encoding="utf-8") as notes:
        notes.write(json.dumps([label, begin, time.time()]) + "\n")


def noted_steps(folder: Path) -> list[Step]:
    """All steps that the processes noted, process by process, in their order."""
    return [
        Step(file.stem, *json.loads(line))
        for file in sorted(folder.glob("*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]


def run_bare(options: SearchOptions, label: str, is_stub: bool) -> None:
    """The same trial as a plain loop; called in a process of its own."""
    torch.set_num_threads(1)  # as Ray does for a trial of one core
    search = StubSearch(options) if is_stub else Search(options, load_data(options.dataset, torch.device("cpu")))
    for _ in range(options.epochs):
        begin = time.time()
        json.dumps(search.run_epoch().to_dict())
        note_step(label, begin)


@lru_cache(maxsize=1)
def _real_report(dataset: DatasetOptions, network: NetworkOptions) -> EpochReport:
    options = SearchOptions(dataset=dataset, network=network, epochs=1, batch_size=32, recalibration_batches=2)
    return Search(options, load_data(dataset, torch.device("cpu"))).run_epoch()
