"""A large MLflow store, filled in a minute: MLflow makes the tables, the rows go in at once and past its client.

Through the client, 1.8 million metrics would take an hour. What is written is what tracking would have logged: runs
with params, tags and metrics, the curves of all trials, and files of some.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from sqlalchemy import Connection, MetaData, create_engine

from dashboards.history import curves_table, history_table, parquet_bytes
from dashboards.player.page import render_player
from dashboards.records import RunRecord
from search_core.space.genotype import PRIMITIVES
from tests.dashboards.generated import GeneratedStudy, generated_study, published_costs
from tests.dashboards.generated_search import GeneratedRetraining, GeneratedSearch

#: The metrics of a trial that a store of twelve has.
TWELVE: tuple[str, ...] = (
    "child_val_error",
    "supernet_val_accuracy",
    "discretization_gap",
    "entropy_normal",
    "entropy_reduce",
    "temperature",
    "eta",
    "child_madds",
    "child_params",
    "edges_normal",
    "edges_reduce",
    "gpu_hours",
)
NAME = "penalty-sweep"
CHUNK = 32  # trials in a file of curves
_ROWS = 50_000  # per statement
Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class FilledStore:
    """What was written.

    Attributes:
        folder: as `MlflowServer` takes it: `mlflow.db` and `artifacts`.
        study: name of the study.
        trials: numbers of the trials that have a history, a genotype and a player.
        flat_id: experiment with the first hundred trials again, as plain runs: MLflow's pages fold what has a parent.
    """

    folder: Path
    study: str
    trials: tuple[int, ...]
    flat_id: str


def fill_store(
    folder: Path,
    *,
    trials: int,
    epochs: int,
    files: int,
    is_served: bool = True,
) -> FilledStore:
    """Fill a store, or take the one that was filled before with these numbers.

    Args:
        folder: where; made if missing.
        trials: of the study.
        epochs: of a trial.
        files: how many trials have files of their own.
        is_served: whether the files are asked from the server, rather than read from the folder.
    """
    note, facts = folder / "filled.json", {"trials": trials, "epochs": epochs, "files": files, "served": is_served}
    complete = [number for number in range(trials) if number % 20 not in (3, 7, 11, 13)]
    filled = FilledStore(folder=folder, study=NAME, trials=tuple(complete[:files]), flat_id="2")
    if note.exists() and json.loads(note.read_text(encoding="utf-8")) == facts:
        return filled
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} must be empty or filled with {facts}; name another folder")
    artifacts = folder / "artifacts" / NAME
    artifacts.mkdir(parents=True)
    database = f"sqlite:///{folder / 'mlflow.db'}"
    location = f"mlflow-artifacts:/{NAME}" if is_served else artifacts.as_uri()
    client = MlflowClient(database)
    study_id = client.create_experiment(NAME, artifact_location=location)
    assert client.create_experiment("flat", artifact_location=f"{location}-flat") == filled.flat_id
    study = generated_study(NAME, trials=trials, epochs=epochs)
    ids = {run.run_id: uuid.uuid4().hex for run in study.runs}
    engine = create_engine(database)
    with engine.begin() as connection:
        _insert_runs(connection, study, study.runs, ids, study_id, location)
        flat = [_without_tags(run) for run in study.runs if run.kind == "search"][:100]
        flat_ids = {run.run_id: uuid.uuid4().hex for run in flat}
        _insert_runs(connection, study, flat, flat_ids, filled.flat_id, f"{location}-flat")
    engine.dispose()
    _write_files(artifacts, study, ids, set(filled.trials))
    note.write_text(json.dumps(facts), encoding="utf-8")
    return filled


def _insert_runs(
    connection: Connection,
    study: GeneratedStudy,
    runs: Sequence[RunRecord],
    ids: Mapping[str, str],
    experiment: str,
    location: str,
) -> None:
    tables = MetaData()
    tables.reflect(connection, only=["runs", "params", "tags", "metrics", "latest_metrics"])
    runs = [_with_twelve(run) for run in runs]
    for name, rows in {
        "runs": (_run_row(run, ids[run.run_id], experiment, location) for run in runs),
        "params": (_entry(ids[run.run_id], key, text) for run in runs for key, text in run.params.items()),
        "tags": (_entry(ids[run.run_id], key, text) for run in runs for key, text in _tags(run, ids).items()),
        "metrics": (row for run in runs for row in _points(study, run, ids[run.run_id])),
        "latest_metrics": (row for run in runs for row in _latest(run, ids[run.run_id])),
    }.items():
        for part in iter(lambda rows=rows: list(islice(rows, _ROWS)), []):  # type: ignore[misc]
            connection.execute(tables.tables[name].insert(), part)
            print(f"{len(part)} rows into {name}", file=sys.stderr, flush=True)


def _with_twelve(run: RunRecord) -> RunRecord:
    if run.kind != "search":
        return run
    return replace(run, metrics={name: run.metrics[name] for name in TWELVE if name in run.metrics})


def _without_tags(run: RunRecord) -> RunRecord:
    """A run that the dashboard does not know."""
    return replace(run, tags={}, parent_id=None)


def _run_row(run: RunRecord, run_id: str, experiment: str, location: str) -> dict[str, Any]:
    return {
        "run_uuid": run_id,
        "name": run.name,
        "source_type": "UNKNOWN",
        "source_name": "",
        "entry_point_name": "",
        "user_id": "benchmark",
        "status": run.status,
        "start_time": int(run.start_s * 1000),
        "end_time": None if run.end_s is None else int(run.end_s * 1000),
        "source_version": "",
        "lifecycle_stage": "active",
        "artifact_uri": f"{location}/{run_id}/artifacts",
        "experiment_id": int(experiment),
    }


def _entry(run_id: str, key: str, text: str) -> dict[str, Any]:
    return {"key": key, "value": text, "run_uuid": run_id}


def _tags(run: RunRecord, ids: Mapping[str, str]) -> dict[str, str]:
    parent = {} if run.parent_id is None else {"mlflow.parentRunId": ids[run.parent_id]}
    return {"mlflow.runName": run.name, **run.tags, **parent}


def _point(run_id: str, key: str, value: float, time_s: float, step: int) -> dict[str, Any]:
    return {
        "key": key,
        "value": value,
        "timestamp": int(time_s * 1000),
        "run_uuid": run_id,
        "step": step,
        "is_nan": False,
    }


def _latest(run: RunRecord, run_id: str) -> Rows:
    step = run.num_epochs if run.kind == "study" else run.num_epochs - 1
    for key, value in run.metrics.items():
        yield _point(run_id, key, value, run.last_report_s or run.start_s, step)


def _points(study: GeneratedStudy, run: RunRecord, run_id: str) -> Rows:
    """Every value of every metric; of the parent run, the newest ones only."""
    unit = study.by_run.get(run.run_id)
    if unit is None:
        yield from _latest(run, run_id)
    elif isinstance(unit, GeneratedRetraining):
        for record in unit.records():
            for key, value in record["metrics"].items():
                yield _point(run_id, key, value, record["time"], record["epoch"])
    else:
        columns = {**unit.metrics, "gpu_hours": np.cumsum(unit.metrics["seconds"]) / 3600}
        times = (unit.start_s + unit.seconds_since_start).tolist()
        for key in TWELVE:
            for epoch, value in enumerate(columns[key].tolist()):
                yield _point(run_id, key, value, times[epoch], epoch)


def _write_files(
    artifacts: Path,
    study: GeneratedStudy,
    ids: Mapping[str, str],
    with_files: set[int],
) -> None:
    """Curves of all trials; history, genotype and player of some; history and genotype of all retrainings."""
    parent = artifacts / ids[study.parent.run_id] / "artifacts"
    (parent / "histories").mkdir(parents=True)
    for first in range(0, len(study.searches), CHUNK):
        searches = study.searches[first : first + CHUNK]
        table = curves_table((search.number, search.records(cells=False)) for search in searches)
        (parent / "histories" / f"{first:04d}-{first + CHUNK - 1:04d}.parquet").write_bytes(parquet_bytes(table))
    (parent / "published.json").write_text(json.dumps(published_costs()), encoding="utf-8")
    for run_id, unit in study.by_run.items():
        if isinstance(unit, GeneratedSearch) and unit.number not in with_files:
            continue
        folder = artifacts / ids[run_id] / "artifacts"
        folder.mkdir(parents=True)
        (folder / "history.parquet").write_bytes(parquet_bytes(history_table(unit.records(), PRIMITIVES)))
        search = unit if isinstance(unit, GeneratedSearch) else unit.search
        (folder / "genotype.json").write_text(search.genotype().to_json(), encoding="utf-8")
        if isinstance(unit, GeneratedSearch):
            page = render_player(unit.history(), title=f"trial {unit.number}")
            (folder / "player.html").write_text(page, encoding="utf-8")
