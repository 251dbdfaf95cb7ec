"""How the strategies of a study compare: a row for each, its regret against the ground truth, the paper's claims."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import mean
from typing import TYPE_CHECKING, Any

from dashboards.analysis.claims import Claim, Searched, claims
from dashboards.formatting import shown_number, shown_setting
from orchestrator.files.journal import Journal
from orchestrator.files.layout import trial_label
from orchestrator.reports.regret import Judge, TruthFacts, truth_facts
from orchestrator.study.ground_truth import read_truth
from orchestrator.study.hours import hours_of
from orchestrator.study.records import Cell, RetrainRecord, TrialRecord
from orchestrator.study_file.spec import search_options
from search_core.cost.penalty_options import final_strength

if TYPE_CHECKING:
    from orchestrator.study.study import Study

#: Of which strategy the claims speak, and with which one each is compared.
_OURS = "snas"
_ETA = "penalty.strength"
_OTHERS = {"a": "darts", "b": "darts", "c": "darts", "d": "enas"}
#: Strategies that choose at random: without one of them no other figure means much.
CONTROLS = ("random_sampling", "random")

Values = tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class StrategyRow:
    """The complete searches of one strategy with the same settings, which differ in their seeds.

    Attributes:
        kind: of the strategy.
        settings: what else was swept, such as `penalty.strength 0.01` or, where it was drawn from a range,
            `penalty.strength 0.01 to 0.1`; empty if nothing was.
        num_searches: complete ones, of which all other numbers speak.
        failed: searches that are not among them because they failed, collapsed, were stopped or broke a hard limit.
        epochs: of a search.
        hours: reserved by each search: GPU hours, or CPU core hours.
        hours_kind: `gpu_hours` or `cpu_core_hours`; empty if not known.
        child_val_accuracy: of each child with the weights of its search, fractions.
        child_val_accuracy_recalibrated: likewise with its own BN statistics.
        test_accuracy: of each child trained from scratch, mean over its trainings; empty if none was.
        discretization_gap: supernet minus child validation accuracy.
        discretization_gap_recalibrated: likewise, both with recalibrated BN statistics; empty in studies of before
            it was reported.
        entropy: of both cells, nats.
        pruned_kl: of each epoch, mean over the searches: see `EpochReport`; empty for strategies that do not report it.
        child_params: of each child at the size of the search.
        child_madds: multiply-adds likewise.
        regret: best accuracy of the ground truth minus that of each chosen genotype, but for genotypes outside the
            space; empty without ground truth.
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
    discretization_gap_recalibrated: Values
    entropy: Values
    pruned_kl: Values
    child_params: Values
    child_madds: Values
    regret: Values = ()
    kendall_tau: Values = ()
    num_scored: Values = ()

    @property
    def name(self) -> str:
        """The strategy and what sets this row apart."""
        return _row_name(self.kind, self.settings)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a study says of its strategies.

    Attributes:
        study: its name.
        rows: strategies in the order of their first search.
        truth: the ground truth; None without.
        claims: (a) to (d) of the SNAS paper with their evidence, one for each pair of rows that are compared.
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
        study: begun; what is no result is left out.
    """
    truth = read_truth(study.spec, study.folder)
    trials, retrains = study.trials(), study.retrains()
    groups: dict[tuple[str, str], list[TrialRecord]] = {}
    eta = study.spec.sweep.get(_ETA)
    if eta is not None and not eta.is_finite:
        trials = sorted(trials, key=lambda trial: _decade(trial.values.get(_ETA)))
    for trial in trials:
        groups.setdefault(_group(study, trial), []).append(trial)
    judge = Judge(study, truth) if truth is not None else None
    tests = _tests(trials, retrains)
    rows = [_row(study, kind, settings, members, tests, judge) for (kind, settings), members in groups.items()]
    return Comparison(
        study=study.spec.name,
        rows=tuple(rows),
        truth=truth_facts(truth) if truth is not None else None,
        claims=tuple(_judged(study, groups)),
        has_control=any(row.kind in CONTROLS and row.num_searches for row in rows),
    )


def _group(study: Study, trial: TrialRecord) -> tuple[str, str]:
    """Strategy and what else sets the row of a trial apart: what was swept, but for seeds and ranges of real numbers.

    Of those, penalty strengths are put together by decade and all others entirely: no two trials share a value.
    """
    kind = str(trial.values.get("strategy.kind", study.spec.search.strategy.kind))
    varied = {key for key, entry in study.spec.sweep.items() if len(entry.values) > 1} - {"strategy.kind", "seed"}
    words = []
    for key, value in trial.values.items():
        if key in varied and study.spec.sweep[key].is_finite:
            words.append(shown_setting(key.removeprefix("strategy."), value))
        elif key in varied and key == _ETA:
            words.append(f"{key} {_decade_text(value)}")
    return kind, ", ".join(words)


def _decade(value: object) -> float:
    """The power of ten at or below a number; minus infinity for what has none."""
    return math.floor(math.log10(value) + 1e-9) if isinstance(value, int | float) and value > 0 else -math.inf


def _decade_text(value: object) -> str:
    decade = _decade(value)
    if math.isinf(decade):
        return shown_number(value)
    return f"{shown_number(10.0**decade)} to {shown_number(10.0 ** (decade + 1))}"


def _row(
    study: Study,
    kind: str,
    settings: str,
    trials: Sequence[TrialRecord],
    tests: Mapping[Cell, Sequence[float]],
    judge: Judge | None,
) -> StrategyRow:
    results = [trial for trial in trials if trial.is_result]
    hours = [found for trial in results if (found := hours_of(trial.metrics)) is not None]
    trained = [tests.get(cell, ()) for trial in results if (cell := trial.cell) is not None]
    judged = [judge(trial) for trial in results] if judge is not None else []

    def values(name: str) -> Values:
        return tuple(trial.metrics[name] for trial in results if name in trial.metrics)

    return StrategyRow(
        kind=kind,
        settings=settings,
        num_searches=len(results),
        failed=sum(trial.state != "running" for trial in trials) - len(results),
        epochs=max((trial.epochs for trial in results), default=0),
        hours=tuple(value for _, value in hours),
        hours_kind=hours[0][0] if hours else "",
        child_val_accuracy=values("child_val_accuracy"),
        child_val_accuracy_recalibrated=values("child_val_accuracy_recalibrated"),
        test_accuracy=tuple(mean(values) for values in trained if values),
        discretization_gap=values("discretization_gap"),
        discretization_gap_recalibrated=values("discretization_gap_recalibrated"),
        entropy=values("entropy_total"),
        pruned_kl=_course(study, results, "pruned_kl"),
        child_params=values("child_params"),
        child_madds=values("child_madds"),
        regret=tuple(one.regret for one in judged if math.isfinite(one.regret)),
        kendall_tau=tuple(one.kendall_tau for one in judged if math.isfinite(one.kendall_tau)),
        num_scored=tuple(float(one.num_scored) for one in judged),
    )


def _course(study: Study, trials: Sequence[TrialRecord], metric: str) -> Values:
    """Mean of a metric over some searches after each epoch; empty if they do not report it."""
    reporting = [trial for trial in trials if metric in trial.metrics]  # of the others no journal is read
    courses = [
        [record["metrics"][metric] for record in _journal(study, trial).epochs if metric in record["metrics"]]
        for trial in reporting
    ]
    return tuple(map(mean, zip(*courses, strict=False)))


def _journal(study: Study, trial: TrialRecord) -> Journal:
    return Journal(study.folder.journal("search", trial_label(trial.number)))


def _tests(trials: Sequence[TrialRecord], retrains: Sequence[RetrainRecord]) -> dict[Cell, list[float]]:
    """Test accuracy of each training by cell: one that several searches found was trained once, for all of them."""
    cells = {trial.number: trial.cell for trial in trials}
    found: dict[Cell, list[float]] = {}
    for record in retrains:
        cell = cells.get(record.trial) if record.trial is not None else None
        if cell is not None and "test_accuracy" in record.metrics:
            found.setdefault(cell, []).append(record.metrics["test_accuracy"])
    return found


def _judged(study: Study, groups: Mapping[tuple[str, str], Sequence[TrialRecord]]) -> Iterator[Claim]:
    """Each claim about SNAS: (c) over all its penalties, the others with the study file's own, row against row."""
    searches = {
        group: [_searched(study, group, trial) for trial in of if trial.is_result] for group, of in groups.items()
    }
    for letter, other in _OTHERS.items():
        if letter == "c":
            every = [replace(one, strategy=_OURS) for (kind, _), of in searches.items() if kind == _OURS for one in of]
            yield _claim(letter, every, _OURS, other)
            continue
        for ours, mine in _own(study, searches, _OURS).items():
            for name, theirs in _own(study, searches, other).items():
                yield _claim(letter, [*mine, *theirs], ours, name)


def _own(
    study: Study, searches: Mapping[tuple[str, str], Sequence[Searched]], kind: str
) -> dict[str, Sequence[Searched]]:
    """Searches of a strategy by the name of their row: those with the study file's own penalty, where there are any.

    Rows that differ in other penalties only are what claim (c) is about. Without the file's own penalty among them, as
    with a continuous sweep, all are taken together.
    """
    rows = {_row_name(*group): of for group, of in searches.items() if group[0] == kind}
    own = study.spec.search.penalty.eta
    same = {name: of for name, of in rows.items() if of and all(search.eta == own for search in of)}
    together = [replace(search, strategy=kind) for of in rows.values() for search in of]
    return dict(same) or {kind: together}


def _claim(letter: str, searches: Sequence[Searched], ours: str, other: str) -> Claim:
    return next(claim for claim in claims(searches, ours, other) if claim.letter == letter)


def _searched(study: Study, group: tuple[str, str], trial: TrialRecord) -> Searched:
    return Searched(
        strategy=_row_name(*group),
        eta=final_strength(search_options(study.spec, trial.values).penalty, trial.metrics),
        num_epochs=trial.epochs,
        metrics=trial.metrics,
        accuracies=[record["metrics"]["supernet_val_accuracy"] for record in _journal(study, trial).epochs],
    )


def _row_name(kind: str, settings: str) -> str:
    return f"{kind} ({settings})" if settings else kind


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
