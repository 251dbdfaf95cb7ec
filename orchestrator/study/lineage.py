"""Which trials were forked from which, as Optuna's storage has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from optuna.trial import FrozenTrial

from dashboards.formatting import HOURS
from orchestrator.files.journal import Journal
from orchestrator.jobs import Parent

#: User attribute of a trial that was forked, as `jobs.Parent`; the tags of its MLflow run begin with it.
FORK = "snas.fork"


def parent_of(trial: FrozenTrial) -> Parent | None:
    """Where a trial was forked; None if it was not."""
    found = trial.user_attrs.get(FORK)
    return None if found is None else Parent(**found)


def fork_tags(parent: Parent | None) -> dict[str, str]:
    """The tags of the MLflow run of a trial that was forked; none of another."""
    return {} if parent is None else {f"{FORK}.{name}": str(value) for name, value in asdict(parent).items()}


def taken_over(journal: Journal, epochs: int, shared_hours: float) -> list[dict[str, Any]]:
    """The first reports of a forked trial, which are those of its parent but for the hours: it has not reserved them.

    Args:
        journal: of the parent.
        epochs: how many it takes over.
        shared_hours: those of the epochs that all trials share, which each of them counts (`reserved_hours`).
    """
    return [
        {**record, "metrics": _with_own_hours(record["metrics"], shared_hours)} for record in journal.epochs[:epochs]
    ]


def _with_own_hours(metrics: Mapping[str, float], shared: float) -> dict[str, float]:
    return {**metrics, **{name: min(metrics[name], shared) for name in HOURS if name in metrics}}
