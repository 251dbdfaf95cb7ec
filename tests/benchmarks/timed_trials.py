"""What `tests.benchmarks.orchestration` puts in the place of a search: trials that note when each step begins and ends.

Workers are processes of Ray's, so what they are to do and where they note it comes to them by the environment.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from orchestrator.jobs import SearchJob
from orchestrator.worker.trainable import SearchTrainable
from search_core.data.datasets import load_data
from search_core.search.options import SearchOptions
from search_core.search.reports import METRICS, CellReport, EpochReport
from search_core.search.search import Search
from search_core.space.genotype import CELL_TYPES, Edge, Genotype
from search_core.space.plan import NetworkOptions, cell_edges

#: Ray's workers give way to the driver, and so to everything else on the machine; bare searches do the same.
NICENESS = 15
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
    """Reports like a search of these options, after sleeping."""

    def __init__(self, options: SearchOptions) -> None:
        self.options, self.epoch = options, 0

    def run_epoch(self) -> EpochReport:
        """The report of the next epoch."""
        time.sleep(float(os.environ[STUB_SECONDS]))
        report = made_up_report(self.options, self.epoch)
        self.epoch += 1
        return report

    def state_dict(self) -> dict[str, Any]:
        """All that a stub knows."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume after this epoch."""
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

    def build(self, job: SearchJob) -> StubSearch:  # type: ignore[override]
        """The stub at its beginning."""
        return StubSearch(job.options)


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
    os.nice(NICENESS - os.nice(0))
    search = StubSearch(options) if is_stub else Search(options, load_data(options.dataset, torch.device("cpu")))
    for _ in range(options.epochs):
        begin = time.time()
        json.dumps(search.run_epoch().to_dict())
        note_step(label, begin)


def made_up_report(options: SearchOptions, epoch: int) -> EpochReport:
    """A report of full size: its error falls, to an end that the penalty decides; the rest is drawn at random."""
    generator = np.random.default_rng(epoch)
    network = options.network
    cells = {cell_type: made_up_cell(network, generator) for cell_type in CELL_TYPES}
    kept = {
        cell_type: tuple(
            Edge(network.primitives[int(np.argmax(row))], source, target)
            for (source, target), row in zip(cell_edges(network.nodes), cell.probabilities, strict=True)
        )
        for cell_type, cell in cells.items()
    }
    kept = {cell_type: tuple(edge for edge in edges if edge.primitive != "none") for cell_type, edges in kept.items()}
    concat = tuple(range(2, 2 + network.nodes))
    error = 0.5 / (1 + epoch) + options.penalty.strength**0.25
    numbers = {name: float(generator.uniform(0, 100)) for name in METRICS}
    numbers |= {"child_val_error": error, "child_val_accuracy": 1 - error, "eta": options.penalty.strength}
    genotype = Genotype(kept["normal"], concat, kept["reduce"], concat)
    return EpochReport(epoch=epoch, genotype=genotype, cells=cells, **numbers)  # type: ignore[arg-type]


def made_up_cell(network: NetworkOptions, generator: np.random.Generator) -> CellReport:
    """A distribution over the edges of one cell."""
    alpha = generator.normal(size=(len(cell_edges(network.nodes)), len(network.primitives)))
    probabilities = np.exp(alpha) / np.exp(alpha).sum(1, keepdims=True)
    return CellReport(
        alpha=tuple(map(tuple, alpha.tolist())),
        probabilities=tuple(map(tuple, probabilities.tolist())),
        entropy=tuple((-probabilities * np.log(probabilities)).sum(1).tolist()),
        credit=tuple(generator.normal(size=len(alpha)).tolist()),
        resource_credit=tuple((-generator.random(size=len(alpha))).tolist()),
    )
