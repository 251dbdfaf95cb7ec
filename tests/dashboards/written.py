"""Records written by hand, where a test needs numbers that it knows."""

import numpy as np

from dashboards.history import History
from dashboards.records import Objective, Retraining, RunRecord, StudyOverview, StudyRecord, Trial

ERROR = Objective(metric="child_val_error", mode="min")
MADDS = Objective(metric="child_madds", mode="min")


def run(label="trial-0000", *, run_id="", kind="search", end="complete", epochs=10, params=(), metrics=(), tags=()):
    """One run of the study `written`."""
    return RunRecord(
        run_id=run_id or f"id-{label}",
        experiment_id="1",
        study="written",
        label=label,
        name=label,
        kind=kind,
        status="RUNNING" if end is None else "FINISHED",
        parent_id="parent",
        start_s=0.0,
        end_s=None if end is None else 100.0,
        last_report_s=90.0,
        num_epochs=epochs,
        params=dict(params),
        metrics=dict(metrics),
        tags=dict(tags) | ({} if end is None else {"snas.end": end}),
    )


def trial(number, *, eta=None, strategy="snas", schedule="linear", values=(), on_front=False, label="", **of_run):
    """One trial; `metrics`, `epochs` and `end` as in `run`."""
    params = {"strategy.kind": strategy, "temperature.kind": schedule, **of_run.pop("params", {})}
    if eta is not None:
        params["penalty.strength"] = str(eta)
    label = label or f"trial-{number:04d}"
    return Trial(run=run(label, params=params, **of_run), number=number, values=dict(values), on_front=on_front)


def retraining(number, seed, *, end="complete", **metrics):
    """One retraining of a trial's cell."""
    label = f"retrain-{'cell' if number is None else number}-seed{seed}"
    return Retraining(run=run(label, kind="retrain", end=end, metrics=metrics), trial=number, seed=seed)


_versions = iter(range(1_000_000))


def study(trials=(), *, objectives=(ERROR, MADDS), swept=(), retrainings=()):
    """A study of these trials; every call gives another version."""
    overview = StudyOverview(
        name="written", run=None, state="complete", num_trials=len(trials), ended={"complete": len(trials)},
        retrained=(0, 0), best={}, hours=None, hours_unit="GPU hours", time_left_s=None,
    )  # fmt: skip
    return StudyRecord(
        overview=overview, objectives=objectives, swept=dict.fromkeys(swept, "{}"), trials=trials,
        retrainings=retrainings, version=f"written-{next(_versions)}", as_of_s=0.0,
    )  # fmt: skip


def curve(**metrics):
    """A history of metrics alone."""
    arrays = {name: np.array(values, dtype=np.float64) for name, values in metrics.items()}
    return History(epochs=1 + np.arange(len(next(iter(arrays.values())))), metrics=arrays)
