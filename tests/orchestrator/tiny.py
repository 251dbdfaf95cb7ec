"""Studies, reports and stores that are as small as the behaviour under test allows."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
from mlflow import MlflowClient
from mlflow.entities import Run

from dashboards.mlflow_store.databases import sqlite_file
from orchestrator.files.journal import Journal
from orchestrator.jobs import Reservation, RetrainJob, SearchJob
from orchestrator.sampling.samplers import create_optuna_study, load_optuna_study
from orchestrator.study_file.loading import parse_study
from orchestrator.study_file.sections import RetrainSection
from orchestrator.study_file.spec import StudySpec
from search_core.search.reports import FINAL_METRICS
from search_core.search.search import Search
from search_core.space.genotype import Edge, Genotype
from tests.search_core.tiny import CPU, FEW_PRIMITIVES, TINY_DATASET, images_of, tiny_options

#: A search of a second, as a user writes it.
SEARCH: dict[str, Any] = {
    "dataset": {"name": "fake", "shape": [1, 8, 8], "images": 100},
    "network": {"nodes": 2, "cells": 3, "init_channels": 4, "primitives": list(FEW_PRIMITIVES)},
    "epochs": 2,
    "batch_size": 32,
    "recalibration_batches": 2,
}
RETRAIN: dict[str, Any] = {"epochs": 1, "cells": 3, "init_channels": 4, "batch_size": 32, "drop_path": 0.0}
ETA: dict[str, Any] = {"penalty.strength": {"log_uniform": [1.0e-5, 1.0e-1]}}
ONE_OBJECTIVE: list[dict[str, str]] = [{"metric": "child_val_error", "mode": "min"}]
TWO_OBJECTIVES: list[dict[str, str]] = [*ONE_OBJECTIVE, {"metric": "child_madds", "mode": "min"}]


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """All that the user saw, as one line of words: the width of the terminal does not matter."""
        return " ".join((self.out + self.err).replace("│", " ").split())


def snas(*words: object) -> Outcome:
    """Run the command line in this process, as its script does; an unforeseen exception gets through to the test."""
    from orchestrator.cli import main  # it takes seconds, and few tests need it

    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch("sys.argv", ["snas", *map(str, words)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return Outcome(code, out.getvalue(), err.getvalue())


@cache
def _empty_store() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mlflow.db"
        MlflowClient(f"sqlite:///{file}").search_experiments()
        return file.read_bytes()


def with_empty_store(runs: Path) -> Path:
    """A folder of runs with the store as MLflow makes it, which takes it three seconds; here only the first time."""
    runs.mkdir(parents=True, exist_ok=True)
    (runs / "mlflow.db").write_bytes(_empty_store())
    return runs


def study_data(**changes: Any) -> dict[str, Any]:
    """A study file of three trials as plain data, with root keys replaced."""
    return {"name": "tiny", "search": SEARCH, "sweep": ETA, "trials": 3, **changes}


def tiny_spec(**changes: Any) -> StudySpec:
    """The study of `study_data`."""
    return parse_study(study_data(**changes))


def cell_of(primitive: str) -> Genotype:
    """A cell that differs by the primitive of one edge."""
    return Genotype((Edge(primitive, 0, 2),), (2, 3), (Edge("skip_connect", 1, 2),), (2, 3))


def made_up_record(epoch: int, genotype: Genotype | None = None, **metrics: float) -> dict[str, Any]:
    """A report with the metrics that a test is about, without running a search."""
    return {"epoch": epoch, "metrics": metrics, "genotype": (genotype or cell_of("skip_connect")).to_dict()}


def written_journal(path: Path, records: Sequence[Mapping[str, Any]], end: str | None = None, reason: str = "") -> Path:
    """A journal file of these records, closed with `end` if one is given."""
    journal = Journal(path)
    for record in records:
        assert journal.append_epoch(record)
    if end is not None:
        journal.finish(end, reason)  # type: ignore[arg-type]
    return path


@cache
def _real_lines(epochs: int) -> tuple[str, ...]:
    search = Search(tiny_options(epochs=epochs), images_of(), CPU)
    return tuple(json.dumps(report.to_dict()) for report in search)


def real_records(epochs: int) -> list[dict[str, Any]]:
    """Reports of a tiny search as its journal gives them back."""
    return [json.loads(line) for line in _real_lines(epochs)]


def retrain_records(epochs: int) -> list[dict[str, Any]]:
    """Reports of a made-up retraining, the last with its figures on the test split."""
    records = [{"epoch": epoch, "metrics": {"train_loss": 2.0 - epoch, "val_accuracy": 0.5}} for epoch in range(epochs)]
    records[-1]["metrics"] |= {"test_accuracy": 0.625, "params": 1234.0, "madds": 5678.0}  # type: ignore[operator]
    return records


def search_job(label: str = "0000", **changes: Any) -> SearchJob:
    """What the driver gives a worker: a search of `tiny_options` with these changes."""
    checkpoints, options = Path(changes.pop("checkpoints", label)), tiny_options(**changes)
    return SearchJob(
        label=label,
        checkpoints=checkpoints,
        epochs=options.epochs,
        reservation=Reservation(1.0, 0.0, None),
        options=options,
    )


def retrain_job(trial: int | None = 0, **changes: Any) -> RetrainJob:
    """A retraining of a cell of this trial, with these changes."""
    options = RetrainSection(**{"epochs": 2, "batch_size": 32, "cells": 3, "init_channels": 4, "drop_path": 0.1})
    label = f"{'cell' if trial is None else f'{trial:04d}'}-seed{changes.get('seed', 0)}"
    reserved = Reservation(1.0, 0.0, None)
    job = {"label": label, "checkpoints": Path(label), "epochs": options.epochs, "reservation": reserved}
    cell = {"genotype": cell_of("sep_conv_3x3"), "seed": 0, "options": options, "dataset": TINY_DATASET}
    return RetrainJob(**{**job, **cell, "trial": trial, **changes})  # type: ignore[arg-type]


def runs_of(client: MlflowClient, experiment: str) -> list[Run]:
    """All runs of an experiment, in the order in which they began."""
    found = client.get_experiment_by_name(experiment)
    assert found is not None, f"no experiment {experiment}"
    return list(client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"], max_results=500))


def logged_steps(metric: str, num_epochs: int) -> list[int]:
    """At which steps a search of so many epochs logs a metric."""
    return [num_epochs - 1] if metric in FINAL_METRICS else list(range(num_epochs))


def steps_of(client: MlflowClient, run_id: str, metric: str) -> list[int]:
    """Steps of a metric in the order in which they were logged, repeats included."""
    return [point.step for point in client.get_metric_history(run_id, metric)]


def artifact_paths(client: MlflowClient, run_id: str, folder: str | None = None) -> list[str]:
    """Paths of a run's artifacts in one folder."""
    return sorted(entry.path for entry in client.list_artifacts(run_id, folder))


def image_steps(client: MlflowClient, run_id: str, key: str = "cells") -> list[int]:
    """Steps of an image series, thumbnails left out."""
    files = [Path(path).name for path in artifact_paths(client, run_id, "images")]
    pictures = [name for name in files if name.startswith(f"{key}+step+") and name.endswith(".png")]
    return sorted(int(name.split("+")[2]) for name in pictures)


@cache
def _empty_storage() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "optuna.db"
        optuna.storages.RDBStorage(f"sqlite:///{file}").engine.dispose()
        return file.read_bytes()


def opened_study(spec: StudySpec, url: str) -> optuna.Study:
    """The Optuna study of a spec, made if the storage has none; a file that is not there is made once for all tests."""
    if (file := sqlite_file(url)) is not None and not file.exists():
        file.write_bytes(_empty_storage())
    with suppress(optuna.exceptions.DuplicatedStudyError):
        create_optuna_study(spec, url)
    return load_optuna_study(spec, url)
