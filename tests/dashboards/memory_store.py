"""The store's interface over generated studies, for unit tests of pages: no server, no files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dashboards.errors import BrokenArtifactError, StoreAwayError, StudyNotFoundError
from dashboards.history import History, read_history
from dashboards.mlflow_store.study_records import overview
from dashboards.player.page import render_player
from dashboards.records import ModelRecord, RunRecord, StudyOverview, StudyRecord
from search_core.errors import GenotypeError
from search_core.space.genotype import Genotype
from tests.dashboards.generated import NOW_S, GeneratedStudy, published_costs
from tests.dashboards.generated_search import GeneratedRetraining, GeneratedSearch


@dataclass
class MemoryStore:
    """Gives what `MlflowStore` would give if these studies had been tracked.

    Attributes:
        studies: what it holds; may be changed between two calls, as a live study changes.
        away: why it cannot be reached; every call then raises `StoreAwayError`. Empty: it answers.
        notice: on every study.
        broken: labels of runs whose genotype and history are not valid.
        without_files: labels of runs that have no files yet.
        server: address of MLflow's own pages; None as for a SQLite file.
    """

    studies: Sequence[GeneratedStudy] = ()
    away: str = ""
    notice: str = ""
    broken: frozenset[str] = frozenset()
    without_files: frozenset[str] = frozenset()
    server: str | None = None
    location: str = "generated studies"
    asked: list[str] = field(default_factory=list)

    def overviews(self) -> Sequence[StudyOverview]:
        """As of `Store`."""
        self._ask("overviews")
        runs = sorted(self.studies, key=lambda study: study.parent.end_s or float("inf"), reverse=True)
        return [overview(study.name, study.parent) for study in runs]

    def study(self, name: str) -> StudyRecord:
        """As of `Store`."""
        self._ask(f"study {name}")
        return self._named(name).record(as_of_s=NOW_S, notice=self.notice)

    def curves(self, study: StudyRecord, trials: Sequence[int]) -> Mapping[int, History]:
        """As of `Store`."""
        self._ask("curves")
        searches = {search.number: search for search in self._named(study.overview.name).searches if search.epochs}
        return {number: searches[number].curves() for number in trials if number in searches}

    def history(self, run: RunRecord) -> History | None:
        """As of `Store`."""
        self._ask(f"history {run.label}")
        unit = self._unit(run)
        if run.label in self.broken:
            return read_history(b"not Parquet", f"history.parquet of run {run.label}")
        if unit is None or run.label in self.without_files or not unit.epochs:
            return None
        return unit.history()

    def genotype(self, run: RunRecord) -> Genotype | None:
        """As of `Store`."""
        self._ask(f"genotype {run.label}")
        unit = self._unit(run)
        if run.label in self.broken:
            try:
                return Genotype.from_json('{"normal": [["<script>alert(1)</script>", 0, 2]]}')
            except GenotypeError as error:
                raise BrokenArtifactError(f"genotype.json of run {run.label} must be a genotype: {error}") from error
        if unit is None or run.label in self.without_files or unit.end is None or not unit.epochs:
            return None
        return unit.genotype() if isinstance(unit, GeneratedSearch) else unit.search.genotype()

    def player(self, run: RunRecord) -> bytes | None:
        """As of `Store`."""
        self._ask(f"player {run.label}")
        unit = self._unit(run)
        if not isinstance(unit, GeneratedSearch) or not unit.epochs or run.label in self.without_files:
            return None
        return render_player(unit.history(), title=run.label).encode()

    def published(self, study: StudyRecord) -> Mapping[str, Mapping[str, float]]:
        """As of `Store`."""
        self._ask("published")
        return published_costs()

    def models(self, study: StudyRecord) -> Mapping[str, ModelRecord]:
        """As of `Store`."""
        self._ask("models")
        generated = self._named(study.overview.name)
        retrained = [run for run in generated.runs if "snas.model" in run.tags]
        return {
            run.run_id: ModelRecord(
                name=run.tags["snas.model"],
                version=str(index + 1),
                run_id=run.run_id,
                aliases=("champion",) if index == 0 else (),
            )
            for index, run in enumerate(retrained)
        }

    def run_url(self, run: RunRecord) -> str | None:
        """As of `Store`."""
        return self.server and f"{self.server}/#/experiments/{run.experiment_id}/runs/{run.run_id}"

    def _ask(self, question: str) -> None:
        self.asked.append(question)
        if self.away:
            raise StoreAwayError(self.away)

    def _named(self, name: str) -> GeneratedStudy:
        for study in self.studies:
            if study.name == name:
                return study
        raise StudyNotFoundError(f"there is no study `{name}` in {self.location}")

    def _unit(self, run: RunRecord) -> GeneratedSearch | GeneratedRetraining | None:
        return self._named(run.study).by_run.get(run.run_id)
