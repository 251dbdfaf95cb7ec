"""The answer of a study from its record, as pages have it."""

from __future__ import annotations

import math

from dashboards.analysis.answer import Answer, Candidate, find_answer, measured
from dashboards.analysis.retrained import tests_by_trial
from dashboards.records import StudyRecord


def answer_of(study: StudyRecord) -> Answer | None:
    """Which cell to keep; None before a search has found a usable one, and of single searches."""
    if study.overview.run is None:
        return None
    tests = tests_by_trial(study.retrainings)
    candidates = []
    for trial in study.trials:
        if trial.number is None or not (trial.is_result or trial.run.state == "collapsed"):
            continue
        error, cost = measured(trial.run.metrics, study.objectives)
        candidates.append(
            Candidate(
                trial=trial.number,
                eta=trial.eta,
                schedule=trial.schedule_text,
                strategy=trial.strategy,
                error=error if trial.is_result else math.nan,
                cost=cost,
                tests=tuple(tests[trial.number].test_errors) if trial.number in tests else (),
            )
        )
    return find_answer(candidates, study.objectives, study.images, is_over=study.overview.state != "running")
