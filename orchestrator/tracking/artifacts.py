"""What the MLflow run of a search or retraining holds beside its metrics: cells, history, player."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow import MlflowClient

from dashboards.history import history_table, parquet_bytes, read_history
from dashboards.pictures.cells import render_cells, render_cells_svg
from dashboards.player.page import render_player
from orchestrator.files.journal import Journal
from orchestrator.tracking.run_spec import Unit
from search_core.space.genotype import Genotype

CHOICES = "choices.json"
HISTORY, PLAYER, GENOTYPE, CELLS = "history.parquet", "player.html", "genotype.json", "cells.svg"

_PICTURES = "cells"  # key of the image series


def picture_steps(client: MlflowClient, run_id: str) -> set[int]:
    """Epochs of which the run has a picture."""
    names = [Path(entry.path).name.split("+") for entry in client.list_artifacts(run_id, "images")]
    return {int(name[2]) for name in names if name[:2] == [_PICTURES, "step"]}


def log_picture(client: MlflowClient, run_id: str, unit: Unit, record: Mapping[str, Any]) -> None:
    """Add the cells of one epoch to the run's image series."""
    picture = render_cells(
        Genotype.from_dict(record["genotype"]),
        probabilities=_probabilities(record),
        primitives=unit.primitives,
        title=f"{unit.label}, epoch {record['epoch'] + 1}",
    )
    client.log_image(run_id, picture, key=_PICTURES, step=record["epoch"])


def log_history(client: MlflowClient, run_id: str, unit: Unit, records: Sequence[Mapping[str, Any]]) -> None:
    """Write the history of these epochs, and for a search the player of its cells, in place of what was there."""
    files = {HISTORY: parquet_bytes(history_table(records, unit.primitives))}
    if unit.kind == "search" and records:
        history = read_history(files[HISTORY], HISTORY)
        files[PLAYER] = render_player(history, title=unit.label, subtitle=unit.about).encode()
    log_files(client, run_id, files)


def log_results(client: MlflowClient, run_id: str, unit: Unit, journal: Journal) -> None:
    """Write what remains of a search or retraining that is over: its history, its cell and a picture of it."""
    last = journal.epochs[-1] if journal.epochs and unit.kind == "search" else None
    genotype = unit.genotype or (Genotype.from_dict(last["genotype"]) if last is not None else None)
    log_history(client, run_id, unit, journal.epochs)
    if genotype is not None:
        picture = render_cells_svg(
            genotype,
            probabilities=None if last is None else _probabilities(last),
            primitives=unit.primitives,
            title=unit.label,
        )
        files = {GENOTYPE: genotype.to_json().encode(), CELLS: picture.encode()}
        if last is not None and "choices" in last:
            files[CHOICES] = json.dumps(last["choices"]).encode()
        log_files(client, run_id, files)


def log_files(client: MlflowClient, run_id: str, files: Mapping[str, bytes], folder: str | None = None) -> None:
    """Write artifacts of a run by name, in a folder of its artifacts."""
    with TemporaryDirectory() as place:
        for name, content in files.items():
            file = Path(place) / name
            file.write_bytes(content)
            client.log_artifact(run_id, str(file), folder)


def _probabilities(record: Mapping[str, Any]) -> dict[Any, Any]:
    return {cell_type: cell["probabilities"] for cell_type, cell in record["cells"].items()}
