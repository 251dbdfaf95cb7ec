"""What the resource penalty counts, and how its strength eta runs over a search (SNAS section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from search_core.errors import Rule, literal_rules, require

Named = TypeVar("Named")

#: eta in the unit of `cost: snas`, named as the cells of SNAS' Table 1; what they do to cells: docs/costs.md.
STRENGTHS = {"mild": 1.0e-3, "moderate": 1.0e-2, "aggressive": 3.0e-2}


def named_strength(strength: Named) -> float | Named:
    """The number of a name of `STRENGTHS`; anything else as it is."""
    return STRENGTHS.get(strength, strength) if isinstance(strength, str) else strength


@dataclass(frozen=True, kw_only=True)
class CostMix:
    """Weights of the three cost kinds in a mixed penalty, each 0 or above, not all 0."""

    params: float = 0.0
    madds: float = 0.0
    memory_access: float = 0.0

    def __post_init__(self) -> None:
        require(
            *(
                (name, value >= 0 and math.isfinite(value), f"must be a finite number of at least 0, got {value}")
                for name, value in vars(self).items()
            ),
            (
                "params",
                self.params + self.madds + self.memory_access > 0,
                "or another weight must be above 0",
                "madds",
                "memory_access",
            ),
        )


@dataclass(frozen=True, kw_only=True)
class CostTarget:
    """What the child of a search should cost at the size of the search; exactly one is given, above 0.

    Attributes:
        params: parameters.
        madds: multiply-adds of one image.
        latency_ms: milliseconds by `latency.table`.
    """

    params: float | None = None
    madds: float | None = None
    latency_ms: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        names = tuple(vars(self))
        require(
            *(
                (name, value > 0 and math.isfinite(value), f"must be a finite number above 0, got {value}")
                for name, value in given.items()
            ),
            (
                "",
                len(given) == 1,
                f"must have exactly one of {', '.join(names)}, got {' and '.join(given) or 'none'}",
                *names,
            ),
        )

    @property
    def kind(self) -> str:
        """Which of them is given."""
        return next(name for name, value in vars(self).items() if value is not None)

    @property
    def value(self) -> float:
        """The one that is given."""
        value: float = getattr(self, self.kind)
        return value


@dataclass(frozen=True, kw_only=True)
class PenaltyOptions:
    """The resource penalty `eta * E_Z[C(Z)]` of the SNAS objective (SNAS section 3.3).

    Attributes:
        strength: eta, 0 or above; for `cost: snas` also a name of `STRENGTHS`, in whose place its number is kept. With
            `target` eta of the first epoch, above 0.
        cost: what C counts. `snas` is the authors' own: the mean of the logarithms of parameters, FLOPs and memory
            access (`counts.snas_cost`), a sum below 1 counting as 1. `mix` weighs the next three by `mix`; `latency`
            is the time of operations by `latency.table`; `child_latency` is that of the sampled child as a whole, by
            the table or else measured.
        estimator: `reparam` (through the concrete sample), `expected` (exact, under softmax(alpha)), `discrete` (the
            logarithm of the cost expected under softmax(alpha)) or `score_function` (log q(z) times detached cost,
            with a moving-average baseline).
        log: C sums log(1 + cost) of each edge of each cell (`child_latency`: of the child); without it, cost in
            millions, latency in milliseconds. In the logarithm latency is in milliseconds too.
        mix: weights for `cost: mix`, required there and only there.
        reduction_ratio: if given, normal and reduction cells are averaged separately and
            `C = mean over normal cells + reduction_ratio * mean over reduction cells`; otherwise all cells are summed,
            but for `snas`, where it is 1.
        schedule: `constant`; `warmup`: eta grows linearly from 0 over `warmup_epochs`; `step`: eta is on from
            `on_epoch` until before `off_epoch`, and 0 otherwise.
        warmup_epochs: for `warmup` only (required there), at least 1.
        on_epoch: for `step` only (default 0).
        off_epoch: for `step` only (default: never).
        target: what the child should cost: eta then follows from the search, see `penalty_target.EtaSteering`.

    Raises:
        OptionsError: if a value is out of range or given for another schedule.
    """

    strength: float | str = 1.0e-3
    cost: Literal["snas", "params", "madds", "memory_access", "mix", "latency", "child_latency"] = "snas"
    estimator: Literal["reparam", "expected", "discrete", "score_function"] = "reparam"
    log: bool = True
    mix: CostMix | None = None
    reduction_ratio: float | None = None
    schedule: Literal["constant", "warmup", "step"] = "constant"
    warmup_epochs: int | None = None
    on_epoch: int | None = None
    off_epoch: int | None = None
    target: CostTarget | None = None

    def __post_init__(self) -> None:
        eta = named_strength(self.strength)
        ratio, warmup, schedule = self.reduction_ratio, self.warmup_epochs, self.schedule
        is_whole = self.cost == "child_latency"
        on, off = self.on_epoch, self.off_epoch
        require(
            *literal_rules(self),
            (
                "strength",
                not isinstance(eta, str) and eta >= 0 and math.isfinite(eta),
                f"must be a finite number of at least 0, or {', '.join(STRENGTHS)}, got {self.strength!r}",
            ),
            (
                "strength",
                self.cost == "snas" or self.strength not in STRENGTHS,
                f"must be a number for cost {self.cost}, as names are in the unit of cost snas, got {self.strength}",
                "cost",
            ),
            ("log", self.log or self.cost != "snas", "must be true for cost snas, a mean of logarithms", "cost"),
            (
                "log",
                self.log or self.estimator != "discrete",
                "must be true for estimator discrete: without it use expected",
                "estimator",
            ),
            (
                "mix",
                (self.mix is not None) == (self.cost == "mix"),
                "must be given for cost mix, and only there",
                "cost",
            ),
            (
                "estimator",
                not is_whole or self.estimator == "score_function",
                f"must be score_function for cost child_latency, which has no gradient, got {self.estimator}",
                "cost",
            ),
            ("reduction_ratio", ratio is None or ratio >= 0, f"must be at least 0, got {ratio}"),
            (
                "reduction_ratio",
                ratio is None or not is_whole,
                f"must be left out for cost child_latency, which is not a sum over cells, got {ratio}",
                "cost",
            ),
            (
                "warmup_epochs",
                (warmup is not None) == (schedule == "warmup"),
                f"must be given for schedule warmup, and only there (schedule is {schedule})",
                "schedule",
            ),
            ("warmup_epochs", warmup is None or warmup >= 1, f"must be at least 1, got {warmup}"),
            ("on_epoch", on is None or schedule == "step", f"is for schedule step only, not {schedule}", "schedule"),
            ("on_epoch", on is None or on >= 0, f"must be at least 0, got {on}"),
            ("off_epoch", off is None or schedule == "step", f"is for schedule step only, not {schedule}", "schedule"),
            ("off_epoch", off is None or off > (on or 0), f"must be after `on_epoch` {on or 0}, got {off}", "on_epoch"),
            *self._target_rules(),
        )
        object.__setattr__(self, "strength", eta)  # a run keeps the number, whatever the name may mean later

    def _target_rules(self) -> Iterator[Rule]:
        has_target, eta = self.target is not None, named_strength(self.strength)
        rule = f"must be above 0 with `target`, as eta moves in multiples of it, got {self.strength}"
        yield "strength", not has_target or isinstance(eta, str) or eta > 0, rule, "target"
        rule = f"must be constant with `target`, which decides eta itself, got {self.schedule}"
        yield "schedule", not has_target or self.schedule == "constant", rule, "target"

    @property
    def eta(self) -> float:
        """`strength` as the number that it is."""
        assert not isinstance(self.strength, str)
        return self.strength


def penalty_strength_at(options: PenaltyOptions, epoch: int) -> float:
    """Penalty strength eta of `epoch` (0-based) by the schedule; with `target` only that of the first."""
    if options.schedule == "warmup":
        return options.eta * min(1.0, epoch / (options.warmup_epochs or 1))
    if options.schedule == "step":
        is_on = (options.on_epoch or 0) <= epoch and (options.off_epoch is None or epoch < options.off_epoch)
        return options.eta if is_on else 0.0
    return options.eta


def final_strength(options: PenaltyOptions | Mapping[str, Any], metrics: Mapping[str, float]) -> float:
    """The strength that a search is known by: the study file's, or with `target` the last one, at least 0.

    Args:
        options: of the search, or the plain data of them.
        metrics: of its last report.
    """
    plain = options if isinstance(options, Mapping) else vars(options)
    eta: float = plain["strength"]
    return eta if plain.get("target") is None else max(metrics.get("eta", eta), 0.0)
