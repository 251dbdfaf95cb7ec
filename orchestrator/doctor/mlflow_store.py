"""What MLflow holds of a study, read in few requests: runs by the page, metric histories by the hundred runs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from dashboards.mlflow_store.databases import experiment_fault, sqlite_file
from dashboards.mlflow_store.mlflow_access import search_all
from dashboards.mlflow_store.store_lock import checked_store
from orchestrator.adapters.mlflow_internals import MAX_POINTS, MAX_RUNS, points_of_runs
from orchestrator.errors import StoreStateError, first_line
from orchestrator.tracking.curves import logged_rows
from orchestrator.tracking.model_versions import all_versions, existing_run
from search_core.errors import GenotypeError
from search_core.space.genotype import Genotype

#: What a store or server that is away, or no store at all, may raise; requests' errors are OSErrors.
READ_ERRORS = (MlflowException, SQLAlchemyError, OSError, ImportError, ValueError)

_PAGE = 500
_WORKERS = 8  # requests to an artifact server at a time

#: Logged points of a metric: (step, value), repeats included, in no order.
Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Artifacts:
    """What a run has as artifacts.

    Attributes:
        names: paths at the top.
        num_rows: of `history.parquet`; None if it is missing or no Parquet.
        genotype: of `genotype.json`; None if it is missing or not valid.
        fault: why the artifacts could not be read; empty if they could.
    """

    names: frozenset[str]
    num_rows: int | None = None
    genotype: Genotype | None = None
    fault: str = ""


class StudyRuns:
    """The runs of one experiment, as they were when this was made.

    Args:
        tracking_uri: MLflow store; a SQLite file that does not exist is not made.
        experiment: its name.

    Attributes:
        runs: all active runs, in the order in which they began.
        deleted: all runs that were deleted and not yet removed for good, likewise.
        histories: all points of all metrics: run id -> metric -> points.

    Raises:
        one of READ_ERRORS: if the store cannot be read or has no such experiment.
        StoreStateError: if the experiment was deleted, or if an older or newer MLflow made the store.
    """

    def __init__(self, tracking_uri: str, experiment: str) -> None:
        if (file := sqlite_file(tracking_uri)) is not None and not file.is_file():
            raise FileNotFoundError("there is no such file")
        with checked_store("MLflow", tracking_uri, makes=False) as fault:
            if fault is not None:
                raise StoreStateError(fault)
            self._client = MlflowClient(tracking_uri)
        found = self._client.get_experiment_by_name(experiment)
        if found is None:
            raise MlflowException(f"there is no experiment `{experiment}`")
        if found.lifecycle_stage != "active":
            raise StoreStateError(experiment_fault(tracking_uri, experiment, found.experiment_id, is_new=False))
        self._experiment_id: str = found.experiment_id
        self.runs, self.deleted = (
            search_all(self._client, [self._experiment_id], "", _PAGE, view)
            for view in (ViewType.ACTIVE_ONLY, ViewType.DELETED_ONLY)
        )
        self.histories = self._read_histories()

    def artifacts(self, runs: Sequence[Run]) -> dict[str, Artifacts]:
        """The artifacts of runs, by run id."""
        with ThreadPoolExecutor(_WORKERS) as pool:
            return dict(pool.map(lambda run: (run.info.run_id, self._artifacts(run.info.run_id)), runs))

    def curve_rows(self, run_id: str, names: Sequence[str]) -> dict[str, int]:
        """Epochs in the files that hold the metrics of all trials; those that cannot be read are left out."""
        try:
            return logged_rows(self._client, run_id, names)
        except READ_ERRORS:
            return {}

    def model_runs(self, name: str) -> dict[str, str]:
        """Run id of each version of a registered model."""
        return {str(version.version): str(version.run_id) for version in all_versions(self._client, name)}

    def has_run(self, run_id: str) -> bool:
        """Whether there is a run of this id in any experiment, perhaps a deleted one."""
        return existing_run(self._client, run_id) is not None

    def _read_histories(self) -> dict[str, dict[str, Points]]:
        found: dict[str, dict[str, Points]] = {run.info.run_id: {} for run in self.runs}
        for key in sorted({key for run in self.runs for key in run.data.metrics}):
            having = [run.info.run_id for run in self.runs if key in run.data.metrics]
            for first in range(0, len(having), MAX_RUNS):
                for run_id, step, value in self._points(having[first : first + MAX_RUNS], key):
                    found[run_id].setdefault(key, []).append((step, value))
        return found

    def _points(self, run_ids: Sequence[str], key: str) -> list[tuple[str, int, float]]:
        """(run id, step, value) of one metric, for up to a hundred runs in one request."""
        points = points_of_runs(self._client, run_ids, key)
        if points is None or (len(points) >= MAX_POINTS and len(run_ids) == 1):  # perhaps there are more
            return self._points_one_by_one(run_ids, key)
        if len(points) < MAX_POINTS:
            return points
        half = len(run_ids) // 2
        return [*self._points(run_ids[:half], key), *self._points(run_ids[half:], key)]

    def _points_one_by_one(self, run_ids: Sequence[str], key: str) -> list[tuple[str, int, float]]:
        return [
            (run_id, point.step, point.value)
            for run_id in run_ids
            for point in self._client.get_metric_history(run_id, key)
        ]

    def _artifacts(self, run_id: str) -> Artifacts:
        try:
            names = frozenset(entry.path for entry in self._client.list_artifacts(run_id))
            with tempfile.TemporaryDirectory() as folder:
                return Artifacts(names, self._num_rows(run_id, names, folder), self._genotype(run_id, names, folder))
        except READ_ERRORS as error:
            return Artifacts(frozenset(), fault=first_line(error))

    def _num_rows(self, run_id: str, names: Iterable[str], folder: str) -> int | None:
        if "history.parquet" not in names:
            return None
        try:
            return int(pq.read_metadata(self._client.download_artifacts(run_id, "history.parquet", folder)).num_rows)
        except ValueError:  # pyarrow's ArrowInvalid
            return None

    def _genotype(self, run_id: str, names: Iterable[str], folder: str) -> Genotype | None:
        if "genotype.json" not in names:
            return None
        file = Path(self._client.download_artifacts(run_id, "genotype.json", folder))
        try:
            return Genotype.from_json(file.read_text(encoding="utf-8"))
        except (GenotypeError, UnicodeDecodeError):
            return None
