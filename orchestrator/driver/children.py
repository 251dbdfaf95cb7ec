"""What a driver does for multi-trial searches: opens them, makes the jobs of their children, tidies up after them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict

import torch

from orchestrator.driver.child_trials import OpenSearch, OrderLog
from orchestrator.driver.progress import StudyView
from orchestrator.files.journal import Journal
from orchestrator.files.layout import StudyFolder, child_label, trial_label
from orchestrator.jobs import ChildJob, SearchJob
from orchestrator.sampling.bayesian import build_proposer
from orchestrator.study_file.spec import StudySpec
from orchestrator.tracking.run_spec import swept_values
from search_core.data.datasets import ImageData, load_data
from search_core.search.child_search import check_estimate
from search_core.search.child_training import ChildOrder
from search_core.search.children import ProposedChildren
from search_core.search.options import SearchOptions


class DriverChildren:
    """Runs multi-trial searches for a `StudySearcher` (`searcher.ChildWork`).

    Args:
        spec: the study file.
        folder: of the study.
        data: images of the study file, on the CPU.
        open_journal: journal of a trial or child by label.
        make_job: a search with these options, by label.
        track: is called when the journal of a search has something new.
        view: shows progress.
    """

    def __init__(
        self,
        spec: StudySpec,
        folder: StudyFolder,
        data: ImageData,
        *,
        open_journal: Callable[[str], Journal],
        make_job: Callable[[str, SearchOptions], SearchJob],
        track: Callable[[SearchJob, Journal], None],
        view: StudyView,
    ) -> None:
        self._spec, self._folder, self._data = spec, folder, data
        self._open_journal, self._make_job, self._track, self._view = open_journal, make_job, track, view
        self._shown: dict[int, int] = {}  # epochs of each search that were shown

    def open(self, number: int, options: SearchOptions) -> OpenSearch:
        """As `ChildWork.open`."""
        data = self._data
        if options.dataset != self._spec.search.dataset:  # it is swept
            data = load_data(options.dataset, torch.device("cpu"))
        check_estimate(options, data)
        journal = self._open_journal(trial_label(number))
        self._view.started(
            trial_label(number), options.epochs, journal, swept_values(self._spec.sweep, asdict(options))
        )
        return OpenSearch(
            number,
            ProposedChildren(options, data, build_proposer),
            OrderLog(self._folder.order_log(trial_label(number))),
            journal,
            lambda child: self._open_journal(child_label(number, child)),
        )

    def job(self, search: OpenSearch, order: ChildOrder) -> ChildJob:
        """As `ChildWork.job`."""
        alike = self._make_job(child_label(search.number, order.number), search.children.options)
        parent = None if order.parent is None else child_label(search.number, order.parent)
        return ChildJob(
            label=alike.label,
            checkpoints=alike.checkpoints,
            epochs=search.children.strategy.estimate.epochs,
            reservation=alike.reservation,
            options=alike.options,
            order=order,
            parent=None if parent is None else self._folder.checkpoints(self._spec, "search", parent),
        )

    def progressed(self, search: OpenSearch) -> None:
        """As `ChildWork.progressed`."""
        label, journal = trial_label(search.number), search.journal
        if journal.end is not None:
            self._view.ended(label, journal)
        elif len(journal.epochs) > self._shown.get(search.number, 0):
            self._view.epoch(label, journal)
        if journal.end is not None or len(journal.epochs) > self._shown.get(search.number, 0):
            self._track(self._make_job(label, search.children.options), journal)
        self._shown[search.number] = len(journal.epochs)
        self._tidy(search.number, search.needs_checkpoints)

    def was_over(self, number: int, journal: Journal) -> None:
        """As `ChildWork.was_over`."""
        best = journal.epochs[-1].get("child") if journal.epochs else None
        if self._folder.order_log(trial_label(number)).is_file():
            self._tidy(number, lambda child: child == best)

    def _tidy(self, number: int, is_needed: Callable[[int], bool]) -> None:
        """Drop the checkpoints of children that nobody resumes from: there are as many as children."""
        folder = self._folder.checkpoints(self._spec, "search", trial_label(number))
        for own in folder.glob("[0-9]*"):
            if not is_needed(int(own.name)):
                shutil.rmtree(own, ignore_errors=True)  # what a full or slow disk keeps costs room, not the search
