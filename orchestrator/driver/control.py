"""What a driver does about requests and the budget while it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from orchestrator.driver.budget import BudgetWatch
from orchestrator.driver.forking import explored
from orchestrator.driver.progress import StudyView
from orchestrator.driver.searcher import StudySearcher
from orchestrator.driver.steering import Steering, said
from orchestrator.errors import StudyPaused
from orchestrator.files.decisions import Ending, post
from orchestrator.files.journal import Journal
from orchestrator.files.layout import Phase
from orchestrator.jobs import Parent
from orchestrator.sampling.samplers import patiently
from orchestrator.study.study import Study

#: How often requests are looked for.
_LOOK_S = 1.0


class Control:
    """Looks for requests and at the budget about once a second, and acts on both.

    Args:
        study: the study.
        open_journal: journal of a trial by number.
        view: is shown what was decided.
        has_more: is called when the study has more trials than before.
    """

    def __init__(
        self,
        study: Study,
        open_journal: Callable[[int], Journal],
        view: StudyView,
        has_more: Callable[[], object],
    ) -> None:
        self._study, self._view, self._has_more = study, view, has_more
        self._steering = Steering(study, open_journal)
        self._budget = BudgetWatch(study, self._steering.decisions)
        self._searcher: StudySearcher | None = None
        self._looked = 0.0
        self._is_said = False  # that a budget with `run_on` is spent

    @property
    def ending(self) -> Ending | None:
        """Why the searches are over or rest."""
        return self._steering.decisions.ending

    def start(self) -> None:
        """Take what was asked for before this driver began; a pause is over, and so is a budget that has grown."""
        before = self.ending
        self._take()
        spent = None if self._study.spec.budget.on_end == "run_on" else self._budget.spent()
        if before is not None and (before.kind == "pause" or spent is None):
            self._budget.begin()
            self._budget.end()
        elif spent is not None and before is not None and spent != before:  # by another limit than before
            self._steering.decisions.append("budget", reason=spent.reason, on_end=spent.on_end)
        self._steering.is_running = True

    def begin_searches(self) -> None:
        """The searches go on, unless their budget is spent."""
        self._budget.begin()
        self._look_at_budget()

    def end_searches(self) -> None:
        """The searches do not run any more."""
        self._searcher = None
        self._budget.end()

    def steers(self, searcher: StudySearcher | None) -> None:
        """What gives trials to this launch; None if that is a fixed list."""
        self._searcher = searcher

    def may_begin(self, num_begun: int) -> bool:
        """Whether another trial may begin after so many."""
        may_begin = self._budget.may_begin(num_begun)
        self._look_at_budget()
        return may_begin and self.ending is None

    def halts(self, phase: Phase) -> bool:
        """Whether what runs stops at its checkpoint."""
        ending = self.ending
        return ending is not None and (ending.kind == "pause" or (phase == "search" and ending.on_end == "checkpoint"))

    def raise_if_paused(self) -> None:
        """End the driver if a user asked for a pause.

        Raises:
            StudyPaused: with the command that continues.
        """
        if self.ending is not None and self.ending.kind == "pause":
            raise StudyPaused(f"{self.ending.reason}; {self._study.resume_hint}")

    @property
    def replaced(self) -> set[int]:
        """Numbers of the trials in whose place others were forked."""
        return {entry["of"] for entry in self._steering.decisions.entries if entry["kind"] == "fork" and "of" in entry}

    def replace(self, trial: int, parent: Parent, draw: Callable[[], float]) -> None:
        """Ask for a trial that is forked from a better one in place of this one, with settings nearby.

        Args:
            trial: the number of the one that is stopped.
            parent: where the other begins.
            draw: gives numbers in [0, 1).
        """
        trials = patiently(lambda: self._study.optuna_study.get_trials(deepcopy=False))
        values = explored(self._study.spec.sweep, trials[parent.trial].params, draw)
        post(
            self._study.folder.requests,
            "fork",
            trial=parent.trial,
            epoch=parent.epoch,
            values=values,
            count=1,
            of=trial,
        )
        self._looked = -math.inf  # it is taken before Tune asks for another trial

    def saw(self, number: int, journal: Journal) -> None:
        """A trial has a new report, or is over."""
        self._budget.saw(number, journal)

    def look(self) -> None:
        """Take requests and look at the budget, unless that was done a moment ago."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_S:
            self._looked = now
            self._take()
            if self._searcher is not None:
                self._look_at_budget()

    def _look_at_budget(self) -> None:
        if self.ending is not None or (ending := self._budget.spent()) is None:
            return
        if self._study.spec.budget.on_end == "run_on":
            if not self._is_said:
                self._is_said = True
                self._view.warn(f"{ending.reason}; the study runs on")
            return
        self._steering.decisions.append("budget", reason=ending.reason, on_end=ending.on_end)
        rest = "trials that run finish" if ending.on_end == "finish" else "trials that run wait at their checkpoints"
        self._view.note(f"{ending.reason}: no trial begins any more, {rest}")

    def _take(self) -> None:
        for decision in self._steering.take():
            self._view.note(said(decision))
            if "trials" in decision:
                self._view.grown(decision["num_trials"])
                self._has_more()
            if self._searcher is not None:
                self._searcher.steered(decision.get("trial"))
