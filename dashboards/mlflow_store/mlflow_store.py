"""MLflow's runs and files as frozen records, read only."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run

from dashboards.errors import BrokenArtifactError, StoreAwayError, StudyNotFoundError
from dashboards.history import History, read_curves, read_history
from dashboards.mlflow_store.artifact_cache import ArtifactCache
from dashboards.mlflow_store.databases import current_address, experiment_fault
from dashboards.mlflow_store.mlflow_access import MlflowAccess, search_all
from dashboards.mlflow_store.registry import model_versions
from dashboards.mlflow_store.run_listing import RunListing, run_record
from dashboards.mlflow_store.study_records import newest_report, overview, says_objectives, study_record
from dashboards.records import ModelRecord, RunRecord, StudyOverview, StudyRecord
from search_core.errors import GenotypeError
from search_core.space.genotype import Genotype

Content = TypeVar("Content")

_CHUNK = re.compile(r"(\d{4,})-(\d{4,})\.parquet")  # trials in a file of curves
_TOP_RUNS = "tags.`snas.unit` IS NOT NULL and tags.`mlflow.parentRunId` IS NULL"
_RUNNING = "attributes.status = 'RUNNING'"


class MlflowStore:
    """Implements `dashboards.store.Store`; may be used by several threads.

    Args:
        tracking_uri: address of an MLflow server, or of a database such as `sqlite:///mlflow.db`.
        cache_folder: where files of runs are kept; None: a temporary folder.
        page: runs that one request may give.
        refresh_s: what is younger is given again without asking the store.
        relist_s: after this many seconds a study's runs are listed again, so that deletions show.
    """

    def __init__(
        self,
        tracking_uri: str,
        *,
        cache_folder: Path | None = None,
        page: int = 1000,
        refresh_s: float = 2.0,
        relist_s: float = 600.0,
    ) -> None:
        self._access = MlflowAccess(tracking_uri, pause_s=refresh_s)
        self._files = ArtifactCache(self._access, cache_folder, decoded=40)
        self._page, self._refresh_s, self._relist_s = page, refresh_s, relist_s
        self._lock = threading.Lock()  # of the dictionaries; never held while the store is asked
        self._overview_lock = threading.Lock()
        self._overviews: tuple[float, list[StudyOverview]] | None = None
        self._old: dict[str, tuple[RunRecord, StudyOverview]] = {}  # lines about old studies that are over
        self._listings: dict[str, RunListing] = {}
        self._records: dict[str, tuple[tuple[int, str], StudyRecord]] = {}
        self._models: dict[str, tuple[float, str, Mapping[str, ModelRecord]]] = {}

    @property
    def location(self) -> str:
        """Address of the store, without passwords."""
        return self._access.location

    def overviews(self) -> Sequence[StudyOverview]:
        """All studies, those that ran last first.

        Raises:
            StoreAwayError: if the store cannot be reached.
        """
        with self._overview_lock:
            if self._overviews is None or time.monotonic() - self._overviews[0] > self._refresh_s:
                asked = self._asked_overviews()
                self._overviews = time.monotonic(), asked
            return self._overviews[1]

    def study(self, name: str) -> StudyRecord:
        """A study with its trials; what was known before, with a notice, if the store is away now.

        Raises:
            NotFoundError: if there is none of this name.
            StoreAwayError: if the store cannot be reached and nothing is known.
        """
        notice = ""
        try:
            listing = self._listing(name)
            listing.refresh()
        except StoreAwayError as error:
            known = self._listings.get(name)
            if known is None or known.as_of_s is None:
                raise
            listing, notice = known, f"This is what was known before: {error}."
        if not listing.records:
            raise StudyNotFoundError(f"there is no study `{name}` in {self.location}: it has no runs of searches")
        as_of_s, state = listing.as_of_s or time.time(), (listing.changes, notice)
        known_record = self._records.get(name)
        if known_record is None or known_record[0] != state:
            known_record = state, study_record(name, listing.records, as_of_s=as_of_s, notice=notice)
            with self._lock:
                self._records[name] = known_record
        return replace(known_record[1], as_of_s=as_of_s)

    def curves(self, study: StudyRecord, trials: Sequence[int]) -> Mapping[int, History]:
        """Metrics per epoch of some trials, from the files that hold them; trials without any are left out.

        Raises:
            BrokenArtifactError: if a file is not valid.
            StoreAwayError: if the store cannot be reached.
        """
        parent, wanted = study.overview.run, set(trials)
        if parent is None:
            return {}
        names = self._files.names(parent, self._root(parent), "histories")
        chunks = [
            name
            for name in names
            if (match := _CHUNK.fullmatch(name)) and any(int(match[1]) <= number <= int(match[2]) for number in wanted)
        ]
        with ThreadPoolExecutor(max_workers=4) as pool:
            parts = list(pool.map(lambda name: self._read(parent, f"histories/{name}", read_curves), chunks))
        return {number: history for part in parts for number, history in (part or {}).items() if number in wanted}

    def history(self, run: RunRecord) -> History | None:
        """All that one search or retraining reported; None before it is written.

        Raises:
            BrokenArtifactError: if the file is not valid.
            StoreAwayError: if the store cannot be reached.
        """
        return self._read(run, "history.parquet", read_history)

    def genotype(self, run: RunRecord) -> Genotype | None:
        """The cell of a search or retraining; None before it is written.

        Raises:
            BrokenArtifactError: if the file is not a valid genotype.
            StoreAwayError: if the store cannot be reached.
        """
        return self._read(run, "genotype.json", _genotype)

    def player(self, run: RunRecord) -> bytes | None:
        """The cell player of a search, an HTML file; None before it is written.

        Raises:
            StoreAwayError: if the store cannot be reached.
        """
        return self._read(run, "player.html", lambda content, _: content)

    def published(self, study: StudyRecord) -> Mapping[str, Mapping[str, float]]:
        """Cost of the published cells at the size of the study's searches; empty if the study does not say.

        Raises:
            BrokenArtifactError: if the file is not valid.
            StoreAwayError: if the store cannot be reached.
        """
        parent = study.overview.run
        return {} if parent is None else self._read(parent, "published.json", _published) or {}

    def models(self, study: StudyRecord) -> Mapping[str, ModelRecord]:
        """Registered models by run id of the retraining: two questions per name, none per run.

        Raises:
            StoreAwayError: if the store cannot be reached.
        """
        name, now = study.overview.name, time.monotonic()
        known = self._models.get(name)
        if known is not None and known[1] == study.version and now - known[0] < 15 * self._refresh_s:
            return known[2]
        tagged = {retraining.run.tags.get("snas.model", "") for retraining in study.retrainings} - {""}
        run_ids = {retraining.run.run_id for retraining in study.retrainings}
        found: dict[str, ModelRecord] = {}
        for registered in sorted(tagged):
            for model in self._access.ask(lambda client, registered=registered: model_versions(client, registered)):  # type: ignore[misc]
                newest = found.get(model.run_id)
                if model.run_id in run_ids and (newest is None or int(newest.version) < int(model.version)):
                    found[model.run_id] = model
        with self._lock:
            self._models[name] = now, study.version, found
        return found

    def run_url(self, run: RunRecord) -> str | None:
        """Address of a run in MLflow's own pages; None where no server has them."""
        if not self._access.is_server:
            return None
        return f"{self.location.rstrip('/')}/#/experiments/{run.experiment_id}/runs/{run.run_id}"

    def _asked_overviews(self) -> list[StudyOverview]:
        names, tops, running = self._access.ask(self._top_runs)
        by_experiment, at_work = _by_experiment(tops, names), _by_experiment(running, names)
        found = [
            self._overview(names[experiment], runs, at_work.get(experiment, []))
            for experiment, runs in by_experiment.items()
        ]
        return [line for line, _ in sorted(found, key=lambda pair: pair[1], reverse=True)]

    def _top_runs(self, client: MlflowClient) -> tuple[dict[str, str], list[Run], list[Run]]:
        """Names of all experiments by id, the runs below no other (studies, single searches), and all that run."""
        names: dict[str, str] = {}
        token: str | None = None
        while token is None or token:
            experiments = client.search_experiments(max_results=self._page, page_token=token)
            names |= {entry.experiment_id: entry.name for entry in experiments}
            token = experiments.token or ""
        if not names:
            return names, [], []
        tops, running = (search_all(client, list(names), query, self._page) for query in (_TOP_RUNS, _RUNNING))
        return names, tops, running

    def _overview(self, name: str, tops: list[RunRecord], running: list[RunRecord]) -> tuple[StudyOverview, float]:
        """The line about an experiment, and when it ran last.

        Args:
            name: of the experiment.
            tops: its runs below no other.
            running: its runs that run, at any place.
        """
        record = study_record(name, tops, as_of_s=0.0)
        parent = record.overview.run
        if parent is None:
            line = record.overview
            line = replace(line, state="running" if running else line.state)
        else:
            line = overview(name, parent) if says_objectives(parent) else self._old_overview(name, parent)
        ends_s = [float("inf") if run.end_s is None else run.end_s for run in (*tops, *running)]
        return replace(line, last_report_s=newest_report([line, *tops, *running])), max(ends_s)

    def _old_overview(self, name: str, parent: RunRecord) -> StudyOverview:
        """The line about a study whose parent run has no counts: all runs are listed, once if it is over."""
        known = self._old.get(name)
        if known is not None and known[0] == parent:
            return known[1]
        try:
            line = self.study(name).overview
        except StudyNotFoundError:  # deleted since
            return overview(name, parent)
        if parent.status != "RUNNING":
            self._old[name] = parent, line
        return line

    def _listing(self, name: str) -> RunListing:
        """The listing of an experiment; its id is looked up again when a listing finds nothing."""
        known = self._listings.get(name)
        if known is not None and (known.records or known.as_of_s is None):
            return known
        experiment = self._access.ask(lambda client: client.get_experiment_by_name(name))
        if experiment is None or experiment.lifecycle_stage != "active":
            raise StudyNotFoundError(self._unknown(name, experiment))
        with self._lock:
            known = self._listings.get(name)
            if known is None or known.experiment_id != experiment.experiment_id:
                known = RunListing(
                    self._access,
                    experiment.experiment_id,
                    name,
                    page=self._page,
                    refresh_s=self._refresh_s,
                    relist_s=self._relist_s,
                )
                self._listings[name] = known
            return known

    def _unknown(self, name: str, experiment: Experiment | None) -> str:
        if experiment is None:
            return f"there is no study `{name}` in {self.location}"
        fault = experiment_fault(self._access.tracking_uri, name, experiment.experiment_id, is_new=False)
        return f"{fault.what}: {fault.remedy}"

    def _root(self, run: RunRecord) -> str:
        listing = self._listings.get(run.study)
        known = listing.artifact_uri(run.run_id) if listing else None
        root = known or str(self._access.ask(lambda client: client.get_run(run.run_id)).info.artifact_uri)
        return current_address(root, self._access.tracking_uri)

    def _read(self, run: RunRecord, path: str, decode: Callable[[bytes, str], Content]) -> Content | None:
        return self._files.read(run, self._root(run), path, decode)


def _by_experiment(runs: Sequence[Run], names: Mapping[str, str]) -> dict[str, list[RunRecord]]:
    found: dict[str, list[RunRecord]] = {}
    for run in runs:
        record = run_record(run, names[run.info.experiment_id])
        if record is not None:
            found.setdefault(record.experiment_id, []).append(record)
    return found


def _genotype(content: bytes, place: str) -> Genotype:
    try:
        return Genotype.from_json(content.decode())
    except (GenotypeError, UnicodeDecodeError) as error:
        raise BrokenArtifactError(f"{place} must be a genotype: {error}") from error


def _published(content: bytes, place: str) -> Mapping[str, Mapping[str, float]]:
    try:
        cells = json.loads(content)
        return {str(name): {str(key): float(value) for key, value in costs.items()} for name, costs in cells.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BrokenArtifactError(f"{place} must name the costs of cells, got: {error}") from error
