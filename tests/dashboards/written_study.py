"""A generated study in a real MLflow store, written through MLflow's client as tracking writes it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from dashboards.history import curves_table, history_table, parquet_bytes
from dashboards.player.page import render_player
from dashboards.records import RunRecord
from search_core.space.genotype import PRIMITIVES
from tests.dashboards.generated import RUN_METRICS, GeneratedStudy, published_costs
from tests.dashboards.generated_search import GeneratedSearch

CHUNK = 4  # trials in a file of curves; tracking takes 32


class WrittenStudy:
    """Writes a study, run by run.

    Args:
        client: of the store.
        study: what is written.
        experiment: another name than the study's.
        artifact_location: where its files go; None: where the store puts them.
    """

    def __init__(
        self,
        client: MlflowClient,
        study: GeneratedStudy,
        experiment: str | None = None,
        artifact_location: str | None = None,
    ) -> None:
        self.client, self.study = client, study
        self.name = experiment or study.name
        self.experiment_id: str = client.create_experiment(self.name, artifact_location)
        self.ids: dict[str, str] = {}

    def write(self, runs: Sequence[RunRecord] | None = None) -> None:
        """Write runs with their files; all, if none are named."""
        for run in self.study.runs if runs is None else runs:
            self.begin(run)
            self.log(run, self.epochs(run))
            self.end(run)

    def run(self, label: str) -> RunRecord:
        """A run of the study."""
        return next(run for run in self.study.runs if run.label == label)

    def run_id(self, label: str) -> str:
        """MLflow's id of a run."""
        return self.ids[self.run(label).run_id]

    def begin(self, run: RunRecord) -> None:
        """Create a run with its params and the tags that it has from the beginning."""
        tags = {key: text for key, text in run.tags.items() if key not in ("snas.end", "snas.reason", "snas.model")}
        if run.parent_id is not None:
            tags["mlflow.parentRunId"] = self.ids[run.parent_id]
        made = self.client.create_run(self.experiment_id, int(run.start_s * 1000), tags, run.name)
        self.ids[run.run_id] = made.info.run_id
        self.client.log_batch(made.info.run_id, params=[Param(key, text) for key, text in run.params.items()])

    def epochs(self, run: RunRecord) -> list[Metric]:
        """All points of a run."""
        unit = self.study.by_run.get(run.run_id)
        if unit is None:
            last = int((run.last_report_s or run.start_s) * 1000)
            return [Metric(key, value, last, run.num_epochs) for key, value in run.metrics.items()]
        records = unit.records(cells=False) if isinstance(unit, GeneratedSearch) else unit.records()
        points, seconds = [], 0.0
        for record in records:
            seconds += record["metrics"]["seconds"]
            values = {k: v for k, v in record["metrics"].items() if run.kind == "retrain" or k in RUN_METRICS}
            if run.kind == "search":
                values["gpu_hours"] = seconds / 3600
            points += [Metric(k, v, int(record["time"] * 1000), record["epoch"]) for k, v in values.items()]
        return points

    def log(self, run: RunRecord, points: Sequence[Metric]) -> None:
        """Log points of a run."""
        for first in range(0, len(points), 1000):
            self.client.log_batch(self.ids[run.run_id], metrics=points[first : first + 1000])

    def end(self, run: RunRecord) -> None:
        """Write the files of a run and, unless it still runs, close it."""
        run_id = self.ids[run.run_id]
        self._write_files(run, run_id)
        ends = {key: text for key, text in run.tags.items() if key in ("snas.end", "snas.reason", "snas.model")}
        self.client.log_batch(run_id, tags=[RunTag(key, text) for key, text in ends.items()])
        if run.end_s is not None:
            self.client.set_terminated(run_id, run.status, int(run.end_s * 1000))

    def put(self, run_id: str, name: str, content: bytes) -> None:
        """Write one file of a run."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / Path(name).name
            file.write_bytes(content)
            self.client.log_artifact(run_id, str(file), str(Path(name).parent) if "/" in name else None)

    def _write_files(self, run: RunRecord, run_id: str) -> None:
        unit = self.study.by_run.get(run.run_id)
        if run.kind == "study":
            self.put(run_id, "published.json", json.dumps(published_costs()).encode())
            for first in range(0, len(self.study.searches), CHUNK):
                part = self.study.searches[first : first + CHUNK]
                table = curves_table((search.number, search.records(cells=False)) for search in part)
                self.put(run_id, f"histories/{first:04d}-{first + CHUNK - 1:04d}.parquet", parquet_bytes(table))
        if unit is None or not unit.epochs:
            return
        self.put(run_id, "history.parquet", parquet_bytes(history_table(unit.records(), PRIMITIVES)))
        if unit.end is not None:
            search = unit if isinstance(unit, GeneratedSearch) else unit.search
            self.put(run_id, "genotype.json", search.genotype().to_json().encode())
        if isinstance(unit, GeneratedSearch):
            self.put(run_id, "player.html", render_player(unit.history(), title=run.label).encode())
