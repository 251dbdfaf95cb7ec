"""The runs of one experiment as frozen records: listed once, then kept up to date by two small questions.

No call per run or metric: a search gives the newest value, step and time of every metric of every run.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Mapping
from typing import get_args

from mlflow import MlflowClient
from mlflow.entities import Run

from dashboards.mlflow_store.mlflow_access import MlflowAccess, search_all
from dashboards.records import RunKind, RunRecord

#: Runs that ended so long before the newest known end are asked for again: clocks differ, and tags come after the end.
_SLACK_MS = 60_000


class RunListing:
    """What is known of the runs of one experiment; may be used by several threads.

    Args:
        access: the store.
        experiment_id: of the experiment.
        study: its name.
        page: runs that one request may give.
        refresh_s: records so young are given again without a question.
        relist_s: after this many seconds all runs are listed again, which shows deletions and whatever else was missed.
    """

    def __init__(
        self, access: MlflowAccess, experiment_id: str, study: str, *, page: int, refresh_s: float, relist_s: float
    ) -> None:
        self.experiment_id = experiment_id
        self.changes = 0  # counts the times that anything was new
        self.as_of_s: float | None = None
        self._access, self._study, self._page = access, study, page
        self._refresh_s, self._relist_s = refresh_s, relist_s
        self._lock = threading.Lock()
        self._records: dict[str, RunRecord] = {}
        self._artifact_uris: dict[str, str] = {}
        self._refreshed = self._listed = -float("inf")

    @property
    def records(self) -> list[RunRecord]:
        """As of the last refresh."""
        return list(self._records.values())

    def artifact_uri(self, run_id: str) -> str | None:
        """Where the files of a run are, if it is known."""
        return self._artifact_uris.get(run_id)

    def refresh(self) -> None:
        """Bring the records up to the store.

        Raises:
            StoreAwayError: if it does not answer; the records stay.
        """
        with self._lock:
            now = time.monotonic()
            if now - self._refreshed < self._refresh_s:
                return
            found = None if now - self._listed > self._relist_s else self._access.ask(self._changed)
            if found is None or self._misses_running(found) or self._ended_study(found):
                found = self._access.ask(lambda client: search_all(client, [self.experiment_id], "", self._page))
                self._listed = now
                records = self._taken(found)
            else:
                records = self._records | self._taken(found)
            if records != self._records:
                self._records = records
                self.changes += 1
            self._refreshed, self.as_of_s = time.monotonic(), time.time()

    def _changed(self, client: MlflowClient) -> list[Run]:
        """Runs that run, and runs that ended lately, new ones among them."""
        ends_s = [record.end_s for record in self._records.values() if record.end_s is not None]
        since_ms = int(max(ends_s) * 1000) - _SLACK_MS if ends_s else 0
        ended = search_all(client, [self.experiment_id], f"attributes.end_time > {since_ms}", self._page)
        # Asked second: a run that ends in between is seen as ended, not missed.
        return search_all(client, [self.experiment_id], "attributes.status = 'RUNNING'", self._page) + ended

    def _misses_running(self, found: Iterable[Run]) -> bool:
        """Whether a run was deleted, or ended by a clock that is far behind."""
        ids = {run.info.run_id for run in found}
        return any(record.status == "RUNNING" and run_id not in ids for run_id, record in self._records.items())

    def _ended_study(self, found: Iterable[Run]) -> bool:
        """Whether the study is over since the last look: at its end, tags are set on runs that ended long before."""
        ended = {run.info.run_id for run in found if run.info.status != "RUNNING"}
        return any(
            record.kind == "study" and record.status == "RUNNING" and run_id in ended
            for run_id, record in self._records.items()
        )

    def _taken(self, runs: Iterable[Run]) -> dict[str, RunRecord]:
        records = {}
        for run in runs:
            record = run_record(run, self._study)
            if record is not None:
                records[record.run_id] = record
                self._artifact_uris[record.run_id] = run.info.artifact_uri
        return records


def run_record(run: Run, study: str) -> RunRecord | None:
    """A run of MLflow as a record; None if the orchestrator did not make it.

    Args:
        run: as a search gives it.
        study: name of its experiment.
    """
    tags, info = run.data.tags, run.info
    kind: RunKind | None = next((kind for kind in get_args(RunKind) if kind == tags.get("snas.kind")), None)
    if kind is None or "snas.unit" not in tags:
        return None
    points = run.data.to_proto().metrics  # the entity's own `metrics` has neither steps nor times
    newest_step = max((point.step for point in points), default=None)
    return RunRecord(
        run_id=info.run_id,
        experiment_id=info.experiment_id,
        study=study,
        label=tags["snas.unit"],
        name=info.run_name or tags["snas.unit"],
        kind=kind,
        status=info.status,
        parent_id=tags.get("mlflow.parentRunId"),
        start_s=(info.start_time or 0) / 1000,
        end_s=None if not info.end_time or info.status == "RUNNING" else info.end_time / 1000,
        last_report_s=max((point.timestamp for point in points), default=0) / 1000 or None,
        num_epochs=0 if newest_step is None else newest_step + (kind != "study"),
        params=_interned(run.data.params),
        metrics={sys.intern(point.key): point.value for point in points},
        tags=_interned(tags),
    )


def _interned(texts: Mapping[str, str]) -> dict[str, str]:
    """Texts that a thousand runs share are kept once."""
    return {sys.intern(str(key)): sys.intern(str(text)) for key, text in texts.items()}
