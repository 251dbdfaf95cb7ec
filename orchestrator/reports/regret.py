"""Searches held against the ground truth: regret of what they chose, rank correlation of what they thought."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING

from orchestrator.files.journal import Journal
from orchestrator.files.layout import trial_label
from orchestrator.study.ground_truth import TruthTable
from orchestrator.study.records import TrialRecord
from search_core.errors import GenotypeError
from search_core.space.code_space import Code, GenotypeSpace
from search_core.space.codes import genotype_space
from search_core.space.genotype import Genotype

if TYPE_CHECKING:
    from orchestrator.study.study import Study

#: Fewer scored genotypes than this have no meaningful rank correlation.
_FEWEST_SCORES = 5


@dataclass(frozen=True, kw_only=True)
class TruthFacts:
    """The ground truth in a few numbers; accuracies are fractions, means over seeds.

    Attributes:
        genotypes: in the space.
        seeds: trainings of each.
        best: accuracy of the best genotype.
        mean: accuracy over all genotypes; `best - mean` is the regret to expect of one drawn at random.
        noise: mean over the genotypes of the standard deviation between seeds; NaN with one seed.
        diverged: trainings that diverged, whose accuracy counts as 0.
    """

    genotypes: int
    seeds: int
    best: float
    mean: float
    noise: float
    diverged: int


@dataclass(frozen=True)
class Judgement:
    """A search against the ground truth.

    Attributes:
        regret: best accuracy of the table minus that of the chosen genotype; NaN if it lies outside the space.
        kendall_tau: rank correlation of the search's scores with the table; NaN with too few.
        num_scored: genotypes that it scored.
    """

    regret: float
    kendall_tau: float
    num_scored: int


class Judge:
    """Holds searches against the ground truth.

    Args:
        study: whose they are.
        truth: the whole table.
    """

    def __init__(self, study: Study, truth: TruthTable) -> None:
        self._study, self._means = study, truth.means
        self._space = genotype_space(study.spec.search.network)
        self._best = max(self._means.values())

    def __call__(self, trial: TrialRecord) -> Judgement:
        """What a search that is over comes to."""
        from scipy.stats import kendalltau  # a CPU second that every driver would take

        journal = Journal(self._study.folder.journal("search", trial_label(trial.number)))
        scores = scored(journal, self._space)
        pairs = [(score, self._means[code]) for code, score in scores.items() if math.isfinite(score)]
        tau = kendalltau(*zip(*pairs, strict=True)).statistic if len(pairs) >= _FEWEST_SCORES else math.nan
        assert trial.genotype is not None
        try:
            reached = self._means[self._space.encode(Genotype.from_dict(trial.genotype))]
        except GenotypeError:  # of a strategy that leaves the space, such as one that varies channels
            reached = math.nan
        return Judgement(self._best - reached, float(tau), len(pairs))


def scored(journal: Journal, space: GenotypeSpace) -> dict[Code, float]:
    """What a search thinks of genotypes: all of them, or those whose children it trained; empty if it reported none."""
    if not journal.epochs:
        return {}
    if "scores" in journal.epochs[-1]:
        return dict(zip(space.all(), journal.epochs[-1]["scores"], strict=True))
    children = [child for record in journal.epochs for child in record.get("children", ())]
    return {tuple(child["code"]): child["score"] for child in children if child["score"] is not None}


def truth_facts(truth: TruthTable) -> TruthFacts:
    """A whole table in a few numbers."""
    means, trainings = truth.means.values(), list(truth.accuracies.values())
    seeds = len(trainings[0])
    return TruthFacts(
        genotypes=len(trainings),
        seeds=seeds,
        best=max(means),
        mean=mean(means),
        noise=mean(map(stdev, trainings)) if seeds > 1 else math.nan,
        diverged=sum(truth.diverged.values()),
    )
