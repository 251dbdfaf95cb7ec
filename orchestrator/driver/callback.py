"""What the driver does with the events of a Tune trial: journal, MLflow, progress view, a watch on silent workers."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial

from orchestrator.adapters.ray_internals import actor_id
from orchestrator.driver.launch import OwnFault, job_label
from orchestrator.driver.progress import StudyView
from orchestrator.errors import OrchestratorError, first_line, last_line
from orchestrator.files.journal import Journal
from orchestrator.jobs import ChildJob, Job, JobReport
from orchestrator.study.hours import reserved, with_hours
from orchestrator.worker.distributed import release

_LONGEST_STEP_S = 5.0
#: How Ray says that its memory monitor killed a worker, and how we do.
_MEMORY_MONITOR = ("low on memory", "out of memory issue")
_KILLED_FOR_MEMORY = "killed by Ray's memory monitor, as its node was full"


@dataclass
class _Watched:
    """A trial that runs: the worker it has, and when that last reported (monotonic seconds)."""

    actor: Any
    last_report: float = field(default_factory=time.monotonic)
    is_killed: bool = False


class PhaseCallback(Callback):
    """Serves one phase of a study.

    The journal is written first and MLflow is brought up to it elsewhere, so that a tracking server that is away for a
    while costs nothing but a warning.

    Args:
        values: what makes a trial with a given job differ from others, in one line.
        open_journal: journal by label.
        track: is called when the journal of a job has something new.
        view: shows progress.
        has_room: whether a trial that ran out of memory may have more of it.
        is_for_all: whether all trials of the phase would meet a permanent error of this kind, which ends the study.
        collapse: why a search ends with a report of a collapse; None if it does not.
        failed: is called with the label of a trial that failed, after its journal has the reason.
        look: is called several times a second.
        fault: keeps what goes wrong in here.
        timeout_s: seconds without a report after which a worker is killed; None for never.
    """

    def __init__(
        self,
        *,
        values: Callable[[Job], str],
        open_journal: Callable[[str], Journal],
        track: Callable[[Job, Journal], None],
        view: StudyView,
        has_room: Callable[[Journal], bool],
        is_for_all: Callable[[str], bool],
        collapse: Callable[[Job, JobReport], str | None],
        failed: Callable[[str], object],
        look: Callable[[], object],
        fault: OwnFault,
        timeout_s: float | None,
    ) -> None:
        self._values, self._open_journal, self._track, self._collapse = values, open_journal, track, collapse
        self._view, self._has_room, self._timeout_s = view, has_room, timeout_s
        self._is_for_all, self._failed, self._fault = is_for_all, failed, fault
        self._look = look
        self._watched: dict[str, _Watched] = {}
        self._last_step = time.monotonic()
        self.most_at_once = 0  # units that ran at a time
        self.num_steps = 0  # what is new in the journals: not reports that are sent again

    def __getstate__(self) -> dict[str, Any]:
        # Ray pickles it for its own restore, which is not used here: the storage and the journals are the state.
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Show that a trial runs, and watch it."""
        job = Job.from_config(trial.config)
        self._watched[job.label] = _Watched(trial.temporary_state.ray_actor)
        self.most_at_once = max(self.most_at_once, len(self._watched))
        if not isinstance(job, ChildJob):
            with self._fault.noted():
                self._view.started(job.label, job.epochs, self._open_journal(job.label), self._values(job))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Record an epoch, and the end if this is the last one."""
        job, report = Job.from_config(trial.config), JobReport.from_result(result)
        del result["report"]  # Ray would keep it
        self._watched[job.label] = _Watched(trial.temporary_state.ray_actor)
        with self._fault.noted():
            self._record(job, report)

    def _record(self, job: Job, report: JobReport) -> None:
        label, journal = job.label, self._open_journal(job.label)
        if report.fault == "refused" and self._is_for_all(report.kind):  # left open: it resumes when that is repaired
            raise OrchestratorError(f"{label} cannot continue: {report.reason}")
        if report.fault == "out_of_memory":
            self._out_of_memory(label, first_line(MemoryError(report.reason)), report.kind)
        elif report.fault is not None:
            journal.finish("failed", report.reason)
        elif report.record is not None:
            self.num_steps += journal.append_epoch(with_hours(report.record, journal, **reserved(job)))
        if report.checkpoint_fault:
            journal.note("checkpoint", report.checkpoint_fault)
            self._view.warn(f"{label}: {report.checkpoint_fault}")
        if len(journal.epochs) >= job.epochs:
            journal.finish("complete")
        elif journal.epochs and "stopped" in journal.epochs[-1]:
            journal.finish("stopped", journal.epochs[-1]["stopped"])
        elif report.done and (reason := self._collapse(job, report)):
            journal.finish("collapsed", reason)
        elif report.done and report.fault != "out_of_memory":
            journal.finish("stopped", f"stopped by the scheduler after {len(journal.epochs)} of {job.epochs} epochs")
        if report.done:
            self._watched.pop(label, None)
        if journal.end is not None or report.fault != "out_of_memory":
            self._tell(job, journal, is_over=report.done)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Record that a trial resumes from its checkpoint, and after what."""
        label = job_label(trial)
        watched = self._watched.pop(label, None)
        if watched is None or not watched.is_killed:  # a hang is recorded where it is found
            self._open_journal(label).note("restart", _reason(trial))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Drop what Ray keeps of an ended trial: its statistics of every metric would add up in a large study."""
        trial.run_metadata.metric_analysis.clear()
        trial.run_metadata.metric_n_steps.clear()

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Record that a trial failed for good, and why."""
        job = Job.from_config(trial.config)
        label, watched = job.label, self._watched.pop(job.label, None)
        was_silent = watched is not None and watched.is_killed
        with self._fault.noted():
            journal = self._open_journal(label)
            if any(phrase in _last_error(trial) for phrase in _MEMORY_MONITOR):  # the node stayed full for a while
                self._out_of_memory(label, _KILLED_FOR_MEMORY, "host")
            else:
                journal.finish("failed", journal.events[-1]["reason"] if was_silent else _reason(trial))
            release(job)
            if journal.end is not None:
                self._failed(label)
                self._tell(job, journal, is_over=True)
        self.on_trial_complete(iteration, trials, trial)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Look for requests; kill workers that have been silent for too long: their trials resume from checkpoints."""
        with self._fault.noted():
            self._look()
            if self._timeout_s is not None:
                self._kill_silent(self._timeout_s)

    def _kill_silent(self, timeout_s: float) -> None:
        now = time.monotonic()
        gap, self._last_step = now - self._last_step, now
        if gap > _LONGEST_STEP_S:  # this process was held up: no report could reach it
            for watched in self._watched.values():
                watched.last_report += gap
        for label, watched in self._watched.items():
            if not watched.is_killed and now - watched.last_report > timeout_s:
                watched.is_killed = True
                self._open_journal(label).note("hang", f"no report for {timeout_s:g} s")
                self._view.warn(f"{label}: no report for {timeout_s:g} s, its worker is killed")
                ray.kill(watched.actor)

    def ray_gave_up(self, message: str) -> None:
        """Record whom Ray's memory monitor killed: its message names the actor."""
        for label, watched in self._watched.items():
            if watched.actor is not None and actor_id(watched.actor) in message:
                self._out_of_memory(label, _KILLED_FOR_MEMORY, "host")

    def _out_of_memory(self, label: str, reason: str, kind: str) -> None:
        """The trial ends for this launch; a later one tries it again with a larger reservation, if there is any."""
        journal = self._open_journal(label)
        journal.note("out_of_memory", reason, kind=kind)
        self.num_steps += 1
        if self._has_room(journal):
            self._view.warn(f"{label}: {reason}; it is tried again later with a larger reservation")
        else:
            journal.finish("failed", f"out of memory with all that a node has: {reason}")

    def _tell(self, job: Job, journal: Journal, *, is_over: bool) -> None:
        if isinstance(job, ChildJob):  # people are shown its search
            self.num_steps += is_over
        elif is_over:
            self.num_steps += 1
            self._view.ended(job.label, journal)
        else:
            self._view.epoch(job.label, journal)
        self._track(job, journal)


def _last_error(trial: Trial) -> str:
    """All that Ray says of a trial's last failure."""
    file = trial.error_file
    return Path(file).read_text(encoding="utf-8").split("\nFailure #")[-1] if file and Path(file).is_file() else ""


def _reason(trial: Trial) -> str:
    """Last line of what a trial died of."""
    said = _last_error(trial)
    # Ray brings the file to where `get_pickled_error` looks when the trial has ended; one that continues has it here.
    pickled = Path(trial.pickled_error_file or "")
    if pickled.is_file():
        error = pickle.loads(pickled.read_bytes())
        if str(error) in said:  # not that of a failure before
            cause = getattr(error, "cause", None) or error
            return f"{type(cause).__name__}: {last_line(cause)}"
    return last_line(RuntimeError(said)) if said else "the worker died without a message"
