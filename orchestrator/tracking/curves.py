"""Metrics of all trials of a study as a few files on its parent run, so that curves of many need few requests.

Each file holds 32 trials by number and is written again when one of them is over: from the journals of these 32 and no
others, however many trials the study has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
from mlflow import MlflowClient

from dashboards.history import curves_table, parquet_bytes
from orchestrator.files.journal import Journal
from orchestrator.files.layout import StudyFolder, trial_label
from orchestrator.tracking.artifacts import log_files

FOLDER = "histories"
TRIALS_A_FILE = 32

#: Files whose trials are kept in memory, about a megabyte each: at most this many are written in turns.
_FILES_IN_MEMORY = 4


def file_of(number: int) -> str:
    """Name of the file that holds a trial."""
    first = number - number % TRIALS_A_FILE
    return f"{trial_label(first)}-{trial_label(first + TRIALS_A_FILE - 1)}.parquet"


class CurveFiles:
    """Writes the files of one study; a trial that is over is read once while trials of its file still run.

    Args:
        client: MLflow.
        run_id: parent run of the study.
        folder: where its journals are.
        open_journal: journal of a trial by its label.
    """

    def __init__(
        self, client: MlflowClient, run_id: str, folder: StudyFolder, open_journal: Callable[[str], Journal]
    ) -> None:
        self._client, self._run_id, self._folder, self._open = client, run_id, folder, open_journal
        self._over: dict[str, dict[int, pa.Table]] = {}  # rows of trials that are over, by file; last written last

    def write(self, name: str) -> int:
        """Write one file from all epochs that the journals of its trials have; returns how many there are."""
        first = int(re.split(r"[-.]", name)[0])
        over = self._over[name] = self._over.pop(name, {})
        while len(self._over) > _FILES_IN_MEMORY:
            self._over.pop(next(iter(self._over)))
        tables = [self._rows(number, over) for number in range(first, first + TRIALS_A_FILE)]
        # Metrics that only some trials have are null in the others.
        table = pa.concat_tables([curves_table([]), *tables], promote_options="default")
        log_files(self._client, self._run_id, {name: parquet_bytes(table)}, FOLDER)
        if len(over) == TRIALS_A_FILE:
            self._over.pop(name)
        return int(table.num_rows)

    def _rows(self, number: int, over: dict[int, pa.Table]) -> pa.Table:
        """Rows of one trial; the journal, with distributions of all its epochs, is not kept."""
        if number in over:
            return over[number]
        label = trial_label(number)
        if not self._folder.journal("search", label).is_file():
            return curves_table([])
        journal = self._open(label)
        is_over = journal.end is not None  # asked first: the journal may grow meanwhile
        rows = curves_table([(number, list(journal.epochs))])
        if is_over:
            over[number] = rows
        return rows


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
            except ValueError:  # pyarrow's ArrowInvalid: written again
                continue
    return rows
