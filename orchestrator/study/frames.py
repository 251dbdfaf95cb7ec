"""A study as pandas data frames, tidy: a row a trial, an epoch or a retraining, a column a variable.

Columns keep the names of metrics, which have their units (`seconds`, `gpu_hours`, `child_latency_ms`); accuracies,
errors and gaps are fractions, `child_madds` and `child_params` counts of one image, entropies nats (`EpochReport`). A
swept value has the column of its key, such as `penalty.strength`, and is missing where it was not drawn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from orchestrator.files.journal import Journal
from orchestrator.files.layout import trial_label

if TYPE_CHECKING:
    from orchestrator.files.layout import StudyFolder
    from orchestrator.study.records import RetrainRecord, TrialRecord

#: First columns, also of frames without a row.
_TRIAL = ("trial", "state", "is_result", "on_front", "epochs", "reason")
_EPOCH = ("trial", "epoch", "time")
_RETRAIN = ("retraining", "trial", "seed", "state", "epochs", "reason")


def trials_frame(trials: Iterable[TrialRecord]) -> pd.DataFrame:
    """A row a trial: how it ended, its swept values, the metrics of its last epoch, its cell as JSON (`genotype`)."""
    rows = [
        {
            **_named(_TRIAL, trial, trial=trial.number),
            **trial.values,
            **trial.metrics,
            "seconds": trial.seconds,  # of all epochs
            "genotype": None if trial.genotype is None else json.dumps(trial.genotype),
        }
        for trial in trials
    ]
    return _framed(rows, _TRIAL)


def epochs_frame(trials: Iterable[TrialRecord], folder: StudyFolder) -> pd.DataFrame:
    """A row an epoch of a trial: when it was reported (UTC), the trial's swept values, the epoch's metrics."""
    rows = [
        {
            "trial": trial.number,
            "epoch": record["epoch"],
            "time": pd.Timestamp(record["time"], unit="s", tz="UTC"),
            **trial.values,
            **record["metrics"],
        }
        for trial in trials
        for record in Journal(folder.journal("search", trial_label(trial.number))).epochs
    ]
    return _framed(rows, _EPOCH)


def retrains_frame(retrains: Iterable[RetrainRecord]) -> pd.DataFrame:
    """A row a retraining: whose cell it trained (missing: a named one), its seed, the metrics of its last epoch."""
    rows = [{**_named(_RETRAIN, record, retraining=record.label), **record.metrics} for record in retrains]
    return _framed(rows, _RETRAIN).astype({"trial": "Int64"})


def _named(columns: Iterable[str], record: object, **others: object) -> dict[str, Any]:
    return {name: others[name] if name in others else getattr(record, name) for name in columns}


def _framed(rows: Sequence[Mapping[str, Any]], first: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=list(first))
