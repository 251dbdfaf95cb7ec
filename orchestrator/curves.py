"""Metrics of all trials of a study as a few files on its parent run, so that curves of many need few requests.

Each file holds 32 trials by number and is written anew when one of them is over: the journals of these 32 are read for
it and no others, however many trials the study has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
from mlflow import MlflowClient

from dashboards.history import curves_table, parquet_bytes
from orchestrator.journal import Journal
from orchestrator.run_content import log_files
from orchestrator.runs import StudyFolder, trial_label

FOLDER = "histories"
TRIALS_A_FILE = 32


def file_of(number: int) -> str:
    """Name of the file that holds a trial."""
    first = number - number % TRIALS_A_FILE
    return f"{trial_label(first)}-{trial_label(first + TRIALS_A_FILE - 1)}.parquet"


def log_curves(client: MlflowClient, run_id: str, folder: StudyFolder, name: str) -> int:
    """Write one file from all epochs that the journals of its trials have; returns how many there are."""
    first = int(re.split(r"[-.]", name)[0])
    files = ((number, folder.journal("search", trial_label(number))) for number in range(first, first + TRIALS_A_FILE))
    # One journal at a time, and only its metrics are kept: distributions of 32 trials would be hundreds of megabytes.
    searches = [
        (number, [{"epoch": record["epoch"], "metrics": record["metrics"]} for record in Journal(file).epochs])
        for number, file in files
        if file.is_file()
    ]
    log_files(client, run_id, {name: parquet_bytes(curves_table(searches))}, FOLDER)
    return sum(len(records) for _, records in searches)


def logged_rows(client: MlflowClient, run_id: str, names: Iterable[str]) -> dict[str, int]:
    """Epochs in each of these files; those that are missing or no Parquet files are left out."""
    present = {Path(entry.path).name for entry in client.list_artifacts(run_id, FOLDER)}
    rows = {}
    with TemporaryDirectory() as place:
        for name in present & set(names):
            try:
                rows[name] = int(
                    pq.read_metadata(client.download_artifacts(run_id, f"{FOLDER}/{name}", place)).num_rows
                )
            except ValueError:  # pyarrow's ArrowInvalid: written anew
                continue
    return rows
