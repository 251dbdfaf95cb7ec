"""Hard limits of the searches in a sweep: samplers learn which trials broke one, and such a trial is no result.

Optuna keeps constraint values with a trial and calls it feasible if none is above 0; its samplers TPE, NSGA-II and GP
and its Pareto front respect them (Deb et al., IEEE TEC 2002; c-TPE, Watanabe and Hutter, IJCAI 2023).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from orchestrator.adapters.optuna_internals import running_trial
from orchestrator.study_file.spec import StudySpec, search_options
from orchestrator.study_file.sweep import Scalar


def limits_of(spec: StudySpec, values: Mapping[str, Scalar]) -> dict[str, float]:
    """The limits of a trial with these sampled values, by the metric that each bounds."""
    return {f"child_{name}": most for name, most in search_options(spec, values).constraints.maxima.items()}


def plain_limits(options: Mapping[str, Any]) -> dict[str, float]:
    """As `limits_of`, from the plain data of a search's options."""
    constraints = options.get("constraints") or {}
    return {f"child_{name}": float(limit["max"]) for name, limit in constraints.items() if limit}


def excesses(limits: Mapping[str, float], metrics: Mapping[str, float]) -> dict[str, float]:
    """By how much each limited metric is above its limit, as a share of the limit; 0 or below keeps it.

    A metric that is missing or not a number keeps no limit: its excess is 1.
    """
    amounts = {name: float(metrics.get(name, math.nan)) / most - 1 for name, most in limits.items()}
    return {name: amount if math.isfinite(amount) else 1.0 for name, amount in amounts.items()}


def store_excesses(study: optuna.Study, number: int, found: Mapping[str, float]) -> None:
    """Store a trial's constraint values in Optuna, before its end is reported; what is stored already stays.

    Args:
        study: the study.
        number: of a trial that is running.
        found: as `excesses`.
    """
    frozen = study.get_trials(deepcopy=False)[number]
    if frozen.state.is_finished():
        return
    trial = running_trial(study, frozen) if set(found) - set(frozen.constraints) else None
    for name, amount in found.items():
        if trial is not None and name not in frozen.constraints:
            trial.set_constraint(name, amount)


def violations(trial: FrozenTrial) -> dict[str, float]:
    """The limits that a trial broke: by how much, as a share of the limit."""
    return {name: amount for name, amount in trial.constraints.items() if amount > 0}


def broken_limits(found: Mapping[str, float]) -> str:
    """Violations in words; empty if there are none."""
    broken = [
        f"{name} is {amount:.1%} above `constraints.{name.removeprefix('child_')}`" for name, amount in found.items()
    ]
    return f"no result: {' and '.join(broken)}" if broken else ""
