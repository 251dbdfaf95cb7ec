"""Where pages get their records: the interface, so that unit tests inject one without a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from dashboards.history import History
from dashboards.records import ModelRecord, RunRecord, StudyOverview, StudyRecord
from search_core.space.genotype import Genotype


class Store(Protocol):
    """Read-only access to all studies of one MLflow store.

    Every method may raise `StoreAwayError`; records that were read before are given again instead, with a notice, where
    the method can say so.
    """

    @property
    def location(self) -> str:
        """Where the records come from, without passwords."""

    def overviews(self) -> Sequence[StudyOverview]:
        """All studies, those that ran last first."""

    def study(self, name: str) -> StudyRecord:
        """A study with its trials.

        Raises:
            NotFoundError: if there is none of this name.
        """

    def curves(self, study: StudyRecord, trials: Sequence[int]) -> Mapping[int, History]:
        """Metrics per epoch of some trials of a study, without their cells; trials without any are left out.

        Raises:
            BrokenArtifactError: if the file is not valid.
        """

    def history(self, run: RunRecord) -> History | None:
        """All that one search or retraining reported; None before it is written.

        Raises:
            BrokenArtifactError: if the file is not valid.
        """

    def genotype(self, run: RunRecord) -> Genotype | None:
        """The cell of a search or retraining; None before it is written.

        Raises:
            BrokenArtifactError: if the file is not a valid genotype.
        """

    def player(self, run: RunRecord) -> bytes | None:
        """The cell player of a search, an HTML file; None before it is written."""

    def published(self, study: StudyRecord) -> Mapping[str, Mapping[str, float]]:
        """Cost of the published cells at the size of the study's searches: cell, then metric as in its trials."""

    def models(self, study: StudyRecord) -> Mapping[str, ModelRecord]:
        """Registered models by run id of the retraining."""

    def run_url(self, run: RunRecord) -> str | None:
        """Address of a run in MLflow's own pages; None where no server has them."""
