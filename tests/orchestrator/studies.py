"""Studies as a user runs them, in a process of their own, to their end."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

from orchestrator.files.journal import Journal
from tests.orchestrator.tiny import Outcome, image_steps, runs_of, snas, steps_of, with_empty_store
from tests.preloaded.processes import run_ready


@dataclass(frozen=True)
class Done:
    """A study that was run to its end."""

    name: str
    file: Path
    runs: Path
    outcome: Outcome

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.runs}/mlflow.db")

    @property
    def mlflow_runs(self) -> dict[str, Run]:
        return {run.info.run_name: run for run in runs_of(self.client, self.name)}

    def journal(self, number: int) -> Journal:
        return Journal(self.runs / self.name / "trials" / f"{number:04d}.jsonl")

    def shown(self) -> dict[str, Any]:
        outcome = snas("study", "show", self.name, "--json", "--runs", self.runs)
        assert outcome.code == 0, outcome.said
        document: dict[str, Any] = json.loads(outcome.out)
        return document

    def counts(self) -> dict[str, object]:
        """What a resumed study must not add to."""
        versions = self.client.search_model_versions()
        runs = self.mlflow_runs
        assert len(runs) == len(runs_of(self.client, self.name)), "two runs of one name"
        return {
            "models": len(versions),
            "journals": {str(file): file.read_bytes() for file in self.runs.glob(f"{self.name}/*/*.jsonl")},
            "launches": sorted(str(path) for path in self.runs.glob(f"{self.name}/ray/*")),
            "runs": {name: (run.info.run_id, run.info.status) for name, run in runs.items()},
            "points": {
                (name, metric): steps_of(self.client, run.info.run_id, metric)
                for name, run in runs.items()
                for metric in run.data.metrics
            },
            "images": {name: image_steps(self.client, run.info.run_id) for name, run in runs.items()},
        }


def run_to_its_end(folder: Path, data: dict[str, Any]) -> Done:
    file, runs = folder / "study.yaml", with_empty_store(folder / "runs")
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "SNAS_RUNS")
    }
    done = run_ready(["snas", "study", "run", file, "--runs", runs], {**environment, "OMP_NUM_THREADS": "1"})
    return Done(data["name"], file, runs, Outcome(done.returncode, done.stdout, done.stderr))
