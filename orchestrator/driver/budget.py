"""What the searches of a study have taken of their budget, from decisions, journals and Optuna's storage."""

from __future__ import annotations

import time

from optuna.trial import TrialState

from dashboards.formatting import HOURS, shown_metric
from orchestrator.files.decisions import Decisions, Ending
from orchestrator.files.journal import Journal
from orchestrator.files.layout import TRUNK, trial_label
from orchestrator.sampling.constraints import violations
from orchestrator.sampling.samplers import patiently
from orchestrator.study.hours import shared_of
from orchestrator.study.standing import reserved_hours
from orchestrator.study.study import Study


class BudgetWatch:
    """Says when the budget of the searches is spent.

    Args:
        study: the study, with its budget.
        decisions: when drivers worked on the searches.
    """

    def __init__(self, study: Study, decisions: Decisions) -> None:
        self._study, self._budget, self._decisions = study, study.spec.budget, decisions
        self._since: float | None = None  # monotonic seconds
        self._before_s = _worked_s(decisions)
        self._gpu_hours: dict[int, float] = {}
        self._ended: set[int] = set()  # whose values were not looked at yet
        self._reached = ""
        self.num_begun = 0
        if self._budget.gpu_hours is not None or self._budget.target is not None or self._budget.trials is not None:
            self._read()

    def _read(self) -> None:
        """What trials before took and reached."""
        trials = patiently(lambda: self._study.optuna_study.get_trials(deepcopy=False))
        self.num_begun = sum(trial.state != TrialState.WAITING for trial in trials)
        for trial in trials:
            if self._budget.gpu_hours is not None and trial.state != TrialState.WAITING:
                journal = Journal(self._study.folder.journal("search", trial_label(trial.number)))
                self._gpu_hours[trial.number] = journal.last_metric(HOURS[0]) if journal.epochs else 0.0
            if trial.state == TrialState.COMPLETE and not violations(trial):
                self._look(trial.number, trial.values)

    def begin(self) -> None:
        """The searches go on. A session before that was killed ended with its last report."""
        last = next((entry for entry in reversed(self._decisions.entries) if entry["kind"] in ("begin", "end")), None)
        if last is not None and last["kind"] == "begin":
            reports = (
                file.stat().st_mtime for file in self._study.folder.journal("search", "any").parent.glob("*.jsonl")
            )
            self._decisions.append("end", time=max([last["time"], *reports]))
        self._before_s = _worked_s(self._decisions)
        self._decisions.append("begin")
        self._since = time.monotonic()

    def end(self) -> None:
        """The searches are over, or stop."""
        if self._since is not None:
            self._since = None
            self._decisions.append("end")
            self._before_s = _worked_s(self._decisions)

    def saw(self, number: int, journal: Journal) -> None:
        """A trial has a new report, or is over."""
        if self._budget.gpu_hours is not None and journal.epochs:
            self._gpu_hours[number] = journal.epochs[-1]["metrics"].get(HOURS[0], 0.0)
        if self._budget.target is not None and journal.end is not None:
            self._ended.add(number)

    def _look_at_ended(self) -> None:
        """Whether a trial that has ended reached the target; its end is reported to Optuna after its last report."""
        trials = patiently(lambda: self._study.optuna_study.get_trials(deepcopy=False)) if self._ended else []
        for trial in [trials[number] for number in self._ended if trials[number].state.is_finished()]:
            self._ended.discard(trial.number)
            if trial.state == TrialState.COMPLETE and not violations(trial):
                self._look(trial.number, trial.values)

    def _look(self, number: int, values: list[float]) -> None:
        target, goals = self._budget.target, self._study.spec.objectives
        if target is None or self._reached:
            return
        goal, value = next(pair for pair in zip(goals, values, strict=True) if pair[0].metric == target.metric)
        if value <= target.value if goal.mode == "min" else value >= target.value:
            named = f"{target.metric} {shown_metric(target.metric, value)}"
            self._reached = f"trial {number} reached the target: {named}"

    def may_begin(self, num_begun: int) -> bool:
        """Whether another trial may begin after so many."""
        self.num_begun = num_begun
        return self._budget.on_end == "run_on" or self._budget.trials is None or num_begun < self._budget.trials

    def spent(self) -> Ending | None:
        """Why the searches end; None while they may go on. With `on_end: run_on` it is only said."""
        budget, study = self._budget, self._study
        on_end = "finish" if budget.on_end == "run_on" else budget.on_end
        worked_s = self._before_s + (0.0 if self._since is None else time.monotonic() - self._since)
        if budget.hours is not None and worked_s >= budget.hours * 3600:
            return Ending("budget", f"the budget of {budget.hours:g} hours is spent", on_end)
        if budget.gpu_hours is not None:
            shared = shared_of(Journal(study.folder.journal("trunk", TRUNK)))[1] if study.spec.fork else 0.0
            taken = reserved_hours(((HOURS[0], hours) for hours in self._gpu_hours.values()), shared)
            if taken.get(HOURS[0], 0.0) >= budget.gpu_hours:
                return Ending("budget", f"the budget of {budget.gpu_hours:g} GPU hours is spent", on_end)
        self._look_at_ended()
        if self._reached:
            return Ending("budget", self._reached, on_end)
        if budget.trials is not None and budget.trials <= self.num_begun < study.spec.num_trials:
            return Ending("budget", f"the budget of {budget.trials} trials is spent", "finish")  # those that began
        return None


def _worked_s(decisions: Decisions) -> float:
    """Seconds of the clock in which drivers worked on the searches, sessions that have ended."""
    seconds, began = 0.0, None
    for entry in decisions.entries:
        if entry["kind"] == "begin" and began is None:
            began = entry["time"]
        elif entry["kind"] == "end" and began is not None:
            seconds, began = seconds + entry["time"] - began, None
    return seconds
