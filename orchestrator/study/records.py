"""What is known of a study: its trials, its front and its retrainings, read from Optuna's storage and the journals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from dashboards.formatting import schedule_text
from orchestrator.files.decisions import Ending
from orchestrator.files.journal import Journal
from orchestrator.files.layout import TRUNK, StudyFolder, trial_label
from orchestrator.jobs import Parent, RetrainJob
from orchestrator.sampling.constraints import broken_limits, violations
from orchestrator.sampling.ranking import best_trials, ranked_trials
from orchestrator.sampling.samplers import patiently
from orchestrator.study.lineage import parent_of
from orchestrator.study_file.spec import StudySpec, search_options
from orchestrator.study_file.sweep import Scalar
from search_core.cost.penalty_options import final_strength
from search_core.search.reports import FINAL_METRICS, OPTIONAL_METRICS
from search_core.search.temperature import TemperatureOptions
from search_core.space.cell_files import load_genotype
from search_core.space.choices import CellChoices
from search_core.space.genotype import Genotype

#: Numbers of the front that come from the search itself.
FRONT_METRICS = (
    "supernet_val_accuracy",
    "child_val_accuracy",
    "child_val_accuracy_recalibrated",
    "child_params",
    "child_madds",
)

#: User attribute of the Optuna study: what the shared epochs of forked trials reserved, as `jobs.Reservation`.
FORK_SHARE = "fork_share"

#: User attribute of the Optuna study: number of images by split, by which readers say how sure an error is.
IMAGES = "images"

#: What a retraining trains: a genotype, with channels and bits of its cells if its search chose them.
Cell = tuple[Genotype, CellChoices | None]
State = Literal["running", "complete", "stopped", "collapsed", "cancelled", "failed"]


@dataclass(frozen=True)
class TrialRecord:
    """One search of a study.

    Attributes:
        number: in the study, from 0.
        state: `running` also stands for a trial whose driver was killed.
        values: sampled values by dotted key.
        epochs: number of recorded epochs.
        metrics: of the last epoch; empty before the first.
        genotype: of the last epoch, plain data.
        choices: what its child chose beside the genotype, as in the report of the last epoch; empty for most searches.
        parent: where it was forked from another trial; None if it was not.
        reason: why it failed or was stopped, or which limits it broke.
        survived: how many faults of each kind (`journal.Event`) did not end it.
        is_result: whether it counts for the front, the best, comparisons and relations.
        on_front: whether it is on the Pareto front (with one objective: whether it is the best).
        seconds: of its epochs.
        violations: limits that it broke: by how much, as a share of the limit. Such a trial is no result.
    """

    number: int
    state: State
    values: Mapping[str, Scalar]
    epochs: int
    metrics: Mapping[str, float]
    genotype: Mapping[str, Any] | None
    reason: str
    survived: Mapping[str, int]
    is_result: bool
    on_front: bool
    seconds: float
    violations: Mapping[str, float] = field(default_factory=dict)
    choices: Mapping[str, Any] = field(default_factory=dict)
    parent: Parent | None = None

    @property
    def cell(self) -> Cell | None:
        """What is retrained: genotype, and choices of channels and bits; None before the first epoch."""
        return None if self.genotype is None else reported_cell({"genotype": self.genotype, "choices": self.choices})


@dataclass(frozen=True)
class RetrainRecord:
    """One training of a found cell.

    Attributes:
        label: name of its journal and runs.
        trial: number of the trial whose cell it is; None for a cell that the study file names.
        seed: seed of the training.
        state: as for trials.
        epochs: number of recorded epochs.
        metrics: of the last epoch; `test_accuracy` once it is complete.
        reason: why it failed.
        survived: as for trials.
    """

    label: str
    trial: int | None
    seed: int
    state: State
    epochs: int
    metrics: Mapping[str, float]
    reason: str
    survived: Mapping[str, int]


@dataclass(frozen=True)
class ForkSavings:
    """What it saved to run the shared epochs of forked trials once.

    Attributes:
        epochs: shared epochs.
        trials: trials that began with them.
        hours: what the other trials would have reserved for them: (trials - 1) x measured seconds of these epochs x
            reserved GPUs or CPU cores / 3600. Starts of processes and loading of data are not counted.
        kind: `GPU` if trials reserve a part of one, else `CPU`: then hours are core hours.
    """

    epochs: int
    trials: int
    hours: float
    kind: Literal["GPU", "CPU"]

    def __str__(self) -> str:
        unit = "GPU hours" if self.kind == "GPU" else "CPU core hours"
        return f"{self.epochs} shared epochs run once for {self.trials} trials saved {self.hours:.3g} {unit}"


def reported_cell(report: Mapping[str, Any]) -> Cell:
    """The cell in the report of an epoch, plain data.

    Raises:
        GenotypeError: if its genotype is not valid.
    """
    return Genotype.from_dict(report["genotype"]), CellChoices.from_dict(report.get("choices"))


def read_trials(study: optuna.Study, folder: StudyFolder) -> list[TrialRecord]:
    """All trials of a study, by number."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
    front = {trial.number for trial in best_trials(study)}
    return [_read_trial(trial, folder, trial.number in front) for trial in trials]


def num_open(study: optuna.Study, spec: StudySpec, ending: Ending | None = None) -> int:
    """As `open_among`, of all trials of a study."""
    return open_among(patiently(lambda: study.get_trials(deepcopy=False)), spec, ending)


def open_among(trials: Iterable[FrozenTrial], spec: StudySpec, ending: Ending | None) -> int:
    """How many trials are unfinished or not yet asked for; if the budget is spent, those that shall finish."""
    states = [trial.state for trial in trials]
    if ending is not None and ending.kind == "budget":
        return states.count(TrialState.RUNNING) if ending.on_end == "finish" else 0
    return max(spec.num_trials - sum(state.is_finished() for state in states), 0)


def retrain_jobs(study: optuna.Study, spec: StudySpec, folder: StudyFolder) -> list[RetrainJob]:
    """What the study file asks to be trained from scratch; a cell that several trials found is trained once.

    Raises:
        GenotypeError: if the study file names a cell that cannot be read.
    """
    section = spec.retrain
    assert section is not None
    seeds = range(spec.seed, spec.seed + section.seeds)
    by_cell: dict[Cell, int | None] = {}
    if section.genotype is not None:
        by_cell[load_genotype(section.genotype), None] = None
    else:
        number = None if section.top == "all" else section.top
        for trial in best_trials(study) if number == "front" else ranked_trials(study)[:number]:
            journal = Journal(folder.journal("search", trial_label(trial.number)))
            by_cell.setdefault(reported_cell(journal.epochs[-1]), trial.number)
    return [
        RetrainJob(
            label=(label := f"{'cell' if trial_number is None else trial_label(trial_number)}-seed{seed}"),
            checkpoints=folder.checkpoints(spec, "retrain", label),
            epochs=section.epochs,
            workers=section.workers,
            trial=trial_number,
            genotype=genotype,
            seed=seed,
            options=section,
            dataset=section.dataset_for(spec.search.dataset),
            choices=choices,
        )
        for (genotype, choices), trial_number in by_cell.items()
        for seed in seeds
    ]


def read_retrains(jobs: Iterable[RetrainJob], folder: StudyFolder) -> list[RetrainRecord]:
    """State of each training that the study asks for."""
    records = []
    for job in jobs:
        journal = Journal(folder.journal("retrain", job.label))
        records.append(
            RetrainRecord(
                job.label,
                job.trial,
                job.seed,
                journal.end or "running",
                len(journal.epochs),
                journal.epochs[-1]["metrics"] if journal.epochs else {},
                journal.reason,
                _survived(journal),
            )
        )
    return records


def fork_savings(study: optuna.Study, spec: StudySpec, folder: StudyFolder) -> ForkSavings | None:
    """What the shared epochs saved so far; None without `fork`, or before they are over."""
    reservation = study.user_attrs.get(FORK_SHARE)
    if spec.fork is None or reservation is None:
        return None
    shared = Journal(folder.journal("trunk", TRUNK)).epochs
    numbers = [trial.number for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
    count = sum(len(Journal(folder.journal("search", trial_label(n))).epochs) >= len(shared) for n in numbers)
    seconds = sum(record["metrics"]["seconds"] for record in shared)
    kind: Literal["GPU", "CPU"] = "GPU" if reservation["gpu"] else "CPU"
    return ForkSavings(len(shared), count, max(count - 1, 0) * seconds * reservation[kind.lower()] / 3600, kind)


def front_rows(
    trials: Sequence[TrialRecord], retrains: Sequence[RetrainRecord], spec: StudySpec
) -> list[dict[str, Any]]:
    """The front as plain rows, by the first objective: what was asked for, what was found, what retraining gave.

    Accuracies are fractions; `test_accuracy` is the mean over seeds and `test_accuracy_sd` its sample standard
    deviation; both are None before retraining. Costs are those of the child at the size of the search;
    `child_latency_ms` is there if the searches report it.
    """
    rows = []
    cells = {trial.number: trial.cell for trial in trials}
    for trial in sorted((trial for trial in trials if trial.on_front), key=lambda trial: _first_objective(trial, spec)):
        options = search_options(spec, trial.values)
        tests = [
            record.metrics["test_accuracy"]
            for record in retrains
            if record.trial is not None
            and cells[record.trial] == cells[trial.number]  # a cell that several trials found is trained once
            and "test_accuracy" in record.metrics
        ]
        rows.append(
            {
                "trial": trial.number,
                "eta": final_strength(options.penalty, trial.metrics),
                "temperature": described(options.temperature),
                **{name: trial.metrics[name] for name in FRONT_METRICS},
                **{name: trial.metrics[name] for name in (*OPTIONAL_METRICS, *FINAL_METRICS) if name in trial.metrics},
                "test_accuracy": mean(tests) if tests else None,
                "test_accuracy_sd": stdev(tests) if len(tests) > 1 else None,
                "genotype": trial.genotype,
            }
        )
    return rows


def described(schedule: TemperatureOptions) -> str:
    """A temperature schedule in a few words."""
    return schedule_text(schedule.kind, schedule.start, schedule.end)


def _first_objective(trial: TrialRecord, spec: StudySpec) -> float:
    value = trial.metrics[spec.objectives[0].metric]
    return value if spec.objectives[0].mode == "min" else -value


def _read_trial(trial: FrozenTrial, folder: StudyFolder, on_front: bool) -> TrialRecord:
    journal = Journal(folder.journal("search", trial_label(trial.number)))
    last = journal.epochs[-1] if journal.epochs else None
    broken = violations(trial)
    states: dict[TrialState, State] = {
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "stopped",
        TrialState.FAIL: "failed",
    }
    return TrialRecord(
        number=trial.number,
        state=journal.end
        if journal.end in ("stopped", "collapsed", "cancelled")
        else states.get(trial.state, "running"),
        values=trial.params,
        epochs=len(journal.epochs),
        metrics=last["metrics"] if last else {},
        genotype=last["genotype"] if last else None,
        reason=journal.reason or broken_limits(broken),
        survived=_survived(journal),
        is_result=trial.state == TrialState.COMPLETE and not broken,
        on_front=on_front,
        seconds=sum(record["metrics"].get("seconds", 0.0) for record in journal.epochs),
        violations=broken,
        choices=last.get("choices", {}) if last else {},
        parent=parent_of(trial),
    )


def _survived(journal: Journal) -> dict[str, int]:
    return dict(Counter(entry["event"] for entry in journal.survived))
