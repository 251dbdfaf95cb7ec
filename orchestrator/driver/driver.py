"""The process that runs a study: launches Ray Tune, takes every report, keeps journals, Optuna and MLflow in step."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

from ray import tune

from orchestrator.cluster.connection import cluster, nodes
from orchestrator.cluster.packing import find_reservation, grown, retrain_reservation
from orchestrator.driver.callback import PhaseCallback
from orchestrator.driver.children import DriverChildren
from orchestrator.driver.control import Control
from orchestrator.driver.forking import drop_fork_points, own_records
from orchestrator.driver.launch import CollapseStopper, OwnFault, PhaseStopper, RayGaveUpError, run_phase
from orchestrator.driver.progress import SEARCHES, StudyView
from orchestrator.driver.schedulers import make_scheduler
from orchestrator.driver.searcher import StudySearcher
from orchestrator.errors import OrchestratorError, StudyFailed, StudyPaused, last_line
from orchestrator.files.checkpoint import CheckpointFolder
from orchestrator.files.journal import Journal
from orchestrator.files.layout import TRUNK, Phase, split_child_label, trial_label
from orchestrator.jobs import Job, Parent, Reservation, RetrainJob, SearchJob, TruthJob
from orchestrator.sampling.samplers import patiently
from orchestrator.study.ground_truth import read_truth, truth_jobs, write_table
from orchestrator.study.hours import shared_of
from orchestrator.study.lineage import taken_over
from orchestrator.study.records import FORK_SHARE
from orchestrator.tracking.run_spec import swept_values
from orchestrator.tracking.study_runs import StudyLog
from orchestrator.tracking.tracker import Tracker
from orchestrator.worker.distributed import group_folder, retrain_trainable
from orchestrator.worker.permanent import is_for_all
from orchestrator.worker.trainable import SearchTrainable, TruthTrainable
from search_core.data.datasets import ImageData
from search_core.search.options import SearchOptions

if TYPE_CHECKING:
    from orchestrator.study.study import Study

#: Launches in a row without a single new report, after which a study is not launched again.
_MAX_IDLE_LAUNCHES = 3
#: What is left by a launch ran out of memory: others on its node get time to end.
_PAUSE_S = 10.0


class Driver:
    """Runs one study in this process.

    Args:
        study: what to run.
        tracker: MLflow.
        view: shows progress.
        parent: MLflow run of the study.
        data: the data set, on the CPU.
    """

    def __init__(self, study: Study, tracker: Tracker, view: StudyView, parent: str, data: ImageData) -> None:
        self._study, self._spec, self._folder = study, study.spec, study.folder
        self._view = view
        self._data = data
        self._journals: dict[tuple[Phase, str], Journal] = {}
        self._reservations: dict[Phase, Reservation] = {}
        self._repeated: set[str] = set()  # trainings that are over and whose model was lost, tried once more
        self._truth_jobs = truth_jobs(self._spec, self._folder)
        self._log = StudyLog(study, tracker, view.warn, parent, data, self._journal)
        view.hear = self._log.said
        self._control = Control(study, self._trial_journal, view, lambda: self._log.grown())

    def run(self, address: str | None) -> None:
        """Do all that is not done yet.

        Args:
            address: Ray cluster; None starts one on this machine.

        Raises:
            OrchestratorError: if the cluster does not answer, or Ray gives up again and again.
            StudyFailed: if all searches or all retrainings failed.
            StudyPaused: if a user paused it.
            TrackingAwayError: if MLflow is away at the end.
        """
        try:
            self._control.start()
            num_open = self._study.num_open_trials()
            if not num_open:
                self._repeated = self._lost_models()
            self._log.begin()
            is_open = num_open or self._open_retrains()
            if is_open or self._open_truth_jobs():
                self._view.step("starting Ray on this machine" if address is None else "joining the Ray cluster")
                with cluster(address):
                    reservation = find_reservation(self._spec)
                    self._reservations = dict.fromkeys(("trunk", "truth", "search"), reservation)
                    self._reservations["retrain"] = retrain_reservation(self._spec)
                    self._report_reservations()
                    self._find_truth()
                    self._search()
                    self._retrain()
                    while self._study.num_open_trials():  # more were asked for meanwhile
                        self._search()
                        self._retrain()
            self._finish()
        except StudyPaused:
            self._log.drain()
            raise
        finally:
            self._log.stop()

    def _find_truth(self) -> None:
        """Train every genotype of the search space that is not trained yet."""
        if self._spec.ground_truth is None:
            return
        if num_open := len(self._open_truth_jobs()):
            total = len(self._truth_jobs)
            self._view.phase("ground truth", total - num_open, total)
            self._launch_until_done("truth", lambda: not self._open_truth_jobs())
        table = read_truth(self._spec, self._folder)
        if table is None:
            doctor = self._study.runs.command("study", "doctor", self._spec.name)
            reasons = [self._journal("truth", job.label).reason for job in self._truth_jobs]
            reason = next(filter(None, reasons), f"a journal lacks trainings; `{doctor}` names it")
            raise StudyFailed(f"the ground truth of study `{self._spec.name}` failed: {reason}")
        write_table(table, self._folder.path / "ground_truth.json")

    def _open_truth_jobs(self) -> list[TruthJob]:
        return [job for job in self._truth_jobs if self._journal("truth", job.label).end is None]

    def _search(self) -> None:
        total = self._spec.num_trials
        if self._study.num_open_trials() == 0:
            return
        if self._spec.fork is not None:
            self._grow_trunk(self._spec.fork.epoch)
        metrics = [objective.metric for objective in self._spec.objectives]
        self._view.phase(SEARCHES, total - self._study.num_open_trials(), total, metrics)
        self._control.begin_searches()
        try:
            self._launch_until_done("search", lambda: self._study.num_open_trials() == 0)
        finally:
            self._control.end_searches()

    def _grow_trunk(self, epochs: int) -> None:
        """Run the epochs that all trials share, unless they were and their checkpoint is whole."""
        if self._trunk.end != "failed" and not self._has_trunk(epochs):
            self._view.phase("shared epochs", 0, 1, ["child_val_accuracy"])
            self._launch_until_done("trunk", lambda: self._trunk.end is not None)
        if self._trunk.end == "failed":
            raise StudyFailed(f"the shared epochs of study `{self._spec.name}` failed: {self._trunk.reason}")
        if not self._has_trunk(epochs):
            folder = self._folder.checkpoints(self._spec, "trunk", TRUNK)
            raise OrchestratorError(
                f"{folder} must have a whole checkpoint of {epochs} shared epochs, got none; {self._study.resume_hint}"
            )
        study = self._study.optuna_study
        if FORK_SHARE not in study.user_attrs:
            patiently(lambda: study.set_user_attr(FORK_SHARE, asdict(self._reservation_of("trunk", TRUNK))))

    @property
    def _trunk(self) -> Journal:
        return self._journal("trunk", TRUNK)

    def _has_trunk(self, epochs: int) -> bool:
        found = CheckpointFolder(self._folder.checkpoints(self._spec, "trunk", TRUNK)).newest_whole()
        return self._trunk.end == "complete" and found is not None and found.epoch == epochs

    def _retrain(self) -> None:
        jobs = self._study.retrain_jobs()
        if jobs:
            self._log.expect_retrainings(len(jobs))
        if jobs and self._open_retrains():
            done = len(jobs) - len(self._open_retrains())
            self._view.phase("retrainings", done, len(jobs), ["val_accuracy", "test_accuracy"])
            self._launch_until_done("retrain", lambda: not self._open_retrains())
            for job in jobs:  # else left where Ray ended a trial before it had cleaned up
                shutil.rmtree(group_folder(job), ignore_errors=True)

    def _lost_models(self) -> set[str]:
        """Trainings that are over, but whose last checkpoint could not be written before their model was logged."""
        return {
            job.label
            for job in self._study.retrain_jobs()
            if self._journal("retrain", job.label).end == "complete" and self._log.lacks_model(job)
        }

    def _launch_until_done(self, phase: Phase, is_done: Callable[[], bool]) -> None:
        """Launch what is open until nothing is.

        A launch leaves open what ran out of memory, and Ray gives up on everything that runs when its memory monitor
        kills one trial. In the next launch, what ran out of memory comes last.
        """
        num_idle = 0
        while num_idle < _MAX_IDLE_LAUNCHES:
            num_steps = 0 if is_done() else self._launch(phase)
            self._control.raise_if_paused()
            if is_done():
                return
            num_idle = 0 if num_steps else num_idle + 1
            time.sleep(_PAUSE_S)
        raise OrchestratorError(f"Ray gave up {_MAX_IDLE_LAUNCHES} times without a report; {self._study.resume_hint}")

    def _launch(self, phase: Phase) -> int:
        """Run one Tune experiment over all that is open; returns how much is new in the journals."""
        fault = OwnFault()
        searcher = self._searcher(fault, lambda: callback.most_at_once) if phase == "search" else None

        open_journal = partial(self._journal, phase)
        collapse = CollapseStopper(self._spec, open_journal) if searcher else None
        self._control.steers(searcher)
        callback = PhaseCallback(
            values=lambda job: self._values(job) if phase == "search" else "",
            open_journal=open_journal,
            track=lambda job, journal: self._track(phase, job, journal, callback.most_at_once),
            view=self._view,
            has_room=lambda journal: self._reservation(phase, journal) is not None,
            is_for_all=partial(self._is_for_all, phase),
            collapse=collapse.reason if collapse else lambda job, report: None,
            failed=lambda label: searcher.tell_failed(label) if searcher else None,
            look=self._control.look,
            fault=fault,
            timeout_s=self._spec.failure.timeout_s,
        )
        jobs = self._jobs(phase)
        try:
            run_phase(
                self._spec,
                self._trainable(phase),
                self._reservations[phase],
                callback=callback,
                fault=fault,
                stopper=PhaseStopper(open_journal, lambda: self._control.halts(phase), collapse),
                searcher=searcher,
                scheduler=make_scheduler(self._spec, partial(own_records, self._study), self._control)
                if searcher
                else None,
                jobs=jobs,
            )
        except RayGaveUpError as error:
            callback.ray_gave_up(str(error))
            self._view.warn(f"Ray gave up and is started again: {last_line(error)}")
        return callback.num_steps

    def _values(self, job: Job) -> str:
        return swept_values(self._spec.sweep, asdict(job.options)) if isinstance(job, SearchJob) else ""

    def _is_for_all(self, phase: Phase, kind: str) -> bool:
        if phase == "retrain":  # trainings differ in their cell alone
            return kind != "GenotypeError"
        return is_for_all(kind, self._spec.sweep if phase == "search" else ())

    def _jobs(self, phase: Phase) -> list[Job]:
        """A fixed list of what is open; the searcher gives the jobs of phase search."""
        jobs: Sequence[Job] = ()
        if phase == "trunk":
            assert self._spec.fork is not None
            folder, epochs = self._folder.checkpoints(self._spec, "trunk", TRUNK), self._spec.fork.epoch
            jobs = [SearchJob(label=TRUNK, checkpoints=folder, epochs=epochs, options=self._spec.search)]
        elif phase == "truth":
            jobs = self._open_truth_jobs()
        elif phase == "retrain":
            jobs = self._open_retrains()
            self._repeated.clear()  # a disk that is still full must not repeat them forever
        return [replace(job, reservation=self._reservation_of(phase, job.label)) for job in jobs]

    def _searcher(self, fault: OwnFault, at_once: Callable[[], int]) -> StudySearcher:
        children = DriverChildren(
            self._spec,
            self._folder,
            self._data,
            open_journal=partial(self._journal, "search"),
            make_job=self._search_job,
            track=lambda job, journal: self._track("search", job, journal, at_once()),
            view=self._view,
        )
        return StudySearcher(
            self._study.optuna_study,
            self._spec,
            self._trial_journal,
            lambda number, options: self._search_job(trial_label(number), options),
            fault,
            children,
            self._control.may_begin,
        )

    def _trial_journal(self, number: int) -> Journal:
        return self._journal("search", trial_label(number))

    def _open_retrains(self) -> list[RetrainJob]:
        """What is not over yet; what ran out of memory comes last, when others have ended."""
        open_jobs = [
            job
            for job in self._study.retrain_jobs()
            if job.label in self._repeated or self._journal("retrain", job.label).end is None
        ]
        return sorted(open_jobs, key=lambda job: self._journal("retrain", job.label).count("out_of_memory"))

    def _journal(self, phase: Phase, label: str) -> Journal:
        journal = self._journals.get((phase, label)) or Journal(self._folder.journal(phase, label))
        # Only what still runs is kept: a driver's memory must not grow with the number of trials.
        if journal.end is None:
            self._journals[phase, label] = journal
        else:
            self._journals.pop((phase, label), None)
        return journal

    def _trainable(self, phase: Phase) -> type[tune.Trainable]:
        if phase != "retrain":
            return TruthTrainable if phase == "truth" else SearchTrainable
        assert self._spec.retrain is not None
        return retrain_trainable(self._spec.retrain.workers)

    def _search_job(self, label: str, options: SearchOptions) -> SearchJob:
        job = SearchJob(
            label=label,
            checkpoints=self._folder.checkpoints(self._spec, "search", label),
            epochs=options.epochs,
            reservation=self._reservation_of("search", label),
            options=options,
            wants_scores=self._spec.ground_truth is not None,
            keep_every=self._spec.keep_every,
        )
        is_child = split_child_label(label) is not None
        parent = None if is_child else self._study.parent(int(label))
        return job if parent is None and self._spec.fork is None else self._forked(job, parent)

    def _forked(self, job: SearchJob, parent: Parent | None) -> SearchJob:
        """Begin the journal of a trial with the epochs before its fork, and say from where the trial resumes."""
        records = self._trunk.epochs if self._spec.fork is not None else []
        if parent is None:
            folder = self._folder.checkpoints(self._spec, "trunk", TRUNK)
        else:
            folder = self._folder.fork_point(self._spec, parent.trial, parent.epoch)
            records = taken_over(self._trial_journal(parent.trial), parent.epoch, shared_of(self._trunk)[1])
        journal = self._journal("search", job.label)
        for record in records[len(journal.epochs) :]:
            journal.append_epoch(record)
        forked = replace(job, trunk=folder, trunk_epochs=len(records), parent=parent)
        self._log.track(forked)
        return forked

    def _reservation(self, phase: Phase, journal: Journal) -> Reservation | None:
        """What a unit takes: more after each time that it ran out of memory; None if there is no more to take."""
        reservation: Reservation | None = self._reservations[phase]
        workers = self._spec.retrain.workers if phase == "retrain" and self._spec.retrain else 1
        for event in journal.events:
            if event["event"] == "out_of_memory" and reservation is not None:
                reservation = grown(reservation, event["kind"], nodes(), workers)
        return reservation

    def _reservation_of(self, phase: Phase, label: str) -> Reservation:
        # A resumed study may find a smaller cluster; the trial then fails with a reason if it is too small.
        return self._reservation(phase, self._journal(phase, label)) or self._reservations[phase]

    def _track(self, phase: Phase, job: Job, journal: Journal, at_once: int) -> None:
        # Others are logged with the trials that grow from them, the study or the search.
        if phase == "trunk" or not isinstance(job, SearchJob | RetrainJob):
            return
        self._log.track(job)
        if isinstance(job, SearchJob):
            self._control.saw(int(job.label), journal)
        if journal.end is not None:
            if isinstance(job, SearchJob) and self._spec.storage.keep.kind == "last":
                CheckpointFolder(job.checkpoints, every=job.keep_every).thin(1)
            self._log.ended(job, journal, at_once)

    def _report_reservations(self) -> None:
        """Say where measured reservations come from, on the terminal and in MLflow."""
        resources = self._spec.resources
        if "auto" in (resources.gpu, resources.memory_gb):
            explanation = self._reservations["search"].explanation
            self._view.note(f"resources: {explanation}")
            self._log.log_reservation(explanation)

    def _finish(self) -> None:
        """Bring MLflow up to all that was done.

        Raises:
            StudyFailed: if all searches or all retrainings failed.
            TrackingAwayError: if MLflow is away.
        """
        drop_fork_points(self._study)
        self._view.step("writing results: what MLflow lacks, models, summary")
        missing, reasons = self._log.finish(self._study.retrain_jobs(), self._control.ending)
        if missing:
            self._view.warn(f"MLflow lacks something of {', '.join(missing)}; {self._study.resume_hint}")
        for kind, reason in reasons.items():
            raise StudyFailed(f"every {kind} of study `{self._spec.name}` failed, the first because: {reason}")
