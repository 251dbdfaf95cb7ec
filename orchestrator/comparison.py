"""How the strategies of a study compare: a row for each, its regret against the ground truth, the paper's claims."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from scipy.stats import kendalltau

from dashboards.claims import Claim, Searched, claims
from orchestrator.config import search_options
from orchestrator.ground_truth import TruthTable, read_truth
from orchestrator.hours import hours_of
from orchestrator.journal import Journal
from orchestrator.records import RetrainRecord, TrialRecord
from orchestrator.runs import trial_label
from search_core.errors import GenotypeError
from search_core.genotype import Genotype
from search_core.genotype_space import Code, GenotypeSpace

if TYPE_CHECKING:
    from orchestrator.study import Study

#: Of which strategy the claims speak, and with which one each is compared.
_OURS = "snas"
_OTHERS = {"a": "darts", "b": "darts", "c": "darts", "d": "enas"}
#: Strategies that choose at random: without one of them no other figure means much.
CONTROLS = ("random_sampling", "random")
#: Fewer scored genotypes than this have no rank correlation worth telling.
_FEWEST_SCORES = 5

Values = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class StrategyRow:
    """The complete searches of one strategy with the same settings, which differ in their seeds.

    Attributes:
        kind: of the strategy.
        settings: what else was swept, such as `penalty.strength 0.01`; empty if nothing was.
        num_searches: complete ones, of which all other numbers speak.
        failed: searches that are not among the others because they failed, collapsed or were stopped.
        epochs: of a search.
        hours: reserved by each search: GPU hours, or CPU core hours.
        hours_kind: `gpu_hours` or `cpu_core_hours`; empty if not known.
        child_val_accuracy: of each child with the weights of its search, fractions.
        child_val_accuracy_recalibrated: likewise with its own BN statistics.
        test_accuracy: of each child trained from scratch, mean over its trainings; empty if none was.
        discretization_gap: supernet minus child validation accuracy.
        entropy: of both cells, nats.
        child_params: of each child at the size of the search.
        child_madds: multiply-adds likewise.
        regret: best accuracy of the ground truth minus that of each chosen genotype; empty without ground truth.
        kendall_tau: rank correlation of each search's scores with the ground truth; likewise.
        num_scored: genotypes that each search scored.
    """

    kind: str
    settings: str
    num_searches: int
    failed: int
    epochs: int
    hours: Values
    hours_kind: str
    child_val_accuracy: Values
    child_val_accuracy_recalibrated: Values
    test_accuracy: Values
    discretization_gap: Values
    entropy: Values
    child_params: Values
    child_madds: Values
    regret: Values = ()
    kendall_tau: Values = ()
    num_scored: Values = ()

    @property
    def name(self) -> str:
        """The strategy and what sets this row apart."""
        return f"{self.kind} ({self.settings})" if self.settings else self.kind


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


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a study says of its strategies.

    Attributes:
        study: its name.
        rows: strategies in the order of their first search.
        truth: the ground truth; None without.
        claims: (a) to (d) of the SNAS paper with their evidence.
        has_control: whether a strategy that chooses at random is among the rows.
    """

    study: str
    rows: tuple[StrategyRow, ...]
    truth: TruthFacts | None
    claims: tuple[Claim, ...]
    has_control: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; NaN as None."""
        plain: dict[str, Any] = _without_nan(asdict(self))
        return plain


def compare(study: Study) -> Comparison:
    """Compare the strategies of a study by its journals.

    Args:
        study: begun; what is not complete yet is left out.
    """
    truth = read_truth(study.spec, study.folder)
    trials, retrains = study.trials(), study.retrains()
    groups: dict[tuple[str, str], list[TrialRecord]] = {}
    for trial in trials:
        groups.setdefault(_group(study, trial), []).append(trial)
    judge = _Judge(study, truth) if truth is not None else None
    tests = _tests(trials, retrains)
    rows = [_row(kind, settings, members, tests, judge) for (kind, settings), members in groups.items()]
    return Comparison(
        study=study.spec.name,
        rows=tuple(rows),
        truth=_facts(truth) if truth is not None else None,
        claims=tuple(_judged(study, trials)),
        has_control=any(row.kind in CONTROLS and row.num_searches for row in rows),
    )


def _group(study: Study, trial: TrialRecord) -> tuple[str, str]:
    kind = str(trial.values.get("strategy.kind", study.spec.search.strategy.kind))
    varied = {key for key, entry in study.spec.sweep.items() if len(entry.values) > 1} - {"strategy.kind", "seed"}
    others = {key: value for key, value in trial.values.items() if key in varied}
    return kind, ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in others.items()
    )


def _row(
    kind: str,
    settings: str,
    trials: Sequence[TrialRecord],
    tests: Mapping[Genotype, Sequence[float]],
    judge: _Judge | None,
) -> StrategyRow:
    complete = [trial for trial in trials if trial.state == "complete"]
    hours = [found for trial in complete if (found := hours_of(trial.metrics)) is not None]
    trained = [tests.get(Genotype.from_dict(trial.genotype), ()) for trial in complete if trial.genotype is not None]
    judged = [judge(trial) for trial in complete] if judge is not None else []

    def values(name: str) -> Values:
        return tuple(trial.metrics[name] for trial in complete if name in trial.metrics)

    return StrategyRow(
        kind=kind,
        settings=settings,
        num_searches=len(complete),
        failed=sum(trial.state not in ("complete", "running") for trial in trials),
        epochs=max((trial.epochs for trial in complete), default=0),
        hours=tuple(value for _, value in hours),
        hours_kind=hours[0][0] if hours else "",
        child_val_accuracy=values("child_val_accuracy"),
        child_val_accuracy_recalibrated=values("child_val_accuracy_recalibrated"),
        test_accuracy=tuple(mean(values) for values in trained if values),
        discretization_gap=values("discretization_gap"),
        entropy=values("entropy_total"),
        child_params=values("child_params"),
        child_madds=values("child_madds"),
        regret=tuple(one.regret for one in judged if math.isfinite(one.regret)),
        kendall_tau=tuple(one.kendall_tau for one in judged if math.isfinite(one.kendall_tau)),
        num_scored=tuple(float(one.num_scored) for one in judged),
    )


def _tests(trials: Sequence[TrialRecord], retrains: Sequence[RetrainRecord]) -> dict[Genotype, list[float]]:
    """Test accuracy of each training by cell: one that several searches found was trained once, for all of them."""
    cells = {trial.number: trial.genotype for trial in trials}
    found: dict[Genotype, list[float]] = {}
    for record in retrains:
        cell = cells.get(record.trial) if record.trial is not None else None
        if cell is not None and "test_accuracy" in record.metrics:
            found.setdefault(Genotype.from_dict(cell), []).append(record.metrics["test_accuracy"])
    return found


@dataclass(frozen=True)
class _Verdict:
    regret: float
    kendall_tau: float
    num_scored: int


class _Judge:
    """Holds searches against the ground truth."""

    def __init__(self, study: Study, truth: TruthTable) -> None:
        self._study, self._means = study, truth.means
        self._space = GenotypeSpace(study.spec.search.network)
        self._best = max(self._means.values())

    def __call__(self, trial: TrialRecord) -> _Verdict:
        journal = Journal(self._study.folder.journal("search", trial_label(trial.number)))
        scores = scored(journal, self._space)
        pairs = [(score, self._means[code]) for code, score in scores.items() if math.isfinite(score)]
        tau = kendalltau(*zip(*pairs, strict=True)).statistic if len(pairs) >= _FEWEST_SCORES else math.nan
        assert trial.genotype is not None
        try:
            reached = self._means[self._space.encode(Genotype.from_dict(trial.genotype))]
        except GenotypeError:  # of a strategy that leaves the space, such as one that varies channels
            reached = math.nan
        return _Verdict(self._best - reached, float(tau), len(pairs))


def scored(journal: Journal, space: GenotypeSpace) -> dict[Code, float]:
    """What a search thinks of genotypes: all of them, or those whose children it trained; empty if it did not tell."""
    if not journal.epochs:
        return {}
    if "scores" in journal.epochs[-1]:
        return dict(zip(space.all(), journal.epochs[-1]["scores"], strict=True))
    children = [child for record in journal.epochs for child in record.get("children", ())]
    return {tuple(child["code"]): child["score"] for child in children if child["score"] is not None}


def _facts(truth: TruthTable) -> TruthFacts:
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


def _judged(study: Study, trials: Sequence[TrialRecord]) -> list[Claim]:
    """Each claim about SNAS; only (c) is about other penalties than the study file's own."""
    searches = [_searched(study, trial) for trial in trials if trial.state == "complete"]
    own = study.spec.search.penalty.strength
    same = [search for search in searches if search.strategy != _OURS or search.eta == own]
    found = []
    for letter, other in _OTHERS.items():
        of = searches if letter == "c" else same
        found += [claim for claim in claims(of, _OURS, other) if claim.letter == letter]
    return found


def _searched(study: Study, trial: TrialRecord) -> Searched:
    options = search_options(study.spec, trial.values)
    journal = Journal(study.folder.journal("search", trial_label(trial.number)))
    return Searched(
        strategy=options.strategy.kind,
        eta=options.penalty.strength,
        num_epochs=trial.epochs,
        metrics=trial.metrics,
        accuracies=[record["metrics"]["supernet_val_accuracy"] for record in journal.epochs],
    )


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
