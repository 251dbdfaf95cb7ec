"""Run one phase of a study (its searches, or its retrainings) as Tune trials."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ray import tune
from ray.exceptions import RayError
from ray.tune import Callback
from ray.tune.error import TuneError
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from orchestrator.adapters.ray_internals import without_environments
from orchestrator.cluster.connection import check_resources
from orchestrator.errors import OrchestratorError
from orchestrator.files.journal import Journal
from orchestrator.jobs import Job, JobReport, Reservation, SearchJob
from orchestrator.study_file.spec import StudySpec
from orchestrator.worker.distributed import max_groups, release
from search_core.search.collapse import collapse_reason


class RayGaveUpError(OrchestratorError):
    """Ray ended an experiment by itself, as it does after its memory monitor killed a trial."""


class OwnFault:
    """The first exception of our own code inside an experiment: Ray would take it for a trial's, and try again."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Keep what is raised inside; it is passed to Ray all the same."""
        try:
            yield
        except Exception as error:
            self.error = self.error or error
            raise


def run_phase(
    spec: StudySpec,
    trainable: type[tune.Trainable],
    reservation: Reservation,
    *,
    callback: Callback,
    fault: OwnFault,
    stopper: Stopper | None = None,
    searcher: Searcher | None = None,
    scheduler: TrialScheduler | None = None,
    jobs: Sequence[Job] = (),
) -> None:
    """Run trials until the searcher is done or all jobs are.

    Args:
        spec: resources, concurrency and faults.
        trainable: what a trial runs.
        reservation: what each takes, unless its job says otherwise.
        stopper: says which trials end early; default: none does.
        callback: is called with every report.
        fault: what our own code raised meanwhile.
        searcher: gives the trials' jobs; or
        jobs: a fixed list of them.
        scheduler: stops trials that do worse than others; default: none does.

    Raises:
        RayGaveUpError: if Ray gives up.
        Exception: what `fault` noted.
    """
    workers, max_concurrent = max((job.workers for job in jobs), default=1), spec.max_concurrent
    if workers == 1:
        check_resources(reservation.cpu, reservation.gpu, reservation.memory_gb)
    else:
        room = max_groups(workers, reservation)
        max_concurrent = min(room, max_concurrent or room)
    # Tune wants a folder for the state of its experiment. Ours is in the journals, Optuna and the checkpoints.
    with tempfile.TemporaryDirectory(prefix="snas-tune-") as folder:
        tuner = tune.Tuner(
            trainable,
            param_space={} if searcher else {"job": tune.grid_search([job.to_config()["job"] for job in jobs])},
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=-1 if searcher else 1,
                max_concurrent_trials=max_concurrent,
                reuse_actors=True,
                trial_name_creator=job_label,
                trial_dirname_creator=job_label,
            ),
            run_config=tune.RunConfig(
                name=spec.name,
                storage_path=folder,
                callbacks=[callback],
                stop=stopper,
                failure_config=tune.FailureConfig(max_failures=spec.failure.max_failures),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                verbose=0,
            ),
        )
        try:
            with without_environments():
                tuner.fit()
        except (RayError, TuneError, RuntimeError) as error:
            if fault.error is None:
                raise RayGaveUpError(str(error)) from error
        finally:  # whatever became of a trial, nothing of its group stays reserved
            for job in jobs:
                release(job)
        if fault.error is not None:
            raise fault.error


class PhaseStopper(Stopper):
    """Ends what a user cancelled and what has collapsed; or all that runs, which then waits at its checkpoint.

    Args:
        open_journal: journal of a unit by label.
        halts: whether all that runs stops.
        collapse: for a phase of searches.
    """

    def __init__(
        self, open_journal: Callable[[str], Journal], halts: Callable[[], bool], collapse: CollapseStopper | None
    ) -> None:
        self._open_journal, self._halts, self._collapse = open_journal, halts, collapse

    def __getstate__(self) -> dict[str, Any]:
        # As `CollapseStopper`.
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a trial ends with this result; the children of a cancelled search end with it."""
        if self._collapse is None:
            return False
        search = Job.from_config(result["config"]).label.partition("-")[0]
        return self._open_journal(search).end == "cancelled" or self._collapse(trial_id, result)

    def stop_all(self) -> bool:
        """Whether everything stops."""
        return self._halts()


class CollapseStopper(Stopper):
    """Ends searches that have nothing left to decide.

    Args:
        spec: the rules and the number of epochs.
        open_journal: journal of a trial by label.
    """

    def __init__(self, spec: StudySpec, open_journal: Callable[[str], Journal]) -> None:
        self._options, self._open_journal = spec.stop, open_journal

    def __getstate__(self) -> dict[str, Any]:
        # Ray pickles it for its own restore, which is not used here.
        return {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a trial ends with this result."""
        report = JobReport.from_result(result)
        return self.reason(Job.from_config(result["config"]), report) is not None

    def reason(self, job: Job, report: JobReport) -> str | None:
        """Why a trial ends with this report; None if it does not, or for another reason."""
        if report.record is None or not isinstance(job, SearchJob):  # a child has no distribution that could collapse
            return None
        before = self._open_journal(job.label).epochs[: report.record["epoch"]]  # without this one
        return collapse_reason(self._options, [*before[-self._options.patience :], report.record], job.options.epochs)

    def stop_all(self) -> bool:
        """The study is resumed."""
        return False


def job_label(trial: Trial) -> str:
    """Label of the job that a Tune trial runs."""
    return str(trial.config["job"]["label"])
