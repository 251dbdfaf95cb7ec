"""What the examination of a study reads from its files and from Optuna, small enough for thousands of trials."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from optuna.trial import FrozenTrial

from orchestrator.doctor.report import Severity
from orchestrator.errors import OrchestratorError
from orchestrator.files.decisions import Ending
from orchestrator.files.journal import End, Journal
from orchestrator.files.layout import Phase, StudyFolder, trial_label, unit_label
from orchestrator.jobs import Parent, RetrainJob
from orchestrator.study.lineage import parent_of
from orchestrator.study.records import open_among
from orchestrator.study.study import Study
from search_core.errors import GenotypeError
from search_core.space.genotype import Genotype


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What the journal of one trial or retraining holds; the cells of its epochs are left out, as they are large.

    Attributes:
        phase: what it belongs to.
        label: such as `0003`.
        file: the journal.
        exists: whether there is one.
        damage: why it cannot be read; empty if it can.
        metrics: of each epoch.
        end: how it ended; None while it has not.
        reason: why.
        events: kinds of the faults that it survived.
        genotype: of the last epoch of a search.
        genotype_faults: epochs whose genotype is not valid, with the reason.
        has_children: whether it is a search whose children are trials of their own.
    """

    phase: Phase
    label: str
    file: Path
    exists: bool
    damage: str = ""
    metrics: tuple[Mapping[str, float], ...] = ()
    end: End | None = None
    reason: str = ""
    events: tuple[str, ...] = ()
    genotype: Genotype | None = None
    genotype_faults: tuple[str, ...] = ()
    has_children: bool = False

    @property
    def unit(self) -> str:
        """Name of its MLflow run and checkpoints."""
        return unit_label(self.phase, self.label)

    def last_metric(self, name: str) -> float:
        """Metric of the last epoch; NaN if there is none."""
        return float(self.metrics[-1].get(name, math.nan)) if self.metrics else math.nan


@dataclass(frozen=True, kw_only=True)
class Case:
    """A study as it was found.

    Attributes:
        study: the study.
        is_running: whether a driver is at work: then some things are not yet where they will be.
        trials: of Optuna, without those that only wait; None if its storage cannot be read.
        searches: recorded searches by label: those of `trials`, and journals without a trial.
        retrains: recorded retrainings by label, likewise.
        trunk: the epochs that forked trials share; None without `fork`.
        truth: parts of the ground truth by label, all that there must be; empty without `ground_truth`.
        jobs: retrainings that the study asks for; None as long as that cannot be determined.
        ending: why its searches are over though not all were run, or rest.
    """

    study: Study
    is_running: bool
    trials: tuple[FrozenTrial, ...] | None
    searches: Mapping[str, Recorded]
    retrains: Mapping[str, Recorded]
    trunk: Recorded | None
    truth: Mapping[str, Recorded]
    jobs: tuple[RetrainJob, ...] | None
    ending: Ending | None = None

    @property
    def lag(self) -> Severity:
        """How bad it is that something is not there: a driver at work may just be about to write it."""
        return "warning" if self.is_running else "error"

    @property
    def resume(self) -> str:
        """The command that resumes the study."""
        return f"`{self.study.runs.command('study', 'resume', self.study.spec.name)}`"

    @property
    def bring_up(self) -> str:
        """What brings MLflow up to the journals; empty while a driver is at work, which does it."""
        return "" if self.is_running else f"{self.resume} brings MLflow up to the journals"

    @property
    def units(self) -> tuple[Recorded, ...]:
        """Searches and retrainings."""
        return (*self.searches.values(), *self.retrains.values())

    @property
    def journals(self) -> tuple[Recorded, ...]:
        """All that have a journal and checkpoints: ground truth, shared epochs, searches and retrainings."""
        return (*self.truth.values(), *([] if self.trunk is None else [self.trunk]), *self.units)

    @property
    def has_open_trials(self) -> bool:
        """Whether trials are unfinished or not yet begun, as far as Optuna's storage can be read."""
        return self.trials is not None and open_among(self.trials, self.study.spec, self.ending) > 0

    @property
    def strangers(self) -> frozenset[str]:
        """Units that have a journal, but of which the study knows nothing."""
        searches = self.searches if self.trials is None else {trial_label(trial.number) for trial in self.trials}
        retrains = self.retrains if self.jobs is None else {job.label for job in self.jobs}
        return frozenset(unit.unit for unit in self.units if unit.label not in {*searches, *retrains})

    def taken_over(self, recorded: Recorded) -> int:
        """How many epochs at the beginning of a journal are those of another, from which it was forked."""
        fork = self.study.spec.fork
        if recorded.phase == "search" and recorded.label in self.parents:
            return self.parents[recorded.label].epoch
        return fork.epoch if recorded.phase == "search" and fork is not None else 0

    @cached_property
    def parents(self) -> dict[str, Parent]:
        """Where trials were forked from others, by label."""
        found = {trial_label(trial.number): parent_of(trial) for trial in self.trials or ()}
        return {label: parent for label, parent in found.items() if parent is not None}

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        if self.trials is None or self.jobs is None:
            return False
        if any(part.end is None for part in self.truth.values()):
            return False
        return not self.has_open_trials and all(self.retrains[job.label].end is not None for job in self.jobs)


def read_recorded(folder: StudyFolder, phase: Phase, label: str) -> Recorded:
    """What a journal holds; damage is reported, not raised."""
    file = folder.journal(phase, label)
    exists = file.is_file()
    try:
        journal = Journal(file)
        genotype, faults = _read_genotypes(journal) if phase == "search" else (None, ())
        metrics = tuple(dict(record["metrics"]) for record in journal.epochs)
    except (OrchestratorError, OSError, KeyError, TypeError, ValueError) as error:
        return Recorded(phase=phase, label=label, file=file, exists=exists, damage=f"{type(error).__name__}: {error}")
    return Recorded(
        phase=phase,
        label=label,
        file=file,
        exists=exists,
        metrics=metrics,
        end=journal.end,
        reason=journal.reason,
        events=tuple(str(entry["event"]) for entry in journal.survived),
        genotype=genotype,
        genotype_faults=faults,
        has_children=phase == "search" and folder.order_log(label).is_file(),
    )


def _read_genotypes(journal: Journal) -> tuple[Genotype | None, tuple[str, ...]]:
    genotype, faults = None, []
    for record in journal.epochs:
        try:
            genotype = Genotype.from_dict(record["genotype"])
        except (GenotypeError, KeyError) as error:
            genotype = None
            faults.append(f"epoch {record['epoch']}: {error}")
    return genotype, tuple(faults)
