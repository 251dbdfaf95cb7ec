"""What a study shows beyond its tables: hours, time left, what mattered, how eta relates to cost and gap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import optuna

from dashboards.analysis.answer import Answer, Candidate, find_answer, measured
from dashboards.analysis.importance import MIN_RATED, MIN_RELATED, rank_correlation, rated_params
from orchestrator.absent import absent
from orchestrator.files.journal import Journal
from orchestrator.files.layout import TRUNK
from orchestrator.files.lock import lock_holder
from orchestrator.study.hours import hours_of, shared_of
from orchestrator.study.records import RetrainRecord, TrialRecord, described
from orchestrator.study.standing import reserved_hours, time_left_s
from orchestrator.study.study import Study
from orchestrator.study_file.spec import StudySpec, search_options
from search_core.cost.penalty_options import final_strength

_CLEAR = 0.3


def study_facts(study: Study, trials: Sequence[TrialRecord], retrains: Sequence[RetrainRecord]) -> dict[str, Any]:
    """Facts about a study as plain data.

    Keys: `answer` (which cell to keep, an `Answer` or None), `running` (whether a driver is at work), `best` (per
    objective), `hypervolume` (of the front, `ranking.front_volume`), `hours`, `time_left_s` (while it runs),
    `importance` (per objective: parameter -> share, or why there is none), `relations`, `failures`.
    """
    spec = study.spec
    is_running = lock_holder(study.folder.lock_file) is not None
    results = [trial for trial in trials if trial.is_result]
    front = [trial for trial in trials if trial.on_front]
    trunk_s, trunk_hours = 0.0, 0.0
    if spec.fork is not None:
        trunk_s, trunk_hours = shared_of(Journal(study.folder.journal("trunk", TRUNK)))
    return {
        "answer": study_answer(study, trials, retrains),
        "running": is_running,
        "best": {
            goal.metric: (min if goal.mode == "min" else max)(trial.metrics[goal.metric] for trial in front)
            for goal in spec.objectives
            if front
        },
        "hypervolume": study.front_volume(),
        "hours": reserved_hours((hours_of(trial.metrics) for trial in trials), trunk_hours),
        "time_left_s": _time_left_s(spec, trials, trunk_s) if is_running else None,
        "importance": {goal.metric: _importance(study, index) for index, goal in enumerate(spec.objectives)},
        "relations": _relations(spec, results),
        "failures": [
            *({"trial": trial.number, "reason": trial.reason} for trial in trials if trial.state == "failed"),
            *({"retraining": record.label, "reason": record.reason} for record in retrains if record.state == "failed"),
        ],
    }


def study_answer(study: Study, trials: Sequence[TrialRecord], retrains: Sequence[RetrainRecord]) -> Answer | None:
    """Which cell to keep; None before a search has found a usable one."""
    spec = study.spec
    candidates = []
    for trial in trials:
        if not (trial.is_result or trial.state == "collapsed"):
            continue
        options = search_options(spec, trial.values)
        error, cost = measured(trial.metrics, spec.objectives)
        tests = [record.metrics.get("test_accuracy") for record in retrains if record.trial == trial.number]
        candidates.append(
            Candidate(
                trial=trial.number,
                eta=final_strength(options.penalty, trial.metrics),
                schedule=described(options.temperature),
                strategy=options.strategy.kind,
                error=error if trial.is_result else math.nan,
                cost=cost,
                tests=tuple(1 - accuracy for accuracy in tests if accuracy is not None),
            )
        )
    is_over = study.num_open_trials() == 0 and all(record.state != "running" for record in retrains)
    return find_answer(candidates, spec.objectives, study.images, is_over=is_over)


def relation(first: str, second: str, x: Sequence[float], y: Sequence[float]) -> dict[str, Any]:
    """Spearman's rank correlation of two quantities, as a number and in words.

    Args:
        first: name of `x`.
        second: name of `y`.
        x: values.
        y: values of the same trials.

    Returns:
        `of`, `with`, `n`, `rho` (None if it cannot be said) and `words`.
    """
    pairs = [pair for pair in zip(x, y, strict=True) if all(map(math.isfinite, pair))]
    rho: float | None = None
    if len(pairs) < MIN_RELATED:
        words = (
            f"{first} and {second}: {len(pairs)} complete trials are too few to relate them (at least {MIN_RELATED})"
        )
    elif any(len({pair[side] for pair in pairs}) == 1 for side in (0, 1)):
        same = first if len({pair[0] for pair in pairs}) == 1 else second
        words = f"{first} and {second}: {same} is the same in all {len(pairs)} complete trials"
    else:
        rho = rank_correlation(*zip(*pairs, strict=True))
        assert rho is not None, "enough pairs, and both sides vary"
        relation = (
            "no clear relation" if abs(rho) < _CLEAR else f"more {first} goes with {'more' if rho > 0 else 'less'}"
        )
        relation = f"{relation} between {first} and {second}" if abs(rho) < _CLEAR else f"{relation} {second}"
        words = f"{relation} (rank correlation {rho:+.2f}, n = {len(pairs)})"
    return {"of": first, "with": second, "n": len(pairs), "rho": rho, "words": words}


def _relations(spec: StudySpec, results: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """Eta against cost and gap, within each strategy that has several; of all trials together if none has."""
    by_strategy: dict[str, list[tuple[float, TrialRecord]]] = {}
    for trial in results:
        options = search_options(spec, trial.values)
        eta = final_strength(options.penalty, trial.metrics)
        by_strategy.setdefault(options.strategy.kind, []).append((eta, trial))
    swept = {kind: pairs for kind, pairs in by_strategy.items() if len({eta for eta, _ in pairs}) > 1}
    groups = {"eta" if len(by_strategy) == 1 else f"eta of {kind}": pairs for kind, pairs in swept.items()}
    together = [pair for pairs in by_strategy.values() for pair in pairs]
    return [
        relation(eta, name, [strength for strength, _ in pairs], [trial.metrics[metric] for _, trial in pairs])
        for eta, pairs in (groups or {"eta": together}).items()
        for metric, name in (("child_madds", "multiply-adds"), ("discretization_gap", "discretization gap"))
    ]


def _time_left_s(spec: StudySpec, trials: Sequence[TrialRecord], shared_s: float) -> float | None:
    over = [trial.seconds for trial in trials if trial.state != "running"]
    return time_left_s(spec.num_trials - len(over), over, shared_s, max(1, len(trials) - len(over)))


def _importance(study: Study, objective: int) -> dict[str, float] | str:
    """How much of an objective's spread among the better trials each parameter explains; shares add up to 1."""
    complete = study.optuna_study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    common = set.intersection(*(set(trial.params) for trial in complete)) if complete else set()
    if len(complete) < MIN_RATED:
        return f"{len(complete)} complete trials are too few to rate parameters (at least {MIN_RATED})"
    if not common:
        return "no parameter was swept in all complete trials"
    if len({trial.values[objective] for trial in complete}) == 1:
        return "all complete trials have the same value"
    with absent("sklearn"):  # for another evaluator than that of `rated_params`
        import_module("optuna.importance")
    return rated_params(study.optuna_study, objective)
