"""Run one phase of a study (its searches, or its retrainings) as Tune trials."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import Callback
from ray.tune.error import TuneError
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from orchestrator.cluster import check_resources
from orchestrator.config import StudySpec
from orchestrator.trainable import EpochTrainable

_MAX_FAILURES = 2


def run_phase(
    spec: StudySpec,
    trainable: type[EpochTrainable],
    *,
    storage: Path,
    launch: str,
    callback: Callback,
    searcher: Searcher | None = None,
    jobs: Sequence[dict[str, Any]] = (),
) -> None:
    """Run trials until the searcher is done or all jobs are; returns early if the user interrupts.

    Args:
        spec: resources, concurrency and scheduler.
        trainable: what a trial runs.
        storage: absolute folder of Ray Tune's experiments.
        launch: name of this experiment.
        callback: hears every report.
        searcher: gives the trials' jobs; or
        jobs: a fixed list of them, which no scheduler stops.

    Raises:
        TuneError: if Ray gives up, for instance after its memory monitor killed a trial.
    """
    check_resources(spec)
    resources: dict[str, Any] = {"cpu": spec.resources.cpu, "gpu": spec.resources.gpu}
    if spec.resources.memory_gb is not None:
        resources["memory"] = int(spec.resources.memory_gb * 1e9)
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space={} if searcher else {"job": tune.grid_search(list(jobs))},
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=make_scheduler(spec) if searcher else None,
            num_samples=-1 if searcher else 1,
            max_concurrent_trials=spec.max_concurrent,
            reuse_actors=True,
            trial_name_creator=job_label,
            trial_dirname_creator=job_label,
        ),
        run_config=tune.RunConfig(
            name=launch,
            storage_path=str(storage),
            callbacks=[callback],
            failure_config=tune.FailureConfig(max_failures=_MAX_FAILURES),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=3, checkpoint_frequency=1, checkpoint_at_end=True),
            verbose=0,
        ),
    )
    tuner.fit()


def make_scheduler(spec: StudySpec) -> TrialScheduler | None:
    """The study's scheduler, counting epochs rather than seconds; None for first in, first out."""
    goal, options = spec.scheduler_goal, spec.scheduler
    if options.kind == "asha":
        return AsyncHyperBandScheduler(
            time_attr="epochs",
            metric=goal.metric,
            mode=goal.mode,
            max_t=spec.search.epochs,
            grace_period=min(options.grace_period, spec.search.epochs),
            reduction_factor=options.reduction_factor,
        )
    if options.kind == "median":
        return MedianStoppingRule(
            time_attr="epochs", metric=goal.metric, mode=goal.mode, grace_period=options.grace_period
        )
    return None


def job_label(trial: Trial) -> str:
    """Label of the job that a Tune trial runs."""
    return str(trial.config["job"]["label"])


__all__ = ["TuneError", "job_label", "make_scheduler", "run_phase"]
